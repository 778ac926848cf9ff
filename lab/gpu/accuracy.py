"""The effect of half precision on the poses of the default model, in pixels and in AP."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from lab.gpu.finder import PoseFinder, for_running
from lab.gpu.host import DeviceDetector
from lab.gpu.limits import PRECISIONS, set_tf32
from lab.gpu.rows import Measurement, Plan, attempt
from lab.gpu.subjects import MODELS, build
from posedet.data.annotations import AnnotatedPhoto
from posedet.data.sources import read_photos
from posedet.evaluation.keypoint_ap import evaluate_keypoints
from posedet.evaluation.protocols import COCO_PROTOCOL
from posedet.evaluation.run import EVALUATED_SCORE
from posedet.oks import oks, pose_areas
from posedet.poses import Poses

SAME_PERSON = 0.5  # OKS of two poses


def accuracy(plan: Plan) -> Iterator[Measurement]:
    """Compare each precision on the annotated photos with float32 without TF32."""
    photos = read_photos(plan.annotations, COCO_PROTOCOL.skeleton)
    reference: list[Poses] = []
    for precision in PRECISIONS:
        found: list[Poses] = []
        row = Measurement("accuracy", MODELS[-1].name, f"{len(photos)} photos", precision, 1)
        yield attempt(row, partial(_measure, plan, photos, precision, reference, found))
        yield attempt(replace(row, variant="AP"), partial(_ap, photos, found))
        reference = reference or found


def _measure(
    plan: Plan, photos: Sequence[AnnotatedPhoto], precision: str, reference: list[Poses], found: list[Poses]
) -> dict[str, float]:
    """Appends the poses of each photo to `found`."""
    set_tf32(precision != "fp32")
    network, config, skeleton = build(MODELS[-1], plan)
    for_running(network, PRECISIONS[precision])
    finder = PoseFinder(network, skeleton.sigmas, config.decode, EVALUATED_SCORE)
    detector = DeviceDetector(finder, config, skeleton, plan.device)
    found += [detector(photo.path) for photo in photos]
    return distances(reference or found, found, config.decode.score_threshold)


def _ap(photos: Sequence[AnnotatedPhoto], found: Sequence[Poses]) -> dict[str, float]:
    results: list[dict[str, Any]] = []
    for photo, poses in zip(photos, found, strict=True):
        results += poses.select(COCO_PROTOCOL.skeleton).to_coco(photo.image_id)
    return {"AP": 100 * evaluate_keypoints(photos, results, COCO_PROTOCOL).ap}


def distances(reference: list[Poses], found: list[Poses], score_threshold: float) -> dict[str, float]:
    """Distances between the keypoints of confident poses, in pixels of the photo, and people found by only one."""
    pixels: list[np.ndarray[Any, Any]] = []
    vanished = appeared = people = 0
    for one, other in zip(reference, found, strict=True):
        one, other = (poses[poses.scores > score_threshold] for poses in (one, other))
        people += len(one)
        if not len(one) or not len(other):
            vanished, appeared = vanished + len(one), appeared + len(other)
            continue
        similarity = oks(other.keypoints, one.keypoints, one.skeleton.sigmas, np.maximum(pose_areas(one.keypoints), 1))
        match = similarity.argmax(0)
        same = similarity.max(0) > SAME_PERSON
        vanished += int((~same).sum())
        appeared += len(other) - len(set(match[same].tolist()))
        difference = other.keypoints[match[same]] - one.keypoints[same]
        pixels.append(np.sqrt(np.square(difference).sum(-1)).ravel())
    every = np.concatenate(pixels) if pixels else np.zeros(1)
    return {
        "median px": float(np.median(every)),
        "95 % px": float(np.percentile(every, 95)),
        "largest px": float(every.max()),
        "people": float(people),
        "vanished": float(vanished),
        "appeared": float(appeared),
    }
