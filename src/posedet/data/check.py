"""What is wrong with annotations, all of it: unlike reading them for training, checking goes on after a mistake."""

import reprlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from posedet.data.annotations import Person, photo_path, photo_sides, read_person
from posedet.data.formats.coco import KeypointColumns, category_of, identity, keypoint_columns, new_identity, read_json
from posedet.data.formats.ultralytics import is_ultralytics, label_lines, open_set, own_skeleton, read_line
from posedet.errors import DataError, PhotoError
from posedet.files import photo_folder
from posedet.image import read_photo, size_of
from posedet.oks import oks
from posedet.skeleton import Skeleton, without_side

# How far a labelled keypoint may lie outside: of the photo, in shares of its long side; of the person's box, in shares
# of the box's. Of 15,568 people in COCO none is beyond the first limit, one beyond the second.
PHOTO_MARGIN = 0.1
BOX_MARGIN = 0.5
# Two people of one photo whose labels agree to this OKS are one person labelled twice.
SAME_PERSON = 0.95
MIN_SHARED = 3  # keypoints labelled in both
TOP = ("head", "neck")  # as CrowdPose names them

# Parts of the body that lie alike: left of one is on the same side as left of the other, however people turn. Wrists,
# knees and ankles cross all the time. At these limits 22 of COCO's 15,568 people are named, most of them rightly.
ALIKE = (("eye", "ear"), ("ear", "shoulder"), ("shoulder", "elbow"), ("shoulder", "hip"))
MIN_WIDTH = 0.13  # from left to right, of the root of the box's area: who stands sideways says nothing
OPPOSITE = -0.5  # cosine of the angle between the two


class Finding(NamedTuple):
    """Something wrong: what kind of mistake, and one line that names file, entry and values."""

    kind: str
    text: str


@dataclass
class Report:
    """What was looked at, and what is wrong."""

    num_photos: int = 0
    num_persons: int = 0
    num_unlabelled: int = 0  # people without any labelled keypoint: allowed, but nothing is learnt from them
    findings: list[Finding] = field(default_factory=list)

    def add(self, kind: str, text: str) -> None:
        """A finding, unless it was the last one already."""
        if not self.findings or self.findings[-1].text != text:
            self.findings.append(Finding(kind, text))

    @contextmanager
    def noting(self, kind: str) -> Iterator[None]:
        """An error of reading becomes a finding; what follows it in the block is left out."""
        try:
            yield
        except (DataError, PhotoError) as error:
            self.add(kind, str(error))


class _Labelled(NamedTuple):
    where: str
    person: Person
    skeleton: Skeleton


class _Photo(NamedTuple):
    where: str
    path: Path
    size: tuple[int, int]  # (height, width) as the annotations say
    people: list[_Labelled]


class _Category(NamedTuple):
    columns: KeypointColumns
    skeleton: Skeleton


def check(path: Path, beside: Path | None = None, skeleton: Skeleton | None = None) -> Report:
    """Look for impossible annotations and photos.

    path: COCO-style JSON with its photos in `beside` (if not given, the folder of the same name), or a set in
    Ultralytics' format of which `beside` is the part (train). skeleton: the keypoints that are wanted; if not given,
    all that the file has. Raises DataError where nothing can be checked: no such file, not JSON, not annotations.
    """
    report = Report()
    if is_ultralytics(path):
        photos = _read_ultralytics(path, str(beside or "train"), skeleton, report)
    else:
        photos = _read_coco(path, beside or photo_folder(path), skeleton, report)
    _check_files(photos, report)
    for photo in photos:
        for each in photo.people:
            _check_person(each, photo, report)
        _check_twice(photo.people, report)
    people = [each.person for photo in photos for each in photo.people]
    report.num_photos, report.num_persons = len(photos), len(people)
    report.num_unlabelled = sum(not person.is_crowd and not person.visibility.any() for person in people)
    if people and not any(person.visibility.any() for person in people):
        report.add("nobody labelled", f"{path}: no person has a labelled keypoint, there is nothing to learn")
    return report


def _read_coco(path: Path, folder: Path, skeleton: Skeleton | None, report: Report) -> list[_Photo]:
    data, where = read_json(path), str(path)
    if not isinstance(data, dict) or not {"images", "annotations", "categories"} <= data.keys():
        raise DataError(f"{where}: {reprlib.repr(data)}, expected an object with images, annotations and categories")
    categories = _categories(data, where, skeleton, report)
    photos: dict[int, _Photo | None] = {}
    taken: set[Path] = set()
    for place, entry in _objects(data, "images", where, report):
        with report.noting("image entry"):
            image_id = new_identity(entry, photos, place)
            photos[image_id] = None
            file = photo_path(entry, place, folder)
            if file in taken:
                report.add("photo twice", f"{place}.file_name: {entry['file_name']!r} stands there twice")
            taken.add(file)
            photos[image_id] = _Photo(place, file, photo_sides(entry, place), [])
    ids: set[int] = set()
    for place, entry in _objects(data, "annotations", where, report):
        with report.noting("annotation entry"):
            ids.add(new_identity(entry, ids, place))
        with report.noting("annotation entry"):
            _read_annotation(entry, place, categories, photos, report)
    return [photo for photo in photos.values() if photo is not None]


def _read_annotation(
    entry: dict[str, Any],
    place: str,
    categories: dict[int, _Category | None],
    photos: dict[int, _Photo | None],
    report: Report,
) -> None:
    image_id = identity(entry, "image_id", place)
    if image_id not in photos:
        raise DataError(f"{place}.image_id: {image_id} is not among the file's images")
    known = {number: category and category.columns for number, category in categories.items()}
    if category_of(entry, known, place) is None:
        return
    category = categories[entry["category_id"]]
    assert category is not None
    person = read_person(entry, place, category.columns, category.skeleton.num_keypoints)
    photo = photos[image_id]
    if photo is None:  # its own entry was found wrong
        return
    where = f"{place} (id {person.annotation_id}, {photo.path.name})"
    photo.people.append(_Labelled(where, person, category.skeleton))
    flagged = np.array(entry["keypoints"][2::3]) > 0
    counted = int(flagged.sum())
    # CrowdPose's own files count without head and neck.
    if entry.get("num_keypoints", counted) not in (counted, flagged[~np.isin(category.columns.names, TOP)].sum()):
        report.add("count of keypoints", f"{where}: num_keypoints is {entry['num_keypoints']}, {counted} are labelled")


def _categories(data: Any, where: str, skeleton: Skeleton | None, report: Report) -> dict[int, _Category | None]:
    categories: dict[int, _Category | None] = {}
    for place, entry in _objects(data, "categories", where, report):
        with report.noting("category entry"):
            category_id = new_identity(entry, categories, place)
            categories[category_id] = None
            if "keypoints" not in entry:
                continue
            own = skeleton or _own_skeleton({"name": f"category {category_id}", **entry}, place, report)
            columns = keypoint_columns(entry["keypoints"], f"{place}.keypoints", own)
            if len(columns.wanted):
                categories[category_id] = _Category(columns, own)
    if not any(categories.values()):
        what = f"of skeleton '{skeleton.name}'" if skeleton else "at all"
        report.add("category entry", f"{where}: categories: no keypoints {what}")
    return categories


def _own_skeleton(entry: dict[str, Any], place: str, report: Report) -> Skeleton:
    """A category's own keypoints. Limbs that are wrong are noted, no more: they are drawn, not learnt."""
    try:
        skeleton = Skeleton.from_coco_category({**entry, "skeleton": []})
    except DataError as error:
        raise DataError(f"{place}: {error}") from None
    try:
        Skeleton.from_coco_category(entry)
    except DataError as error:
        report.add("category entry", f"{place}: {error}")
    return skeleton


def _objects(data: Any, key: str, where: str, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a list, each with its place; what is none is noted."""
    if not isinstance(data[key], list):
        report.add(f"{key} entry", f"{where}: {key}: {reprlib.repr(data[key])}, expected a list")
        return
    for number, entry in enumerate(data[key]):
        if isinstance(entry, dict):
            yield f"{where}: {key}[{number}]", entry
        else:
            report.add(f"{key} entry", f"{where}: {key}[{number}]: {reprlib.repr(entry)}, expected an object")


def _read_ultralytics(path: Path, part: str, skeleton: Skeleton | None, report: Report) -> list[_Photo]:
    skeleton = skeleton or own_skeleton(path)
    pose_set = open_set(path, skeleton, part)
    photos = []
    for file in pose_set.photos:
        with report.noting("photo"):
            photo = _Photo(str(file), file, size_of(file), [])
            photos.append(photo)
            with report.noting("label file"):
                for line in label_lines(file):
                    with report.noting("label line"):
                        person = read_line(line, pose_set, photo.size, skeleton.num_keypoints)
                        photo.people.append(_Labelled(line.where, person, skeleton))
    return photos


def _check_files(photos: list[_Photo], report: Report) -> None:
    """Every photo must be there, whole, and of the size that its entry says."""
    with ThreadPoolExecutor(4) as threads:
        found = threads.map(_size_or_fault, [photo.path for photo in photos])
        for photo, size in tqdm(zip(photos, found, strict=True), total=len(photos), unit="photo", disable=None):
            if isinstance(size, str):
                report.add("photo", f"{photo.where}: {size}")
            elif size != photo.size:
                (height, width), (true_height, true_width) = photo.size, size
                turned = "; was it turned?" if size == (width, height) else ""
                text = f"{width} x {height}, the photo {photo.path} is {true_width} x {true_height}{turned}"
                report.add("size of a photo", f"{photo.where}: width and height are {text}")


def _size_or_fault(path: Path) -> tuple[int, ...] | str:
    try:
        # Decoded whole: only so is a damaged or cut file found.
        return read_photo(path).shape[:2]
    except PhotoError as error:
        return str(error)


def _check_person(each: _Labelled, photo: _Photo, report: Report) -> None:
    where, person, skeleton = each
    x1, y1, x2, y2 = (float(side) for side in person.box)
    height, width = photo.size
    has_area = x2 > x1 and y2 > y1
    if not has_area:
        report.add("box", f"{where}: the box has no area: {x2 - x1:g} x {y2 - y1:g}")
    elif x2 < 0 or y2 < 0 or x1 > width or y1 > height:
        box = f"({x1:g}, {y1:g}) to ({x2:g}, {y2:g})"
        report.add("box", f"{where}: the box from {box} lies outside the photo of {width} x {height}")
    labelled = person.visibility > 0
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
    where, person, skeleton = each
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
        before = [other for other in people[:number] if other.skeleton == each.skeleton]
        if not before:
            continue
        shared = np.array([(other.person.visibility > 0) & (person.visibility > 0) for other in before])
        areas = np.array([[max(other.person.area, person.area, 1.0) for other in before]])
        keypoints = np.array([other.person.keypoints for other in before])
        similarity = oks(person.keypoints[None], keypoints, np.array(each.skeleton.sigmas), areas, shared)[0]
        for other, value, both in zip(before, similarity, shared, strict=True):
            if value >= SAME_PERSON and both.sum() >= MIN_SHARED:
                same = other.where.rpartition(": ")[2]
                report.add("person twice", f"{each.where}: the same person as {same} (OKS {value:.2f})")
