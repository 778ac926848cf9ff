"""Average precision and recall of poses over OKS thresholds, with pycocotools as the engine.

pycocotools trusts what it is given: it fails in the middle, or silently leaves out, where the input is wrong. So truth
and results are checked and copied here first. Where the two differ on purpose, `evaluate_keypoints` says so.
"""

import contextlib
import copy
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posedet.data.annotations import BOX_FILL
from posedet.data.coco_json import (
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


@dataclass(frozen=True, kw_only=True)
class KeypointAP:
    """Scores from 0 to 1; -1 where there is no person to find, as in pycocotools.

    `ap` and `ar` are means over the OKS thresholds 0.50, 0.55, ... 0.95; medium and large are the area from 32 x 32
    and from 96 x 96 pixels. Scores by crowd index are rounded to four digits, as CrowdPose's evaluator does, and None
    in protocols without.
    """

    protocol: str
    num_photos: int
    num_persons: int  # to find: those that are not ignored
    num_poses: int  # found, before the best of a photo are chosen
    ap: float
    ap50: float
    ap75: float
    ap_medium: float
    ap_large: float
    ar: float
    ar50: float
    ar75: float
    ar_medium: float
    ar_large: float
    ap_easy: float | None  # photos by crowd index, bins as in the benchmark's public evaluator
    ap_medium_crowd: float | None
    ap_hard: float | None
    ap_easy_paper: float | None  # bins as in the benchmark's paper
    ap_medium_crowd_paper: float | None
    ap_hard_paper: float | None

    def to_dict(self) -> dict[str, Any]:
        """Names and numbers, ready for JSON."""
        return asdict(self)


def evaluate_keypoints(
    truth: str | Path | dict[str, Any], results: str | Path | Sequence[dict[str, Any]], protocol: Protocol
) -> KeypointAP:
    """Score results in COCO's format against a COCO-style keypoint file; both as file (`.json`, `.json.gz`) or content.

    Results have the protocol's keypoints in its order. Truth is mapped to them by name, or taken to be in that order
    if the file does not name them. All photos of the truth count, also those without results.

    The numbers are those of pycocotools, except that an annotation with `"ignore": 1` or without any labelled keypoint
    is ignored as one with `num_keypoints` 0, and that one with id 0, which pycocotools never takes as found, counts
    like any other. Annotations of categories without keypoints are left out.
    Raises DataError, one line that names the entry: `results[7].keypoints: 48 numbers, expected 51 (17 x 3)`.
    """
    truth_place, truth_data = _opened(truth, "truth")
    results_place, results_data = _opened(results, "results")
    categories = read_categories(truth_data, truth_place, protocol.skeleton, unnamed=protocol.skeleton.keypoints)
    photos = _checked_photos(truth_data, truth_place)
    persons = _checked_truth(truth_data, truth_place, protocol, categories, set(photos))
    poses = _checked_results(results_data, results_place, protocol, categories, set(photos))
    category_ids = [category_id for category_id, columns in categories.items() if columns is not None]
    easy_to_hard = [
        _crowd_parts(photos, bins) if bins else None for bins in (protocol.crowd_bins, protocol.paper_crowd_bins)
    ]
    evaluator = _matched(list(photos), category_ids, persons, poses, protocol)
    num_persons = sum(person["num_keypoints"] > 0 and not person["iscrowd"] for person in persons)
    return KeypointAP(
        protocol=protocol.name,
        num_photos=len(photos),
        num_persons=num_persons,
        num_poses=len(poses),
        **_summary(evaluator.eval["precision"], evaluator.eval["recall"]),
        **_crowd_ap(evaluator, easy_to_hard[0], ("ap_easy", "ap_medium_crowd", "ap_hard")),
        **_crowd_ap(evaluator, easy_to_hard[1], ("ap_easy_paper", "ap_medium_crowd_paper", "ap_hard_paper")),
    )


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


def _checked_truth(data: Any, where: str, protocol: Protocol, categories: Categories, photos: set[int]) -> Entries:
    """The annotations as pycocotools needs them, numbered from 1 since it takes id 0 for "not found"."""
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
            num_labelled = identity(entry, "num_keypoints", place)
        bbox = box(entry, place)
        annotated = protocol.area == "annotation"
        area = number(entry, "area", place, low=0, high=1e18) if annotated else bbox[2] * bbox[3] * BOX_FILL
        persons.append(
            {
                "id": len(persons) + 1,
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


def _checked_results(data: Any, where: str, protocol: Protocol, categories: Categories, photos: set[int]) -> Entries:
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
                "id": len(poses) + 1,
                "image_id": image_id,
                "category_id": entry["category_id"],
                "keypoints": table.ravel(),
                "score": number(entry, "score", place, low=-MAX_NUMBER, high=MAX_NUMBER),
                "area": float(width * height),
            }
        )
    return poses


def _known_photo(entry: dict[str, Any], photos: set[int], where: str) -> int:
    image_id = identity(entry, "image_id", where)
    if image_id not in photos:
        raise DataError(f"{where}.image_id: {image_id} is not among the truth's images")
    return image_id


def _matched(
    image_ids: list[int], category_ids: list[int], persons: Entries, poses: Entries, protocol: Protocol
) -> Any:
    """pycocotools' evaluator after its work."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise PoseDetError('evaluation needs pycocotools: pip install "posedet[train]"') from None
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress by print
        indexed = []
        for annotations in (persons, poses):
            coco = COCO()
            coco.dataset = {
                "images": [{"id": image_id} for image_id in image_ids],
                "categories": [{"id": category_id} for category_id in category_ids],
                "annotations": annotations,
            }
            coco.createIndex()
            indexed.append(coco)
        evaluator = COCOeval(*indexed, "keypoints")
        evaluator.params.kpt_oks_sigmas = np.array(protocol.skeleton.sigmas)
        evaluator.params.maxDets = [protocol.max_detections]
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator


def _summary(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> dict[str, Any]:
    """COCO's ten numbers from precision (T, R, C, A, 1) and recall (T, C, A, 1): thresholds of OKS and recall,
    categories, areas."""
    thresholds = {"": slice(None), "50": slice(0, 1), "75": slice(5, 6)}
    areas = {"": 0, "_medium": 1, "_large": 2}
    parts = [("", ""), ("50", ""), ("75", ""), ("", "_medium"), ("", "_large")]
    return {
        f"{name}{threshold}{area}": _mean(values[thresholds[threshold], ..., areas[area], :])
        for name, values in (("ap", precision), ("ar", recall))
        for threshold, area in parts
    }


def _mean(values: NDArray[np.float64]) -> float:
    """Over what is defined: -1 stands for a category or area without persons."""
    defined = values[values > -1]
    return float(defined.mean()) if len(defined) else -1.0


def _crowd_parts(photos: Photos, bins: tuple[float, float]) -> list[set[int]]:
    """Image ids of the easy, the medium and the hard photos."""
    parts: list[set[int]] = [set(), set(), set()]
    for image_id, (place, entry) in photos.items():
        crowd_index = number(entry, "crowdIndex", place, low=0, high=MAX_NUMBER)
        parts[sum(crowd_index >= edge for edge in bins)].add(image_id)
    return parts


def _crowd_ap(evaluator: Any, parts: list[set[int]] | None, names: tuple[str, ...]) -> dict[str, Any]:
    """AP of each part of the photos, from matches already made: photos do not depend on each other.

    As in CrowdPose's evaluator: the plain mean, -1 of undefined entries included, rounded to four digits.
    """
    if parts is None:
        return dict.fromkeys(names)
    params = evaluator.params
    image_ids = np.array(params.imgIds)
    every = np.empty(len(evaluator.evalImgs), object)
    every[:] = evaluator.evalImgs
    by_photo = every.reshape(len(params.catIds), len(params.areaRng), len(image_ids))
    scores = {}
    for name, part in zip(names, parts, strict=True):
        chosen = np.isin(image_ids, list(part))
        partial = copy.copy(evaluator)
        partial.params = copy.copy(params)
        partial.params.imgIds = list(image_ids[chosen])
        partial.params.areaRng = params.areaRng[:1]
        partial._paramsEval = partial.params
        partial.evalImgs = list(by_photo[:, 0, chosen].ravel())
        with contextlib.redirect_stdout(io.StringIO()):
            partial.accumulate()
        scores[name] = round(float(np.mean(partial.eval["precision"])), 4)
    return scores
