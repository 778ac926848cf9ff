"""Evaluations that run only once: `OUTPUT/evaluations/` stores each by its inputs, for all tables in that folder."""

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lab.paper import GENERATOR
from posedet.config import DecodeConfig
from posedet.data.annotations import AnnotatedPhoto, fingerprint
from posedet.evaluation.keypoint_ap import KeypointAP
from posedet.evaluation.protocols import Protocol
from posedet.evaluation.run import EVALUATED_SCORE, Processes, evaluate
from posedet.image import read_photo
from posedet.outputs import write_json
from posedet.runtime.detector import PoseDet
from posedet.runtime.session import About, Outputs, Session
from posedet.runtime.tta import Augmented
from posedet.weights.opening import open_model

log = logging.getLogger(__name__)

# Photos whose time is measured, after as many to warm up as the set allows: the paper leaves out the first 100.
TIMED, WARM_UP = 100, 100


@dataclass(frozen=True)
class Decoded:
    """A session whose output is decoded with other settings than its own."""

    session: Session
    about: About

    @classmethod
    def by(cls, session: Session, decode: DecodeConfig) -> "Decoded":
        return cls(session, replace(session.about, decode=decode))

    @property
    def device(self) -> str:
        return self.session.device

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        return self.session.run(images)


def open_for(file: Path, device: str) -> Session:
    """Open a model; for another device than the CPU, the PyTorch weights beside an ONNX file."""
    weights = file.with_suffix(".safetensors")
    if device != "cpu" and weights.is_file():
        file = weights
    return open_model(file, device=device)


def evaluated(
    session: Session,
    weights: Path,
    photos: Sequence[AnnotatedPhoto],
    protocol: Protocol,
    output: Path,
    *,
    truth: str = "",
    tta: bool = False,
    label: str = "",
    processes: Processes | None = None,
) -> KeypointAP:
    """Evaluate a session on annotated photos as `evaluate`, or return the result that `output` already contains.

    Args:
        weights: The file that the session was opened from.
        truth: Name of the photos in the report.
        tta: Use the paper's test-time augmentation.
        label: Name of the evaluation in the log.
        processes: They share the photos.
    """
    asked = {
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "photos": fingerprint(photos),
        "decode": asdict(session.about.decode),
        "protocol": protocol.name,
        "tta": tta,
        "version": session.about.version,
    }
    folder = output / "evaluations" / hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
    stored = _stored(folder / "report.json")
    if processes is not None:
        # The first process decides for all: it may be writing the report of an equal row just now.
        stored = processes.gathered([stored])[0]
    if stored is not None:
        return stored
    log.info("evaluating %s", label or weights.name)
    detector = PoseDet(session, skeleton=protocol.skeleton, score_threshold=EVALUATED_SCORE)
    predict = Augmented(detector, merge="paper") if tta else detector
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "asked.json", GENERATOR, asked)
    return evaluate(
        predict,
        photos,
        protocol,
        output=folder,
        model=str(weights),
        truth=truth,
        settings=asked,
        processes=processes,
    )


def photos_per_second(session: Session, protocol: Protocol, photos: Sequence[AnnotatedPhoto]) -> float:
    """Measure the speed of one photo at a time, from the photo in memory to its poses, as the paper's FPS."""
    detector = PoseDet(session, skeleton=protocol.skeleton)
    timed = photos[-TIMED:]
    for photo in photos[: min(WARM_UP, max(1, len(photos) - TIMED))]:
        detector(photo.path)
    seconds = 0.0
    for photo in timed:
        image = read_photo(photo.path)
        began = time.perf_counter()
        detector(image)
        seconds += time.perf_counter() - began
    return len(timed) / seconds


def _stored(report: Path) -> KeypointAP | None:
    """The result of an earlier evaluation; None if there is none or its file is damaged."""
    try:
        results = json.loads(report.read_bytes())["results"]
        return KeypointAP(**{field: results[field] for field in KeypointAP.__dataclass_fields__})
    except (OSError, ValueError, KeyError, TypeError):
        return None
