"""Test-time augmentation: run the detector on one photo at several sizes and mirrored, and merge the poses."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from posedet.config import DecodeConfig
from posedet.errors import ConfigError
from posedet.image import Photo, read_photo
from posedet.oks import oks, pose_areas
from posedet.poses import COVARIANCES, Poses
from posedet.runtime.decode import area_floor, best, compared
from posedet.runtime.detector import PoseDet

Merge = Literal["paper", "merged"]

# Limits of the photo's (long, short) side in pixels for the paper's Tables 2 and 3, from the official code.
PAPER_SIZES = ((520, 300), (666, 400), (833, 500), (1000, 600), (1167, 700), (1333, 800))


class Augmented:
    """A detector with test-time augmentation: more accurate, at many times the cost.

    It runs on the photo at each of `sizes`, unchanged and mirrored.

    Args:
        detector: The detector to run.
        merge: `"paper"` keeps the best pose of each group of duplicates from all passes. `"merged"` averages the poses
            of each group.
        sizes: (long, short) sides in pixels to which the photo is resized.

    Raises:
        ConfigError: If `merge` is unknown, a size is out of range, or the detector has tiles.

    Examples:
        >>> poses = Augmented(PoseDet())("photo.jpg")
    """

    def __init__(
        self, detector: PoseDet, *, merge: Merge = "merged", sizes: Sequence[tuple[int, int]] = PAPER_SIZES
    ) -> None:
        if merge not in ("paper", "merged"):
            raise ConfigError(f"merge is {merge!r}, expected 'paper' or 'merged'")
        if not sizes or not all(32 <= short <= long <= 8192 for long, short in sizes):
            raise ConfigError(f"sizes is {sizes!r}, expected pairs (long, short) of 32 to 8192 pixels")
        if detector.tiles is not None:
            raise ConfigError("tiles do not go with test-time augmentation, which looks at whole photos")
        self._detector = detector
        self._merge = merge
        self._sizes = tuple(sizes)

    def __call__(self, photo: Photo) -> Poses:
        """Find the poses in one photo.

        Args:
            photo: As in a call of `PoseDet`.

        Returns:
            The poses in pixels of the photo, as from `PoseDet`.

        Raises:
            PhotoError: If the photo cannot be read.
        """
        image = read_photo(photo)
        height, width = image.shape[:2]
        passes = []
        for long_side, short_side in self._sizes:
            passes.append(self._detector.candidates(image, long_side=long_side, short_side=short_side))
            seen = self._detector.candidates(image[:, ::-1], long_side=long_side, short_side=short_side)
            passes.append(mirrored_poses(seen, width))
        threshold = self._detector.config.score_threshold
        if self._merge == "paper":
            found = Poses.joined([each[each.scores > threshold] for each in passes])
            merged = found[best(found, (height, width), self._detector.config)]
        else:
            merged = averaged(passes, (height, width), self._detector.config)
            merged = merged[merged.scores > threshold]
        return merged.select(self._detector.skeleton)


def mirrored_poses(poses: Poses, width: int) -> Poses:
    """Mirror poses in a photo of `width` pixels, and exchange left and right."""
    order = poses.skeleton.mirror
    keypoints = poses.keypoints[:, order]
    # Pixel centres lie at integers. The official code uses the resized photo's width, which is wrong by tens of pixels.
    keypoints[..., 0] = width - 1 - keypoints[..., 0]
    extra = {}
    if (covariances := poses.covariances) is not None:
        extra[COVARIANCES] = covariances[:, order] * np.array([[1, -1], [-1, 1]], np.float32)
    return Poses(keypoints, poses.scores, poses.keypoint_scores[:, order], poses.skeleton, extra)


def averaged(passes: Sequence[Poses], photo_size: tuple[int, int], config: DecodeConfig) -> Poses:
    """Average each group of duplicates; the result is sorted, best first. photo_size: (height, width).

    Each pose that the suppression of duplicates keeps forms a group. Every pose belongs to the group with the highest
    OKS and has weight score x OKS; its keypoints are also weighted by their own scores. The score of a group is the
    mean over the passes of the largest weight, so a person found in one pass ranks behind a person found in all.
    """
    found = Poses.joined(passes)
    kept = best(found, photo_size, config)
    if not len(kept):
        return found[kept]
    seen = compared(found)
    areas = np.maximum(pose_areas(seen.keypoints), area_floor(photo_size, config))
    pair_areas = (areas[kept, None] + areas) / 2
    similarity = oks(seen.keypoints[kept], seen.keypoints, seen.skeleton.sigmas, pair_areas / 2)  # as in `oks_nms`
    # Groups are disjoint; otherwise a duplicate that was kept would get the whole weight of the better pose.
    group = similarity.argmax(axis=0)
    group[kept] = np.arange(len(kept))
    weights = np.where(group == np.arange(len(kept))[:, None], similarity * found.scores, 0)  # (kept, all)
    # The minimum keeps the weights of a keypoint from being all 0, because it still needs coordinates.
    shares = weights[..., None] * np.maximum(found.keypoint_scores, 1e-6)  # (kept, all, K)
    keypoints = np.einsum("nmk,mkc->nkc", shares, found.keypoints) / shares.sum(axis=1)[..., None]
    keypoint_scores = weights @ found.keypoint_scores / weights.sum(axis=1)[:, None]
    source = np.repeat(np.arange(len(passes)), [len(each) for each in passes])
    scores = np.mean([weights[:, source == n].max(axis=1, initial=0) for n in range(len(passes))], axis=0)
    order = np.argsort(-scores, kind="stable")
    extra = {}
    if (covariances := found.covariances) is not None:
        # Not smaller than those of one pass, because the errors of the passes are alike.
        mean = np.einsum("nmk,mkij->nkij", shares, covariances) / shares.sum(axis=1)[..., None, None]
        extra[COVARIANCES] = mean[order].astype(np.float32)
    return Poses(keypoints[order], scores[order], np.clip(keypoint_scores[order], 0, 1), found.skeleton, extra)
