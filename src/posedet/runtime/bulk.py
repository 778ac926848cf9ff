"""Process many photos concurrently, from file to poses, as `posedet predict` does."""

import hashlib
import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from PIL import Image

from posedet.draw import draw_on
from posedet.errors import PhotoError
from posedet.image import Photo, in_memory, read_image, size_of, write_photo
from posedet.outputs import generator_of, plain_name
from posedet.poses import Poses
from posedet.runtime.detector import PoseDet
from posedet.runtime.parallel import available_cores, in_order

# Limit of photos processed concurrently, because each needs memory for its pixels and feature maps.
MOST_AT_ONCE = 8
HUGE_PIXELS = 50_000_000
GENERATOR = "posedet predict"
MAX_STEM_BYTES = 200  # most file systems limit a whole file name to 255 bytes


def best_at_once(num_photos: int, threads: int | None) -> int:
    """Return how many photos to process concurrently for the highest throughput: one per core. threads: None = all."""
    return max(1, min(num_photos, threads or available_cores(), MOST_AT_ONCE))


def find_all(
    detector: PoseDet,
    photos: Sequence[Photo],
    pictures: Sequence[Path] | None,
    *,
    scores: bool = False,
    ellipses: bool = False,
) -> Iterator[Poses | PhotoError]:
    """Find the poses in each photo, `detector.at_once` photos concurrently.

    Args:
        detector: The detector to run.
        photos: Photos as in a call of the detector.
        pictures: For each photo, the file to which the picture with its poses is written. None: draw no pictures, and
            decode large JPEG files at a reduced size.
        scores: Write the scores on the pictures.
        ellipses: Draw the ellipses of uncertain keypoints, see `draw`.

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
                # One decoded image for everything, without copies.
                picture = read_image(photo)
                poses = detector(picture)
                draw_on(picture, poses, scores=scores, ellipses=ellipses)
                write_photo(pictures[place], picture, generator=GENERATOR, comment=_mark(photos[place]))
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


def picture_paths(photos: Sequence[Path], folder: Path) -> list[Path]:
    """Return a JPEG file in `folder` for the picture of each photo.

    Its name is that of the photo. A number is added if another photo has this picture, in this call or in an earlier
    one: each picture says in its comment which photo it shows.
    """
    paths: list[Path] = []
    taken: set[str] = set()
    for photo in photos:
        stem = os.fsdecode(os.fsencode(photo.stem)[:MAX_STEM_BYTES])
        name, number = f"{stem}.jpg", 1
        while plain_name(name) in taken or _shown_by(folder / name) not in (None, _mark(photo)):
            number += 1
            name = f"{stem}-{number}.jpg"
        taken.add(plain_name(name))
        paths.append(folder / name)
    return paths


def _mark(photo: Photo) -> str:
    """Tells photo files apart without telling where they are: pictures are passed on."""
    if not isinstance(photo, str | os.PathLike):
        return ""
    return hashlib.sha256(os.fsencode(os.path.abspath(photo))).hexdigest()[:16]


def _shown_by(picture: Path) -> str | None:
    """The mark of the photo that a picture shows; None if `find_all` did not write it."""
    if generator_of(picture) != GENERATOR:
        return None
    with suppress(OSError), Image.open(picture) as image:
        return str(image.info.get("comment", b""), "latin-1").rpartition("\n")[2]
    return None
