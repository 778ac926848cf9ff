"""supervision: the poses of a photo as `supervision.KeyPoints`."""

from typing import Any

import numpy as np

from posedet.errors import ConfigError, DataError
from posedet.extras import needs_package
from posedet.poses import Poses
from posedet.skeleton import COCO, Skeleton


def to_supervision(poses: Poses) -> Any:
    """Convert to `supervision.KeyPoints` with person scores, keypoint scores and class 0.

    Args:
        poses: The poses.

    Raises:
        ConfigError: If supervision 0.29 or later is not installed.
    """
    needs_package("to_supervision", "supervision>=0.29")
    from supervision import KeyPoints

    # Versions before 0.29 have no field for the scores of people.
    if "keypoint_confidence" not in KeyPoints.__dataclass_fields__:
        raise ConfigError("'to_supervision' needs a later supervision: pip install \"supervision>=0.29\"")
    return KeyPoints(
        xy=poses.keypoints.copy(),
        class_id=np.zeros(len(poses), np.int64),
        keypoint_confidence=poses.keypoint_scores.copy(),
        detection_confidence=poses.scores.copy(),
    )


def from_supervision(key_points: Any, skeleton: Skeleton = COCO) -> Poses:
    """Read `supervision.KeyPoints` (0.29 or later).

    Args:
        key_points: The key points. Without confidences of keypoints, those at (0, 0) count as 0 and others as 1;
            without confidences of detections, a person has the mean of its keypoints.
        skeleton: The meaning of the keypoints, in their order.

    Raises:
        DataError: If shapes do not fit the skeleton, or a confidence is outside 0 to 1.
    """
    xy = np.asarray(key_points.xy, np.float32)
    if xy.size == 0:
        return Poses.empty(skeleton)
    if xy.ndim != 3 or xy.shape[1:] != (skeleton.num_keypoints, 2):
        expected = f"(N, {skeleton.num_keypoints}, 2) for skeleton '{skeleton.name}'"
        raise DataError(f"key_points: xy: shape {xy.shape}, expected {expected}")
    confidence, people = key_points.keypoint_confidence, key_points.detection_confidence
    confidence = np.asarray(xy.any(axis=2) if confidence is None else confidence, np.float32)
    return Poses(xy, confidence.mean(axis=1) if people is None else people, confidence, skeleton)
