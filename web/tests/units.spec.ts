import { readFileSync } from "node:fs";
import { expect, test } from "@playwright/test";
import { decode } from "../src/decode.ts";
import { fit, resize } from "../src/image.ts";
import { defaultSkeleton, readAbout, type About } from "../src/model.ts";
import { entries } from "../src/poses.ts";
import { BUILT_IN, choices } from "../src/skeleton.ts";
import { expected, RELEASED } from "./made.ts";

test("resizing equals Pillow's, bit for bit", () => {
  for (const { from, to, pixels, result } of expected().resized) {
    const data = Buffer.from(pixels, "base64");
    const [size, wanted] = [from, to].map(([width, height]) => ({ width, height }));
    const resized = resize(size, wanted, (x, y, part) => {
      const rows = Array.from({ length: part.height }, (_, row) => {
        const start = ((y + row) * size.width + x) * 3;
        return data.subarray(start, start + part.width * 3);
      });
      return { data: Buffer.concat(rows), ...part, channels: 3 };
    });
    expect(Buffer.from(resized).equals(Buffer.from(result, "base64")), `${from} to ${to}`).toBe(true);
  }
});

test("decoding and suppression equal Python's", () => {
  for (const { about, photo, outputs, poses } of expected().decoded) {
    const [width, height] = photo;
    const found = decode(
      {
        scores: new Float32Array(outputs.scores),
        keypoints: new Float32Array(outputs.keypoints.map((value) => value ?? NaN)),
        keypointScores: new Float32Array(outputs.keypoint_scores),
      },
      fit({ width, height }, 576, null),
      about as About,
    );
    expect(found.scores.length).toBeGreaterThan(5);
    expect(entries(found)).toEqual(poses);
  }
});

test("the model file names its keypoints and its settings", () => {
  const about = readAbout(readFileSync(`${RELEASED}/posedet-s.onnx`), "posedet-s");
  expect(about.decode).toEqual({
    longSide: 576,
    shortSide: null,
    scoreThreshold: 0.35,
    nms: "oks",
    nmsThreshold: 0.3,
    minArea: 256,
    clamp: false,
    skeleton: "coco",
  });
  expect(defaultSkeleton(about).keypoints).toEqual(expected().skeletons.coco);
  expect(choices(about.skeleton).map(({ name }) => name)).toEqual(["body19", "coco", "crowdpose"]);
});

test("the built-in skeletons are Python's", () => {
  for (const [name, keypoints] of Object.entries(BUILT_IN)) expect(keypoints).toEqual(expected().skeletons[name]);
});

test("files that are no posedet models are refused in one line", () => {
  const file = readFileSync(`${RELEASED}/posedet-s.onnx`);
  expect(() => readAbout(file.subarray(0, 100_000), "cut.onnx")).toThrow("cut.onnx: not a readable ONNX file");
  expect(() => readAbout(new Uint8Array(0), "none.onnx")).toThrow("none.onnx: not a posedet model");
  const without = Buffer.from(file.toString("latin1").replace('"nms_threshold": 0.3', '"nms_threshold": 7.3'), "latin1");
  expect(() => readAbout(without, "odd.onnx")).toThrow(
    "odd.onnx: its metadata are invalid (decode.nms_threshold is 7.3, expected 0 to 1)",
  );
});
