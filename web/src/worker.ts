// Runs the network apart from the page, which stays responsive.

import * as ort from "onnxruntime-web/wasm";
import runtimeModule from "onnxruntime-web/ort-wasm-simd-threaded.mjs?url";
import runtimeBinary from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";
import builtInModel from "../../src/posedet/released/posedet-s.onnx?url";
import { decode } from "./decode.ts";
import { fit, networkInput, type ReadPixels, type Size } from "./image.ts";
import type { Answer, Request } from "./messages.ts";
import { readAbout, Refusal, type About } from "./model.ts";
import type { Poses } from "./poses.ts";

declare const self: DedicatedWorkerGlobalScope;

ort.env.wasm.wasmPaths = {
  mjs: new URL(runtimeModule, self.location.href).href,
  wasm: new URL(runtimeBinary, self.location.href).href,
};
// Browsers allow threads only to pages that are isolated from others.
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
ort.env.logLevel = "fatal";

const OUTPUTS = ["scores", "keypoints", "keypoint_scores"];

interface Model {
  readonly about: About;
  readonly session: ort.InferenceSession;
}

let model: Model | undefined;

// The runtime starts with its first session, even one that fails: here, while the model is being loaded.
ort.InferenceSession.create(new Uint8Array(1)).catch(() => undefined);

async function open(name: string, file: Uint8Array): Promise<Model> {
  const about = readAbout(file, name);
  let session;
  try {
    // Optimising the graph takes a second at the start, and saves only a tenth of the time for each photo (measured).
    const options = { executionProviders: ["wasm"], graphOptimizationLevel: "disabled" } as const;
    session = await ort.InferenceSession.create(file, options);
  } catch (error) {
    throw new Refusal(`${name}: cannot be opened (${firstLine(error)})`);
  }
  const complete = OUTPUTS.every((each) => session.outputNames.includes(each));
  if (session.inputNames.join() !== "images" || !complete) {
    throw new Refusal(`${name}: its inputs or outputs are not those of a posedet model`);
  }
  return { about, session };
}

async function builtIn(): Promise<Model> {
  const answer = await fetch(builtInModel);
  if (!answer.ok) throw new Refusal("The model could not be loaded; reload the page.");
  return open("posedet-s", new Uint8Array(await answer.arrayBuffer()));
}

async function find({ about, session }: Model, photo: ImageBitmap): Promise<Poses> {
  const size = { width: photo.width, height: photo.height };
  const letterbox = fit(size, about.decode.longSide, about.decode.shortSide);
  const { width, height } = letterbox.input;
  const images = new ort.Tensor("uint8", networkInput(letterbox, reader(photo)), [1, height, width, 3]);
  // Only these are computed, and nothing that the file gives on demand.
  const outputs = await session.run({ images }, OUTPUTS);
  const [scores, keypoints, keypointScores] = OUTPUTS.map((name) => outputs[name].data as Float32Array);
  if (keypoints.length !== scores.length * about.skeleton.keypoints.length * 2) {
    throw new Refusal(`${about.name}: the number of its keypoints is not that of its skeleton`);
  }
  return decode({ scores, keypoints, keypointScores }, letterbox, about);
}

function reader(photo: ImageBitmap): ReadPixels {
  return (x, y, size) => {
    const context = new OffscreenCanvas(size.width, size.height).getContext("2d", { willReadFrequently: true });
    if (!context) throw new Refusal("This browser cannot read the pixels of a photo.");
    context.fillStyle = "white"; // transparent areas become white
    context.fillRect(0, 0, size.width, size.height);
    context.drawImage(photo, -x, -y);
    return { data: context.getImageData(0, 0, size.width, size.height).data, ...size, channels: 4 };
  };
}

/** Decodes a file upright, with its own numbers as colours: colour profiles are ignored, as in Python. */
async function decoded(photo: Blob): Promise<ImageBitmap> {
  try {
    return await createImageBitmap(photo, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new Refusal("damaged, or too large for this device");
  }
}

async function answer(request: Request): Promise<[Answer, Transferable[]]> {
  const { number } = request;
  if (request.kind === "open") {
    const { model: given } = request;
    const opened = given ? await open(given.name, new Uint8Array(given.file)) : await builtIn();
    await model?.session.release();
    model = opened;
    return [{ number, kind: "opened", about: model.about, threads: ort.env.wasm.numThreads ?? 1 }, []];
  }
  if (!model) throw new Refusal("The model is not open.");
  const bitmap = request.photo instanceof Blob ? await decoded(request.photo) : request.photo;
  const photo: Size = { width: bitmap.width, height: bitmap.height };
  const poses = await find(model, bitmap);
  if (bitmap === request.photo) return [{ number, kind: "found", poses, photo, frame: bitmap }, [bitmap]];
  bitmap.close();
  return [{ number, kind: "found", poses, photo }, []];
}

// One after another: the runtime does one thing at a time.
let last: Promise<void> = Promise.resolve();
self.onmessage = ({ data: request }: MessageEvent<Request>) => {
  last = last.then(async () => {
    try {
      const [message, transfer] = await answer(request);
      self.postMessage(message, transfer);
    } catch (error) {
      const reason = error instanceof Refusal ? error.message : `failed (${firstLine(error)})`;
      self.postMessage({ number: request.number, kind: "refused", reason } satisfies Answer);
    }
  });
};

function firstLine(error: unknown): string {
  return String(error instanceof Error ? error.message : error).split("\n")[0].slice(0, 200);
}
