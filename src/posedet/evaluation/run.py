"""Evaluate a detector on annotated photos: predict, score and report. Interrupted evaluations can be resumed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar
from typing import Protocol as Interface

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from posedet.data.annotations import AnnotatedPhoto, fingerprint
from posedet.data.keypoint_columns import keypoint_columns
from posedet.errors import ConfigError
from posedet.evaluation.checked_entries import categories_of
from posedet.evaluation.keypoint_ap import KeypointAP, evaluate_keypoints
from posedet.evaluation.protocols import Protocol
from posedet.evaluation.report import write_report
from posedet.evaluation.truncation import cropped_views
from posedet.files import no_terminal
from posedet.journal import Journal
from posedet.outputs import make_folder, write_results
from posedet.poses import Poses
from posedet.runtime.detector import PoseDet
from posedet.runtime.session import Session

GENERATOR = "posedet evaluate"
# The lowest pose score that is evaluated. It is low because AP needs the precision at every recall.
EVALUATED_SCORE = 0.01

Predict = Callable[[Path | NDArray[np.uint8]], Poses]
Seen = Path | Callable[[], NDArray[np.uint8]]  # the path of a photo, or a function that returns the photo

ItemT = TypeVar("ItemT")


class Processes(Interface):
    """Several processes that share an evaluation, such as `posedet.training.processes.Processes`."""

    @property
    def rank(self) -> int: ...

    @property
    def world(self) -> int: ...

    def gathered(self, items: list[ItemT]) -> list[ItemT]:
        """The items of all processes in the order of their ranks."""


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
    processes: Processes | None = None,
) -> KeypointAP:
    """Predict every photo, and score the poses by `protocol`. A protocol of cropped photos crops them first.

    Args:
        predict: A detector that returns poses with the protocol's keypoints, weak ones included.
        photos: Annotated photos with the protocol's keypoints.
        protocol: The rules of the benchmark.
        output: A folder for results.json (for a benchmark's server) and report.json. Predictions are also saved there
            during the evaluation (predictions-*.jsonl, deleted at the end), so that an interrupted evaluation can be
            resumed with the same photos, annotations, `model`, `truth` and `settings`.
        model: The name of the model in the report.
        truth: The name of the annotations in the report.
        settings: All other settings that the poses depend on.
        batch: See `predict_all`.
        processes: Every process predicts a part of the photos; the first one writes the files. Default: this one alone.

    Returns:
        AP and AR of all photos, from 0 to 1.

    Raises:
        DataError: If the annotations cannot be evaluated. This is checked before the first prediction.
    """
    evaluate_keypoints(photos, [], protocol)  # finds mistakes before hours of predicting
    seen: Iterable[tuple[int, Seen]] = [(photo.image_id, photo.path) for photo in photos]
    if protocol.view == "cropped":
        views = cropped_views(photos)
        photos, seen = [view.photo for view in views], [(view.photo.image_id, view.read) for view in views]
    about = {"model": model, "settings": dict(settings), "truth": truth}
    rank, world = (0, 1) if processes is None else (processes.rank, processes.world)
    everything = about | {"protocol": protocol.name, "photos": fingerprint(photos)}
    with journal_of(output, everything, len(photos), rank) as journal:
        results = predict_all(
            predict, list(seen)[rank::world], journal, batch=batch, category_id=person_category(photos, protocol)
        )
        if processes is not None and world > 1:
            results = processes.gathered(results)
            places = {photo.image_id: place for place, photo in enumerate(photos)}
            results.sort(key=lambda result: places[result["image_id"]])
        scores = evaluate_keypoints(photos, results, protocol)
        if output is not None and rank == 0:
            write_results(output / "results.json", GENERATOR, results)
            write_report(output / "report.json", GENERATOR, about | scores.to_dict())
    return scores


def journal_of(
    output: Path | None, about: Mapping[str, Any], total: int, rank: int = 0
) -> AbstractContextManager[Journal | None]:
    """Return the journal in the folder `output` that keeps predictions until all are made, and create the folder.

    about: everything that the predictions depend on. rank: that of the process that makes them. No folder: no journal.
    """
    if output is None:
        return nullcontext()
    make_folder(output)
    return Journal(output / f"predictions{f'-{rank}' if rank else ''}", GENERATOR, about, total)


def validation(
    photos: Sequence[AnnotatedPhoto], protocol: Protocol, processes: Processes | None = None
) -> Callable[[Session], dict[str, float]]:
    """Return a function that measures a network during training on annotated photos with the protocol's keypoints.

    Raises DataError at once if the annotations cannot be evaluated.
    """
    evaluate_keypoints(photos, [], protocol)

    def validate(session: Session) -> dict[str, float]:
        detector = PoseDet(session, skeleton=protocol.skeleton, score_threshold=EVALUATED_SCORE)
        scores = evaluate(detector, photos, protocol, processes=processes)
        return {"ap": scores.ap, "ap50": scores.ap50, "ap75": scores.ap75, "ar": scores.ar}

    return validate


def person_category(photos: Sequence[AnnotatedPhoto], protocol: Protocol) -> int:
    """Return the id of the category that has most of the protocol's keypoints."""
    categories = categories_of(photos, protocol)
    return max(categories, key=lambda each: len(keypoint_columns(list(categories[each]), "", protocol.skeleton).wanted))


def evaluate_file(
    results: Path, photos: Sequence[AnnotatedPhoto], protocol: Protocol, *, output: Path | None = None, truth: str = ""
) -> KeypointAP:
    """Score a file of results in COCO's format, from any program, by `protocol`.

    Args:
        results: The file of results.
        photos: Annotated photos with the protocol's keypoints.
        protocol: The rules of the benchmark.
        output: A folder for report.json.
        truth: The name of the annotations in the report.

    Raises:
        ConfigError: If the protocol crops photos, because the results are those of whole photos.
        DataError: If annotations or results are invalid.
    """
    if protocol.view == "cropped":
        raise ConfigError(
            f"results of whole photos cannot be scored by the protocol '{protocol.name}', which crops the photos first"
        )
    scores = evaluate_keypoints(photos, results, protocol)
    if output is not None:
        make_folder(output)
        write_report(output / "report.json", GENERATOR, {"results": str(results), "truth": truth, **scores.to_dict()})
    return scores


def in_another_order(photos: Sequence[AnnotatedPhoto], protocol: Protocol) -> bool:
    """Whether annotations list the protocol's keypoints in another order, so that the order of results is unclear."""
    own = protocol.skeleton
    for names in categories_of(photos, protocol).values():
        columns = keypoint_columns(list(names), "", own)
        if len(names) == len(columns.column) == own.num_keypoints and (np.diff(columns.column) != 1).any():
            return True
    return False


def predict_all(
    predict: Predict,
    photos: Iterable[tuple[int, Seen]],
    journal: Journal | None = None,
    *,
    batch: int = 1,
    label: str | None = None,
    category_id: int = 1,
) -> list[dict[str, Any]]:
    """Predict all photos, and return the results in COCO's format.

    Args:
        predict: A detector.
        photos: Pairs of image id and photo.
        journal: Keeps the results of each photo under its image id.
        batch: Number of photos of one size that the network processes together, see `PoseDet.grouped`.
        label: The label of the progress bar.
        category_id: The category of all results.

    Returns:
        The results in the order of the photos.

    Raises:
        ConfigError: If `batch` is not 1, but `predict` is not a `PoseDet`.
        PoseDetError: If the journal cannot be written.
    """
    if batch != 1 and not isinstance(predict, PoseDet):
        raise ConfigError(f"batch is {batch}, but {type(predict).__name__} takes one photo at a time")
    done = {} if journal is None else dict(journal.kept)
    photos = list(photos)
    missing = [(image_id, photo) for image_id, photo in photos if image_id not in done]
    read = ((image_id, photo() if callable(photo) else photo) for image_id, photo in missing)
    if isinstance(predict, PoseDet):
        found = predict.grouped(read, batch)
    else:
        found = ((image_id, predict(photo)) for image_id, photo in read)
    done_before = len(photos) - len(missing)
    progress = tqdm(found, label, initial=done_before, total=len(photos), unit="photo", disable=no_terminal())
    for image_id, poses in progress:
        done[image_id] = poses.to_coco(image_id, category_id=category_id)
        if journal is not None:
            journal.keep(image_id, done[image_id])
    return [result for image_id, _ in photos for result in done[image_id]]
