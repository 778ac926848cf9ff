"""Check results, and evaluate them with pycocotools, which computes every AP here.

pycocotools does not check its input: on invalid input it crashes or silently drops entries. So results are checked
here; annotated photos are checked when they are read.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posedet.data.annotations import AnnotatedPhoto, Person, estimated_area
from posedet.data.json_entries import (
    MAX_NUMBER,
    identity,
    keypoint_table,
    known_category,
    listed,
    new_identity,
    number,
    numbers,
    read_json,
)
from posedet.errors import DataError, PoseDetError
from posedet.evaluation.protocols import Protocol

Entries = list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class CheckedEntries:
    """P people and D poses with the protocol's keypoints, as pycocotools needs them; coordinates in pixels."""

    protocol: Protocol
    photos: tuple[AnnotatedPhoto, ...]
    category_ids: list[int]  # those with keypoints
    persons: Entries  # P, also the ignored
    poses: Entries  # D

    @cached_property
    def to_find(self) -> NDArray[np.bool_]:
        """(P,) people who are not ignored."""
        return np.array([each["num_keypoints"] > 0 and not each["iscrowd"] for each in self.persons], bool)


def read_entries(
    photos: Sequence[AnnotatedPhoto], results: str | Path | Sequence[dict[str, Any]], protocol: Protocol
) -> CheckedEntries:
    """Combine annotated photos with results in COCO's format, given as file (`.json`, `.json.gz`) or content.

    Both have the protocol's keypoints in its order. The protocol defines the area of a person: as annotated, or by the
    box. Raises DataError if there are no photos, if two have the same id, or for an invalid result, in one line that
    names the entry: `results[7].keypoints: 48 numbers, expected 51 (17 x 3)`.
    """
    if not photos:
        raise DataError("no photos, so there is nothing to evaluate")
    if len({photo.image_id for photo in photos}) < len(photos):
        raise DataError("two photos have the same image id")
    categories = categories_of(photos, protocol)
    place, data = (str(results), read_json(results)) if isinstance(results, str | Path) else ("results", results)
    return CheckedEntries(
        protocol=protocol,
        photos=tuple(photos),
        category_ids=[category_id for category_id, names in categories.items() if names],
        persons=[_person_entry(photo, person, protocol) for photo in photos for person in photo.persons],
        poses=_checked_results(data, place, protocol, categories, {photo.image_id for photo in photos}),
    )


def categories_of(photos: Sequence[AnnotatedPhoto], protocol: Protocol) -> Mapping[int, tuple[str, ...]]:
    """Return all categories of the photos with their keypoints; without any, category 1 has the protocol's."""
    known = {each: names for photo in photos for each, names in photo.categories.items()}
    return known or {1: protocol.skeleton.keypoints}


def coco_evaluator(checked: CheckedEntries) -> Any:
    """Return pycocotools' `COCOeval` after matching and accumulation. It numbers people and poses from 1, in order."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise PoseDetError('evaluation needs pycocotools: pip install "posedet[evaluate]"') from None
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        indexed = []
        for annotations in (checked.persons, checked.poses):
            coco = COCO()
            coco.dataset = {
                "images": [{"id": photo.image_id} for photo in checked.photos],
                "categories": [{"id": category_id} for category_id in checked.category_ids],
                # Copies, because it modifies entries; numbered from 1, because id 0 means "not found".
                "annotations": [{**entry, "id": number} for number, entry in enumerate(annotations, 1)],
            }
            coco.createIndex()
            indexed.append(coco)
        evaluator = COCOeval(*indexed, "keypoints")
        evaluator.params.kpt_oks_sigmas = np.array(checked.protocol.skeleton.sigmas)
        evaluator.params.maxDets = [checked.protocol.max_detections]
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator


def _person_entry(photo: AnnotatedPhoto, person: Person, protocol: Protocol) -> dict[str, Any]:
    by_box = protocol.area == "box"
    return {
        "image_id": photo.image_id,
        "category_id": person.category_id,
        "keypoints": np.column_stack((person.keypoints, person.visibility)).astype(np.float64).ravel(),
        "num_keypoints": 0 if person.ignore else int(person.labelled.sum()),  # 0: ignored
        "bbox": np.concatenate((person.box[:2], person.box[2:] - person.box[:2])),
        "area": estimated_area(person.box, person.keypoints[person.labelled]) if by_box else person.area,
        "iscrowd": int(person.is_crowd),
    }


def _checked_results(
    data: Any, where: str, protocol: Protocol, categories: Mapping[int, tuple[str, ...]], image_ids: set[int]
) -> Entries:
    """Check results, and return them as pycocotools' own loader would."""
    place = where if where == "results" else f"{where}: results"
    checked = list(listed(list(data) if isinstance(data, tuple) else data, place))
    poses: Entries = []
    taken: set[int] = set()
    # In pycocotools boxes, if given, decide whether an unmatched pose is medium or large.
    has_boxes = bool(checked) and all(entry.get("bbox") not in (None, []) for _, entry in checked)
    for place, entry in checked:
        if "id" in entry:
            taken.add(new_identity(entry, taken, place))
        image_id = identity(entry, "image_id", place)
        if image_id not in image_ids:
            raise DataError(f"{place}.image_id: {image_id} is not an image of the annotations")
        if not categories[known_category(entry, categories, place)]:
            raise DataError(
                f"{place}.category_id: {entry['category_id']} is a category without keypoints in the annotations"
            )
        table = keypoint_table(entry, place, protocol.skeleton.num_keypoints)
        width, height = np.ptp(table[:, :2], axis=0)
        if has_boxes:
            width, height = numbers(entry, "bbox", place, 4, "x, y, width, height")[2:]
        poses.append(
            {
                "image_id": image_id,
                "category_id": entry["category_id"],
                "keypoints": table.ravel(),
                "score": number(entry, "score", place, low=-MAX_NUMBER, high=MAX_NUMBER),
                "area": float(width * height),
            }
        )
    return poses
