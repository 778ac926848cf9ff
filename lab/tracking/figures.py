"""HOTA, IDF1 and id switches by TrackEval, on OKS or on boxes; jitter and lag of smoothed poses."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lab.tracking.observed import Observed
from lab.tracking.scenes import Truth
from posedet import Poses
from posedet.oks import oks, pose_boxes
from posedet.skeleton import COCO

LEAST_SHOWN = 0.3  # of a person's labelled keypoints; others need not be found
LEAST_SPEED = 0.2  # sqrt(area) / s of keypoints whose lag is measured
DELAYS = np.arange(0, 0.2, 0.001)  # s

Similarity = Literal["oks", "iou"]


class Figures(NamedTuple):
    """The figures of a tracker over some scenes."""

    hota: float  # percent
    idf1: float  # percent
    switches: int


class Smoothness(NamedTuple):
    """What smoothing changes, over all keypoints that can be seen."""

    raw_jitter: float  # sqrt(area of the person) / s^2: mean acceleration of keypoints that stand still
    jitter: float
    raw_lag: float  # s
    lag: float


def figures(scenes: Sequence[tuple[Sequence[Observed], Sequence[Poses]]], similarity: Similarity) -> Figures:
    """Compute the figures over scenes: what was observed, and what a tracker made of it."""
    from trackeval.metrics import CLEAR, HOTA, Identity

    data = [_sequence(observed, tracked, similarity) for observed, tracked in scenes]
    metrics = (HOTA(), Identity({"PRINT_CONFIG": False}), CLEAR({"PRINT_CONFIG": False}))
    hota, identity, clear = (
        metric.combine_sequences({str(place): metric.eval_sequence(each) for place, each in enumerate(data)})
        for metric in metrics
    )
    return Figures(float(100 * hota["HOTA"].mean()), float(100 * identity["IDF1"]), int(clear["IDSW"]))


def _sequence(observed: Sequence[Observed], tracked: Sequence[Poses], similarity: Similarity) -> dict[str, Any]:
    from scipy.optimize import linear_sum_assignment

    truth_ids, tracker_ids, similarities = [], [], []
    for frame, poses in zip(observed, tracked, strict=True):
        matrix = _similarities(frame.truth, poses, similarity)
        counts = _shown(frame.truth) >= LEAST_SHOWN
        # As in TrackEval's preprocessing: poses of people who need not be found are neither right nor wrong.
        rows, columns = linear_sum_assignment(-np.where(matrix >= 0.5, matrix, 0))
        ignored = columns[~counts[rows] & (matrix[rows, columns] >= 0.5)]
        kept = np.setdiff1d(np.arange(len(poses)), ignored)
        truth_ids.append(np.flatnonzero(counts))
        tracker_ids.append(poses.ids[kept])
        similarities.append(matrix[counts][:, kept])
    truth_ids, num_truth = _numbered(truth_ids)
    tracker_ids, num_tracked = _numbered(tracker_ids)
    return {
        "gt_ids": truth_ids,
        "tracker_ids": tracker_ids,
        "similarity_scores": similarities,
        "num_gt_ids": num_truth,
        "num_tracker_ids": num_tracked,
        "num_gt_dets": sum(map(len, truth_ids)),
        "num_tracker_dets": sum(map(len, tracker_ids)),
        "num_timesteps": len(observed),
    }


def _numbered(ids: list[NDArray[np.int64]]) -> tuple[list[NDArray[np.int64]], int]:
    """Number the ids of all frames from 0 without gaps."""
    known = np.unique(np.concatenate(ids))
    return [np.searchsorted(known, each) for each in ids], len(known)


def _shown(truth: Truth) -> NDArray[np.float64]:
    """(P,): the share of the labelled keypoints that can be seen."""
    return np.asarray((truth.flags == 2).sum(axis=1) / (truth.flags > 0).sum(axis=1))


def _similarities(truth: Truth, poses: Poses, similarity: Similarity) -> NDArray[np.float64]:
    """(P, N): OKS over the keypoints that can be seen (of hidden people: over all), or the overlap of boxes."""
    if similarity == "oks":
        wanted = truth.flags >= np.where(_shown(truth) >= LEAST_SHOWN, 2, 1)[:, None]
        return oks(poses.keypoints, truth.keypoints, COCO.sigmas, truth.areas, wanted).T
    people = zip(truth.keypoints, truth.flags, strict=True)
    own = np.concatenate([pose_boxes(points[None, flags > 0]) for points, flags in people])
    boxes = poses.boxes.astype(np.float64)
    low, high = np.maximum(own[:, None, :2], boxes[:, :2]), np.minimum(own[:, None, 2:], boxes[:, 2:])
    shared = np.maximum(high - low, 0).prod(axis=2)
    areas, found_areas = ((each[:, 2:] - each[:, :2]).prod(axis=1) for each in (own, boxes))
    return np.asarray(shared / np.maximum(areas[:, None] + found_areas - shared, 1e-9))


class _Run(NamedTuple):
    """A person over successive frames with one id. Lengths are in square roots of the person's area."""

    times: NDArray[np.float64]  # (F,)
    truth: NDArray[np.float64]  # (F, 17, 2)
    found: NDArray[np.float64]  # (2, F, 17, 2) raw and smooth
    seen: NDArray[np.bool_]  # (F, 17)


def smoothness(scenes: Sequence[tuple[Sequence[Observed], Sequence[Poses]]]) -> Smoothness:
    """Compare raw and smooth keypoints over scenes: what was observed, and the smoothed poses with ids.

    The lag is the delay of the truth that fits the keypoints of moving people best.
    """
    accelerations, errors = [np.zeros((2, 0))], np.zeros((len(DELAYS), 2))
    for run in (run for observed, smoothed in scenes for run in _runs(observed, smoothed)):
        steps = np.diff(run.times)[:, None, None]
        speeds = np.linalg.norm(np.diff(run.truth, axis=0) / steps, axis=2)
        still = (speeds[1:] < 1e-6) & (speeds[:-1] < 1e-6) & run.seen[2:] & run.seen[1:-1] & run.seen[:-2]
        change = np.diff(np.diff(run.found, axis=1) / steps, axis=1) / steps[1:]
        accelerations.append(np.linalg.norm(change, axis=3)[:, still])
        moving = run.seen[1:] & (speeds > LEAST_SPEED) & (run.times[1:, None] >= run.times[0] + DELAYS[-1])
        for place, delay in enumerate(DELAYS):
            away = np.square(run.found - _at(run, run.times - delay)).sum(axis=3)[:, 1:]
            errors[place] += away[:, moving].sum(axis=1)
    raw_jitter, jitter = np.concatenate(accelerations, axis=1).mean(axis=1).tolist()
    raw_lag, lag = DELAYS[errors.argmin(axis=0)].tolist()
    return Smoothness(raw_jitter, jitter, raw_lag, lag)


def _runs(observed: Sequence[Observed], smoothed: Sequence[Poses]) -> Iterator[_Run]:
    for person in range(len(observed[0].truth.areas)):
        rows: list[tuple[Any, ...]] = []
        last = None
        for frame, poses in zip(observed, smoothed, strict=True):
            similar = _similarities(frame.truth, poses, "oks")[person]
            best = int(similar.argmax()) if len(poses) and similar.max() >= 0.5 else None
            now = None if best is None else poses.ids[best]
            if now != last and rows:
                yield from _run(rows)
                rows = []
            last = now
            if best is not None:
                truth = frame.truth
                size = np.sqrt(truth.areas[person])
                found = np.stack([poses.extra["keypoint_raw"][best], poses.keypoints[best]])
                rows.append((frame.time, truth.keypoints[person] / size, found / size, truth.flags[person] == 2))
        yield from _run(rows)


def _run(rows: list[tuple[Any, ...]]) -> Iterator[_Run]:
    if len(rows) >= 3:
        times, truth, found, seen = (np.array(each) for each in zip(*rows, strict=True))
        yield _Run(times, truth, found.swapaxes(0, 1), seen)


def _at(run: _Run, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """(T, 17, 2): the truth at some times, on straight ways between the frames."""
    after = np.clip(np.searchsorted(run.times, times), 1, len(run.times) - 1)
    start, end = run.times[after - 1], run.times[after]
    share = ((times - start) / (end - start))[:, None, None]
    return np.asarray(run.truth[after - 1] + share * (run.truth[after] - run.truth[after - 1]))
