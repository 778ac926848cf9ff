"""The trackers that are compared: ours, and ByteTrack and OC-SORT of `trackers` on the boxes of the same poses."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np

from lab.tracking.observed import Observed
from posedet import Poses
from posedet.tracking import Tracker
from posedet.tracking import tracker as tracker_module

KEEP = 2.0  # s, for all

Tracked = list[Poses]


def ours(observed: Sequence[Observed], fps: int, sure: float) -> Tracked:
    """Track with posedet. Poses with at least the score `sure` begin tracks, here and below."""
    tracker = Tracker(sure_score=sure, keep=KEEP)
    return [tracker.update(frame.poses, frame.time) for frame in observed]


def by_pose_alone(observed: Sequence[Observed], fps: int, sure: float) -> Tracked:
    """Track with posedet, but without the identity embedding."""
    return ours([frame._replace(poses=replace(frame.poses, extra={})) for frame in observed], fps, sure)


def best_sum(observed: Sequence[Observed], fps: int, sure: float) -> Tracked:
    """Track with posedet, but assign as the Hungarian algorithm does."""
    with patch.object(tracker_module, "assign", _hungarian):
        return ours(observed, fps, sure)


def _hungarian(fit: Any, rows: Any, columns: Any, free_rows: Any, free_columns: Any) -> Any:
    from scipy.optimize import linear_sum_assignment

    taken = []
    for least in (1, 0):  # first the pairs with sure poses, whose fit has 1 added, then the others
        free = (fit > least) & free_rows[rows] & free_columns[columns]
        matrix = np.zeros((len(free_rows), len(free_columns)))
        matrix[rows[free], columns[free]] = fit[free] - least
        best = np.zeros(matrix.shape, bool)
        best[linear_sum_assignment(-matrix)] = True
        taken.append(np.flatnonzero(free & best[rows, columns]))
        free_rows[rows[taken[-1]]] = free_columns[columns[taken[-1]]] = False
    return np.concatenate(taken)


def byte_track(observed: Sequence[Observed], fps: int, sure: float) -> Tracked:
    """Track with ByteTrack; with other values it is worse on the train scenes."""
    from trackers import ByteTrackTracker

    tracker = ByteTrackTracker(
        lost_track_buffer=round(30 * KEEP),  # frames at 30 frames a second, whatever the frame rate
        frame_rate=fps,
        track_activation_threshold=sure,
        high_conf_det_threshold=sure,
        minimum_consecutive_frames=1,
    )
    return _on_boxes(tracker, observed)


def oc_sort(observed: Sequence[Observed], fps: int, sure: float) -> Tracked:
    """Track with OC-SORT; with other values it is worse on the train scenes."""
    from trackers import OCSORTTracker

    tracker = OCSORTTracker(
        lost_track_buffer=round(30 * KEEP),
        frame_rate=fps,
        high_conf_det_threshold=sure,
        minimum_consecutive_frames=1,
        minimum_iou_threshold=0.1,
    )
    return _on_boxes(tracker, observed)


def _on_boxes(tracker: Any, observed: Sequence[Observed]) -> Tracked:
    from supervision import Detections

    tracked = []
    for frame in observed:
        poses = frame.poses
        boxes = Detections(poses.boxes, confidence=poses.scores, data={"place": np.arange(len(poses))})
        found = tracker.update(boxes)
        ids = np.asarray(found.tracker_id, np.int64)
        with_id = ids >= 0
        chosen = poses[np.asarray(found.data.get("place", ids), np.intp)[with_id]]
        tracked.append(replace(chosen, extra={**chosen.extra, "id": ids[with_id]}))
    return tracked


TRACKERS: dict[str, Callable[[Sequence[Observed], int, float], Tracked]] = {
    "posedet": ours,
    "posedet, no embedding": by_pose_alone,
    "posedet, best sum": best_sum,
    "ByteTrack": byte_track,
    "OC-SORT": oc_sort,
}
