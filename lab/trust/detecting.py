"""One detector in many threads and for many photos."""

import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from posedet.errors import PoseDetError
from posedet.poses import Poses
from posedet.runtime.detector import PoseDet

PHOTO_SIDE = 320  # to which photos are made smaller first
SETTLED = 500  # photos after which memory no longer grows


class Compared(NamedTuple):
    """Poses found by many threads beside those of a series."""

    num_photos: int
    num_poses: int
    differing: int  # photos whose poses are not the same, bit for bit


class Growth(NamedTuple):
    """Memory of the process in MB."""

    settled: float  # after `SETTLED` photos
    most: float  # from then on
    end: float

    @property
    def grown(self) -> float:
        """From `settled` to `most`."""
        return self.most - self.settled


def many_photos(files: Iterable[Path]) -> Iterator[NDArray[np.uint8]]:
    """Yield different photos without end, (H, W, 3) uint8 RGB: the files in turn, cropped and mirrored in many ways."""
    small = []
    for file in files:
        with Image.open(file) as photo:
            photo.thumbnail((PHOTO_SIDE, PHOTO_SIDE))
            small.append(np.asarray(photo.convert("RGB")))
    for turn in count():
        for array in small:
            cropped = array[turn // 64 % 64 :, turn % 64 :]
            yield np.ascontiguousarray(cropped[:, ::-1] if turn // 4096 % 2 else cropped)


def threads_against_series(detector: PoseDet, photos: Iterable[NDArray[np.uint8]], num_threads: int) -> Compared:
    """Find the poses of each photo one after the other, and then again in threads that begin at the same time."""
    photos = list(photos)
    series = [detector(photo) for photo in photos]
    start = threading.Barrier(num_threads)

    def share(first: int) -> list[Poses]:
        start.wait()
        return [detector(photo) for photo in photos[first::num_threads]]

    with ThreadPoolExecutor(num_threads) as pool:
        shares = list(pool.map(share, range(num_threads)))
    together = [shares[place % num_threads][place // num_threads] for place in range(len(photos))]
    differing = sum(_bits(one) != _bits(other) for one, other in zip(together, series, strict=True))
    return Compared(len(photos), sum(map(len, series)), differing)


def _bits(poses: Poses) -> list[bytes]:
    arrays = (poses.keypoints, poses.scores, poses.keypoint_scores, *poses.extra.values())
    return [array.tobytes() for array in arrays]


def memory_over(detector: PoseDet, photos: Iterable[NDArray[np.uint8]], num_photos: int) -> Growth:
    """Find the poses of that many photos. On Linux only. Raises PoseDetError for fewer than `SETTLED` photos."""
    if num_photos <= SETTLED:
        raise PoseDetError(f"--photos {num_photos}: expected more than {SETTLED}, after which memory is compared")
    memory = []
    for number, photo in enumerate(islice(photos, num_photos), 1):
        detector(photo)
        if number >= SETTLED:
            memory.append(_resident_mb())
    return Growth(memory[0], max(memory), memory[-1])


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
