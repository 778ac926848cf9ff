"""The poses that trackers are given: what a detector finds in the frames, or the truth with errors."""

from typing import NamedTuple

import numpy as np

from lab.tracking.scenes import SIZE, Scene, Truth
from posedet import PoseDet, Poses
from posedet.oks import oks_nms
from posedet.skeleton import COCO

SURE_ERRORS = 0.45  # the score from which poses of `with_errors` may begin a track


class Observed(NamedTuple):
    """A frame without its picture."""

    time: float
    truth: Truth
    poses: Poses


def detected(scene: Scene, detector: PoseDet) -> list[Observed]:
    """Render the frames and find the poses in them."""
    frames = scene.frames(images=True)
    return [Observed(frame.time, frame.truth, detector(frame.image)) for frame in frames if frame.image is not None]


def with_errors(scene: Scene) -> list[Observed]:
    """Disturb the truth as a detector does: noise, people missed, poses of nobody, and one pose for two people."""
    frames = list(scene.frames(images=False))
    random = np.random.default_rng(len(frames) + scene.seed)
    return [Observed(frame.time, frame.truth, _disturbed(frame.truth, random)) for frame in frames]


def _disturbed(truth: Truth, random: np.random.Generator) -> Poses:
    labelled, seen = truth.flags > 0, truth.flags == 2
    shown = np.sqrt(seen.sum(axis=1) / labelled.sum(axis=1))
    found = random.random(len(shown)) < 1.1 * shown - 0.1
    spread = np.array(COCO.sigmas) * np.sqrt(truth.areas)[:, None] * np.where(seen, 1, 4)
    keypoints = truth.keypoints + random.normal(size=truth.keypoints.shape) * spread[..., None]
    # The truth does not say where keypoints without a label are.
    middle = np.stack([points[flags > 0].mean(axis=0) for points, flags in zip(keypoints, truth.flags, strict=True)])
    keypoints = np.where(labelled[..., None], keypoints, middle[:, None])
    scores = 0.9 * shown + random.normal(0, 0.08, len(shown))
    keypoint_scores = np.where(seen, 0.85, 0.15) + random.normal(0, 0.1, seen.shape)
    nobody = random.poisson(0.1)
    places = random.uniform(0, SIZE[::-1], (nobody, 1, 2))
    poses = Poses(
        np.concatenate([keypoints[found], places + random.normal(0, 25, (nobody, 17, 2))]),
        np.clip(np.concatenate([scores[found], random.uniform(0.3, 0.6, nobody)]), 0.01, 1),
        np.clip(np.concatenate([keypoint_scores[found], random.uniform(0, 1, (nobody, 17))]), 0, 1),
        COCO,
    )
    return poses[oks_nms(poses.keypoints, poses.scores, COCO.sigmas, oks_threshold=0.3, min_area=256)]
