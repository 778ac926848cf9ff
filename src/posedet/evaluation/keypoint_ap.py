"""Average precision and recall of poses over OKS thresholds, computed by pycocotools.

`evaluate_keypoints` says where the numbers intentionally differ from those of pycocotools.
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

from posedet.data.annotations import AnnotatedPhoto
from posedet.errors import DataError
from posedet.evaluation.checked_entries import ScoredKeypoints, coco_evaluator, read_entries, scored_keypoints
from posedet.evaluation.protocols import Protocol


@dataclass(frozen=True, kw_only=True)
class KeypointAP:
    """Scores from 0 to 1, or -1 for a size without a person to find, as in pycocotools.

    `ap` and `ar` are means over the OKS thresholds 0.50, 0.55, ... 0.95. Medium people have an area of at least 32 x 32
    pixels, large people of at least 96 x 96. Scores by crowd index are rounded to four digits, as in CrowdPose's
    evaluator, and None if the protocol has none.

    Attributes:
        protocol: The name of the protocol.
        num_photos: Number of photos.
        num_persons: Number of people to find, without those that are ignored.
        num_poses: Number of poses, before the best of each photo are chosen.
        num_keypoints: Number of keypoints of the protocol.
        missing_keypoints: Those that the annotations lack, and that are therefore not scored.
        ap: Mean AP over all thresholds.
        ap50: AP at an OKS of 0.50.
        ap75: AP at an OKS of 0.75.
        ap_medium: AP of medium people.
        ap_large: AP of large people.
        ar: Mean recall over all thresholds.
        ar50: Recall at an OKS of 0.50.
        ar75: Recall at an OKS of 0.75.
        ar_medium: Recall of medium people.
        ar_large: Recall of large people.
        ap_easy: AP of photos with a low crowd index, with the bins of CrowdPose's public evaluator.
        ap_medium_crowd: AP of photos with a medium crowd index.
        ap_hard: AP of photos with a high crowd index.
        ap_easy_paper: As `ap_easy`, with the bins of CrowdPose's paper.
        ap_medium_crowd_paper: As `ap_medium_crowd`, with the bins of CrowdPose's paper.
        ap_hard_paper: As `ap_hard`, with the bins of CrowdPose's paper.
    """

    protocol: str
    num_photos: int
    num_persons: int
    num_poses: int
    num_keypoints: int
    missing_keypoints: list[str]
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
    ap_easy: float | None
    ap_medium_crowd: float | None
    ap_hard: float | None
    ap_easy_paper: float | None
    ap_medium_crowd_paper: float | None
    ap_hard_paper: float | None

    @property
    def scored_keypoints(self) -> str:
        """How many keypoints were scored, and which are missing, in words."""
        return str(ScoredKeypoints(self.num_keypoints, self.missing_keypoints))

    def to_dict(self) -> dict[str, Any]:
        """Convert to names and numbers that can be written as JSON."""
        return asdict(self)


def evaluate_keypoints(
    photos: Sequence[AnnotatedPhoto], results: str | Path | Sequence[dict[str, Any]], protocol: Protocol
) -> KeypointAP:
    """Score results in COCO's format against annotated photos.

    All photos count, also those without results. The numbers are those of pycocotools with four exceptions: all
    categories are scored as one; more people are ignored, see `Person.ignore`; people without an area get an estimated
    one, see `estimated_area`; and an annotation with id 0, which pycocotools never counts as found, counts like any
    other.

    Args:
        photos: Annotated photos with the protocol's keypoints, in its order.
        results: A file (`.json`, `.json.gz`) or its content, with the same keypoints.
        protocol: The rules of the benchmark.

    Raises:
        DataError: If there are no photos, if two have the same id, if nobody is labelled, if the annotations lack
            keypoints that the protocol scores, if a result or its photo is invalid, or if the protocol needs a crowd
            index that a photo lacks.
    """
    checked = read_entries(photos, results, protocol)
    scored = scored_keypoints(photos, protocol)
    easy_to_hard = [
        _crowd_parts(checked.photos, bins) if bins else None
        for bins in (protocol.crowd_bins, protocol.paper_crowd_bins)
    ]
    evaluator = coco_evaluator(checked)
    return KeypointAP(
        protocol=protocol.name,
        num_photos=len(checked.photos),
        num_persons=int(checked.to_find.sum()),
        num_poses=len(checked.poses),
        num_keypoints=scored.num_keypoints,
        missing_keypoints=scored.missing,
        **_summary(evaluator.eval["precision"], evaluator.eval["recall"]),
        **_crowd_ap(evaluator, easy_to_hard[0], ("ap_easy", "ap_medium_crowd", "ap_hard")),
        **_crowd_ap(evaluator, easy_to_hard[1], ("ap_easy_paper", "ap_medium_crowd_paper", "ap_hard_paper")),
    )


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
    """Return the mean of the defined values; -1 marks a category or area without persons."""
    defined = values[values > -1]
    return float(defined.mean()) if len(defined) else -1.0


def _crowd_parts(photos: Sequence[AnnotatedPhoto], bins: tuple[float, float]) -> list[set[int]]:
    """Return the image ids of the easy, the medium and the hard photos."""
    parts: list[set[int]] = [set(), set(), set()]
    for photo in photos:
        if photo.crowd_index is None:
            raise DataError(f"{photo.place}: the crowd index ('crowdIndex') is missing")
        parts[sum(photo.crowd_index >= edge for edge in bins)].add(photo.image_id)
    return parts


def _crowd_ap(evaluator: Any, parts: list[set[int]] | None, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the AP of each part of the photos. Existing matches are reused, because photos are independent.

    As in CrowdPose's evaluator, it is the plain mean, including -1 for undefined entries, rounded to four digits.
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
