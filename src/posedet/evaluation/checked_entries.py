"""Check results, and evaluate them with pycocotools, which computes every AP here.

pycocotools does not check its input: on invalid input it crashes or silently drops entries. So results are checked
here; annotated photos are checked when they are read.
"""

import contextlib
import io
import logging
import reprlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

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
from posedet.keypoint_names import find_names

CATEGORY_ID = 1  # of all people and poses: categories that are read together are scored together

Entries = list[dict[str, Any]]

log = logging.getLogger(__name__)


class MissingKeypointsError(DataError):
    """The annotations lack keypoints of the protocol, which scores all of them."""


class ScoredKeypoints(NamedTuple):
    """Which of the protocol's K keypoints the annotations have."""

    num_keypoints: int  # K
    missing: list[str]

    def __str__(self) -> str:
        missing = f"; missing: {', '.join(self.missing)}" if self.missing else ""
        return f"scored {self.num_keypoints - len(self.missing)} of {self.num_keypoints} keypoints{missing}"


@dataclass(frozen=True, eq=False)
class CheckedEntries:
    """P people and D poses with the protocol's keypoints, as pycocotools needs them; coordinates in pixels."""

    protocol: Protocol
    photos: tuple[AnnotatedPhoto, ...]
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
    box. A result belongs to the photo of its `file_name`, or without one to that of its `image_id`. Raises DataError if
    there are no photos, if two have the same id, if nobody is labelled, if the annotations lack keypoints (see
    `scored_keypoints`), or for an invalid result, in one line that names the entry: `results[7].keypoints: 48 numbers,
    expected 51 (17 x 3)`.
    """
    if not photos:
        raise DataError("no photos, so there is nothing to evaluate")
    if len({photo.image_id for photo in photos}) < len(photos):
        raise DataError("two photos have the same image id")
    scored_keypoints(photos, protocol)
    place, data = (str(results), read_json(results)) if isinstance(results, str | Path) else ("results", results)
    return CheckedEntries(
        protocol=protocol,
        photos=tuple(photos),
        persons=[_person_entry(photo, person, protocol) for photo in photos for person in photo.persons],
        poses=_checked_results(data, place, protocol, photos),
    )


def scored_keypoints(photos: Sequence[AnnotatedPhoto], protocol: Protocol) -> ScoredKeypoints:
    """Return which of the protocol's keypoints the annotations have.

    Raises MissingKeypointsError if the protocol scores all keypoints and some are missing, and DataError if nobody is
    labelled.
    """
    names = protocol.skeleton.keypoints
    known = [find_names(names, own) for own in categories_of(photos, protocol).values()]
    missing = [name for place, name in enumerate(names) if all(own[place] is None for own in known)]
    scored = ScoredKeypoints(len(names), missing)
    if scored.missing and protocol.keypoints == "all":
        few = f"{len(names) - len(missing)} of the {len(names)} keypoints to score"
        raise MissingKeypointsError(f"the annotations have {few}; missing: {', '.join(missing)}")
    if all(person.ignore for photo in photos for person in photo.persons):
        raise DataError(f"no labelled people in {len(photos)} photos, so there is nothing to evaluate")
    return scored


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
                "categories": [{"id": CATEGORY_ID}],
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
        "category_id": CATEGORY_ID,
        "keypoints": np.column_stack((person.keypoints, person.visibility)).astype(np.float64).ravel(),
        "num_keypoints": 0 if person.ignore else int(person.labelled.sum()),  # 0: ignored
        "bbox": np.concatenate((person.box[:2], person.box[2:] - person.box[:2])),
        "area": estimated_area(person.box, person.keypoints[person.labelled]) if by_box else person.area,
        "iscrowd": int(person.is_crowd),
    }


def _checked_results(data: Any, where: str, protocol: Protocol, photos: Sequence[AnnotatedPhoto]) -> Entries:
    """Check results, and return them as pycocotools' own loader would."""
    categories = categories_of(photos, protocol)
    place = where if where == "results" else f"{where}: results"
    checked = list(listed(list(data) if isinstance(data, tuple) else data, place))
    poses: Entries = []
    image_ids = _image_ids(checked, photos)
    taken: set[int] = set()
    # In pycocotools boxes, if given, decide whether an unmatched pose is medium or large.
    has_boxes = bool(checked) and all(entry.get("bbox") not in (None, []) for _, entry in checked)
    for (place, entry), image_id in zip(checked, image_ids, strict=True):
        if "id" in entry:
            taken.add(new_identity(entry, taken, place))
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
                "category_id": CATEGORY_ID,
                "keypoints": table.ravel(),
                "score": number(entry, "score", place, low=-MAX_NUMBER, high=MAX_NUMBER),
                "area": float(width * height),
            }
        )
    return poses


def _image_ids(results: Sequence[tuple[str, dict[str, Any]]], photos: Sequence[AnnotatedPhoto]) -> list[int]:
    """Return the image id of each result: that of the photo with its `file_name`, if results have one.

    Programs that see only photos number them in an order of their own, so that ids alone could mean other photos.
    """
    known = {photo.image_id for photo in photos}
    if not any(entry.get("file_name") is not None for _, entry in results):
        found = [identity(entry, "image_id", place) for place, entry in results]
        for (place, _), image_id in zip(results, found, strict=True):
            if image_id not in known:
                raise DataError(f"{place}.image_id: {image_id} is not an image of the annotations")
        return found
    by_name: dict[str, list[AnnotatedPhoto]] = {}
    for photo in photos:
        by_name.setdefault(_name_parts(photo.file_name or photo.path.name)[-1], []).append(photo)
    ids: dict[str, int] = {}
    names: dict[int, tuple[str, ...]] = {}
    found = []
    for place, entry in results:
        name = entry.get("file_name")
        if not isinstance(name, str) or not name:
            raise DataError(
                f"{place}.file_name: {reprlib.repr(name)}, expected the name of a photo, as in other results"
            )
        if name not in ids:
            parts = _name_parts(name)
            ids[name] = _photo_named(parts, by_name.get(parts[-1], []), f"{place}.file_name: {name!r:.200}")
            if names.setdefault(ids[name], parts) != parts:
                other = "/".join(names[ids[name]])
                raise DataError(f"{place}.file_name: {name!r:.200} and {other!r:.200} are one photo of the annotations")
        found.append(ids[name])
    if any(entry.get("image_id") != image_id for (_, entry), image_id in zip(results, found, strict=True)):
        log.info("results belong to photos by their file_name; image_id says something else")
    return found


def _photo_named(parts: tuple[str, ...], photos: Sequence[AnnotatedPhoto], where: str) -> int:
    """Return the id of the photo whose name ends like `parts`, in as many folders as both names have."""
    fitting = []
    for photo in photos:
        own = _name_parts(photo.file_name or photo.path.name)
        shared = min(len(own), len(parts))
        if own[-shared:] == parts[-shared:]:
            fitting.append((own == parts, shared, photo.image_id))
    best = [image_id for same, shared, image_id in fitting if (same, shared) == max(fitting)[:2]]
    if len(best) != 1:
        many = "may be several photos" if best else "is not a photo"
        raise DataError(f"{where} {many} of the annotations")
    return best[0]


def _name_parts(name: str) -> tuple[str, ...]:
    """Split a file name from any system: `C:\\a\\b.jpg` and `C:/a/b.jpg` are the same."""
    return PurePosixPath(unicodedata.normalize("NFC", name).replace("\\", "/")).parts or ("",)
