"""Do labels fit the pixels of their photos? Training, evaluation and `check` ask the same questions."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from posedet.data.annotations import AnnotatedPhoto, Person
from posedet.errors import DataError
from posedet.image import size_of, stored_size_of

# How far a labelled keypoint may lie outside the photo or the person's box, as a share of the longer side. Of 15,568
# people in COCO, none exceeds the first limit and one exceeds the second.
PHOTO_MARGIN = 0.1
BOX_MARGIN = 0.5
MIN_PEOPLE = 10  # so many are not all in the corner of their photos
# Fewer people may be labelled wrongly, or beyond the border. In 30,337 people of seven sets there is nobody like that.
MIN_WRONG, MIN_WRONG_SHARE = 3, 0.1


class Outside(NamedTuple):
    """Labelled keypoints far outside of something."""

    what: str
    which: NDArray[np.bool_]  # (K,)
    farthest: int  # index of the keypoint


def outside(person: Person, size: tuple[int, int]) -> Outside | None:
    """Return the labelled keypoints far outside the photo of that (height, width), or else the person's own box.

    Keypoints at (0, 0) are left out: they are a mistake of another kind.
    """
    asked = person.labelled & (person.keypoints != 0).any(1)
    height, width = size
    limits = [("the photo", np.array((0.0, 0, width - 1, height - 1)), PHOTO_MARGIN * max(size))]
    if (person.box[2:] > person.box[:2]).all():
        limits.append(("the person's own box", person.box, BOX_MARGIN * float((person.box[2:] - person.box[:2]).max())))
    for what, box, margin in limits:
        away = np.maximum(box[:2] - person.keypoints, person.keypoints - box[2:]).max(1)
        beyond = asked & (away > margin)
        if beyond.any():
            return Outside(what, beyond, int(np.where(beyond, away, -np.inf).argmax()))
    return None


def size_problem(photo: AnnotatedPhoto, size: tuple[int, ...]) -> str:
    """Return what is wrong with the annotated size of a photo of `size` (height, width); an empty string if nothing."""
    if photo.size == size:
        return ""
    (height, width), (true_height, true_width) = photo.size, size
    turned = ""
    if size == (width, height):
        by_exif = stored_size_of(photo.path) == photo.size
        turned = "; its EXIF data turn it, but not the labels" if by_exif else "; was it rotated?"
    where = f"{photo.place}: width and height are {width} x {height}"
    return f"{where}, the photo {photo.path} is {true_width} x {true_height}{turned}"


def misplaced(photos: Sequence[AnnotatedPhoto]) -> str:
    """Return why the labels cannot be pixels of their photos; an empty string if they can be."""
    people = [(person, photo) for photo in photos for person in photo.persons if not person.ignore]
    points = np.concatenate([np.zeros((0, 2)), *(person.keypoints[person.labelled] for person, _ in people)])
    shortest = min((min(photo.size) for _, photo in people), default=0)
    for limit, least, unit in ((1, 1, "shares"), (100, MIN_PEOPLE, "percent")):
        if len(people) >= least and shortest > 2 * limit and (points % 1).any() and points.max() <= limit:
            others = f"keypoints from 0 to {limit}, as those of all people"
            return f"{people[0][0].place}: {others}; expected pixels, not {unit} of the photo's sides"
    wrong = []
    for person, photo in people:
        found = outside(person, photo.size)
        if found is not None and found.which.sum() * 2 > person.labelled.sum():
            wrong.append(f"{person.place}: most keypoints lie far outside {found.what}")
    if len(wrong) < max(MIN_WRONG, MIN_WRONG_SHARE * len(people)):
        return ""
    return f"{wrong[0]}, as those of {len(wrong)} of {len(people)} people; expected pixels of the photo"


def check_fit(photos: Sequence[AnnotatedPhoto]) -> None:
    """Raise DataError if labels do not fit the photos, of which only the headers are read. Missing photos are skipped.

    Raises PhotoError if a photo is damaged.
    """
    if problem := misplaced(photos):
        raise DataError(problem)
    with ThreadPoolExecutor(4) as threads:
        there = [photo for photo in photos if os.path.isfile(photo.path)]
        for photo, size in zip(there, threads.map(size_of, [photo.path for photo in there]), strict=True):
            if problem := size_problem(photo, size):
                raise DataError(problem)
