"""Photos of a set cropped so that people are cut by the border, with the truth kept where it lies outside.

A detector that knows bodies places a hidden foot below the border; plain benchmarks never ask for that. The crops
depend on the photos' ids alone: the same on every machine, and for every detector.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from posedet.data.annotations import AnnotatedPhoto, Person
from posedet.errors import DataError
from posedet.image import read_photo

MIN_LABELLED = 6  # keypoints of the person who is cut
MIN_SEEN = 3  # labelled keypoints in the view (or all), for a person to be found
MIN_SIDE = 64  # pixels of a view
CUT = (0.25, 0.6)  # share of the person that is cut off, from and to

SIDES = ("left", "top", "right", "bottom")
Window = tuple[int, int, int, int]  # left, top, right, bottom in whole pixels, the last two outside


@dataclass(frozen=True)
class CroppedPhoto:
    """A part of a photo."""

    photo: AnnotatedPhoto  # as the view shows it, its people in the view's own pixels
    whole_size: tuple[int, int]  # (height, width) of all of it
    window: Window

    def read(self) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 RGB; DataError if the photo has another size than its annotations say."""
        photo = read_photo(self.photo.path)
        if photo.shape[:2] != self.whole_size:
            raise DataError(
                f"{self.photo.path}: {photo.shape[1]} x {photo.shape[0]} pixels, but its annotations say "
                f"{self.whole_size[1]} x {self.whole_size[0]}"
            )
        left, top, right, bottom = self.window
        return photo[top:bottom, left:right]


def cropped_views(photos: Sequence[AnnotatedPhoto]) -> tuple[CroppedPhoto, ...]:
    """A view of each photo that shows somebody well enough.

    In each view one person with at least `MIN_LABELLED` labelled keypoints loses a quarter to 60 % of his or her extent
    on one side. People of whom a view shows fewer than `MIN_SEEN` keypoints are ignored; who is quite outside is left
    out. Boxes and areas stay those of the whole person. Raises DataError where nobody can be cut.
    """
    views = tuple(_views(photos))
    if not views:
        raise DataError(
            f"nobody in {len(photos)} photos has {MIN_LABELLED} labelled keypoints and could be cut by a border"
        )
    return views


def _views(photos: Sequence[AnnotatedPhoto]) -> Iterator[CroppedPhoto]:
    for photo in photos:
        window = _window(photo)
        if window is not None:
            left, top, right, bottom = window
            persons = tuple(shown for each in photo.persons if (shown := _shown(each, window)) is not None)
            yield CroppedPhoto(replace(photo, size=(bottom - top, right - left), persons=persons), photo.size, window)


def _window(photo: AnnotatedPhoto) -> Window | None:
    """What is left of the photo after a straight cut through one of the people; None where no cut leaves enough."""
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
        window = {
            "left": (line, 0, width, height),
            "top": (0, line, width, height),
            "right": (0, 0, line, height),
            "bottom": (0, 0, width, line),
        }[side]
        if min(window[2] - window[0], window[3] - window[1]) >= MIN_SIDE:
            return window
    return None


def _draws(image_id: int) -> NDArray[np.float64]:
    """Three numbers from 0 to 1, the same for ever; a generator's stream may change with NumPy."""
    digest = hashlib.sha256(str(image_id).encode()).digest()
    return np.frombuffer(digest[:12], "<u4") / 2**32


def _shown(person: Person, window: Window) -> Person | None:
    """The person in the view's pixels, to be found or ignored; None where the view shows nothing of him or her."""
    left, top, right, bottom = window
    points = person.keypoints[person.labelled]
    inside = ((points >= (left - 0.5, top - 0.5)) & (points < (right - 0.5, bottom - 0.5))).all(axis=1)
    x1, y1, x2, y2 = person.box
    meets = x1 < right and y1 < bottom and x2 > left and y2 > top
    if not (inside.any() or meets):
        return None
    return replace(
        person,
        keypoints=np.where(person.labelled[:, None], person.keypoints - (left, top), person.keypoints),
        box=person.box - (left, top, left, top),
        ignore=person.ignore or int(inside.sum()) < min(MIN_SEEN, len(points)),
    )
