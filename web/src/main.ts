// The page: where pictures come from, what is shown of their poses, and what is saved.

import samplePhoto from "../../photos/skiers.jpg?url";
import { Detector } from "./detector.ts";
import { drawPoses } from "./draw.ts";
import { MAX_PIXELS, type Size } from "./image.ts";
import { defaultSkeleton, Refusal, type About } from "./model.ts";
import { framesFile, resultsFile, select, type Poses } from "./poses.ts";
import { choices, type Skeleton } from "./skeleton.ts";

const MAX_FILE_BYTES = 500_000_000;
const MAX_SHOWN_SIDE = 1280; // of a canvas: many large photos would not fit into the memory of a phone
const ANNOUNCE_EVERY_MS = 2000;

interface Photo {
  readonly name: string;
  readonly picture: HTMLImageElement;
  readonly size: Size;
  readonly poses: Poses; // all keypoints, any score
  readonly canvas: HTMLCanvasElement;
  readonly caption: HTMLElement;
}

interface Live {
  readonly name: string;
  readonly video: HTMLVideoElement;
  readonly frames: Map<number, Poses>; // by time in seconds
  shown?: { frame: ImageBitmap; poses: Poses };
}

const get = <Type extends HTMLElement>(id: string) => document.getElementById(id) as Type;
const status = get("status");
const problems = get("problems");
const list = get("photos");
const fileInput = get<HTMLInputElement>("files");
const modelInput = get<HTMLInputElement>("model-file");
const skeletonSelect = get<HTMLSelectElement>("skeleton");
const thresholdInput = get<HTMLInputElement>("threshold");
const download = get<HTMLButtonElement>("download");
const play = get<HTMLButtonElement>("play");
const position = get<HTMLInputElement>("position");
const cameras = get<HTMLSelectElement>("cameras");
const frameCanvas = get<HTMLCanvasElement>("frame");

const detector = new Detector();
let about: About | undefined;
let photos: Photo[] = [];
let live: Live | undefined;
let work = 0; // what was started last; anything older stops

// Results

function skeleton(): Skeleton {
  if (!about) throw new Refusal("The model is not open.");
  return choices(about.skeleton).find((each) => each.name === skeletonSelect.value) ?? about.skeleton;
}

/** The poses that are shown and saved. */
function wanted(poses: Poses): Poses {
  return select(poses, skeleton(), Number(thresholdInput.value));
}

function show(canvas: HTMLCanvasElement, picture: CanvasImageSource, size: Size, poses: Poses): void {
  const factor = Math.min(1, MAX_SHOWN_SIDE / Math.max(size.width, size.height));
  const width = Math.max(1, Math.round(size.width * factor));
  const height = Math.max(1, Math.round(size.height * factor));
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const context = canvas.getContext("2d");
  if (!context) return;
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(picture, 0, 0, width, height);
  drawPoses(context, poses, size);
}

function showPhoto(photo: Photo): void {
  const poses = wanted(photo.poses);
  show(photo.canvas, photo.picture, photo.size, poses);
  const text = `${photo.name}: ${people(poses)}`;
  photo.canvas.setAttribute("aria-label", text);
  photo.caption.textContent = text;
}

function showFrame(): void {
  if (!live?.shown) return;
  const { frame, poses } = live.shown;
  const shown = wanted(poses);
  show(frameCanvas, frame, frame, shown);
  frameCanvas.setAttribute("aria-label", `${live.name}: ${people(shown)}`);
}

function showAll(): void {
  get("threshold-shown").textContent = Number(thresholdInput.value).toFixed(2);
  if (!about) return;
  photos.forEach(showPhoto);
  showFrame();
}

function people(poses: Poses): string {
  return counted(poses) + (poses.scores.length ? `, best score ${poses.scores[0].toFixed(2)}` : "");
}

function counted({ scores }: Poses): string {
  if (!scores.length) return "nobody found";
  return `${scores.length} ${scores.length === 1 ? "person" : "people"}`;
}

function report(name: string, error: unknown): void {
  const item = document.createElement("p");
  const reason = error instanceof Error ? error.message : String(error);
  item.textContent = name ? `${name}: ${reason}` : reason;
  problems.append(item);
}

/** Ends what runs and forgets its results. Returns the number of the new work. */
function begin(): number {
  live?.video.pause();
  if (live?.video.srcObject instanceof MediaStream) live.video.srcObject.getTracks().forEach((track) => track.stop());
  if (live?.video.src) URL.revokeObjectURL(live.video.src);
  live?.shown?.frame.close();
  live = undefined;
  photos.forEach(({ picture }) => URL.revokeObjectURL(picture.src));
  photos = [];
  list.replaceChildren();
  problems.replaceChildren();
  get("live").hidden = true;
  download.disabled = true;
  return ++work;
}

// Photos

async function useFiles(files: readonly File[]): Promise<void> {
  if (!files.length) return;
  const video = files.find((file) => file.type.startsWith("video/"));
  const number = begin();
  if (video) {
    if (files.length > 1) report("", `Only ${video.name} is shown: choose one video, or several photos.`);
    return useVideo(video, number);
  }
  for (const [place, file] of files.entries()) {
    if (number !== work) return;
    status.textContent = files.length > 1 ? `Photo ${place + 1} of ${files.length}` : `Finding people in ${file.name}`;
    try {
      const photo = await found(file);
      if (number !== work) return;
      photos.push(photo);
      showPhoto(photo);
      const figure = document.createElement("figure");
      figure.append(photo.canvas, photo.caption);
      const item = document.createElement("li");
      item.append(figure);
      list.append(item);
      download.disabled = false;
    } catch (error) {
      if (number !== work) return;
      report(file.name, error);
    }
  }
  if (photos.length === 1) status.textContent = photos[0].caption.textContent;
  else status.textContent = `${photos.length} of ${files.length} photos done`;
}

async function found(file: File): Promise<Photo> {
  await opened;
  if (file.size === 0) throw new Refusal("the file is empty");
  if (file.size > MAX_FILE_BYTES) throw new Refusal(`larger than ${MAX_FILE_BYTES / 1e6} MB`);
  // Reads the header only: the pixels of a photo that is too large never exist.
  const picture = await loaded(file);
  try {
    if (picture.naturalWidth * picture.naturalHeight > MAX_PIXELS) {
      throw new Refusal(`more than ${MAX_PIXELS / 1e6} million pixels; reduce its size first`);
    }
    const { poses, photo: size } = await detector.find(file);
    const canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    return { name: file.name, picture, size, poses, canvas, caption: document.createElement("figcaption") };
  } catch (error) {
    URL.revokeObjectURL(picture.src);
    throw error;
  }
}

function loaded(file: File): Promise<HTMLImageElement> {
  return new Promise((resolve, reject) => {
    const picture = new Image();
    picture.onload = () => resolve(picture);
    picture.onerror = () => {
      URL.revokeObjectURL(picture.src);
      reject(new Refusal("not a photo or a video that this browser can read"));
    };
    picture.src = URL.createObjectURL(file);
  });
}

// Video and camera

async function useVideo(file: File, number: number): Promise<void> {
  const video = document.createElement("video");
  video.muted = true;
  video.playsInline = true;
  video.src = URL.createObjectURL(file);
  live = { name: file.name, video, frames: new Map() };
  await run(live, number, file.name);
}

async function useCamera(deviceId?: string): Promise<void> {
  const number = begin();
  // Browsers offer a camera only to pages from HTTPS or from the device itself.
  if (!navigator.mediaDevices) return report("", "The camera needs a page from https:// or from localhost.");
  status.textContent = "Waiting for the camera.";
  let stream;
  try {
    const video = { width: { ideal: 1280 }, ...(deviceId ? { deviceId } : { facingMode: "environment" }) };
    stream = await navigator.mediaDevices.getUserMedia({ video });
  } catch (error) {
    if (number !== work) return;
    status.textContent = "";
    const refused = error instanceof DOMException && error.name === "NotAllowedError";
    return report("", refused ? "The camera was not allowed." : "No camera was found, or another program uses it.");
  }
  if (number !== work) return stream.getTracks().forEach((track) => track.stop());
  const video = document.createElement("video");
  video.muted = true;
  video.playsInline = true;
  video.srcObject = stream;
  live = { name: "camera", video, frames: new Map() };
  await listCameras(stream);
  await run(live, number, "camera");
}

async function listCameras(stream: MediaStream): Promise<void> {
  const devices = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput");
  cameras.replaceChildren(
    ...devices.map(({ deviceId, label }, place) => new Option(label || `Camera ${place + 1}`, deviceId)),
  );
  cameras.value = stream.getVideoTracks()[0].getSettings().deviceId ?? "";
}

/** Plays a video, and finds the poses of as many frames as the device has time for. */
async function run(live: Live, number: number, name: string): Promise<void> {
  const { video } = live;
  const isCamera = video.srcObject !== null;
  try {
    await opened;
    await video.play();
  } catch {
    if (number !== work) return;
    begin();
    status.textContent = "";
    return report(name, "not a photo or a video that this browser can read");
  }
  if (number !== work) return;
  play.hidden = isCamera;
  get("position-label").hidden = isCamera || !Number.isFinite(video.duration);
  get("cameras-label").hidden = !isCamera || cameras.options.length < 2;
  position.max = String(isCamera ? 0 : video.duration);
  video.onplay = video.onpause = () => (play.textContent = video.paused ? "Play" : "Pause");
  video.onended = () => (status.textContent = `${name}: ${live.frames.size} frames`);
  play.textContent = "Pause";
  get("live").hidden = false;
  status.textContent = isCamera ? "The camera is on." : `${name} is playing.`;
  let announced = 0;
  try {
    for (let time = await nextFrame(video); number === work; time = await nextFrame(video)) {
      const { poses, frame } = await detector.find(await createImageBitmap(video));
      if (number !== work || !frame) return frame?.close();
      live.shown?.frame.close();
      live.shown = { frame, poses };
      live.frames.set(time, poses);
      showFrame();
      position.value = String(time);
      download.disabled = false;
      // Only a change is said aloud.
      const text = `${name}: ${counted(wanted(poses))}`;
      if (text !== status.textContent && performance.now() > announced + ANNOUNCE_EVERY_MS && !video.ended) {
        announced = performance.now();
        status.textContent = text;
      }
    }
  } catch (error) {
    if (number === work) report(name, error);
  }
}

/** Waits for a frame, and returns its time in seconds. */
function nextFrame(video: HTMLVideoElement): Promise<number> {
  return new Promise((resolve) => {
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback((_, { mediaTime }) => resolve(mediaTime));
    else requestAnimationFrame(() => resolve(video.currentTime));
  });
}

// Model, settings and files

function useOpened(result: Awaited<ReturnType<Detector["open"]>>, name: string): void {
  about = result.about;
  skeletonSelect.replaceChildren(
    ...choices(about.skeleton).map(({ name, keypoints }) => new Option(`${name} (${keypoints.length})`, name)),
  );
  skeletonSelect.value = defaultSkeleton(about).name;
  thresholdInput.value = String(about.decode.scoreThreshold);
  skeletonSelect.disabled = thresholdInput.disabled = false;
  const threads = result.threads === 1 ? "1 thread" : `${result.threads} threads`;
  get("about").textContent = `Model ${name}, ${threads}.`;
  status.textContent = `The model ${name} is ready.`;
  showAll();
}

async function useModel(file: File): Promise<void> {
  begin();
  status.textContent = `Opening ${file.name}.`;
  try {
    if (file.size > MAX_FILE_BYTES) throw new Refusal(`${file.name}: larger than ${MAX_FILE_BYTES / 1e6} MB`);
    useOpened(await detector.open({ name: file.name, file: await file.arrayBuffer() }), file.name);
  } catch (error) {
    status.textContent = "";
    report("", error);
  }
}

function save(): void {
  const [name, text] = live
    ? [`${live.name}.jsonl`, framesFile(live.name, skeleton(), mapped(live.frames))]
    : ["poses.json", resultsFile(photos.map(({ name, poses }) => ({ name, poses: wanted(poses) })))];
  const link = document.createElement("a");
  link.download = name;
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function mapped(frames: Map<number, Poses>): Map<number, Poses> {
  return new Map([...frames].map(([time, poses]) => [time, wanted(poses)]));
}

async function useSample(): Promise<void> {
  const answer = await fetch(samplePhoto);
  await useFiles([new File([await answer.blob()], "skiers.jpg", { type: "image/jpeg" })]);
}

get("choose").onclick = () => fileInput.click();
get("camera").onclick = () => void useCamera();
get("sample").onclick = () => void useSample().catch((error: unknown) => report("", error));
get("model").onclick = () => modelInput.click();
get("stop").onclick = () => {
  begin();
  status.textContent = "Stopped.";
  get("choose").focus(); // the button that had the focus is gone
};
fileInput.onchange = () => {
  void useFiles([...(fileInput.files ?? [])]);
  fileInput.value = ""; // the same file can be chosen again
};
modelInput.onchange = () => {
  const [file] = modelInput.files ?? [];
  if (file) void useModel(file);
  modelInput.value = "";
};
cameras.onchange = () => void useCamera(cameras.value);
play.onclick = () => void (live?.video.paused ? live.video.play() : live?.video.pause());
position.oninput = () => {
  if (live) live.video.currentTime = Number(position.value);
};
skeletonSelect.onchange = showAll;
thresholdInput.oninput = showAll;
download.onclick = save;

addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
for (const name of ["dragleave", "drop"]) addEventListener(name, () => document.body.classList.remove("dropping"));
addEventListener("drop", (event) => {
  event.preventDefault();
  void useFiles([...(event.dataTransfer?.files ?? [])]);
});

showAll();
const opened = detector.open().then((result) => useOpened(result, result.about.name));
opened.catch((error: unknown) => {
  status.textContent = "";
  report("", error);
});

// After the model, which is loaded only once then. Without a service worker, the page works only online.
if (import.meta.env.PROD && "serviceWorker" in navigator) {
  void opened.then(() => navigator.serviceWorker.register("./service-worker.js")).catch(() => undefined);
}
