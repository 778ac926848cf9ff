// Draws poses as `posedet predict` does: blue left, orange right, white middle, which colour-blind people can tell apart.

import type { Poses } from "./poses.ts";
import type { Size } from "./image.ts";

const LEFT = "rgb(56 152 255)";
const RIGHT = "rgb(255 146 30)";
const MIDDLE = "rgb(250 248 240)";
const OUTLINE = "rgb(14 16 26)";
const OUTLINE_OPACITY = 0.75;

// A keypoint with a lower score is probably hidden: its dot is hollow and its limbs are pale.
const SEEN = 0.4;
const HIDDEN_OPACITY = 0.4;

// The width of a line as a fraction of the person's long side, and its limits as fractions of the picture's long side.
const LINE_PER_PERSON = 1 / 55;
const FINEST_PER_PICTURE = 1 / 900;
const COARSEST_PER_PICTURE = 1 / 130;
const FINEST_LINE = 1.3; // pixels
// Fractions of the width of a line.
const DOT_RADIUS = 1.05;
const OUTLINE_WIDTH = 0.3;
const CORE_RADIUS = 0.5; // fraction of the dot's radius
// The sigma of a shoulder; keypoints with a smaller sigma get smaller dots.
const BROAD_SIGMA = 0.079;

type Point = readonly [number, number];
type Paint = (from: Point, to: Point, radius: number, colour: string, opacity?: number) => void;

/** Draws poses in pixels of the photo on a picture of it, which may be smaller; the best pose is on top. */
export function drawPoses(context: CanvasRenderingContext2D, poses: Poses, photo: Size): void {
  const picture = context.canvas;
  context.lineCap = "round";
  const paint: Paint = (from, to, radius, colour, opacity = 1) => {
    context.globalAlpha = opacity;
    context.strokeStyle = context.fillStyle = colour;
    context.lineWidth = 2 * radius;
    context.beginPath();
    // Pixel centres lie at whole numbers here, and at halves on a canvas.
    if (from === to) {
      // A canvas does not draw a line without length.
      context.arc(from[0] + 0.5, from[1] + 0.5, radius, 0, 2 * Math.PI);
      context.fill();
    } else {
      context.moveTo(from[0] + 0.5, from[1] + 0.5);
      context.lineTo(to[0] + 0.5, to[1] + 0.5);
      context.stroke();
    }
  };
  const size = poses.skeleton.keypoints.length;
  for (let pose = poses.scores.length - 1; pose >= 0; pose--) {
    const point = (place: number): Point => {
      const at = 2 * (pose * size + place);
      return [
        scaled(poses.keypoints[at], picture.width / photo.width),
        scaled(poses.keypoints[at + 1], picture.height / photo.height),
      ];
    };
    const scores = poses.keypointScores.subarray(pose * size, (pose + 1) * size);
    drawPose(paint, Array.from({ length: size }, (_, place) => point(place)), scores, poses, picture);
  }
  context.globalAlpha = 1;
}

function scaled(value: number, factor: number): number {
  // Very distant keypoints do not overflow.
  return Math.min(Math.max((value + 0.5) * factor - 0.5, -1e5), 1e5);
}

function drawPose(paint: Paint, points: Point[], scores: Float32Array, { skeleton }: Poses, picture: Size): void {
  const present = [...points.keys()].filter((place) => scores[place] > 0);
  if (!present.length) return;
  const seen = (place: number) => scores[place] >= SEEN;
  const line = lineWidth(present.map((place) => points[place]), picture);
  const outline = Math.max(0.6, OUTLINE_WIDTH * line);
  const widths = skeleton.sigmas.map((sigma) => line * Math.sqrt(Math.min(Math.max(sigma / BROAD_SIGMA, 0.2), 1)));
  const sides = points.map(() => MIDDLE);
  for (const [left, right] of skeleton.pairs) {
    sides[left] = LEFT;
    sides[right] = RIGHT;
  }
  const limbs = skeleton.limbs
    .filter(([a, b]) => present.includes(a) && present.includes(b))
    .map(([a, b]) => ({
      a: points[a],
      b: points[b],
      radius: (widths[a] + widths[b]) / 4,
      colour: limbColour(sides[a], sides[b]),
      opacity: seen(a) && seen(b) ? 1 : HIDDEN_OPACITY,
    }))
    // Hidden limbs first, so that visible ones are on top.
    .sort((first, second) => first.opacity - second.opacity);
  const radius = (place: number) => DOT_RADIUS * widths[place];

  // All outlines before all colours, so that the person has a single outline.
  for (const limb of limbs) paint(limb.a, limb.b, limb.radius + outline, OUTLINE, OUTLINE_OPACITY * limb.opacity);
  for (const place of present) paint(points[place], points[place], radius(place) + outline, OUTLINE, OUTLINE_OPACITY);
  for (const limb of limbs) paint(limb.a, limb.b, limb.radius, limb.colour, limb.opacity);
  for (const place of present) {
    paint(points[place], points[place], radius(place), sides[place]);
    paint(points[place], points[place], CORE_RADIUS * radius(place), seen(place) ? MIDDLE : OUTLINE);
  }
}

function lineWidth(points: Point[], picture: Size): number {
  const longSide = Math.max(picture.width, picture.height);
  const finest = Math.max(FINEST_LINE, FINEST_PER_PICTURE * longSide);
  const coarsest = Math.max(finest, COARSEST_PER_PICTURE * longSide);
  const spans = [0, 1].map((axis) => {
    const values = points.map((point) => point[axis]);
    return Math.max(...values) - Math.min(...values);
  });
  return Math.min(Math.max(LINE_PER_PERSON * Math.max(...spans), finest), coarsest);
}

/** The side's colour for a limb with a side and the middle, and the middle's for a limb between sides. */
function limbColour(first: string, second: string): string {
  if (first === second || second === MIDDLE) return first;
  return first === MIDDLE ? second : MIDDLE;
}
