"""FiftyOne: the poses of a photo as `fiftyone.Keypoints`."""

from typing import Any

import numpy as np

from posedet.errors import DataError
from posedet.extras import needs_package
from posedet.poses import Poses
from posedet.skeleton import COCO, Skeleton


def to_fiftyone(poses: Poses, size: tuple[int, int]) -> Any:
    """Convert to `fiftyone.Keypoints`: a label "person" for each pose, with its `score`.

    Args:
        poses: The poses.
        size: (height, width) of the photo. FiftyOne's coordinates are shares of it.

    Raises:
        ConfigError: If FiftyOne is not installed.
    """
    needs_package("to_fiftyone", "fiftyone>=1.0")
    import fiftyone

    height, width = size
    points = (poses.keypoints.astype(np.float64) / (width, height)).tolist()
    rows = zip(points, poses.keypoint_scores.tolist(), poses.scores.tolist(), strict=True)
    return fiftyone.Keypoints(
        keypoints=[
            fiftyone.Keypoint(label="person", points=each, confidence=confidence, score=score)
            for each, confidence, score in rows
        ]
    )


def to_fiftyone_skeleton(skeleton: Skeleton) -> Any:
    """Convert to `fiftyone.KeypointSkeleton`, for `dataset.default_skeleton`.

    Args:
        skeleton: The keypoints and limbs.

    Raises:
        ConfigError: If FiftyOne is not installed.
    """
    needs_package("to_fiftyone_skeleton", "fiftyone>=1.0")
    import fiftyone

    limbs = [list(limb) for limb in skeleton.limbs]
    return fiftyone.KeypointSkeleton(labels=list(skeleton.keypoints), edges=limbs)


def from_fiftyone(keypoints: Any, size: tuple[int, int], skeleton: Skeleton = COCO) -> Poses:
    """Read `fiftyone.Keypoints`.

    Args:
        keypoints: The labels of a sample. A point without confidence, or a label without `score`, counts as 1; a point
            that is missing (NaN), as 0.
        size: (height, width) of the photo.
        skeleton: The meaning of the points, in their order.

    Raises:
        DataError: If a label has another number of points. The message names it.
    """
    height, width = size
    rows, scores, confidences = [], [], []
    for place, each in enumerate(keypoints.keypoints):
        try:
            points = np.array(each.points, np.float64).reshape(-1, 2)
            confidence = np.ones(len(points)) if each.confidence is None else np.array(each.confidence, np.float64)
            score = float(each["score"]) if each.has_field("score") else 1.0
        except (TypeError, ValueError):
            raise DataError(f"keypoints[{place}]: expected points, confidence and score as numbers") from None
        if not len(points) == confidence.size == skeleton.num_keypoints:
            expected = f"expected {skeleton.num_keypoints} of skeleton '{skeleton.name}'"
            raise DataError(f"keypoints[{place}]: {len(points)} points, {confidence.size} confidences, {expected}")
        missing = np.isnan(points).any(axis=1)
        points[missing], confidence[missing] = 0, 0
        rows.append(points * (width, height))
        confidences.append(confidence)
        scores.append(score)
    shape = (len(rows), skeleton.num_keypoints)
    return Poses(np.reshape(rows, (*shape, 2)), np.array(scores), np.reshape(confidences, shape), skeleton)
