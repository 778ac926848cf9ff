"""Read OCHuman, a dataset of people who occlude each other, from its own JSON.

In this format (github.com/liruilong940607/OCHumanApi) annotations are nested in images, boxes are x1 y1 x2 y2, and 17
of the 19 named keypoints are COCO's. OCHuman's val and test sets are also published as COCO-style files.
"""

import reprlib
from pathlib import Path
from typing import Any

import numpy as np

from posedet.data.annotations import AnnotatedPhoto, Person, estimated_area
from posedet.data.formats.format import AnnotationFile, CategoryError, Format
from posedet.data.json_entries import entries, keypoint_table, listed, numbers, photo_path, photo_sides, present
from posedet.data.keypoint_columns import KeypointColumns, keypoint_columns
from posedet.data.remarks import Reporter, reporting
from posedet.errors import DataError
from posedet.files import photo_folder
from posedet.skeleton import Skeleton

# From OCHuman's flags (0 missing, 1 seen, 2 self-occluded, 3 occluded by others) to COCO's, as published:
_COCO_FLAGS = {0: 0, 1: 2, 2: 2, 3: 1}


def recognises(file: AnnotationFile) -> bool:
    """Whether this is OCHuman's own format, with annotations inside the images."""
    return file.is_json and isinstance(file.json, dict) and file.json.keys() >= {"keypoint_names", "images"}


def read(
    file: AnnotationFile, folder: str | None, skeleton: Skeleton | None, report: Reporter
) -> tuple[AnnotatedPhoto, ...]:
    """Read the photos that have people with keypoints; they are in `folder`, by default the one of the file's name.

    As in the published conversion, photos are numbered from 1 in the order of their `image_id`, and a person's area is
    that of the box. People with only a box are skipped, so poses on them count as wrong. The flags become COCO's.
    """
    where = str(file.path)
    if file.category is not None:
        raise CategoryError(f"{where}: this format has only people, and no category {file.category!r:.80}")
    columns = _columns(file.json["keypoint_names"], f"{where}: keypoint_names", skeleton)
    beside = photo_folder(file.path) if folder is None else Path(folder)
    photos: list[AnnotatedPhoto] = []
    num_people = 0
    for place, entry in _in_order(file.json, where, report):
        with reporting(report, "image entry"):
            people = _labelled_people(entry, place, report)
            if not people:
                continue
            path, size = photo_path(entry, place, beside), photo_sides(entry, place)
            persons = []
            for spot, labels in people:
                with reporting(report, "annotation entry"):
                    persons.append(_read_person(labels, f"{spot} ({path.name})", spot, columns, num_people + 1))
                    num_people += 1
            photos.append(
                AnnotatedPhoto(
                    image_id=len(photos) + 1,
                    path=path,
                    size=size,
                    persons=tuple(persons),
                    categories={1: columns.names},
                    place=place,
                    file_name=entry["file_name"],
                )
            )
    return tuple(photos)


def _columns(names: Any, where: str, skeleton: Skeleton | None) -> KeypointColumns:
    columns = keypoint_columns(names, where, skeleton or Skeleton.from_dict({"name": "OCHuman", "keypoints": names}))
    if not len(columns.wanted):
        assert skeleton is not None
        raise DataError(f"{where}: no keypoint of skeleton '{skeleton.name}' among {reprlib.repr(names)}")
    return columns


def _in_order(data: Any, where: str, report: Reporter) -> list[tuple[str, dict[str, Any]]]:
    """Return the entries of `images` in the order of their `image_id`, each with its place."""
    numbered = []
    for place, entry in entries(data, "images", where, report):
        with reporting(report, "image entry"):
            numbered.append((_image_id(entry, place), place, entry))
    return [(place, entry) for _, place, entry in sorted(numbered, key=lambda each: each[0])]


def _image_id(photo: dict[str, Any], place: str) -> int:
    """Return the `image_id`, a number or a string of digits."""
    image_id = present(photo, "image_id", place)
    text = str(image_id)
    if isinstance(image_id, bool) or not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise DataError(f"{place}.image_id: {reprlib.repr(image_id)}, expected a whole number")
    return int(text)


def _labelled_people(photo: dict[str, Any], place: str, report: Reporter) -> list[tuple[str, dict[str, Any]]]:
    people = listed(present(photo, "annotations", place), f"{place}.annotations", report)
    return [(spot, person) for spot, person in people if person.get("keypoints")]


def _read_person(entry: dict[str, Any], name: str, where: str, columns: KeypointColumns, annotation_id: int) -> Person:
    table = keypoint_table(entry, where, columns.num_keypoints)
    for place, flag in enumerate(table[:, 2]):
        if flag not in _COCO_FLAGS:
            raise DataError(f"{where}.keypoints[{3 * place + 2}]: flag {flag:g}, expected 0, 1, 2 or 3")
        table[place, 2] = _COCO_FLAGS[flag]
    corners = numbers(entry, "bbox", where, 4, "x1, y1, x2, y2")
    if (corners[2:] < corners[:2]).any():
        raise DataError(f"{where}.bbox: x2 or y2 lies before x1 or y1, expected x1, y1, x2, y2")
    visibility = columns.spread(table[:, 2], 0, np.uint8)
    return Person(
        keypoints=columns.spread(table[:, :2], 0, np.float64),
        visibility=visibility,
        visible=columns.spread(table[:, 2] == 2, -1, np.int8),
        keypoint_weights=np.ones(columns.num_wanted, np.float32),
        box=corners,
        area=float((corners[2:] - corners[:2]).prod()) or estimated_area(corners, table[table[:, 2] > 0, :2]),
        score=1.0,
        is_crowd=False,
        ignore=not visibility.any(),
        annotation_id=annotation_id,
        place=name,
    )


FORMAT = Format("OCHuman's own JSON", recognises, read)
