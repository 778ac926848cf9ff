// Resizes photos to the network's input exactly as Pillow does, and maps points back.
//
// Coordinates are pixels, x right and y down. Pixel centres lie at whole numbers. A browser's own scaling gives other
// pixels on each system, which moves keypoints.

export interface Size {
  readonly width: number;
  readonly height: number;
}

/** Rows of pixels with 3 (RGB) or 4 (RGBA, the last is ignored) bytes each. */
export interface Pixels extends Size {
  readonly data: Uint8Array | Uint8ClampedArray;
  readonly channels: 3 | 4;
}

/** Reads the rectangle of a photo with the corner (x, y). */
export type ReadPixels = (x: number, y: number, size: Size) => Pixels;

/** The same limit as in Python. */
export const MAX_PIXELS = 178_000_000;

// Padding colour, as in training.
const GREY = 114;
const MULTIPLE = 32;
const MIN_SIDE = 128;

// Pillow's `reducing_gap`: with it, whole pixels are averaged first, which is faster on a large photo.
const REDUCING_GAP = 2;
// Fixed-point bits of Pillow's weights.
const WEIGHT_BITS = 22;
// A large photo is read in tiles, because phones limit the size of a canvas.
const TILE_SIDE = 2048;

/** The mapping from a photo to the network input: resized, then padded with grey on the right and at the bottom. */
export interface Letterbox {
  readonly photo: Size;
  readonly resized: Size;
  readonly input: Size;
}

export function fit(photo: Size, longSide: number, shortSide: number | null): Letterbox {
  let factor = longSide / Math.max(photo.width, photo.height);
  if (shortSide !== null) factor = Math.min(factor, shortSide / Math.min(photo.width, photo.height));
  const side = (length: number) => Math.max(1, Math.floor(length * factor + 0.5));
  const padded = (length: number) => Math.ceil(Math.max(length, MIN_SIDE) / MULTIPLE) * MULTIPLE;
  const resized = { width: side(photo.width), height: side(photo.height) };
  return { photo, resized, input: { width: padded(resized.width), height: padded(resized.height) } };
}

/** The network input, (height, width, 3) RGB, of a photo. */
export function networkInput(letterbox: Letterbox, read: ReadPixels): Uint8Array {
  const { photo, resized, input } = letterbox;
  const image = resize(photo, resized, read);
  const padded = new Uint8Array(input.width * input.height * 3).fill(GREY);
  for (let y = 0; y < resized.height; y++) {
    const start = y * resized.width * 3;
    padded.set(image.subarray(start, start + resized.width * 3), y * input.width * 3);
  }
  return padded;
}

/** Maps x or y, a float32, of the network input to the photo, rounded where Python rounds. */
export function toPhoto(value: number, photoSide: number, resizedSide: number): number {
  return Math.fround(value + 0.5) / (resizedSide / photoSide) - 0.5;
}

/** As Pillow's `resize(size, BILINEAR, reducing_gap=2.0)`, bit for bit; returns (height, width, 3) RGB. */
export function resize(from: Size, to: Size, read: ReadPixels): Uint8Array {
  const factorX = Math.floor(from.width / to.width / REDUCING_GAP) || 1;
  const factorY = Math.floor(from.height / to.height / REDUCING_GAP) || 1;
  let pixels = factorX > 1 || factorY > 1 ? reduce(from, factorX, factorY, read) : read(0, 0, from);
  pixels = resample(pixels, to.width, from.width / factorX, true);
  return new Uint8Array(resample(pixels, to.height, from.height / factorY, false).data);
}

/** Averages rectangles of whole pixels; those at the right and at the bottom may be smaller. */
function reduce(from: Size, factorX: number, factorY: number, read: ReadPixels): Pixels {
  const width = Math.ceil(from.width / factorX);
  const height = Math.ceil(from.height / factorY);
  const data = new Uint8Array(width * height * 3);
  const stepX = Math.max(1, Math.floor(TILE_SIDE / factorX));
  const stepY = Math.max(1, Math.floor(TILE_SIDE / factorY));
  for (let top = 0; top < height; top += stepY) {
    for (let left = 0; left < width; left += stepX) {
      const [x0, y0] = [left * factorX, top * factorY];
      const tile = read(x0, y0, {
        width: Math.min(stepX * factorX, from.width - x0),
        height: Math.min(stepY * factorY, from.height - y0),
      });
      for (let y = 0; y < tile.height; y += factorY) {
        for (let x = 0; x < tile.width; x += factorX) {
          const [right, bottom] = [Math.min(x + factorX, tile.width), Math.min(y + factorY, tile.height)];
          const count = (right - x) * (bottom - y);
          const half = Math.floor(count / 2);
          let [red, green, blue] = [half, half, half];
          for (let row = y; row < bottom; row++) {
            for (let column = x; column < right; column++) {
              const place = (row * tile.width + column) * tile.channels;
              red += tile.data[place];
              green += tile.data[place + 1];
              blue += tile.data[place + 2];
            }
          }
          // Pillow's division: by a multiplication, in single precision and with 32 bits.
          const multiplier = Math.floor(Math.fround(2 ** 32 / Math.fround(256 * count)));
          const place = ((top + y / factorY) * width + left + x / factorX) * 3;
          data[place] = Math.imul(red, multiplier) >>> 24;
          data[place + 1] = Math.imul(green, multiplier) >>> 24;
          data[place + 2] = Math.imul(blue, multiplier) >>> 24;
        }
      }
    }
  }
  return { data, width, height, channels: 3 };
}

/** Resizes along x or along y by a triangle filter. `span`: how many of the pixels, perhaps a fraction, are used. */
function resample(pixels: Pixels, length: number, span: number, horizontal: boolean): Pixels {
  const { data: from, width, height, channels } = pixels;
  const size = horizontal ? { width: length, height } : { width, height: length };
  if (span === length && channels === 3) return pixels;
  const { starts, counts, weights, most } = filter(horizontal ? width : height, length, Math.fround(span));
  const to = new Uint8Array(size.width * size.height * 3);
  const step = horizontal ? channels : width * channels;
  for (let y = 0, place = 0; y < size.height; y++) {
    for (let x = 0; x < size.width; x++, place += 3) {
      const out = horizontal ? x : y;
      let source = horizontal ? (y * width + starts[x]) * channels : (starts[y] * width + x) * channels;
      let red = 1 << (WEIGHT_BITS - 1);
      let green = red;
      let blue = red;
      for (let weight = out * most, end = weight + counts[out]; weight < end; weight++, source += step) {
        red += from[source] * weights[weight];
        green += from[source + 1] * weights[weight];
        blue += from[source + 2] * weights[weight];
      }
      to[place] = red >> WEIGHT_BITS;
      to[place + 1] = green >> WEIGHT_BITS;
      to[place + 2] = blue >> WEIGHT_BITS;
    }
  }
  return { data: to, ...size, channels: 3 };
}

/** For each output pixel: the first input pixel, the number of them, and their weights as integers. */
function filter(inputLength: number, length: number, span: number) {
  const scale = span / length;
  const support = Math.max(scale, 1);
  const most = Math.ceil(support) * 2 + 1;
  const starts = new Int32Array(length);
  const counts = new Int32Array(length);
  const weights = new Int32Array(length * most);
  for (let out = 0; out < length; out++) {
    const centre = (out + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - support + 0.5));
    const count = Math.min(inputLength, Math.trunc(centre + support + 0.5)) - start;
    const shares = [];
    let total = 0;
    for (let place = 0; place < count; place++) {
      const share = Math.max(0, 1 - Math.abs((place + start - centre + 0.5) * (1 / support)));
      shares.push(share);
      total += share;
    }
    starts[out] = start;
    counts[out] = count;
    shares.forEach((share, place) => {
      weights[out * most + place] = Math.trunc(0.5 + (share / total) * 2 ** WEIGHT_BITS);
    });
  }
  return { starts, counts, weights, most };
}
