"""Network output -> Poses: drop weak ones, bring them to the photo, suppress duplicates."""

import numpy as np
from numpy.typing import NDArray

from posedet.config import DecodeConfig
from posedet.image import Letterbox
from posedet.oks import iou_nms, oks_nms
from posedet.poses import Poses
from posedet.skeleton import Skeleton

Floats = NDArray[np.float32]

# The long side, in pixels, of the photos for which `DecodeConfig.min_area` is given: COCO's.
REFERENCE_LONG_SIDE = 640

MAX_POSES = 100  # of a photo


def decode(
    scores: Floats,
    keypoints: Floats,
    keypoint_scores: Floats,
    *,
    letterbox: Letterbox,
    skeleton: Skeleton,
    config: DecodeConfig,
    score_threshold: float,
) -> Poses:
    """The poses of one photo, best first.

    scores: (N,) in 0..1; keypoints: (N, K, 2) pixels of the network input; keypoint_scores: (N, K) in 0..1. The
    result is in pixels of the photo. A pose that is not finite is dropped.
    """
    found = candidates(
        scores,
        keypoints,
        keypoint_scores,
        letterbox=letterbox,
        skeleton=skeleton,
        config=config,
        score_threshold=score_threshold,
    )
    return found[best(found, letterbox.photo_size, config)]


def candidates(
    scores: Floats,
    keypoints: Floats,
    keypoint_scores: Floats,
    *,
    letterbox: Letterbox,
    skeleton: Skeleton,
    config: DecodeConfig,
    score_threshold: float,
) -> Poses:
    """As `decode`, but with the duplicates, in the network's order."""
    with np.errstate(over="ignore", invalid="ignore"):
        placed = letterbox.to_photo(keypoints).astype(np.float32)
    finite = np.isfinite(scores) & np.isfinite(placed).all((1, 2)) & np.isfinite(keypoint_scores).all(1)
    strong = (scores > score_threshold) & finite
    placed = placed[strong]
    if config.clamp:
        height, width = letterbox.photo_size
        placed = np.clip(placed, 0, np.array([width, height], np.float32) - 1)
    return Poses(
        keypoints=placed,
        # Some processors' sigmoid ends a rounding above 1.
        scores=np.clip(scores[strong], 0, 1),
        keypoint_scores=np.clip(keypoint_scores[strong], 0, 1),
        skeleton=skeleton,
    )


def best(poses: Poses, photo_size: tuple[int, int], config: DecodeConfig) -> NDArray[np.intp]:
    """Which poses of a photo (height, width) outlive the suppression of duplicates; their indices, best first."""
    if config.nms == "iou":
        return iou_nms(poses.boxes, poses.scores, iou_threshold=config.nms_threshold, max_poses=MAX_POSES)
    return oks_nms(
        poses.keypoints,
        poses.scores,
        np.array(poses.skeleton.sigmas),
        oks_threshold=config.nms_threshold,
        min_area=area_floor(photo_size, config),
        max_poses=MAX_POSES,
    )


def area_floor(photo_size: tuple[int, int], config: DecodeConfig) -> float:
    """The smallest area that a pose has in the suppression, in square pixels of the photo (height, width)."""
    return config.min_area * (max(photo_size) / REFERENCE_LONG_SIDE) ** 2
