import { indices, type Skeleton } from "./skeleton.ts";

/** N poses of K keypoints in one photo, best first, in pixels of the photo; as Python's `Poses`. */
export interface Poses {
  readonly skeleton: Skeleton;
  readonly scores: Float32Array; // (N)
  readonly keypoints: Float32Array; // (N, K, 2) x and y
  readonly keypointScores: Float32Array; // (N, K)
}

/** The poses with a score above the threshold, with the keypoints of another skeleton. */
export function select(poses: Poses, skeleton: Skeleton, scoreThreshold: number): Poses {
  const places = indices(poses.skeleton, skeleton.keypoints);
  const size = poses.skeleton.keypoints.length;
  // Scores are float32, and Python compares them with the threshold as float32.
  const scores = poses.scores.filter((score) => score > Math.fround(scoreThreshold));
  const keypoints = new Float32Array(scores.length * places.length * 2);
  const keypointScores = new Float32Array(scores.length * places.length);
  for (let pose = 0, to = 0; pose < scores.length; pose++) {
    for (const place of places) {
      const from = pose * size + place;
      keypoints[2 * to] = poses.keypoints[2 * from];
      keypoints[2 * to + 1] = poses.keypoints[2 * from + 1];
      keypointScores[to++] = poses.keypointScores[from];
    }
  }
  return { skeleton, scores, keypoints, keypointScores };
}

/** The poses as `Poses.to_dict()["poses"]` in Python: x, y and score of each keypoint, and the score of the pose. */
export function entries(poses: Poses): { keypoints: number[]; score: number }[] {
  const size = poses.skeleton.keypoints.length;
  return Array.from(poses.scores, (score, pose) => {
    const keypoints = [];
    for (let place = pose * size; place < (pose + 1) * size; place++) {
      keypoints.push(
        shortest(poses.keypoints[2 * place]),
        shortest(poses.keypoints[2 * place + 1]),
        shortest(poses.keypointScores[place]),
      );
    }
    return { keypoints, score: shortest(score) };
  });
}

const GENERATOR = "posedet page";

/** The file that `posedet predict` writes: a list of results in COCO's format with file names. */
export function resultsFile(photos: readonly { name: string; poses: Poses }[]): string {
  const lines = photos.flatMap(({ name, poses }, place) =>
    entries(poses).map((entry) =>
      JSON.stringify({ generator: GENERATOR, image_id: place + 1, category_id: 1, ...entry, file_name: name }),
    ),
  );
  return lines.length ? `[\n${lines.join(",\n")}\n]\n` : "[\n]\n";
}

/** The file that `posedet track` writes: JSON Lines, the skeleton first, then the frames by time in seconds. */
export function framesFile(source: string, skeleton: Skeleton, frames: ReadonlyMap<number, Poses>): string {
  const lines: object[] = [{ generator: GENERATOR, source, frame_rate: 0, skeleton }];
  [...frames]
    .sort(([first], [second]) => first - second)
    .forEach(([time, poses], frame) => {
      lines.push({ frame, time: Math.round(time * 1e6) / 1e6, poses: entries(poses) });
    });
  return lines.map((line) => `${JSON.stringify(line)}\n`).join("");
}

/** The number with the fewest digits that is the same float32: 0.1, not 0.10000000149011612. */
function shortest(value: number): number {
  for (let digits = 6; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === value) return short;
  }
  return Number(value.toPrecision(9));
}
