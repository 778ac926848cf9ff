"""What is wrong with annotations, all of it: unlike reading them for training, checking goes on after a mistake."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from posedet.data.annotations import AnnotatedPhoto, Person
from posedet.data.sources import Source, read_source
from posedet.errors import PhotoError, PoseDetError
from posedet.image import read_photo
from posedet.oks import oks
from posedet.skeleton import Skeleton, without_side

# How far a labelled keypoint may lie outside: of the photo, in shares of its long side; of the person's box, in shares
# of the box's. Of 15,568 people in COCO none is beyond the first limit, one beyond the second.
PHOTO_MARGIN = 0.1
BOX_MARGIN = 0.5
# Two people of one photo whose labels agree to this OKS are one person labelled twice.
SAME_PERSON = 0.95
MIN_SHARED = 3  # keypoints labelled in both

# Parts of the body that lie alike: left of one is on the same side as left of the other, however people turn. Wrists,
# knees and ankles cross all the time. At these limits 22 of COCO's 15,568 people are named, most of them rightly.
ALIKE = (("eye", "ear"), ("ear", "shoulder"), ("shoulder", "elbow"), ("shoulder", "hip"))
MIN_WIDTH = 0.13  # from left to right, of the root of the box's area: who stands sideways says nothing
OPPOSITE = -0.5  # cosine of the angle between the two


class Mistake(NamedTuple):
    """Something wrong: what kind of mistake, and one line that names file, entry and values."""

    kind: str
    text: str


@dataclass
class Report:
    """What was looked at, and what is wrong."""

    num_photos: int = 0
    num_persons: int = 0
    num_unlabelled: int = 0  # people without any labelled keypoint: allowed, but nothing is learnt from them
    findings: list[Mistake] = field(default_factory=list)

    def add(self, kind: str, problem: PoseDetError | str) -> None:
        """A finding, unless it was the last one already."""
        if not self.findings or self.findings[-1].text != str(problem):
            self.findings.append(Mistake(kind, str(problem)))


class _Labelled(NamedTuple):
    person: Person
    skeleton: Skeleton

    @property
    def where(self) -> str:
        return self.person.place


def check(source: Source | str, skeleton: Skeleton | None = None) -> Report:
    """Look for impossible annotations and photos.

    source: or what a user wrote, see `Source`. skeleton: the keypoints that are wanted; if not given, all that the file
    has. Raises DataError where nothing can be checked: no such file, not JSON, not annotations.
    """
    source = Source.parse(source) if isinstance(source, str) else source
    report = Report()
    photos = read_source(source, skeleton, report.add)
    _check_files(photos, report)
    for photo in photos:
        people = [_Labelled(each, skeleton or _own(photo.categories[each.category_id])) for each in photo.persons]
        for each in people:
            _check_person(each, photo, report)
        _check_twice(people, report)
    persons = [person for photo in photos for person in photo.persons]
    report.num_photos, report.num_persons = len(photos), len(persons)
    report.num_unlabelled = sum(not person.is_crowd and not person.labelled.any() for person in persons)
    if persons and not any(person.labelled.any() for person in persons):
        report.add("nobody labelled", f"{source.path}: no person has a labelled keypoint, there is nothing to learn")
    return report


@cache
def _own(names: tuple[str, ...]) -> Skeleton:
    """A file's own keypoints."""
    return Skeleton.from_dict({"name": "annotated", "keypoints": names})


def _check_files(photos: Sequence[AnnotatedPhoto], report: Report) -> None:
    """Every photo must be there, whole, and of the size that its entry says."""
    with ThreadPoolExecutor(4) as threads:
        found = threads.map(_size_or_fault, [photo.path for photo in photos])
        for photo, size in tqdm(zip(photos, found, strict=True), total=len(photos), unit="photo", disable=None):
            if isinstance(size, str):
                report.add("photo", f"{photo.place}: {size}")
            elif size != photo.size:
                (height, width), (true_height, true_width) = photo.size, size
                turned = "; was it turned?" if size == (width, height) else ""
                text = f"{width} x {height}, the photo {photo.path} is {true_width} x {true_height}{turned}"
                report.add("size of a photo", f"{photo.place}: width and height are {text}")


def _size_or_fault(path: Path) -> tuple[int, ...] | str:
    try:
        # Decoded whole: only so is a damaged or cut file found.
        return read_photo(path).shape[:2]
    except PhotoError as error:
        return str(error)


def _check_person(each: _Labelled, photo: AnnotatedPhoto, report: Report) -> None:
    where, (person, skeleton) = each.where, each
    x1, y1, x2, y2 = (float(side) for side in person.box)
    height, width = photo.size
    has_area = x2 > x1 and y2 > y1
    if not has_area:
        report.add("box", f"{where}: the box has no area: {x2 - x1:g} x {y2 - y1:g}")
    elif x2 < 0 or y2 < 0 or x1 > width or y1 > height:
        box = f"({x1:g}, {y1:g}) to ({x2:g}, {y2:g})"
        report.add("box", f"{where}: the box from {box} lies outside the photo of {width} x {height}")
    labelled = person.labelled
    if person.is_crowd or not labelled.any():
        return
    corner = labelled & (person.keypoints == 0).all(1)
    if corner.any():
        names = ", ".join(skeleton.keypoints[k] for k in np.flatnonzero(corner))
        report.add("keypoint at (0, 0)", f"{where}: {names} labelled at (0, 0); flag 0 if it is not known")
    _check_places(each, labelled & ~corner, photo.size, report, has_area=has_area)
    for first, second in _swapped(person, skeleton):
        text = f"left and right of {second} lie the other way round than those of {first}: most likely swapped"
        report.add("left and right swapped", f"{where}: {text}")


def _check_places(
    each: _Labelled, asked: NDArray[np.bool_], size: tuple[int, int], report: Report, *, has_area: bool
) -> None:
    """Keypoints (`asked`, (K,)) far outside the photo, or else far outside the person's own box."""
    where, (person, skeleton) = each.where, each
    height, width = size
    extent = float((person.box[2:] - person.box[:2]).max())
    limits = [("the photo", f" of {width} x {height}", (0, 0, width - 1, height - 1), PHOTO_MARGIN * max(size))]
    if has_area:
        limits.append(("the person's own box", "", tuple(person.box), BOX_MARGIN * extent))
    for what, of, box, margin in limits:
        away = np.maximum(np.array(box[:2]) - person.keypoints, person.keypoints - np.array(box[2:])).max(1)
        beyond = asked & (away > margin)
        if beyond.any():
            k = int(np.where(beyond, away, -np.inf).argmax())
            x, y = person.keypoints[k]
            others = f" ({beyond.sum()} keypoints do)" if beyond.sum() > 1 else ""
            text = f"{skeleton.keypoints[k]} at ({x:g}, {y:g}) lies far outside {what}{of}{others}"
            report.add(f"keypoint outside {what}", f"{where}: {text}")
            return


def _swapped(person: Person, skeleton: Skeleton) -> Iterator[tuple[str, str]]:
    """Pairs of `ALIKE` parts whose directions from right to left are opposite."""
    directions = {}
    for left, right in skeleton.pairs:
        if person.visibility[left] and person.visibility[right]:
            part = without_side(skeleton.keypoints[left])[0].strip("* ")
            directions[part] = person.keypoints[left] - person.keypoints[right]
    root = float(np.sqrt((person.box[2:] - person.box[:2]).clip(0).prod()))
    for first, second in ALIKE:
        if first in directions and second in directions:
            a, b = directions[first], directions[second]
            widths = np.hypot(*a), np.hypot(*b)
            if min(widths) > MIN_WIDTH * root and a @ b < OPPOSITE * widths[0] * widths[1]:
                yield first, second


def _check_twice(people: list[_Labelled], report: Report) -> None:
    """The same person twice: no two people have all their keypoints in the same places."""
    people = [each for each in people if not each.person.is_crowd]
    for number, each in enumerate(people):
        person = each.person
        before = [other for other in people[:number] if other.skeleton is each.skeleton]
        if not before:
            continue
        shared = np.array([other.person.labelled & person.labelled for other in before])
        areas = np.array([[max(other.person.area, person.area, 1.0) for other in before]])
        keypoints = np.array([other.person.keypoints for other in before])
        similarity = oks(person.keypoints[None], keypoints, np.array(each.skeleton.sigmas), areas, shared)[0]
        for other, value, both in zip(before, similarity, shared, strict=True):
            if value >= SAME_PERSON and both.sum() >= MIN_SHARED:
                same = other.where.rpartition(": ")[2]
                report.add("person twice", f"{each.where}: the same person as {same} (OKS {value:.2f})")
