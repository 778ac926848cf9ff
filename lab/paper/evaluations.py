"""Evaluations that run only once: `OUTPUT/evaluations/` stores each by its inputs, for all tables in that folder."""

import hashlib
import json
import logging
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
from posedet.evaluation.run import EVALUATED_SCORE, evaluate
from posedet.outputs import write_json
from posedet.runtime.detector import PoseDet
from posedet.runtime.session import About, Outputs, Session
from posedet.runtime.tta import Augmented
from posedet.weights.opening import open_model

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decoded:
    """A session whose output is decoded with other settings than its own."""

    session: Session
    about: About

    @classmethod
    def by(cls, session: Session, decode: DecodeConfig) -> "Decoded":
        return cls(session, replace(session.about, decode=decode))

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        return self.session.run(images)


def open_for(file: Path, device: str) -> Session:
    """Open a model; `device` applies only to PyTorch weights, because ONNX files run on the CPU."""
    return open_model(file, device=device if file.suffix == ".safetensors" or device != "cpu" else None)


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
) -> KeypointAP:
    """Evaluate a session on annotated photos as `evaluate`, or return the result that `output` already contains.

    Args:
        weights: The file that the session was opened from.
        truth: Name of the photos in the report.
        tta: Use the paper's test-time augmentation.
        label: Name of the evaluation in the log.
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
    if stored is not None:
        return stored
    log.info("evaluating %s", label or weights.name)
    detector = PoseDet(session, skeleton=protocol.skeleton, score_threshold=EVALUATED_SCORE)
    predict = Augmented(detector, merge="paper") if tta else detector
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "asked.json", GENERATOR, asked)
    return evaluate(predict, photos, protocol, output=folder, model=str(weights), truth=truth, settings=asked)


def _stored(report: Path) -> KeypointAP | None:
    """The result of an earlier evaluation; None if there is none or its file is damaged."""
    try:
        results = json.loads(report.read_text())["results"]
        return KeypointAP(**{field: results[field] for field in KeypointAP.__dataclass_fields__})
    except (OSError, ValueError, KeyError, TypeError):
        return None
