// Reads what a model file says about itself: the entry `posedet` of the ONNX file's metadata.

import { BUILT_IN, choices, type Skeleton } from "./skeleton.ts";

/** How network outputs become poses, as in Python's `DecodeConfig`. */
export interface DecodeConfig {
  readonly longSide: number;
  readonly shortSide: number | null;
  readonly scoreThreshold: number;
  readonly nms: "oks" | "iou";
  readonly nmsThreshold: number;
  readonly minArea: number;
  readonly clamp: boolean;
  readonly skeleton: string;
}

export interface About {
  readonly name: string;
  readonly skeleton: Skeleton; // all keypoints of the model
  readonly decode: DecodeConfig;
}

/** A problem that one line explains to the user. */
export class Refusal extends Error {}

/** Reads the metadata. `name`: of the file, for messages. */
export function readAbout(file: Uint8Array, name: string): About {
  let text: string | undefined;
  try {
    text = metadata(file).get("posedet");
  } catch {
    throw new Refusal(`${name}: not a readable ONNX file`);
  }
  if (text === undefined) {
    throw new Refusal(`${name}: not a posedet model; make the file with posedet export`);
  }
  try {
    return checked(JSON.parse(text) as unknown);
  } catch (error) {
    throw new Refusal(`${name}: its metadata are invalid (${(error as Error).message.slice(0, 200)})`);
  }
}

/** The skeleton that is reported unless the user asks for another one. */
export function defaultSkeleton(about: About): Skeleton {
  return choices(about.skeleton).find((each) => each.name === about.decode.skeleton) ?? about.skeleton;
}

/** The entries `metadata_props` (field 14) of an ONNX file, a message of Protocol Buffers. */
function metadata(file: Uint8Array): Map<string, string> {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  const entries = new Map<string, string>();
  for (const [field, content] of fields(file)) {
    if (field !== 14) continue;
    const parts = new Map(fields(content));
    entries.set(decoder.decode(parts.get(1)), decoder.decode(parts.get(2)));
  }
  return entries;
}

/** The fields of a message that hold bytes. */
function* fields(message: Uint8Array): Generator<[number, Uint8Array]> {
  let place = 0;
  const varint = () => {
    for (let value = 0, factor = 1; factor < 2 ** 70; factor *= 128) {
      if (place >= message.length) break;
      const byte = message[place++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
    throw new RangeError("damaged");
  };
  while (place < message.length) {
    const tag = varint();
    const kind = tag % 8;
    if (kind === 0) varint();
    else if (kind === 1) place += 8;
    else if (kind === 5) place += 4;
    else if (kind === 2) {
      const length = varint();
      if (place + length > message.length) throw new RangeError("damaged");
      yield [Math.floor(tag / 8), message.subarray(place, place + length)];
      place += length;
    } else throw new RangeError("damaged");
  }
  if (place !== message.length) throw new RangeError("damaged");
}

type Table = Record<string, unknown>;

function checked(data: unknown): About {
  const { name, skeleton, config } = table(data, "metadata");
  const decode = table(table(config, "config").decode, "config.decode");
  const number = (key: string, least: number, most: number) => {
    const value = decode[key];
    if (typeof value !== "number" || !(value >= least && value <= most)) {
      throw new RangeError(`decode.${key} is ${JSON.stringify(value)}, expected ${least} to ${most}`);
    }
    return value;
  };
  if (decode.nms !== "oks" && decode.nms !== "iou") throw new RangeError("decode.nms is neither oks nor iou");
  const about: About = {
    name: String(name),
    skeleton: checkedSkeleton(table(skeleton, "skeleton")),
    decode: {
      longSide: number("long_side", 32, 8192),
      shortSide: decode.short_side == null ? null : number("short_side", 32, 8192),
      scoreThreshold: number("score_threshold", 0, 1),
      nms: decode.nms,
      nmsThreshold: number("nms_threshold", 0, 1),
      minArea: number("min_area", 0, Infinity),
      clamp: decode.clamp === true,
      skeleton: String(decode.skeleton),
    },
  };
  if (about.decode.skeleton !== about.skeleton.name && !(about.decode.skeleton in BUILT_IN)) {
    throw new RangeError(`decode.skeleton is '${about.decode.skeleton}', which is unknown`);
  }
  return about;
}

function checkedSkeleton(data: Table): Skeleton {
  const { name, keypoints, limbs, pairs, sigmas } = data as unknown as Skeleton;
  const count = Array.isArray(keypoints) ? keypoints.length : 0;
  const place = (value: unknown) => Number.isInteger(value) && (value as number) >= 0 && (value as number) < count;
  const links = (value: unknown) =>
    Array.isArray(value) && value.every((each) => Array.isArray(each) && each.length === 2 && each.every(place));
  const valid =
    typeof name === "string" &&
    count > 0 &&
    new Set(keypoints).size === count &&
    keypoints.every((each) => typeof each === "string") &&
    links(limbs) &&
    links(pairs) &&
    Array.isArray(sigmas) &&
    sigmas.length === count &&
    sigmas.every((each) => typeof each === "number" && each >= 0.001 && each <= 1);
  if (!valid) throw new RangeError("the skeleton is incomplete");
  return { name, keypoints, limbs, pairs, sigmas };
}

function table(value: unknown, name: string): Table {
  if (typeof value !== "object" || value === null) throw new RangeError(`${name} is missing`);
  return value as Table;
}
