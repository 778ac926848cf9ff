"""Photos of a set cropped so that people are cut by the border, with the truth kept where it lies outside.

A detector that knows bodies places a hidden foot below the border; plain benchmarks never ask for that. The crops
depend on the photos' ids alone: the same on every machine, and for every detector.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posedet.data.formats.coco import (
    MAX_NUMBER,
    KeypointColumns,
    box,
    category_of,
    entries,
    flag,
    identity,
    keypoint_table,
    number,
    read_categories,
)
from posedet.errors import DataError
from posedet.image import read_photo
from posedet.skeleton import Skeleton

MIN_LABELLED = 6  # keypoints of the person who is cut
MIN_SEEN = 3  # labelled keypoints in the view (or all), for a person to be found
MIN_SIDE = 64  # pixels of a view
CUT = (0.25, 0.6)  # share of the person that is cut off, from and to

SIDES = ("left", "top", "right", "bottom")
Window = tuple[int, int, int, int]  # left, top, right, bottom in whole pixels, the last two outside


@dataclass(frozen=True)
class View:
    """A part of a photo."""

    path: Path
    photo_size: tuple[int, int]  # (height, width)
    window: Window

    def read(self) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 RGB; DataError if the photo has another size than its annotations say."""
        photo = read_photo(self.path)
        if photo.shape[:2] != self.photo_size:
            raise DataError(
                f"{self.path}: {photo.shape[1]} x {photo.shape[0]} pixels, but its annotations say "
                f"{self.photo_size[1]} x {self.photo_size[0]}"
            )
        left, top, right, bottom = self.window
        return photo[top:bottom, left:right]


class _Labelled(NamedTuple):
    """An annotation of the truth."""

    entry: dict[str, Any]
    keypoints: NDArray[np.float64]  # (J, 3) x, y, flag
    box: NDArray[np.float64]  # (4,) x, y, width, height
    to_find: bool

    @property
    def labelled(self) -> NDArray[np.float64]:
        """(L, 2) the keypoints that are labelled."""
        return self.keypoints[self.keypoints[:, 2] > 0, :2]


def cropped_views(
    truth: Any, where: str, photos: Mapping[int, Path], skeleton: Skeleton
) -> tuple[dict[str, Any], dict[int, View]]:
    """A view of each photo that shows somebody well enough, and COCO-style truth in the views' own pixels.

    truth: content of a COCO-style file, called `where` in errors; photos: image id -> file. In each view one person
    with at least `MIN_LABELLED` labelled keypoints loses a quarter to 60 % of his or her extent on one side. People of
    whom a view shows fewer than `MIN_SEEN` keypoints are ignored; who is quite outside is left out. Boxes and areas
    stay those of the whole person.
    """
    people = _people(truth, where, skeleton)
    cropped: dict[str, Any] = {"images": [], "annotations": [], "categories": truth["categories"]}
    views: dict[int, View] = {}
    for place, entry in entries(truth, "images", where):
        image_id = identity(entry, "id", place)
        height, width = (int(number(entry, side, place, low=1, high=MAX_NUMBER)) for side in ("height", "width"))
        window = _window(image_id, [each for each in people.get(image_id, []) if each.to_find], (height, width))
        if window is None:
            continue
        left, top, right, bottom = window
        views[image_id] = View(photos[image_id], (height, width), window)
        cropped["images"].append({**entry, "width": right - left, "height": bottom - top, "window": list(window)})
        cropped["annotations"] += [shown for each in people[image_id] if (shown := _shown(each, window)) is not None]
    if not views:
        raise DataError(f"{where}: annotations: nobody with {MIN_LABELLED} labelled keypoints whom a border could cut")
    return cropped, views


def _people(truth: Any, where: str, skeleton: Skeleton) -> dict[int, list[_Labelled]]:
    """The annotations of each photo."""
    categories = read_categories(truth, where, skeleton, unnamed=skeleton.keypoints)
    people: dict[int, list[_Labelled]] = {}
    for place, entry in entries(truth, "annotations", where):
        columns: KeypointColumns | None = category_of(entry, categories, place)
        if columns is None:
            continue
        keypoints = keypoint_table(entry, place, columns.num_keypoints)
        unwanted = flag(entry, "iscrowd", place) or flag(entry, "ignore", place) or entry.get("num_keypoints") == 0
        person = _Labelled(entry, keypoints, box(entry, place), not unwanted and bool((keypoints[:, 2] > 0).any()))
        people.setdefault(identity(entry, "image_id", place), []).append(person)
    return people


def _window(image_id: int, people: list[_Labelled], size: tuple[int, int]) -> Window | None:
    """What is left of the photo after a straight cut through one of the people; None where no cut leaves enough."""
    people = [each for each in people if len(each.labelled) >= MIN_LABELLED]
    if not people:
        return None
    chosen, first_side, share = _draws(image_id)
    points = people[int(chosen * len(people))].labelled
    share = CUT[0] + (CUT[1] - CUT[0]) * share
    height, width = size
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


def _shown(person: _Labelled, window: Window) -> dict[str, Any] | None:
    """The annotation in the view's pixels, to be found or ignored; None where the view shows nothing of it."""
    left, top, right, bottom = window
    inside = ((person.labelled >= (left - 0.5, top - 0.5)) & (person.labelled < (right - 0.5, bottom - 0.5))).all(
        axis=1
    )
    x, y, width, height = person.box
    meets = x < right and y < bottom and x + width > left and y + height > top
    if not (inside.any() or meets):
        return None
    keypoints = person.keypoints.copy()
    keypoints[keypoints[:, 2] > 0, :2] -= (left, top)
    seen = person.to_find and int(inside.sum()) >= min(MIN_SEEN, len(person.labelled))
    return {
        **{key: value for key, value in person.entry.items() if key != "segmentation"},
        "keypoints": keypoints.ravel().tolist(),
        "bbox": [float(x - left), float(y - top), float(width), float(height)],
        "ignore": int(not seen),
    }
