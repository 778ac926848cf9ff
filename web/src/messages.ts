import type { Size } from "./image.ts";
import type { About } from "./model.ts";
import type { Poses } from "./poses.ts";

/** What the page asks the worker for. An answer has the same number. */
export type Request = { number: number } & (
  | { kind: "open"; model?: { name: string; file: ArrayBuffer } } // without a model: the built-in one
  | { kind: "find"; photo: Blob | ImageBitmap }
);

/** `frame` is the bitmap of the request, given back. */
export type Answer = { number: number } & (
  | { kind: "opened"; about: About; threads: number }
  | { kind: "found"; poses: Poses; photo: Size; frame?: ImageBitmap }
  | { kind: "refused"; reason: string }
);
