// Network output -> poses: map keypoints to the photo, and suppress duplicates, as Python's `decode` does.

import { toPhoto, type Letterbox, type Size } from "./image.ts";
import type { About, DecodeConfig } from "./model.ts";
import type { Poses } from "./poses.ts";
import { BUILT_IN, indices, type Skeleton } from "./skeleton.ts";

const REFERENCE_LONG_SIDE = 640;
const MAX_POSES = 100;

/** The outputs of a network for one image: N poses of K keypoints in pixels of the network input. */
export interface Outputs {
  readonly scores: Float32Array; // (N)
  readonly keypoints: Float32Array; // (N, K, 2)
  readonly keypointScores: Float32Array; // (N, K)
}

/**
 * The poses of a photo with any score above 0, best first, in pixels of the photo.
 *
 * A threshold can be applied afterwards: a pose is only ever suppressed by one with a higher score.
 */
export function decode(outputs: Outputs, letterbox: Letterbox, about: About): Poses {
  const { photo, resized } = letterbox;
  const size = about.skeleton.keypoints.length;
  const unit = (value: number) => Math.min(Math.max(value, 0), 1);
  const placed = new Float32Array(outputs.keypoints.length);
  for (let place = 0; place < placed.length; place += 2) {
    placed[place] = toPhoto(outputs.keypoints[place], photo.width, resized.width);
    placed[place + 1] = toPhoto(outputs.keypoints[place + 1], photo.height, resized.height);
    if (about.decode.clamp) {
      placed[place] = Math.min(Math.max(placed[place], 0), photo.width - 1);
      placed[place + 1] = Math.min(Math.max(placed[place + 1], 0), photo.height - 1);
    }
  }
  const finite = (pose: number) =>
    placed.subarray(2 * pose * size, 2 * (pose + 1) * size).every(Number.isFinite) &&
    outputs.keypointScores.subarray(pose * size, (pose + 1) * size).every(Number.isFinite);
  const found = [...outputs.scores.keys()]
    .filter((pose) => outputs.scores[pose] > 0 && Number.isFinite(outputs.scores[pose]) && finite(pose))
    .sort((first, second) => unit(outputs.scores[second]) - unit(outputs.scores[first]));
  const all: Poses = {
    skeleton: about.skeleton,
    scores: outputs.scores.map(unit),
    keypoints: placed,
    keypointScores: outputs.keypointScores.map(unit),
  };
  return taken(all, greedy(found, duplicates(all, photo, about.decode)));
}

function taken(poses: Poses, chosen: readonly number[]): Poses {
  const rows = (array: Float32Array, length: number) => {
    const to = new Float32Array(chosen.length * length);
    chosen.forEach((pose, place) => to.set(array.subarray(pose * length, (pose + 1) * length), place * length));
    return to;
  };
  const size = poses.skeleton.keypoints.length;
  return {
    skeleton: poses.skeleton,
    scores: rows(poses.scores, 1),
    keypoints: rows(poses.keypoints, 2 * size),
    keypointScores: rows(poses.keypointScores, size),
  };
}

/** Keeps the first pose, drops its later duplicates, and repeats with the remaining ones. */
function greedy(order: readonly number[], same: (best: number, other: number) => boolean): number[] {
  const kept: number[] = [];
  let left = order;
  while (left.length && kept.length < MAX_POSES) {
    const [best, ...others] = left;
    kept.push(best);
    left = others.filter((other) => !same(best, other));
  }
  return kept;
}

/** Whether two poses are duplicates: by OKS in the paper's form, or by the overlap of their boxes. */
function duplicates(poses: Poses, photo: Size, config: DecodeConfig): (best: number, other: number) => boolean {
  const size = poses.skeleton.keypoints.length;
  const compared = comparedKeypoints(poses.skeleton);
  const boxes = Array.from(poses.scores, (_, pose) => {
    const xs = compared.map((place) => poses.keypoints[2 * (pose * size + place)]);
    const ys = compared.map((place) => poses.keypoints[2 * (pose * size + place) + 1]);
    return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
  });
  const areas = boxes.map(([left, top, right, bottom]) => (right - left) * (bottom - top));
  if (config.nms === "iou") {
    return (best, other) => {
      const [a, b] = [boxes[best], boxes[other]];
      const width = Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0]));
      const height = Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
      const shared = width * height;
      return shared > config.nmsThreshold * (areas[best] + areas[other] - shared);
    };
  }
  const floor = config.minArea * (Math.max(photo.width, photo.height) / REFERENCE_LONG_SIDE) ** 2;
  return (best, other) => {
    const area = (Math.max(areas[best], floor) + Math.max(areas[other], floor)) / 2 / 2 + Number.EPSILON;
    let sum = 0;
    for (const place of compared) {
      const [a, b] = [2 * (best * size + place), 2 * (other * size + place)];
      const squared =
        (poses.keypoints[a] - poses.keypoints[b]) ** 2 + (poses.keypoints[a + 1] - poses.keypoints[b + 1]) ** 2;
      sum += Math.exp(-squared / (8 * poses.skeleton.sigmas[place] ** 2 * area));
    }
    return sum / compared.length > config.nmsThreshold;
  };
}

/** All keypoints but the abdomen, which the official CrowdPose networks have only because they need an odd number. */
function comparedKeypoints(skeleton: Skeleton): number[] {
  return skeleton.name === "crowdpose15" ? indices(skeleton, BUILT_IN.crowdpose) : [...skeleton.keypoints.keys()];
}
