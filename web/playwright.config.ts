import { defineConfig } from "@playwright/test";
import { MADE } from "./tests/made.ts";

export default defineConfig({
  testDir: "tests",
  outputDir: "../build/web-test/results",
  globalSetup: "./tests/made.ts",
  workers: 1, // the network takes all cores
  timeout: 120_000,
  expect: { timeout: 30_000 },
  reporter: "list",
  use: {
    baseURL: "http://127.0.0.1:4173",
    permissions: ["camera"],
    viewport: { width: 1280, height: 800 },
    launchOptions: {
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      args: [
        "--use-fake-device-for-media-stream",
        `--use-file-for-fake-video-capture=${MADE}/camera.mjpeg`,
      ],
    },
  },
  webServer: { command: "npm run preview", url: "http://127.0.0.1:4173", reuseExistingServer: false },
});
