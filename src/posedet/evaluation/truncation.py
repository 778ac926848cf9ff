"""Crop photos so that the border cuts through people, and keep the true keypoints outside the crop.

A detector that knows bodies predicts a foot below the border; other benchmarks do not test that. The crops depend only
on the ids of the photos, so they are the same on every machine and for every detector.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from posedet.data.annotations import AnnotatedPhoto, Person
from posedet.errors import DataError
from posedet.image import read_photo

MIN_LABELLED = 6  # keypoints of the person who is cut
MIN_SEEN = 3  # labelled keypoints in the view (or all), for a person to be found
MIN_SIDE = 64  # pixels of a view
CUT = (0.25, 0.6)  # smallest and largest share of the person that is cut off

SIDES = ("left", "top", "right", "bottom")
Window = tuple[int, int, int, int]  # left, top, right, bottom in whole pixels, the last two outside


@dataclass(frozen=True)
class CroppedPhoto:
    """A crop of a photo."""

    photo: AnnotatedPhoto  # with people in pixels of the crop
    whole_size: tuple[int, int]  # (height, width) of the whole photo
    window: Window

    def read(self) -> NDArray[np.uint8]:
        """Return (h, w, 3) uint8 RGB. Raises DataError if the photo does not have the annotated size."""
        photo = read_as_annotated(self.photo.path, self.whole_size)
        left, top, right, bottom = self.window
        return photo[top:bottom, left:right]


def read_as_annotated(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Read a photo as (h, w, 3) uint8 RGB. Raises DataError if it does not have the annotated size (height, width)."""
    photo = read_photo(path)
    if photo.shape[:2] != size:
        (height, width), (said_height, said_width) = photo.shape[:2], size
        raise DataError(f"{path}: {width} x {height} pixels, but its annotations say {said_width} x {said_height}")
    return photo


def rest_of_cut(side: str, line: int, size: tuple[int, int]) -> Window:
    """Return the rest of a photo of `size` (height, width) after everything from `line` to one side is cut off."""
    height, width = size
    return {
        "left": (line, 0, width, height),
        "top": (0, line, width, height),
        "right": (0, 0, line, height),
        "bottom": (0, 0, width, line),
    }[side]


def cropped_views(photos: Sequence[AnnotatedPhoto]) -> tuple[CroppedPhoto, ...]:
    """Crop each photo in which a person can be cut.

    In each crop, one person with at least `MIN_LABELLED` labelled keypoints loses 25 to 60 % of the extent on one side.
    People with fewer than `MIN_SEEN` keypoints in the crop are ignored; people outside of it are removed. Boxes and
    areas stay those of the whole person. Raises DataError if no photo can be cropped.
    """
    views = tuple(_views(photos))
    if not views:
        raise DataError(f"no person in {len(photos)} photos has {MIN_LABELLED} labelled keypoints and can be cropped")
    return views


def _views(photos: Sequence[AnnotatedPhoto]) -> Iterator[CroppedPhoto]:
    for photo in photos:
        window = _window(photo)
        if window is not None:
            left, top, right, bottom = window
            persons = tuple(shown for each in photo.persons if (shown := _shown(each, window)) is not None)
            yield CroppedPhoto(replace(photo, size=(bottom - top, right - left), persons=persons), photo.size, window)


def _window(photo: AnnotatedPhoto) -> Window | None:
    """Return the rest of the photo after a straight cut through a person; None if no cut leaves enough."""
    people = [each for each in photo.persons if not each.ignore and each.labelled.sum() >= MIN_LABELLED]
    if not people:
        return None
    chosen, first_side, share = _draws(photo.image_id)
    person = people[int(chosen * len(people))]
    points = person.keypoints[person.labelled]
    share = CUT[0] + (CUT[1] - CUT[0]) * share
    height, width = photo.size
    for turn in range(4):
        side = SIDES[(int(first_side * 4) + turn) % 4]
        axis = 0 if side in ("left", "right") else 1
        low, high = float(points[:, axis].min()), float(points[:, axis].max())
        line = round(low + share * (high - low) if side in ("left", "top") else high - share * (high - low))
        if not 0 < line < (width, height)[axis]:  # annotations may lie outside the photo
            continue
        window = rest_of_cut(side, line, photo.size)
        if min(window[2] - window[0], window[3] - window[1]) >= MIN_SIDE:
            return window
    return None


def _draws(image_id: int) -> NDArray[np.float64]:
    """Return three fixed numbers from 0 to 1. A hash is used because NumPy's generators may change."""
    digest = hashlib.sha256(str(image_id).encode()).digest()
    return np.frombuffer(digest[:12], "<u4") / 2**32


def _shown(person: Person, window: Window) -> Person | None:
    """Return the person in pixels of the crop, to be found or ignored; None if the person is outside of it."""
    left, top, right, bottom = window
    points = person.keypoints[person.labelled]
    inside = ((points >= (left - 0.5, top - 0.5)) & (points < (right - 0.5, bottom - 0.5))).all(axis=1)
    x1, y1, x2, y2 = person.region
    meets = x1 < right and y1 < bottom and x2 > left and y2 > top
    if not (inside.any() or meets):
        return None
    return replace(
        person,
        keypoints=np.where(person.labelled[:, None], person.keypoints - (left, top), person.keypoints),
        box=person.box - (left, top, left, top),
        ignore=person.ignore or int(inside.sum()) < min(MIN_SEEN, len(points)),
    )
