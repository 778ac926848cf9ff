"""The host side of a `PoseFinder`: letterboxes to tensors, and tensors to `Poses`."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lab.gpu.finder import Found, Placement, PoseFinder
from posedet.config import Config
from posedet.image import Letterbox, Photo, read_photo
from posedet.poses import Poses
from posedet.runtime.decode import area_floor, best
from posedet.skeleton import Skeleton


class HostFound(NamedTuple):
    """`Found` as arrays on the host."""

    scores: NDArray[np.float32]
    keypoints: NDArray[np.float32]
    keypoint_scores: NDArray[np.float32]
    kept: NDArray[np.bool_]
    settled: NDArray[np.bool_]


def placement_of(letterboxes: Sequence[Letterbox], config: Config, device: str) -> Placement:
    """The placement of a batch of photos in the network input, for `PoseFinder`."""

    def tensor(rows: Sequence[tuple[float, float] | float]) -> torch.Tensor:
        return torch.tensor(rows, dtype=torch.float64).to(device)

    factors, limits = [], []
    for letterbox in letterboxes:
        (height, width), (to_height, to_width) = letterbox.photo_size, letterbox.resized_size
        factors.append((to_width / width, to_height / height))
        limits.append((width - 1.0, height - 1.0))
    floors = [area_floor(letterbox.photo_size, config.decode) for letterbox in letterboxes]
    return Placement(tensor(factors), tensor(limits), tensor(floors))


def read_found(found: Found) -> HostFound:
    """Copy the results to the host."""
    return HostFound(*(each.cpu().numpy() for each in found))


def poses_of(
    found: HostFound,
    place: int,
    *,
    photo_size: tuple[int, int],
    config: Config,
    skeleton: Skeleton,
    score_threshold: float,
) -> Poses:
    """The poses of one photo of a batch, best first, as from `posedet.runtime.decode.decode`."""
    chosen = found.kept[place]
    if not found.settled[place]:
        chosen = np.isfinite(found.scores[place]) & (found.scores[place] > score_threshold)
        chosen &= np.isfinite(found.keypoints[place]).all((1, 2)) & np.isfinite(found.keypoint_scores[place]).all(1)
    poses = Poses(
        keypoints=found.keypoints[place, chosen],
        scores=found.scores[place, chosen],
        keypoint_scores=found.keypoint_scores[place, chosen],
        skeleton=skeleton,
    )
    # A chain of duplicates was too long for the device, which is rare; the host computes it exactly.
    return poses if found.settled[place] else poses[best(poses, photo_size, config.decode)]


class DeviceDetector:
    """Finds poses as `PoseDet` does, with everything after reading and resizing done on the device."""

    def __init__(self, finder: PoseFinder, config: Config, skeleton: Skeleton, device: str) -> None:
        self.finder = finder.to(device).eval()
        self.config, self.skeleton, self.device = config, skeleton, device

    def __call__(self, photo: Photo) -> Poses:
        """The poses in one photo, best first, in pixels of the photo, with all keypoints of the model."""
        array = read_photo(photo)
        decode = self.config.decode
        letterbox = Letterbox.fit(
            (array.shape[0], array.shape[1]), long_side=decode.long_side, short_side=decode.short_side
        )
        images = torch.from_numpy(letterbox.apply(array)[None]).to(self.device)
        with torch.no_grad():
            found = read_found(self.finder(images, placement_of([letterbox], self.config, self.device)))
        return poses_of(
            found,
            0,
            photo_size=letterbox.photo_size,
            config=self.config,
            skeleton=self.skeleton,
            score_threshold=self.finder.score_threshold,
        )
