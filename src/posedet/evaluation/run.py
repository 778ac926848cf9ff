"""Evaluate a detector on annotated photos: predict, keep what is done, score, report."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from posedet.data.annotations import photo_path
from posedet.data.formats.coco import entries, identity, read_categories, read_json
from posedet.data.formats.ochuman import coco_form
from posedet.errors import ConfigError, DataError, PoseDetError
from posedet.evaluation.keypoint_ap import KeypointAP, evaluate_keypoints
from posedet.evaluation.protocols import Protocol
from posedet.evaluation.report import make_output, write_report
from posedet.evaluation.truncation import cropped_views
from posedet.files import write_atomically
from posedet.poses import Poses
from posedet.runtime.detector import PoseDet
from posedet.skeleton import Skeleton

# Weaker poses than in daily use: precision at every recall is what counts.
EVALUATED_SCORE = 0.01

Predict = Callable[[Path | NDArray[np.uint8]], Poses]
Seen = Path | Callable[[], NDArray[np.uint8]]  # where a photo lies, or what makes it when its turn comes


def check_photo_set(data: Path, photos: Path, remedy: str = "--photos") -> None:
    """Raises DataError where an annotation file or the folder of its photos is missing: before hours of work."""
    if not data.is_file():
        raise DataError(f"{data}: no such file")
    if not photos.is_dir():
        raise DataError(f"{photos}: no such folder; {remedy} says where those of {data.name} are")


def evaluate(
    predict: Predict,
    truth: Path,
    folder: Path,
    protocol: Protocol,
    *,
    output: Path | None = None,
    model: str = "",
    settings: Mapping[str, Any] = MappingProxyType({}),
    batch: int = 1,
) -> KeypointAP:
    """Predict every photo of `truth` in `folder` and score the poses by `protocol`.

    `truth` is COCO-style JSON, or what else the protocol reads; a protocol of cropped photos has them cut first.
    With `output`, results.json (for a benchmark's server) and report.json are written there, and what was predicted
    before an interruption is not predicted again (predictions-*.jsonl; removed at the end), unless the annotations, the
    folder of the photos, `model`, what the report calls it, or `settings`, all else that poses depend on, are others.
    `batch` as in `predict_all`.
    """
    check_photo_set(truth, folder)
    data, photos = _to_see(truth, folder, protocol)
    about = {"model": model, "settings": dict(settings), "truth": str(truth)}
    partial = None
    if output is not None:
        make_output(output)
        annotations = hashlib.sha256(truth.read_bytes()).hexdigest()
        seen = {"protocol": protocol.name, "photos": str(folder.resolve()), "annotations": annotations}
        digest = hashlib.sha256(json.dumps(about | seen).encode()).hexdigest()
        partial = output / f"predictions-{digest[:16]}.jsonl"
    category_id = person_category(data, str(truth), protocol.skeleton)
    results = predict_all(predict, photos.items(), partial, batch=batch, category_id=category_id)
    scores = evaluate_keypoints(data, results, protocol, name=str(truth))
    if output is not None and partial is not None:
        write_atomically(output / "results.json", json.dumps(results).encode())
        write_report(output / "report.json", about | scores.to_dict())
        partial.unlink(missing_ok=True)
    return scores


def _to_see(truth: Path, folder: Path, protocol: Protocol) -> tuple[dict[str, Any], Mapping[int, Seen]]:
    """Truth in COCO's form, and its photos as the protocol shows them."""
    data = _read_truth(truth, protocol)
    files = photo_files(data, str(truth), folder)
    evaluate_keypoints(data, [], protocol, name=str(truth))  # to know what is wrong before hours of predicting
    if protocol.view == "cropped":
        data, views = cropped_views(data, str(truth), files, protocol.skeleton)
        return data, {image_id: view.read for image_id, view in views.items()}
    return data, files


def _read_truth(truth: Path, protocol: Protocol) -> Any:
    data = read_json(truth)
    return coco_form(data, str(truth)) if protocol.form == "ochuman" else data


def photo_files(data: Any, where: str, folder: Path) -> dict[int, Path]:
    """Image id -> file of each photo of COCO-style `data`, called `where` in errors; DataError if one is missing."""
    files: dict[int, Path] = {}
    for place, entry in entries(data, "images", where):
        files[identity(entry, "id", place)] = file = photo_path(entry, place, folder)
        if not file.is_file():
            raise DataError(f"{place}.file_name: {str(file)!r:.200}: no such photo; is the folder of photos right?")
    return files


def person_category(data: Any, where: str, skeleton: Skeleton) -> int:
    """The category of COCO-style `data` that a skeleton's poses belong to: the one with most of its keypoints."""
    categories = read_categories(data, where, skeleton, unnamed=skeleton.keypoints)
    with_keypoints = {category_id: columns for category_id, columns in categories.items() if columns is not None}
    return max(with_keypoints, key=lambda category_id: len(with_keypoints[category_id].wanted))


def evaluate_file(results: Path, truth: Path, protocol: Protocol, *, output: Path | None = None) -> KeypointAP:
    """Score results in COCO's format, of whatever program, by `protocol`; with `output`, report.json is written there.

    Raises ConfigError for a protocol of cut photos: results on whole photos do not fit it.
    """
    if protocol.view == "cropped":
        raise ConfigError("--protocol cropped does not go with --results: the photos are cut when they are predicted")
    scores = evaluate_keypoints(_read_truth(truth, protocol), results, protocol, name=str(truth))
    if output is not None:
        make_output(output)
        write_report(output / "report.json", {"results": str(results), "truth": str(truth), **scores.to_dict()})
    return scores


def check_order(truth: Path, protocol: Protocol) -> None:
    """Raises ConfigError where a file has the protocol's keypoints in another order: whose order do results have?"""
    own = protocol.skeleton
    categories = read_categories(_read_truth(truth, protocol), str(truth), own, unnamed=own.keypoints)
    for columns in categories.values():
        if columns is None or not columns.num_keypoints == len(columns.column) == own.num_keypoints:
            continue
        if columns.column.tolist() != list(range(own.num_keypoints)):
            raise ConfigError(
                f"{truth}: categories: the keypoints of '{own.name}' in another order; say which one results have: "
                f"--skeleton {own.name}, or --skeleton {truth} for that of the file"
            )


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
        raise PoseDetError(f"{partial}: could not be written ({reason}); the same command goes on from here") from None


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
