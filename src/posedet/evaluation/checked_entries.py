"""Truth and results checked and copied, and pycocotools' evaluator over them: what every AP here comes from.

pycocotools trusts what it is given: it fails in the middle, or silently leaves out, where the input is wrong.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posedet.data.annotations import BOX_FILL
from posedet.data.formats.coco import (
    MAX_NUMBER,
    KeypointColumns,
    box,
    category_of,
    entries,
    flag,
    identity,
    keypoint_table,
    listed,
    new_identity,
    number,
    numbers,
    read_categories,
    read_json,
)
from posedet.errors import DataError, PoseDetError
from posedet.evaluation.protocols import Protocol

Entries = list[dict[str, Any]]
Categories = dict[int, KeypointColumns | None]
Photos = dict[int, tuple[str, dict[str, Any]]]  # image id -> place in the file, entry


@dataclass(frozen=True, eq=False)
class CheckedEntries:
    """P people and D poses with the protocol's keypoints, as pycocotools needs them; coordinates in pixels."""

    protocol: Protocol
    photos: Photos
    category_ids: list[int]  # those with keypoints
    persons: Entries  # P, also the ignored
    poses: Entries  # D

    @cached_property
    def to_find(self) -> NDArray[np.bool_]:
        """(P,) people who are not ignored."""
        return np.array([each["num_keypoints"] > 0 and not each["iscrowd"] for each in self.persons], bool)


def read_entries(
    truth: str | Path | dict[str, Any],
    results: str | Path | Sequence[dict[str, Any]],
    protocol: Protocol,
    *,
    name: str = "truth",
) -> CheckedEntries:
    """A COCO-style keypoint file and results in COCO's format; both as file (`.json`, `.json.gz`) or content.

    name: what errors call the truth where it is content.
    Results have the protocol's keypoints in its order. Truth is mapped to them by name, or taken to be in that order
    if the file does not name them. An annotation with `"ignore": 1` or without any labelled keypoint is ignored as one
    with `num_keypoints` 0; annotations of categories without keypoints are left out.
    Raises DataError, one line that names the entry: `results[7].keypoints: 48 numbers, expected 51 (17 x 3)`.
    """
    truth_place, truth_data = _opened(truth, name)
    results_place, results_data = _opened(results, "results")
    categories = read_categories(truth_data, truth_place, protocol.skeleton, unnamed=protocol.skeleton.keypoints)
    photos = _checked_photos(truth_data, truth_place)
    return CheckedEntries(
        protocol=protocol,
        photos=photos,
        category_ids=[category_id for category_id, columns in categories.items() if columns is not None],
        persons=_checked_truth(truth_data, truth_place, protocol, categories, photos),
        poses=_checked_results(results_data, results_place, protocol, categories, photos),
    )


def coco_evaluator(checked: CheckedEntries) -> Any:
    """pycocotools' `COCOeval` after its work: matched, and accumulated into precision and recall.

    It numbers people and poses by their places, from 1.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise PoseDetError('evaluation needs pycocotools: pip install "posedet[evaluate]"') from None
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress by print
        indexed = []
        for annotations in (checked.persons, checked.poses):
            coco = COCO()
            coco.dataset = {
                "images": [{"id": image_id} for image_id in checked.photos],
                "categories": [{"id": category_id} for category_id in checked.category_ids],
                # Copies, since it writes into them; from 1, since it takes id 0 for "not found".
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


def _opened(source: Any, name: str) -> tuple[str, Any]:
    """How errors call the source, and its content."""
    if isinstance(source, str | Path):
        return str(source), read_json(source)
    return name, source


def _checked_photos(data: Any, where: str) -> Photos:
    photos: Photos = {}
    for place, entry in entries(data, "images", where):
        photos[new_identity(entry, photos, place)] = place, entry
    if not photos:
        raise DataError(f"{where}: images: none, so there is nothing to evaluate")
    return photos


def _checked_truth(data: Any, where: str, protocol: Protocol, categories: Categories, photos: Photos) -> Entries:
    persons: Entries = []
    taken: set[int] = set()
    num_keypoints = protocol.skeleton.num_keypoints
    for place, entry in entries(data, "annotations", where):
        taken.add(new_identity(entry, taken, place))
        image_id = _known_photo(entry, photos, place)
        columns = category_of(entry, categories, place)
        if columns is None:
            continue
        table = np.zeros((num_keypoints, 3))
        table[columns.wanted] = keypoint_table(entry, place, columns.num_keypoints)[columns.column]
        num_labelled = int((table[:, 2] > 0).sum())
        if flag(entry, "ignore", place):
            num_labelled = 0
        elif num_labelled and "num_keypoints" in entry:
            # CrowdPose counts without head and neck: people of whom nothing else is labelled are ignored.
            num_labelled = int(number(entry, "num_keypoints", place, low=0, high=MAX_NUMBER))
        bbox = box(entry, place)
        annotated = protocol.area == "annotation"
        area = number(entry, "area", place, low=0, high=1e18) if annotated else bbox[2] * bbox[3] * BOX_FILL
        persons.append(
            {
                "image_id": image_id,
                "category_id": entry["category_id"],
                "keypoints": table.ravel(),
                "num_keypoints": num_labelled,
                "bbox": bbox,
                "area": float(area),
                "iscrowd": int(flag(entry, "iscrowd", place)),
            }
        )
    return persons


def _checked_results(data: Any, where: str, protocol: Protocol, categories: Categories, photos: Photos) -> Entries:
    """The results as pycocotools' own loader would leave them."""
    place = where if where == "results" else f"{where}: results"
    checked = list(listed(list(data) if isinstance(data, tuple) else data, place))
    poses: Entries = []
    taken: set[int] = set()
    # An odd rule of pycocotools: boxes, if given, say whether a pose that fits nobody is medium or large.
    has_boxes = bool(checked) and all(entry.get("bbox") not in (None, []) for _, entry in checked)
    for place, entry in checked:
        if "id" in entry:
            taken.add(new_identity(entry, taken, place))
        image_id = _known_photo(entry, photos, place)
        if category_of(entry, categories, place) is None:
            raise DataError(f"{place}.category_id: {entry['category_id']} is a category without keypoints in the truth")
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


def _known_photo(entry: dict[str, Any], photos: Photos, where: str) -> int:
    image_id = identity(entry, "image_id", where)
    if image_id not in photos:
        raise DataError(f"{where}.image_id: {image_id} is not among the truth's images")
    return image_id
