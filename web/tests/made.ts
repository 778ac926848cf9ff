// What the tests compare with and what they open, made by the Python package just before.

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const path = (relative: string) => fileURLToPath(new URL(relative, import.meta.url));

export const MADE = path("../../build/web-test/made");
export const PHOTOS = path("../../photos");
export const RELEASED = path("../../src/posedet/released");

export const PYTHON = process.env.PYTHON ?? path("../../.venv-dev/bin/python");

export default function make(): void {
  execFileSync(PYTHON, [path("./make.py"), MADE], { stdio: "inherit" });
}

export interface Entry {
  keypoints: number[];
  score: number;
  file_name: string;
}

interface Expected {
  poses: Record<string, { file_name: string; poses: Entry[] }[]>;
  skeletons: Record<string, string[]>;
  resized: { from: [number, number]; to: [number, number]; pixels: string; result: string }[];
  decoded: {
    about: object;
    photo: [number, number];
    outputs: { scores: number[]; keypoints: number[]; keypoint_scores: number[] };
    poses: Entry[];
  }[];
}

export const expected = () => JSON.parse(readFileSync(`${MADE}/expected.json`, "utf8")) as Expected;
