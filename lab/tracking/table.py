"""The tables of docs/lab/tracking.md."""

import argparse
import time
from typing import Any

import numpy as np

from lab.tracking.figures import figures, smoothness
from lab.tracking.observed import SURE_ERRORS, Observed, detected, with_errors
from lab.tracking.scenes import KINDS, Scene, read_material
from lab.tracking.trackers import TRACKERS, ours
from posedet import PoseDet, Poses
from posedet.evaluation.report import markdown_table
from posedet.skeleton import COCO
from posedet.tracking import Smoother, Tracker
from posedet.video.track import with_tracker

LEAST_FPS = 25  # of the scenes in which jitter and lag are measured


def compare(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Make the scenes that the options of the command name, run every tracker on them, and return table and figures."""
    material = read_material(options.people, options.backgrounds, options.split)
    seeds = range(options.first_seed, options.first_seed + options.scenes)
    scenes = {kind: [Scene(kind, seed, material) for seed in seeds] for kind in KINDS}
    if options.poses == "network":
        detector, tracker = with_tracker(PoseDet(options.model, long_side=480, embedding=True))
        sure = tracker.sure_score
        found = {kind: [detected(scene, detector) for scene in each] for kind, each in scenes.items()}
    else:
        found = {kind: [with_errors(scene) for scene in each] for kind, each in scenes.items()}
        sure = SURE_ERRORS
    results: dict[str, Any] = {}
    lines = [["tracker", "similarity", *KINDS, "all: HOTA, IDF1, id switches"]]
    for name, track in TRACKERS.items():
        tracked = {
            kind: [(each, track(each, scene.fps, sure)) for scene, each in zip(scenes[kind], found[kind], strict=True)]
            for kind in KINDS
        }
        for similarity in ("oks", "iou"):
            values = {kind: figures(tracked[kind], similarity) for kind in KINDS}
            values["all"] = figures([pair for pairs in tracked.values() for pair in pairs], similarity)
            results.setdefault(name, {})[similarity] = {kind: value._asdict() for kind, value in values.items()}
            cells = [f"{value.hota:.1f}, {value.idf1:.1f}, {value.switches}" for value in values.values()]
            lines.append([name, similarity.upper() if similarity == "oks" else "IoU", *cells])
    text = markdown_table(lines)
    fast = [
        (each, _smoothed(ours(each, scene.fps, sure), each))
        for kind in KINDS
        for scene, each in zip(scenes[kind], found[kind], strict=True)
        if scene.fps >= LEAST_FPS
    ]
    if fast:
        smooth = smoothness(fast)
        results["smoothing"] = smooth._asdict()
        text += (
            f"\n\nJitter {smooth.raw_jitter:.2f} -> {smooth.jitter:.2f} sqrt(area) / s^2 "
            f"({100 * smooth.jitter / smooth.raw_jitter:.0f} %), lag {1000 * smooth.raw_lag:.0f} -> "
            f"{1000 * smooth.lag:.0f} ms, in scenes with at least {LEAST_FPS} frames a second"
        )
    return text, {"scenes of each kind": options.scenes, "first seed": options.first_seed, **results}


def _smoothed(tracked: list[Poses], observed: list[Observed]) -> list[Poses]:
    smoother = Smoother()
    return [smoother.update(poses, frame.time) for poses, frame in zip(tracked, observed, strict=True)]


def speed_table() -> str:
    """Time the tracker and the smoothing. Of twenty blocks of 30 frames, the least median: other work only slows."""
    lines = [["people", "tracker, ms", "with embeddings of 32, ms", "smoothing, ms"]]
    for count in (10, 50, 100):
        plain, smooth = _timed(count, 0)
        with_embeddings, _ = _timed(count, 32)
        lines.append([str(count), *(f"{1000 * value:.2f}" for value in (plain, with_embeddings, smooth))])
    return markdown_table(lines)


def _timed(count: int, numbers: int) -> tuple[float, float]:
    """The times of tracker and smoothing in s, for people who walk side by side in rows of ten."""
    random = np.random.default_rng(0)
    bodies = random.uniform(0, 1, (count, 17, 2)) * [40, 110]
    starts = np.stack([np.arange(count) % 10 * 60, np.arange(count) // 10 * 130], axis=1)
    speeds = random.normal(0, 30, (count, 2))
    looks = random.normal(size=(count, numbers))
    looks /= np.maximum(np.linalg.norm(looks, axis=1, keepdims=True), 1e-9)
    tracker, smoother = Tracker(), Smoother()
    times = []
    for frame in range(600):
        moved = bodies + (starts + speeds * frame / 30)[:, None] + random.normal(0, 1, bodies.shape)
        extra = {"embedding": looks.astype(np.float32)} if numbers else {}
        scores = random.uniform(0.5, 1, (count, 18)).astype(np.float32)
        poses = Poses(moved.astype(np.float32), scores[:, 0], scores[:, 1:], COCO, extra)
        start = time.perf_counter()
        tracked = tracker.update(poses, frame / 30)
        middle = time.perf_counter()
        smoother.update(tracked, frame / 30)
        times.append((middle - start, time.perf_counter() - middle))
    tracking, smoothing = np.median(np.reshape(times, (20, 30, 2)), axis=1).min(axis=0).tolist()
    return tracking, smoothing
