"""Check annotations and photos. Unlike reading them for training, checking continues after a mistake."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from posedet.data.annotations import BOX_FILL, AnnotatedPhoto, Person
from posedet.data.fit import misplaced, outside, size_problem
from posedet.data.sources import Source, read_source
from posedet.errors import PhotoError, PoseDetError
from posedet.files import no_terminal
from posedet.image import read_photo
from posedet.keypoint_names import pairs_in_words, sided_names
from posedet.oks import oks
from posedet.skeleton import Skeleton

# Two people in one photo whose labels reach this OKS are the same person, labelled twice.
SAME_PERSON = 0.95
MIN_SHARED = 3  # keypoints labelled in both

# Pairs of body parts whose left sides lie on the same side, however a person turns. Wrists, knees and ankles are not
# listed, because they often cross. With these limits 22 of COCO's 15,568 people are reported, most of them rightly.
ALIKE = (("eye", "ear"), ("ear", "shoulder"), ("shoulder", "elbow"), ("shoulder", "hip"))
MIN_WIDTH = 0.13  # from left to right, as a share of the root of the box area; people seen from the side are skipped
OPPOSITE = -0.5  # cosine of the angle between the two


class Mistake(NamedTuple):
    """A kind of mistake, and one line that names the file, the entry and the values."""

    kind: str
    text: str


@dataclass
class Report:
    """The result of a check: what was checked, and the mistakes found."""

    num_photos: int = 0
    num_persons: int = 0
    num_unlabelled: int = 0  # people without labelled keypoints: allowed, but not learnt
    pairs: str = ""  # which keypoints are left and right
    findings: list[Mistake] = field(default_factory=list)

    def add(self, kind: str, problem: PoseDetError | str) -> None:
        """Add a mistake, unless it repeats the previous one."""
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

    source: a `Source`, or the text that describes it. skeleton: the wanted keypoints; by default all of the file.
    Raises DataError if nothing can be checked, for example because the file is missing or is not JSON.
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
    _check_together(photos, source, report)
    skeletons = (
        [skeleton] if skeleton else [_own(names) for names in dict.fromkeys(_categories(photos).values()) if names]
    )
    report.pairs = "; ".join(dict.fromkeys(pairs_in_words(each.keypoints, each.pairs) for each in skeletons))
    persons = [person for photo in photos for person in photo.persons]
    report.num_photos, report.num_persons = len(photos), len(persons)
    report.num_unlabelled = sum(not person.is_crowd and not person.labelled.any() for person in persons)
    return report


def _categories(photos: Sequence[AnnotatedPhoto]) -> dict[int, tuple[str, ...]]:
    return {number: names for photo in photos for number, names in photo.categories.items()}


@cache
def _own(names: tuple[str, ...]) -> Skeleton:
    """Return a skeleton of a file's own keypoints."""
    return Skeleton.from_dict({"name": "annotated", "keypoints": names})


def _check_files(photos: Sequence[AnnotatedPhoto], report: Report) -> None:
    """Check that every photo exists, can be decoded, and has the annotated size."""
    with ThreadPoolExecutor(4) as threads:
        found = threads.map(_size_or_fault, [photo.path for photo in photos])
        for photo, size in tqdm(
            zip(photos, found, strict=True), total=len(photos), unit="photo", disable=no_terminal()
        ):
            if isinstance(size, str):
                report.add("photo", f"{photo.place}: {size}")
            elif problem := size_problem(photo, size):
                report.add("photo size", problem)


def _size_or_fault(path: Path) -> tuple[int, ...] | str:
    try:
        # Only decoding the whole photo finds a damaged or truncated file.
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
        report.add("keypoint at (0, 0)", f"{where}: {names} labelled at (0, 0); use flag 0 for an unknown position")
    found = outside(person, photo.size)
    if found is not None:
        x, y = person.keypoints[found.farthest]
        of = f" of {width} x {height}" if found.what == "the photo" else ""
        others = f" ({found.which.sum()} keypoints do)" if found.which.sum() > 1 else ""
        text = f"{skeleton.keypoints[found.farthest]} at ({x:g}, {y:g}) lies far outside {found.what}{of}{others}"
        report.add(f"keypoint outside {found.what}", f"{where}: {text}")
    for first, second in _swapped(person, skeleton):
        text = f"left and right {second} are reversed compared with left and right {first}: probably swapped"
        report.add("left and right swapped", f"{where}: {text}")


def _check_together(photos: Sequence[AnnotatedPhoto], source: Source, report: Report) -> None:
    """Report what only all people together show."""
    people = [(person, photo) for photo in photos for person in photo.persons if person.labelled.any()]
    if photos and not people:
        report.add(
            "no labels", f"{source.path}: nobody has a labelled keypoint, so there is nothing to learn or measure"
        )
    if problem := misplaced(photos):
        report.add("labels that do not fit", problem)
    fitting = [_is_corners(person) for person, _ in people]
    told = [fits for fits in fitting if fits is not None]
    if sum(told) * 10 > len(told) * 9:
        text = f"{sum(told)} of {len(told)} boxes fit their people as x1, y1, x2, y2; expected x, y, width, height"
        report.add("box", f"{source.path}: {text}")


def _is_corners(person: Person) -> bool | None:
    """Whether a box that was read as x, y, width, height fits as x1, y1, x2, y2; None where the two hardly differ."""
    start, extent = person.box[:2], person.box[2:] - person.box[:2]
    if (start < 0.25 * extent).all():
        return None
    points, margin = person.keypoints[person.labelled], 0.05 * float(extent.max())
    return bool((extent > start).all() and (points > start - margin).all() and (points < extent + margin).all())


def _swapped(person: Person, skeleton: Skeleton) -> Iterator[tuple[str, str]]:
    """Yield the pairs of `ALIKE` parts whose directions from right to left are opposite."""
    directions, parts = {}, sided_names(skeleton.keypoints)
    for left, right in skeleton.pairs:
        if person.visibility[left] and person.visibility[right]:
            directions[parts[left].part] = person.keypoints[left] - person.keypoints[right]
    box_area = (person.box[2:] - person.box[:2]).clip(0).prod()
    root = float(np.sqrt(box_area or person.area / BOX_FILL))
    for first, second in ALIKE:
        if first in directions and second in directions:
            a, b = directions[first], directions[second]
            widths = np.hypot(*a), np.hypot(*b)
            if min(widths) > MIN_WIDTH * root and a @ b < OPPOSITE * widths[0] * widths[1]:
                yield first, second


def _check_twice(people: list[_Labelled], report: Report) -> None:
    """Report people labelled twice: no two people have all keypoints in the same places."""
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
                report.add("duplicate person", f"{each.where}: the same person as {same} (OKS {value:.2f})")
