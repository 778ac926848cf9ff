"""Many photos on their way at the same time, from file to poses: what `posedet predict` does, and its speed is of."""

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from posedet.draw import draw
from posedet.errors import PhotoError
from posedet.image import read_photo, size_of, write_photo
from posedet.poses import Poses
from posedet.runtime.detector import PoseDet
from posedet.runtime.parallel import available_cores, in_order

# Photos on their way at the same time: each holds its pixels and the network's maps. More cores share these.
MOST_AT_ONCE = 8
HUGE_PIXELS = 50_000_000


def best_at_once(num_photos: int, threads: int | None) -> int:
    """How many photos to have on their way on `threads` cores, all if None: one core for each gets through soonest."""
    return max(1, min(num_photos, threads or available_cores(), MOST_AT_ONCE))


def find_all(
    detector: PoseDet, photos: Sequence[Path], pictures: Sequence[Path] | None, *, scores: bool = False
) -> Iterator[Poses | PhotoError]:
    """The poses in each photo, in order, or why there are none; `detector.at_once` photos at the same time.

    pictures: a file for each photo with its poses drawn on it, and with `scores` their scores; None: none are drawn,
    and large JPEG files are decoded no larger than the network needs.
    """
    alone = threading.Lock()

    def find(place: int) -> Poses | PhotoError:
        photo = photos[place]
        try:
            # One of the huge ones at a time: each takes gigabytes.
            with alone if math.prod(size_of(photo)) > HUGE_PIXELS else nullcontext():
                if pictures is None:
                    return detector(photo)
                array = read_photo(photo)
                poses = detector(array)
                write_photo(pictures[place], draw(array, poses, scores=scores))
                return poses
        except PhotoError as error:
            return error

    return in_order(find, range(len(photos)), detector.at_once)


def results(poses: Poses, image_id: int, photo: Path) -> list[dict[str, Any]]:
    """COCO's results of one photo, with the name of its file."""
    return [{**result, "file_name": str(photo)} for result in poses.to_coco(image_id)]
