"""The command `posedet evaluate`."""

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path

from posedet.commands.options import (
    add_annotations,
    add_detector_options,
    annotated_photos,
    judged_detector,
    rules_for_results,
)
from posedet.errors import ConfigError
from posedet.extras import needs
from posedet.runtime.model_files import model_file


def add_commands(add: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    """Add the commands to the parser; `add` makes one from its name, summary and example."""
    evaluate = add("evaluate", "keypoint AP of a model on annotated photos", "evaluate coco-dev.json --output report")
    add_annotations(evaluate)
    evaluate.add_argument(
        "--protocol",
        choices=("coco", "crowdpose", "ochuman", "cropped"),
        help="the rules of a benchmark (default: that of the keypoints, or else COCO's); cropped: COCO's, on photos "
        "cut so that people reach beyond them",
    )
    evaluate.add_argument(
        "--tta",
        choices=("paper", "merged"),
        help="six sizes, each also mirrored; duplicates dropped as in the paper, or averaged (better)",
    )
    evaluate.add_argument(
        "--results", type=Path, metavar="FILE", help="score these results in COCO's format, of any program; run nothing"
    )
    evaluate.add_argument("--output", type=Path, help="folder for results.json and report.json")
    add_detector_options(evaluate)
    evaluate.add_argument(
        "--batch",
        type=int,
        metavar="PHOTOS",
        help="of the same size in one run (default: 1): for GPUs, no gain elsewhere",
    )
    evaluate.add_argument("--device", help="of PyTorch weights, such as cuda (default: cpu)")
    evaluate.set_defaults(command=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    needs("posedet evaluate", "evaluate", ("pycocotools", "yaml"))
    from posedet.evaluation.report import score_table
    from posedet.evaluation.run import evaluate
    from posedet.runtime.detector import DEFAULT_MODEL
    from posedet.runtime.tta import Augmented

    if options.results is not None:
        return _evaluate_results(options)
    if options.tta and options.long_side:
        raise ConfigError("--long-side does not go with --tta, which has six sizes of its own")
    batch = 1 if options.batch is None else options.batch
    if batch < 1:
        raise ConfigError(f"--batch {batch}: expected at least 1 photo")
    if options.tta and batch > 1:
        raise ConfigError("--batch does not go with --tta, which takes one photo at a time")
    detector, protocol = judged_detector(options, device=options.device)
    with model_file(options.model or DEFAULT_MODEL).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    name = options.model or detector.about.name
    scores = evaluate(
        Augmented(detector, merge=options.tta) if options.tta else detector,
        annotated_photos(options, protocol.skeleton),
        protocol,
        output=options.output,
        model=name,
        truth=options.annotations,
        settings={
            "sha256": digest,
            "runtime": options.runtime or "onnxruntime",
            "tta": options.tta,
            "long_side": detector.config.long_side,
            "score_threshold": detector.config.score_threshold,
            "keypoints": detector.skeleton.keypoints,
        },
        batch=batch,
    )
    label = f"{name}, {protocol.name}" + (f", --tta {options.tta}" if options.tta else "")
    print(score_table({label: scores}))
    return 0


def _evaluate_results(options: argparse.Namespace) -> int:
    """Of a file: only what a benchmark is matters, nothing of the detector."""
    from posedet.evaluation.report import score_table
    from posedet.evaluation.run import evaluate_file

    if options.protocol == "cropped":
        raise ConfigError("--protocol cropped does not go with --results: the photos are cut when they are predicted")
    refused = ("model", "tta", "photos", "long_side", "score_threshold", "batch", "device")
    photos, protocol = rules_for_results(options, *refused)
    scores = evaluate_file(options.results, photos, protocol, output=options.output, truth=options.annotations)
    print(score_table({f"{options.results}, {protocol.name}": scores}))
    return 0
