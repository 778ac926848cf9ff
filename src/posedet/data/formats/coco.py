"""Read COCO-style annotations: JSON with images, annotations and categories, and the photos in a folder.

The file is untrusted, so everything in it is checked. These fields are understood in addition to COCO's:

- annotations: `ignore`, `score`, `keypoint_scores` (from a teacher; or `joint_scores`), `labelled_keypoints` (the names
  of the keypoints that count, all others are unknown; or `labelled_joints`) and `only_main_person`
- images: `only_main_person` and `crowdIndex`
"""

import logging
import reprlib
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posedet.data.annotations import AnnotatedPhoto, Person, estimated_area
from posedet.data.formats.format import AnnotationFile, CategoryError, Format
from posedet.data.json_entries import (
    MAX_NUMBER,
    box,
    entries,
    flag,
    identity,
    keypoint_table,
    known_category,
    new_identity,
    number,
    numbers,
    photo_path,
    photo_sides,
)
from posedet.data.keypoint_columns import KeypointColumns, keypoint_columns
from posedet.data.remarks import Reporter, refuse, reporting
from posedet.errors import DataError
from posedet.files import photo_folder
from posedet.keypoint_names import find_names, plain_names
from posedet.skeleton import Skeleton, category_limbs

TOP = ("head", "neck")  # CrowdPose's names

# The official code adds this keypoint, the mean of the four others, to CrowdPose's 14.
ABDOMEN = "abdomen"
AROUND_ABDOMEN = ("left_shoulder", "right_shoulder", "left_hip", "right_hip")

log = logging.getLogger(__name__)

Categories = dict[int, KeypointColumns | None]  # None: the category has no wanted keypoint
Photos = dict[int, AnnotatedPhoto | None]  # None: the photo's entry is invalid


def read(
    file: AnnotationFile, folder: str | None, skeleton: Skeleton | None, report: Reporter
) -> tuple[AnnotatedPhoto, ...]:
    """Read a COCO-style file (`.json` or `.json.gz`). Its photos are in `folder`, by default the one of its name."""
    photos = photo_folder(file.path) if folder is None else Path(folder)
    return read_content(file.json, str(file.path), photos, skeleton, report, category=file.category)


def read_content(
    data: Any,
    where: str,
    folder: Path,
    skeleton: Skeleton | None,
    report: Reporter = refuse,
    *,
    category: str | None = None,
) -> tuple[AnnotatedPhoto, ...]:
    """Read all photos from the content of a COCO-style file, in its order; `where` names the file in errors.

    Keypoints are mapped to `skeleton` by name. Keypoints that the file lacks get visibility 0, except for "abdomen",
    which is computed from shoulders and hips as in the official code for CrowdPose. If the file names no keypoints,
    they are assumed to be those of the skeleton, in its order. Categories with the same keypoints are read together;
    `category`, the name or id of one, leaves the others out. Each problem is one line that names the file and the
    entry: `val.json: annotations[7].keypoints: 48 numbers, ...`.
    """
    categories = _read_categories(data, where, skeleton, report, category)
    photos = _read_photos(data, where, folder, categories, skeleton, report)
    persons: dict[int, list[Person]] = {image_id: [] for image_id in photos}
    main_only: set[int] = set()
    taken: set[int] = set()
    for place, entry in entries(data, "annotations", where, report):
        with reporting(report, "annotation entry"):
            taken.add(new_identity(entry, taken, place))
        with reporting(report, "annotation entry"):
            image_id = _known_photo(entry, photos, place)
            columns, photo = categories[known_category(entry, categories, place)], photos[image_id]
            if columns is None:
                continue
            person = _read_person(entry, place, columns, skeleton)
            if flag(entry, "only_main_person", place):
                main_only.add(image_id)
            if photo is not None:
                person = replace(person, place=f"{place} (id {person.annotation_id}, {photo.path.name})")
                persons[image_id].append(person)
                _check_count(entry, person, columns, report)
    return tuple(
        replace(
            photo,
            persons=tuple(persons[image_id]),
            only_main_person=photo.only_main_person or image_id in main_only,
        )
        for image_id, photo in photos.items()
        if photo is not None
    )


def _read_categories(
    data: Any, where: str, skeleton: Skeleton | None, report: Reporter, category: str | None
) -> Categories:
    """Map each category id to its keypoints, which are found by name in any order."""
    categories: Categories = {}
    titles: dict[int, str] = {}
    names: list[str] = []
    for place, entry in _named(list(entries(data, "categories", where, report)), data, where, skeleton):
        with reporting(report, "category entry"):
            category_id = new_identity(entry, categories, place)
            categories[category_id] = None
            titles[category_id] = str(entry.get("name", category_id))
            if entry.get("keypoints", []) not in ([], None):  # a category may only hold others together
                wanted = skeleton or _own_skeleton({"name": f"category {category_id}", **entry}, place, report)
                columns = keypoint_columns(entry["keypoints"], f"{place}.keypoints", wanted)
                names += columns.names
                categories[category_id] = columns if len(columns.wanted) else None
                if skeleton is not None and not len(columns.wanted):
                    log.info("%s: no keypoint of '%s'; the category is left out", place, skeleton.name)
    if not any(categories.values()):
        lacking = "none has 'keypoints'; is this a COCO-style keypoint file?"
        if skeleton is not None and names:
            lacking = f"no keypoint of skeleton '{skeleton.name}' among {reprlib.repr(names)}; they are found by name"
        report("category entry", DataError(f"{where}: categories: {lacking}"))
    with reporting(report, "category entry"):
        return _chosen(categories, titles, _used_categories(data), category, where)
    return categories


def _chosen(
    categories: Categories, titles: dict[int, str], used: set[int], wanted: str | None, where: str
) -> Categories:
    """Return the categories with the keypoints of the others, or of the `wanted` one, and none for the rest."""
    columns = {each: found for each, found in categories.items() if found is not None}
    named = ", ".join(f"{titles[each]!r:.80} ({each})" for each in columns)
    if wanted is not None:
        fitting = [each for each in columns if wanted in (titles[each], str(each))]
        if len(fitting) != 1:
            raise CategoryError(
                f"{where}: categories: {len(fitting)} are {wanted!r:.80} with keypoints, expected one of {named}"
            )
        return {each: found if each in fitting else None for each, found in categories.items()}
    keypoints = {each: frozenset(plain_names(found.names)) for each, found in columns.items()}
    read = {keypoints[each] for each in columns if each in used} or {*keypoints.values()}
    if len(read) > 1:
        raise CategoryError(f"{where}: categories with different keypoints: {named}; choose one category")
    if sum(each in read for each in keypoints.values()) > 1:
        log.info("%s: categories with the same keypoints, read together: %s", where, named)
    return {each: found if keypoints.get(each) in read else None for each, found in categories.items()}


def _used_categories(data: Any) -> set[int]:
    """Return the ids that annotations name, whether they exist or not."""
    listed = data.get("annotations")
    named = [each.get("category_id") for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    return {each for each in named if isinstance(each, int)}


def _named(
    categories: list[tuple[str, dict[str, Any]]], data: Any, where: str, skeleton: Skeleton | None
) -> list[tuple[str, dict[str, Any]]]:
    """Return the categories; if annotations have keypoints, but no category names any, add the skeleton's names."""
    listed = data.get("annotations")
    annotations = listed if isinstance(listed, list) else []
    annotated = not annotations or any("keypoints" in each for each in annotations if isinstance(each, dict))
    if skeleton is None or not annotated or any(entry.get("keypoints") for _, entry in categories):
        return categories
    log.warning("%s names no keypoints; assuming those of '%s', in its order", where, skeleton.name)
    return [(place, {**entry, "keypoints": list(skeleton.keypoints)}) for place, entry in categories]


def _own_skeleton(entry: dict[str, Any], place: str, report: Reporter) -> Skeleton:
    """Return a category's own keypoints. Invalid limbs are only reported, because they do not affect training."""
    try:
        skeleton = Skeleton.from_coco_category(entry)
    except DataError as error:
        raise DataError(f"{place}: {error}") from None
    if wrong := category_limbs(entry.get("skeleton"), skeleton.keypoints)[1]:
        report("category entry", f"{place}.skeleton{wrong}")
    return skeleton


def _read_photos(
    data: Any, where: str, folder: Path, categories: Categories, skeleton: Skeleton | None, report: Reporter
) -> Photos:
    """Map each image id to its photo, still without people."""
    names = {each: () if columns is None else _known_names(columns, skeleton) for each, columns in categories.items()}
    photos: Photos = {}
    files: set[Path] = set()
    for place, entry in entries(data, "images", where, report):
        with reporting(report, "image entry"):
            image_id = new_identity(entry, photos, place)
            photos[image_id] = None
            path = photo_path(entry, place, folder)
            if path in files:
                report("duplicate photo", f"{place}.file_name: duplicate photo {entry['file_name']!r}")
            files.add(path)
            photos[image_id] = AnnotatedPhoto(
                image_id=image_id,
                path=path,
                size=photo_sides(entry, place),
                persons=(),
                only_main_person=flag(entry, "only_main_person", place),
                crowd_index=number(entry, "crowdIndex", place, low=0, high=1e6) if "crowdIndex" in entry else None,
                categories=names,
                place=place,
                file_name=entry["file_name"],
            )
    return photos


def _known_photo(entry: dict[str, Any], photos: Photos, where: str) -> int:
    image_id = identity(entry, "image_id", where)
    if image_id not in photos:
        raise DataError(f"{where}.image_id: {image_id} is not among the file's images")
    return image_id


class _Labels(NamedTuple):
    """The labels of an annotation for the file's J keypoints."""

    points: NDArray[np.float64]  # (J, 2)
    flags: NDArray[np.float64]  # (J,) 0, 1 or 2
    seen: NDArray[np.int_]  # (J,) 1 seen, 0 not, -1 unknown
    weights: NDArray[np.float64]  # (J,)


def _read_labels(entry: dict[str, Any], where: str, columns: KeypointColumns) -> _Labels:
    table = keypoint_table(entry, where, columns.num_keypoints)
    flags = table[:, 2]
    if not np.isin(flags, (0, 1, 2)).all():
        place = int(np.flatnonzero(~np.isin(flags, (0, 1, 2)))[0])
        raise DataError(f"{where}.keypoints[{3 * place + 2}]: flag {flags[place]:g}, expected 0, 1 or 2")
    scores = _newer(entry, "keypoint_scores", "joint_scores")
    labelled = _newer(entry, "labelled_keypoints", "labelled_joints")
    if labelled is not None:
        flags = np.where(_is_labelled(entry[labelled], f"{where}.{labelled}", columns), flags, 0)
    weights = np.ones(columns.num_keypoints)
    if scores is not None:
        # The peaks of heatmaps can slightly exceed 1.
        weights = numbers(entry, scores, where, columns.num_keypoints, "one a keypoint").clip(0, 1)
    # A teacher does not predict whether a keypoint is seen, and lists of labelled keypoints have no flags.
    tells_seen = scores is None and labelled is None
    return _Labels(table[:, :2], flags, (flags == 2) if tells_seen else np.full(len(flags), -1), weights)


def _read_person(entry: dict[str, Any], where: str, columns: KeypointColumns, skeleton: Skeleton | None) -> Person:
    """Convert an entry of `annotations` to a person with the skeleton's keypoints; `where` names it in errors."""
    labels = _read_labels(entry, where, columns)
    left, top, width, height = box(entry, where)
    corners = np.array((left, top, left + width, top + height))
    area = number(entry, "area", where, low=0, high=1e18) if "area" in entry else 0.0
    is_crowd, ignore = flag(entry, "iscrowd", where), flag(entry, "ignore", where)
    # CrowdPose does not count head and neck, and ignores people without any other labelled keypoint.
    counted = number(entry, "num_keypoints", where, low=0, high=MAX_NUMBER) if "num_keypoints" in entry else None
    visibility = columns.spread(labels.flags, 0, np.uint8)
    person = Person(
        keypoints=columns.spread(labels.points, 0, np.float64),
        visibility=visibility,
        visible=columns.spread(labels.seen, -1, np.int8),
        keypoint_weights=columns.spread(labels.weights, 1, np.float32),
        box=corners,
        area=area or estimated_area(corners, labels.points[labels.flags > 0]),
        score=number(entry, "score", where, low=0, high=1) if "score" in entry else 1.0,
        is_crowd=is_crowd,
        ignore=is_crowd or ignore or counted == 0 or not visibility.any(),
        annotation_id=identity(entry, "id", where),
        category_id=identity(entry, "category_id", where),
    )
    return _with_abdomen(person, columns, skeleton) if skeleton is not None else person


def _check_count(entry: dict[str, Any], person: Person, columns: KeypointColumns, report: Reporter) -> None:
    """Report a `num_keypoints` that does not match the labels; reading does not need it."""
    labelled = [name for name, value in zip(columns.names, entry["keypoints"][2::3], strict=True) if value > 0]
    told = entry.get("num_keypoints", len(labelled))
    # CrowdPose's own files do not count head and neck.
    if told != len(labelled) and told != len([name for name in labelled if name not in TOP]):
        report("keypoint count", f"{person.place}: num_keypoints is {told}, {len(labelled)} are labelled")


def _with_abdomen(person: Person, columns: KeypointColumns, skeleton: Skeleton) -> Person:
    """Add the mean of the labelled shoulders and hips, if at least three are labelled and the file has no abdomen."""
    if ABDOMEN not in skeleton.keypoints or skeleton.index(ABDOMEN) in columns.wanted:
        return person
    around = [skeleton.index(name) for name in AROUND_ABDOMEN if name in skeleton.keypoints]
    labelled = [k for k in around if person.visibility[k] > 0]
    if len(labelled) < 3:
        return person
    keypoints, visibility = person.keypoints.copy(), person.visibility.copy()
    keypoints[skeleton.index(ABDOMEN)] = keypoints[labelled].mean(0)
    visibility[skeleton.index(ABDOMEN)] = 1
    return replace(person, keypoints=keypoints, visibility=visibility)


def _known_names(columns: KeypointColumns, skeleton: Skeleton | None) -> tuple[str, ...]:
    """Return the keypoints of a category, also the one that `_with_abdomen` adds."""
    if skeleton is None or ABDOMEN not in skeleton.keypoints or skeleton.index(ABDOMEN) in columns.wanted:
        return columns.names
    return (*columns.names, ABDOMEN) if None not in find_names(AROUND_ABDOMEN, columns.names) else columns.names


def _newer(entry: dict[str, Any], key: str, old_key: str) -> str | None:
    """Return the name, new or old, under which an entry has a field; None if it lacks the field."""
    return next((each for each in (key, old_key) if each in entry), None)


def _is_labelled(names: Any, where: str, columns: KeypointColumns) -> NDArray[np.bool_]:
    """Return (J,) bool: which of the file's keypoints `names` lists."""
    if not isinstance(names, list):
        raise DataError(f"{where}: {reprlib.repr(names)}, expected a list of names")
    for place, name in enumerate(names):
        if name not in columns.names:
            raise DataError(f"{where}[{place}]: {reprlib.repr(name)} is not a keypoint of the file")
    return np.isin(columns.names, names)


FORMAT = Format("COCO-style JSON", lambda file: file.is_json, read)
