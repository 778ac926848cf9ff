"""Object keypoint similarity (OKS), and suppression of duplicate poses by OKS (OKS-NMS) or by box overlap (IoU-NMS).

COCO's form is the mean over visible keypoints of exp(-d^2 / (8 sigma^2 A)). The paper and its code use
exp(-d^2 / (4 sigma^2 A)). To get the paper's form, pass half the area.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posedet.errors import DataError

Floats = NDArray[np.floating[Any]]


def oks(
    first: Floats, second: Floats, sigmas: ArrayLike, areas: ArrayLike, visible: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Compute the OKS of every pose of `first` with every pose of `second`, in COCO's form.

    The computation needs an N x M x K array.

    Args:
        first: (N, K, 2) poses, x and y in pixels.
        second: (M, K, 2) poses in the same pixels.
        sigmas: (K,) sigmas of the keypoints.
        areas: Areas of the people in square pixels; any shape that broadcasts to (N, M).
        visible: (M, K) bool, the keypoints of `second` that count. Default: all.

    Returns:
        (N, M) float64, 0 to 1; 0 if no keypoint counts.

    Raises:
        DataError: If a shape is wrong.
    """
    first, second, sigma = (np.asarray(array, np.float64) for array in (first, second, sigmas))
    for name, poses in (("first", first), ("second", second)):
        if poses.ndim != 3 or poses.shape[1:] != (len(sigma), 2):
            raise DataError(f"oks: {name}: shape {poses.shape}, expected (N, {len(sigma)}, 2) for {len(sigma)} sigmas")
    # COCO's evaluator adds the same constant, so that a person without area does not cause a division by zero.
    area = np.asarray(areas, np.float64)[..., None] + np.spacing(1.0)
    # Separate x and y and in-place operations are several times faster than sums over a last axis of two.
    exponent = np.square(first[:, None, :, 0] - second[:, :, 0])
    exponent += np.square(first[:, None, :, 1] - second[:, :, 1])
    exponent *= -1 / (8 * np.square(sigma))
    exponent *= 1 / area
    similarity = np.exp(exponent, out=exponent)
    if visible is None:
        return np.asarray(similarity @ np.ones(len(sigma)) / len(sigma))
    counted = np.asarray(visible, bool)
    if counted.shape != second.shape[:2]:
        raise DataError(f"oks: visible: shape {counted.shape}, expected {second.shape[:2]} to match second")
    similarity[:, ~counted] = 0
    return np.asarray(similarity @ np.ones(len(sigma)) / np.maximum(counted.sum(axis=-1), 1))


def best_pairs(similarity: NDArray[np.float64], threshold: float) -> list[tuple[int, int]]:
    """Match poses with people as COCO does: in order, each pose takes the most similar person who is left.

    Args:
        similarity: (N, M) OKS of the poses, best first, with the people.
        threshold: The lowest OKS of a pair.

    Returns:
        Pairs (pose, person) of indices.
    """
    left, pairs = similarity.copy(), []
    for pose in range(len(left) if left.size else 0):
        person = int(left[pose].argmax())
        if left[pose, person] >= threshold:
            pairs.append((pose, person))
            left[:, person] = -1
    return pairs


def pose_boxes(keypoints: Floats) -> Floats:
    """Compute the boxes around poses.

    Args:
        keypoints: (N, K, 2) x and y in pixels.

    Returns:
        (N, 4) x1, y1, x2, y2 in the same pixels and of the same type.
    """
    planes = np.ascontiguousarray(keypoints.transpose(1, 2, 0))  # twenty times faster than min over axis 1
    return np.concatenate([planes.min(axis=0), planes.max(axis=0)]).T


def pose_areas(keypoints: Floats) -> Floats:
    """Compute the areas of the boxes around poses.

    Args:
        keypoints: (N, K, 2) x and y in pixels.

    Returns:
        (N,) width times height in square pixels.
    """
    boxes = pose_boxes(keypoints)
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def oks_nms(
    keypoints: Floats,
    scores: Floats,
    sigmas: ArrayLike,
    *,
    oks_threshold: float,
    min_area: float | NDArray[np.float64] = 1024.0,
    max_poses: int | None = None,
) -> NDArray[np.intp]:
    """Suppress duplicates: keep the best pose, drop poses whose OKS with it is above the threshold, and repeat.

    The area for two poses is the mean of the areas of their boxes, and OKS has the paper's form (half the area). Among
    equal scores, the lower index is better.

    Args:
        keypoints: (N, K, 2) x and y in pixels of the photo.
        scores: (N,) scores.
        sigmas: (K,) sigmas of the keypoints.
        oks_threshold: Poses with a higher OKS than this are duplicates.
        min_area: Minimum area of a pose in square pixels, one for all or (N,).
        max_poses: Maximum number of poses to keep. Default: no limit.

    Returns:
        The indices of the kept poses, best first.

    Raises:
        DataError: If a shape is wrong.
    """
    sigma = np.asarray(sigmas, np.float64)
    order = _best_first(keypoints, scores, (len(sigma), 2))
    poses = np.asarray(keypoints, np.float64)[order]
    planes = np.ascontiguousarray(poses.transpose(2, 0, 1))  # all x, then all y
    low, high = pose_boxes(poses).T.reshape(2, 2, -1)
    centres, halves = (low + high) / 2, (high - low) / 2
    areas = np.maximum(4 * halves.prod(axis=0), np.broadcast_to(min_area, len(order))[order])
    # No two keypoints are closer than the boxes, so OKS <= exp(-gap^2 / (4 max(sigma)^2 A)). Beyond this reach (a
    # fraction of A, with room for rounding) there are no duplicates, which leaves only the few poses nearby.
    reach = -4 * sigma.max() ** 2 * math.log(oks_threshold) * (1 + 1e-9) if oks_threshold > 0 else math.inf

    def duplicates(best: int, alive: NDArray[np.bool_]) -> NDArray[np.intp]:
        later = slice(best + 1, None)
        area = (areas[best] + areas[later]) / 2
        gaps = np.abs(centres[:, later] - centres[:, best, None]) - (halves[:, later] + halves[:, best, None])
        squared_gap = np.square(np.maximum(gaps, 0)).sum(axis=0)
        near = np.flatnonzero(alive[later] & (squared_gap <= reach * area))
        others = planes.take(near + best + 1, axis=1).transpose(1, 2, 0)
        similarity = oks(others, poses[best : best + 1], sigma, area[near, None] / 2)[:, 0]
        return near[similarity > oks_threshold] + best + 1

    return order[_greedy(len(order), max_poses, duplicates)]


def iou_nms(boxes: Floats, scores: Floats, *, iou_threshold: float, max_poses: int | None = None) -> NDArray[np.intp]:
    """Suppress duplicates as `oks_nms` does, by the overlap of boxes (intersection over union).

    Args:
        boxes: (N, 4) x1, y1, x2, y2 in pixels. The overlap of two boxes without area is 0.
        scores: (N,) scores.
        iou_threshold: Boxes with a higher overlap than this are duplicates.
        max_poses: Maximum number of boxes to keep. Default: no limit.

    Returns:
        The indices of the kept boxes, best first.

    Raises:
        DataError: If a shape is wrong.
    """
    order = _best_first(boxes, scores, (4,))
    corners = np.asarray(boxes, np.float64)[order]
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])

    def duplicates(best: int, alive: NDArray[np.bool_]) -> NDArray[np.intp]:
        others = np.flatnonzero(alive[best + 1 :]) + best + 1
        low = np.maximum(corners[best, :2], corners[others, :2])
        high = np.minimum(corners[best, 2:], corners[others, 2:])
        shared = np.maximum(high - low, 0).prod(axis=1)
        # Not shared / union > threshold: that is zero by zero for two boxes without area.
        return np.asarray(others[shared > iou_threshold * (areas[best] + areas[others] - shared)])

    return order[_greedy(len(order), max_poses, duplicates)]


def _best_first(candidates: Floats, scores: Floats, shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Check the shapes (N, *shape) and (N,), and return the stable order of descending scores."""
    if candidates.ndim != 1 + len(shape) or candidates.shape[1:] != shape:
        expected = ", ".join(["N", *map(str, shape)])
        raise DataError(f"nms: candidates of shape {candidates.shape}, expected ({expected})")
    if scores.shape != candidates.shape[:1]:
        raise DataError(f"nms: scores of shape {scores.shape}, expected ({len(candidates)},), one per candidate")
    order: NDArray[np.intp] = np.argsort(-scores, kind="stable")
    return order


def _greedy(
    count: int, max_kept: int | None, duplicates: Callable[[int, NDArray[np.bool_]], NDArray[np.intp]]
) -> list[int]:
    """Keep the first of `count` candidates, drop its later duplicates, and repeat with the remaining ones."""
    kept: list[int] = []
    alive = np.ones(count, bool)
    for candidate in range(count):
        if len(kept) == max_kept:
            break
        if alive[candidate]:
            kept.append(candidate)
            alive[duplicates(candidate, alive)] = False
    return kept
