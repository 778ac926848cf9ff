"""Evaluate a detector on annotated photos: predict, keep what is done, score, report."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from posedet.data.annotations import AnnotatedPhoto, fingerprint
from posedet.data.keypoint_columns import keypoint_columns
from posedet.errors import ConfigError, DataError, PoseDetError
from posedet.evaluation.checked_entries import categories_of
from posedet.evaluation.keypoint_ap import KeypointAP, evaluate_keypoints
from posedet.evaluation.protocols import Protocol
from posedet.evaluation.report import make_output, write_report
from posedet.evaluation.truncation import cropped_views
from posedet.files import write_atomically
from posedet.poses import Poses
from posedet.runtime.detector import PoseDet

# Weaker poses than in daily use: precision at every recall is what counts.
EVALUATED_SCORE = 0.01

Predict = Callable[[Path | NDArray[np.uint8]], Poses]
Seen = Path | Callable[[], NDArray[np.uint8]]  # where a photo lies, or what makes it when its turn comes


def evaluate(
    predict: Predict,
    photos: Sequence[AnnotatedPhoto],
    protocol: Protocol,
    *,
    output: Path | None = None,
    model: str = "",
    truth: str = "",
    settings: Mapping[str, Any] = MappingProxyType({}),
    batch: int = 1,
) -> KeypointAP:
    """Predict every photo, and score the poses by `protocol`; a protocol of cropped photos has them cut first.

    photos: with the protocol's keypoints. With `output`, results.json (for a benchmark's server) and report.json are
    written there, and what was predicted before an interruption is not predicted again (predictions-*.jsonl; removed at
    the end), unless the photos, their annotations, `model` and `truth`, what the report calls model and photos, or
    `settings`, all else that poses depend on, are others. `batch` as in `predict_all`. Raises DataError as
    `evaluate_keypoints`, before anything is predicted.
    """
    evaluate_keypoints(photos, [], protocol)  # to know what is wrong before hours of predicting
    seen: Iterable[tuple[int, Seen]] = [(photo.image_id, photo.path) for photo in photos]
    if protocol.view == "cropped":
        views = cropped_views(photos)
        photos, seen = [view.photo for view in views], [(view.photo.image_id, view.read) for view in views]
    about = {"model": model, "settings": dict(settings), "truth": truth}
    partial = None
    if output is not None:
        make_output(output)
        digest = hashlib.sha256(
            json.dumps(about | {"protocol": protocol.name, "photos": fingerprint(photos)}).encode()
        ).hexdigest()
        partial = output / f"predictions-{digest[:16]}.jsonl"
    category_id = person_category(photos, protocol)
    results = predict_all(predict, seen, partial, batch=batch, category_id=category_id)
    scores = evaluate_keypoints(photos, results, protocol)
    if output is not None and partial is not None:
        write_atomically(output / "results.json", json.dumps(results).encode())
        write_report(output / "report.json", about | scores.to_dict())
        partial.unlink(missing_ok=True)
    return scores


def person_category(photos: Sequence[AnnotatedPhoto], protocol: Protocol) -> int:
    """The category that poses with the protocol's keypoints belong to: the one that has most of them."""
    categories = categories_of(photos, protocol)
    return max(categories, key=lambda each: len(keypoint_columns(list(categories[each]), "", protocol.skeleton).wanted))


def evaluate_file(
    results: Path, photos: Sequence[AnnotatedPhoto], protocol: Protocol, *, output: Path | None = None, truth: str = ""
) -> KeypointAP:
    """Score results in COCO's format, of whatever program, by `protocol`; with `output`, report.json is written there.

    truth: what the report calls the photos. Raises ConfigError for a protocol of cut photos: results on whole photos do
    not fit it.
    """
    if protocol.view == "cropped":
        raise ConfigError(f"results of whole photos do not fit the protocol '{protocol.name}', for which they are cut")
    scores = evaluate_keypoints(photos, results, protocol)
    if output is not None:
        make_output(output)
        write_report(output / "report.json", {"results": str(results), "truth": truth, **scores.to_dict()})
    return scores


def in_another_order(photos: Sequence[AnnotatedPhoto], protocol: Protocol) -> bool:
    """Whether annotations have the protocol's keypoints in another order: then it is not clear whose results have."""
    own = protocol.skeleton
    for names in categories_of(photos, protocol).values():
        columns = keypoint_columns(list(names), "", own)
        if len(names) == len(columns.column) == own.num_keypoints and (np.diff(columns.column) != 1).any():
            return True
    return False


def predict_all(
    predict: Predict,
    photos: Iterable[tuple[int, Seen]],
    partial: Path | None = None,
    *,
    batch: int = 1,
    label: str | None = None,
    category_id: int = 1,
) -> list[dict[str, Any]]:
    """COCO results of all photos (image id, photo), in their order; `partial` keeps each as soon as it is there.

    batch: how many photos of one size the network is given in a run, see `PoseDet.grouped`. label: of the progress bar.
    category_id: of all results. Raises ConfigError if `batch` is not 1 and something else than a `PoseDet` predicts.
    """
    if batch != 1 and not isinstance(predict, PoseDet):
        raise ConfigError(f"batch is {batch}, but {type(predict).__name__} takes one photo at a time")
    done = _done(partial) if partial is not None else {}
    photos = list(photos)
    missing = [(image_id, photo) for image_id, photo in photos if image_id not in done]
    read = ((image_id, photo() if callable(photo) else photo) for image_id, photo in missing)
    if isinstance(predict, PoseDet):
        found = predict.grouped(read, batch)
    else:
        found = ((image_id, predict(photo)) for image_id, photo in read)
    done_before = len(photos) - len(missing)
    progress = tqdm(found, label, initial=done_before, total=len(photos), unit="photo", disable=None)
    for image_id, poses in progress:
        done[image_id] = poses.to_coco(image_id, category_id=category_id)
        if partial is not None:
            _keep(partial, json.dumps([image_id, done[image_id]]) + "\n")
    return [result for image_id, _ in photos for result in done[image_id]]


def _keep(partial: Path, line: str) -> None:
    try:
        with partial.open("a") as file:
            file.write(line)
    except OSError as error:
        reason = error.strerror or error
        raise PoseDetError(f"{partial}: could not be written ({reason}); the same command resumes here") from None


def _done(partial: Path) -> dict[int, list[dict[str, Any]]]:
    """What an interrupted run has predicted; its last line may be cut off."""
    if not partial.exists():
        return {}
    try:
        lines = partial.read_text().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        if len(whole) < len(lines):
            write_atomically(partial, "".join(whole).encode())
        return dict(json.loads(line) for line in whole)
    except (OSError, ValueError, TypeError):
        raise DataError(f"{partial}: not what an interrupted evaluation leaves; remove it to start afresh") from None
