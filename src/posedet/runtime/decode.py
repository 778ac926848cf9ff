"""Network output -> Poses: drop low scores, map keypoints to the photo, suppress duplicates."""

import numpy as np
from numpy.typing import NDArray

from posedet.config import DecodeConfig
from posedet.image import Letterbox
from posedet.oks import iou_nms, oks_nms
from posedet.poses import COVARIANCES, Poses
from posedet.runtime.session import Outputs
from posedet.skeleton import CROWDPOSE, CROWDPOSE15, Skeleton

# `DecodeConfig.min_area` is defined for photos whose long side has this many pixels, as in COCO.
REFERENCE_LONG_SIDE = 640

MAX_POSES = 100  # per photo


def decode(outputs: Outputs, letterbox: Letterbox, skeleton: Skeleton, config: DecodeConfig) -> Poses:
    """Return the poses of one photo, best first, in pixels of the photo. Poses that are not finite are dropped.

    outputs: the outputs for this photo, see `Outputs.one`.
    """
    found = candidates(outputs, letterbox, skeleton, config)
    return found[best(found, letterbox.photo_size, config)]


def candidates(outputs: Outputs, letterbox: Letterbox, skeleton: Skeleton, config: DecodeConfig) -> Poses:
    """Decode without suppressing duplicates; the poses are in the network's order."""
    scores, keypoints, keypoint_scores, extra = outputs
    with np.errstate(over="ignore", invalid="ignore"):
        placed = letterbox.to_photo(keypoints).astype(np.float32)
        if COVARIANCES in extra:
            extra = {**extra, COVARIANCES: letterbox.covariances_to_photo(extra[COVARIANCES]).astype(np.float32)}
    finite = np.isfinite(scores)
    for array in (placed, keypoint_scores, *extra.values()):
        finite = finite & np.isfinite(array).all(tuple(range(1, array.ndim)))
    strong = (scores > config.score_threshold) & finite
    placed = placed[strong]
    if config.clamp:
        height, width = letterbox.photo_size
        placed = np.clip(placed, 0, np.array([width, height], np.float32) - 1)
    return Poses(
        keypoints=placed,
        # On some processors, rounding makes a sigmoid slightly larger than 1.
        scores=np.clip(scores[strong], 0, 1),
        keypoint_scores=np.clip(keypoint_scores[strong], 0, 1),
        skeleton=skeleton,
        extra={name: array[strong] for name, array in extra.items()},
    )


def best(poses: Poses, photo_size: tuple[int, int], config: DecodeConfig) -> NDArray[np.intp]:
    """Suppress duplicates; return the indices of the kept poses, best first. photo_size: (height, width)."""
    return distinct(poses, area_floor(photo_size, config), config, max_poses=MAX_POSES)


def distinct(
    poses: Poses, min_area: float | NDArray[np.float64], config: DecodeConfig, *, max_poses: int | None = None
) -> NDArray[np.intp]:
    """Suppress duplicates; return the indices of the kept poses, best first. min_area, max_poses: as in `oks_nms`."""
    poses = compared(poses)
    if config.nms == "iou":
        return iou_nms(poses.boxes, poses.scores, iou_threshold=config.nms_threshold, max_poses=max_poses)
    return oks_nms(
        poses.keypoints,
        poses.scores,
        np.array(poses.skeleton.sigmas),
        oks_threshold=config.nms_threshold,
        min_area=min_area,
        max_poses=max_poses,
    )


def compared(poses: Poses) -> Poses:
    """Return the poses with the keypoints that decide which are duplicates: all but the abdomen.

    The official CrowdPose networks have it only because their layer needs an odd number of keypoints.
    """
    return poses.select(CROWDPOSE) if poses.skeleton == CROWDPOSE15 else poses


def area_floor(photo_size: tuple[int, int], config: DecodeConfig) -> float:
    """Return the minimum area of a pose in OKS-NMS, in square pixels. photo_size: (height, width)."""
    return config.min_area * (max(photo_size) / REFERENCE_LONG_SIDE) ** 2
