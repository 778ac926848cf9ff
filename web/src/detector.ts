import type { Answer, Request } from "./messages.ts";
import { Refusal } from "./model.ts";

type Asked = Request extends infer R ? (R extends unknown ? Omit<R, "number"> : never) : never;
type Of<Kind extends Answer["kind"]> = Extract<Answer, { kind: Kind }>;

/** The worker as functions that return promises; they are rejected with a `Refusal`. */
export class Detector {
  readonly #worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
  readonly #waiting = new Map<number, (answer: Answer) => void>();
  #count = 0;

  constructor() {
    this.#worker.onmessage = ({ data: answer }: MessageEvent<Answer>) => {
      this.#waiting.get(answer.number)?.(answer);
      this.#waiting.delete(answer.number);
    };
    this.#worker.onerror = () => {
      const reason = "The network cannot run in this browser; a current version of it may help.";
      for (const [number, done] of this.#waiting) done({ number, kind: "refused", reason });
      this.#waiting.clear();
    };
  }

  /** Opens a model file, or the built-in model. */
  open(model?: { name: string; file: ArrayBuffer }): Promise<Of<"opened">> {
    return this.#ask({ kind: "open", model }, model ? [model.file] : []);
  }

  /** Finds the poses in a file, or in a frame, which is given back. */
  find(photo: Blob | ImageBitmap): Promise<Of<"found">> {
    return this.#ask({ kind: "find", photo }, photo instanceof Blob ? [] : [photo]);
  }

  #ask<Kind extends Answer["kind"]>(asked: Asked, transfer: Transferable[]): Promise<Of<Kind>> {
    const number = this.#count++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(number, (answer) => {
        if (answer.kind === "refused") reject(new Refusal(answer.reason));
        else resolve(answer as Of<Kind>);
      });
      this.#worker.postMessage({ number, ...asked }, transfer);
    });
  }
}
