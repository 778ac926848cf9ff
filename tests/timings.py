"""A comparison with times that are known beforehand, for the tests of the benchmark and of the claims."""

from typing import Any

from posedet.benchmark.comparison import Comparison
from posedet.benchmark.stages import STAGES, TOTAL, Timed
from posedet.benchmark.workers import Alternative


def comparison(**changes: Any) -> Comparison:
    """Ours beside a peer that takes twice as long, and one that only tells its network."""

    def timed(scale: float, *stages: str) -> list[Timed]:
        return [Timed({stage: scale * slow * 10 for stage in stages}, 3, 100.0 * scale) for slow in (1, 2, 5)]

    alternatives = {
        "ours": Alternative("ours.onnx", "openvino", 2),
        "peer": Alternative("peer.tflite", "openvino", 2, foreign=True),
        "other": Alternative("other.xml", "openvino", 2, foreign=True),
    }
    samples = {
        "ours": timed(1, *STAGES, TOTAL),
        "peer": timed(2, "decode", "preprocess", "network", "poses", TOTAL),
        "other": timed(3, "decode", "preprocess", "network"),
    }
    fields: dict[str, Any] = {
        "alternatives": alternatives,
        "precision": dict.fromkeys(alternatives, "float32"),
        "samples": samples,
        "batches": {4: {"ours": timed(0.5, "network")}},
        "num_photos": 3,
        "load": 0.0,
    }
    return Comparison(**{**fields, **changes})
