"""Process many photos concurrently, from file to poses, as `posedet predict` does."""

import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from posedet.draw import draw
from posedet.errors import PhotoError
from posedet.image import Photo, in_memory, read_photo, size_of, write_photo
from posedet.poses import Poses
from posedet.runtime.detector import PoseDet
from posedet.runtime.parallel import available_cores, in_order

# Limit of photos processed concurrently, because each needs memory for its pixels and feature maps.
MOST_AT_ONCE = 8
HUGE_PIXELS = 50_000_000


def best_at_once(num_photos: int, threads: int | None) -> int:
    """Return how many photos to process concurrently for the highest throughput: one per core. threads: None = all."""
    return max(1, min(num_photos, threads or available_cores(), MOST_AT_ONCE))


def find_all(
    detector: PoseDet, photos: Sequence[Photo], pictures: Sequence[Path] | None, *, scores: bool = False
) -> Iterator[Poses | PhotoError]:
    """Find the poses in each photo, `detector.at_once` photos concurrently.

    Args:
        detector: The detector to run.
        photos: Photos as in a call of the detector.
        pictures: For each photo, the file to which the picture with its poses is written. None: draw no pictures, and
            decode large JPEG files at a reduced size.
        scores: Write the scores on the pictures.

    Yields:
        For each photo, in order, its poses or the error that occurred.
    """
    huge_photo = threading.Lock()

    def find(place: int) -> Poses | PhotoError:
        try:
            photo = in_memory(photos[place])
            # Only one huge photo at a time: each needs gigabytes of memory.
            with huge_photo if math.prod(size_of(photo)) > HUGE_PIXELS else nullcontext():
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
    """Convert the poses of one photo to COCO's result format, with the name of its file.

    Bytes of the name that are not UTF-8 are written as \\xHH, because many programs refuse what Python has for them.
    """
    name = os.fsencode(photo).decode(errors="backslashreplace")
    return [{**result, "file_name": name} for result in poses.to_coco(image_id)]
