"""Evaluate a detector on annotated photos: predict, keep what is done, score, report."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from posedet.data.coco_json import entries, identity, present, read_json
from posedet.data.ochuman import coco_form
from posedet.errors import ConfigError, DataError
from posedet.evaluation.keypoint_ap import KeypointAP, evaluate_keypoints
from posedet.evaluation.protocols import Protocol
from posedet.evaluation.report import write_report
from posedet.evaluation.truncation import cropped_views
from posedet.files import write_atomically
from posedet.poses import Poses

# Weaker poses than in daily use: precision at every recall is what counts.
EVALUATED_SCORE = 0.01

Predict = Callable[[Path | NDArray[np.uint8]], Poses]
Seen = TypeVar("Seen")  # a photo, or where it lies


def evaluate(
    predict: Predict, truth: Path, folder: Path, protocol: Protocol, *, output: Path | None = None, model: str = ""
) -> KeypointAP:
    """Predict every photo of `truth` in `folder` and score the poses by `protocol`.

    `truth` is COCO-style JSON, or what else the protocol reads; a protocol of cropped photos has them cut first.
    With `output`, results.json (for a benchmark's server) and report.json are written there, and what was predicted
    before an interruption is not predicted again (predictions.jsonl; removed at the end).
    """
    data = as_read = read_json(truth)
    if protocol.form == "ochuman":
        data = coco_form(data, str(truth))
    places = [(place, entry) for place, entry in entries(data, "images", str(truth))]
    photos = {identity(entry, "id", place): folder / str(present(entry, "file_name", place)) for place, entry in places}
    partial = None
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        partial = output / "predictions.jsonl"
    if protocol.view == "cropped":
        data, views = cropped_views(data, str(truth), photos, protocol.skeleton)
        results = predict_all(lambda view: predict(view.read()), views.items(), partial)
    else:
        results = predict_all(predict, photos.items(), partial)
    # By its path where it is as it was read: errors then name the file.
    scores = evaluate_keypoints(truth if data is as_read else data, results, protocol)
    if output is not None and partial is not None:
        write_atomically(output / "results.json", json.dumps(results).encode())
        write_report(output / "report.json", {"model": model, "truth": str(truth), **scores.to_dict()})
        partial.unlink(missing_ok=True)
    return scores


def evaluate_file(results: Path, truth: Path, protocol: Protocol, *, output: Path | None = None) -> KeypointAP:
    """Score results in COCO's format, of whatever program, by `protocol`; with `output`, report.json is written there.

    Raises ConfigError for a protocol of cut photos: results on whole photos do not fit it.
    """
    if protocol.view == "cropped":
        raise ConfigError("--protocol cropped does not go with --results: the photos are cut when they are predicted")
    data: Any = truth
    if protocol.form == "ochuman":
        data = coco_form(read_json(truth), str(truth))
    scores = evaluate_keypoints(data, results, protocol)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        write_report(output / "report.json", {"results": str(results), "truth": str(truth), **scores.to_dict()})
    return scores


def predict_all(
    predict: Callable[[Seen], Poses], photos: Iterable[tuple[int, Seen]], partial: Path | None = None
) -> list[dict[str, Any]]:
    """COCO results of all photos (image id, what `predict` takes); `partial` keeps each as soon as they are there."""
    done = _done(partial) if partial is not None else {}
    photos = list(photos)
    for image_id, photo in tqdm(photos, unit="photo", disable=None):
        if image_id in done:
            continue
        done[image_id] = predict(photo).to_coco(image_id)
        if partial is not None:
            with partial.open("a") as file:
                file.write(json.dumps([image_id, done[image_id]]) + "\n")
    return [result for image_id, _ in photos for result in done[image_id]]


def _done(partial: Path) -> dict[int, list[dict[str, Any]]]:
    """What an interrupted run has predicted; its last line may be cut off."""
    if not partial.exists():
        return {}
    lines = partial.read_text().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    if len(whole) < len(lines):
        write_atomically(partial, "".join(whole).encode())
    try:
        return dict(json.loads(line) for line in whole)
    except (ValueError, TypeError):
        raise DataError(f"{partial}: not what an interrupted evaluation leaves; remove it to start afresh") from None
