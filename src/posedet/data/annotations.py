"""Annotated photos, read from COCO-style keypoint JSON. The file comes from outside: everything in it is checked."""

import os
import reprlib
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posedet.data.formats.coco import (
    KeypointColumns,
    box,
    category_of,
    entries,
    flag,
    identity,
    keypoint_table,
    new_identity,
    number,
    numbers,
    present,
    read_categories,
    read_json,
)
from posedet.errors import DataError
from posedet.skeleton import Skeleton

# Where a file gives no area: the share of its box that a person fills (CrowdPose's evaluator; COCO's median is 0.52).
BOX_FILL = 0.53
MAX_SIDE = 1_000_000  # pixels

# The point that the official code adds to CrowdPose's 14, and what it is the middle of.
ABDOMEN = "abdomen"
AROUND_ABDOMEN = ("left_shoulder", "right_shoulder", "left_hip", "right_hip")


@dataclass(frozen=True)
class Person:
    """A labelled person. Coordinates in pixels of the photo, pixel centres at integers; K keypoints."""

    keypoints: NDArray[np.float32]  # (K, 2); anything where visibility is 0
    visibility: NDArray[np.uint8]  # (K,) COCO's flags: 2 seen, 1 labelled but hidden, 0 not labelled
    visible: NDArray[np.int8]  # (K,) 1 seen, 0 hidden or absent, -1 the file does not tell
    keypoint_weights: NDArray[np.float32]  # (K,) 0..1: a teacher's confidence, 1 for labels by people
    box: NDArray[np.float32]  # (4,) x1 y1 x2 y2
    area: float  # of the person's outline, or about that; pixels squared
    score: float  # 0..1: a teacher's confidence in the person, 1 for labels by people
    is_crowd: bool  # the box holds many people
    ignore: bool  # neither a person to find nor background: a crowd, nobody's keypoints labelled, an uncertain person
    annotation_id: int


@dataclass(frozen=True)
class AnnotatedPhoto:
    """A photo and the people in it."""

    image_id: int
    path: Path
    size: tuple[int, int]  # (height, width) as the file says
    persons: tuple[Person, ...]
    only_main_person: bool  # other people in the photo are not labelled
    crowd_index: float | None  # CrowdPose's measure of how much people overlap


def read_annotations(
    path: str | Path, photo_folder: str | Path, skeleton: Skeleton, *, check_files: bool = True
) -> tuple[AnnotatedPhoto, ...]:
    """Read a COCO-style keypoint file (`.json` or `.json.gz`): all its photos in the file's order, also empty ones.

    Keypoints are mapped by name to `skeleton`; those that the file does not have get visibility 0, but for an
    "abdomen", which is made of shoulders and hips as in the official code for CrowdPose. Beside COCO's fields these
    are understood: annotations' `ignore`, `score`, `joint_scores` (a teacher's), `labelled_joints` (names of the
    keypoints that count, the others are not known), `only_main_person`; photos' `only_main_person`, `crowdIndex`.
    Raises DataError, one line that names file and entry: `val.json: annotations[7].keypoints: 48 numbers, ...`; also
    for photos that are not in `photo_folder`, unless `check_files` is off.
    """
    where = str(path)
    data = read_json(path)
    categories = read_categories(data, where, skeleton)
    photos = _read_photos(data, where, Path(photo_folder))
    persons: dict[int, list[Person]] = {image_id: [] for image_id in photos}
    main_only = {image_id for image_id, (place, entry, _) in photos.items() if flag(entry, "only_main_person", place)}
    taken: set[int] = set()
    for place, entry in entries(data, "annotations", where):
        taken.add(new_identity(entry, taken, place))
        image_id = identity(entry, "image_id", place)
        if image_id not in photos:
            raise DataError(f"{place}.image_id: {image_id} is not among the file's images")
        columns = category_of(entry, categories, place)
        if columns is None:
            continue
        person = read_person(entry, place, columns, skeleton.num_keypoints)
        if ABDOMEN in skeleton.keypoints and skeleton.index(ABDOMEN) not in columns.wanted:
            person = _with_abdomen(person, skeleton)
        persons[image_id].append(person)
        if flag(entry, "only_main_person", place):
            main_only.add(image_id)
    forget_untold([person for group in persons.values() for person in group])
    if check_files:
        _check_files([(place, file) for place, _, file in photos.values()])
    return tuple(
        AnnotatedPhoto(
            image_id=image_id,
            path=file,
            size=photo_sides(entry, place),
            persons=tuple(persons[image_id]),
            only_main_person=image_id in main_only,
            crowd_index=number(entry, "crowdIndex", place, low=0, high=1e6) if "crowdIndex" in entry else None,
        )
        for image_id, (place, entry, file) in photos.items()
    )


def _read_photos(data: Any, where: str, folder: Path) -> dict[int, tuple[str, dict[str, Any], Path]]:
    """Image id -> its place in the file, its entry, and where the photo lies."""
    photos: dict[int, tuple[str, dict[str, Any], Path]] = {}
    for place, entry in entries(data, "images", where):
        image_id = new_identity(entry, photos, place)
        photos[image_id] = place, entry, photo_path(entry, place, folder)
    return photos


def photo_path(entry: dict[str, Any], where: str, folder: Path) -> Path:
    """Where the photo of one entry of `images` lies."""
    name = present(entry, "file_name", where)
    if not isinstance(name, str) or not name or "\0" in name:
        raise DataError(f"{where}.file_name: {reprlib.repr(name)}, expected the name of a photo")
    # A label file may name photos in subfolders, but not make us read any other file of the machine.
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor or ".." in PureWindowsPath(name).parts:
        raise DataError(f"{where}.file_name: {name!r:.80} leads out of the folder of photos")
    return folder / name


def photo_sides(entry: dict[str, Any], where: str) -> tuple[int, int]:
    """(height, width) as one entry of `images` says."""
    height, width = (int(number(entry, side, where, low=1, high=MAX_SIDE)) for side in ("height", "width"))
    return height, width


def read_person(entry: dict[str, Any], where: str, columns: KeypointColumns, num_keypoints: int) -> Person:
    """One entry of `annotations` as a person with the skeleton's keypoints; `where` is its place in errors."""
    table = keypoint_table(entry, where, columns.num_keypoints)
    flags = table[:, 2]
    if not np.isin(flags, (0, 1, 2)).all():
        place = int(np.flatnonzero(~np.isin(flags, (0, 1, 2)))[0])
        raise DataError(f"{where}.keypoints[{3 * place + 2}]: flag {flags[place]:g}, expected 0, 1 or 2")
    # A teacher knows where a keypoint is, not whether it is seen; lists of labelled ones come without flags, too.
    tells_seen = "joint_scores" not in entry and "labelled_joints" not in entry
    if "labelled_joints" in entry:
        flags = np.where(_labelled(entry["labelled_joints"], where, columns), flags, 0)
    weights = np.ones(columns.num_keypoints)
    if "joint_scores" in entry:
        # Peaks of heatmaps exceed 1 a little.
        weights = numbers(entry, "joint_scores", where, columns.num_keypoints, "one a keypoint").clip(0, 1)
    left, top, width, height = box(entry, where)
    area = number(entry, "area", where, low=0, high=1e18) if "area" in entry else 0.0
    is_crowd, ignore = flag(entry, "iscrowd", where), flag(entry, "ignore", where)
    visibility = spread(flags, columns, num_keypoints, 0, np.uint8)
    unlabelled = not visibility.any() or ("num_keypoints" in entry and identity(entry, "num_keypoints", where) == 0)
    return Person(
        keypoints=spread(table[:, :2], columns, num_keypoints, 0, np.float32),
        visibility=visibility,
        visible=spread((flags == 2) if tells_seen else np.full(len(flags), -1), columns, num_keypoints, -1, np.int8),
        keypoint_weights=spread(weights, columns, num_keypoints, 1, np.float32),
        box=np.array((left, top, left + width, top + height), np.float32),
        area=area or BOX_FILL * float(width * height),
        score=number(entry, "score", where, low=0, high=1) if "score" in entry else 1.0,
        is_crowd=is_crowd,
        ignore=is_crowd or ignore or unlabelled,
        annotation_id=identity(entry, "id", where),
    )


def _with_abdomen(person: Person, skeleton: Skeleton) -> Person:
    """With the mean of those labelled among shoulders and hips, where at least three are."""
    around = [skeleton.index(name) for name in AROUND_ABDOMEN if name in skeleton.keypoints]
    labelled = [k for k in around if person.visibility[k] > 0]
    if len(labelled) < 3:
        return person
    keypoints, visibility = person.keypoints.copy(), person.visibility.copy()
    keypoints[skeleton.index(ABDOMEN)] = keypoints[labelled].mean(0)
    visibility[skeleton.index(ABDOMEN)] = 1
    return replace(person, keypoints=keypoints, visibility=visibility)


def spread(
    values: NDArray[Any], columns: KeypointColumns, num_keypoints: int, missing: int, dtype: type[np.generic]
) -> NDArray[Any]:
    """The file's values per keypoint (J, ...) in the skeleton's order (K, ...)."""
    spread = np.full((num_keypoints, *values.shape[1:]), missing, dtype)
    spread[columns.wanted] = values[columns.column]
    return spread


def _labelled(names: Any, where: str, columns: KeypointColumns) -> NDArray[np.bool_]:
    """(J,) which of the file's keypoints `names` lists."""
    if not isinstance(names, list):
        raise DataError(f"{where}.labelled_joints: {reprlib.repr(names)}, expected a list of names")
    for place, name in enumerate(names):
        if name not in columns.names:
            raise DataError(f"{where}.labelled_joints[{place}]: {reprlib.repr(name)} is no keypoint of the file")
    return np.isin(columns.names, names)


def forget_untold(persons: list[Person]) -> None:
    """Set `visible` to -1 where flags were plainly not meant to tell hidden keypoints from seen ones.

    CrowdPose flags head and neck as hidden (1) in everybody, and all keypoints so in 41 % of the people; COCO has
    1 % of people without any keypoint seen.
    """
    if persons:
        never_seen = ~np.any([person.visibility == 2 for person in persons], axis=0)
        for person in persons:
            person.visible[never_seen if (person.visibility == 2).any() else ...] = -1


def _check_files(photos: list[tuple[str, Path]]) -> None:
    missing = [(place, file) for place, file in photos if not os.path.isfile(file)]
    if missing:
        place, file = missing[0]
        raise DataError(
            f"{place}.file_name: {str(file)!r:.200}: no such photo ({len(missing)} of {len(photos)} are missing); "
            "is the folder of photos right?"
        )
