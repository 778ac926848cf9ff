"""Network output -> Poses: drop weak ones, bring them to the photo, suppress duplicates."""

import numpy as np
from numpy.typing import NDArray

from posedet.config import DecodeConfig
from posedet.image import Letterbox
from posedet.oks import iou_nms, oks_nms, pose_boxes
from posedet.poses import Poses
from posedet.skeleton import Skeleton

Floats = NDArray[np.float32]

# The long side, in pixels, of the photos for which `DecodeConfig.min_area` is given: COCO's.
REFERENCE_LONG_SIDE = 640


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
    strong = (scores > score_threshold) & np.isfinite(keypoints).all((1, 2))
    scores, keypoint_scores = scores[strong], keypoint_scores[strong]
    placed = letterbox.to_photo(keypoints[strong])
    height, width = letterbox.photo_size
    if config.clamp:
        placed = np.clip(placed, 0, np.array([width, height], np.float32) - 1)
    if config.nms == "oks":
        min_area = config.min_area * (max(height, width) / REFERENCE_LONG_SIDE) ** 2
        kept = oks_nms(
            placed,
            scores,
            np.array(skeleton.sigmas),
            oks_threshold=config.nms_threshold,
            min_area=min_area,
            max_poses=config.max_poses,
        )
    else:
        kept = iou_nms(pose_boxes(placed), scores, iou_threshold=config.nms_threshold, max_poses=config.max_poses)
    return Poses(
        keypoints=placed[kept].astype(np.float32),
        scores=scores[kept],
        keypoint_scores=keypoint_scores[kept],
        skeleton=skeleton,
    )
