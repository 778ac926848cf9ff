"""The command `posedet evaluate`."""

import argparse
import hashlib
from pathlib import Path

from posedet.commands.options import (
    AddCommand,
    add_annotations,
    add_detector_options,
    add_number,
    add_output,
    annotated_photos,
    judged_detector,
    rules_for_results,
)
from posedet.errors import ConfigError
from posedet.extras import needs
from posedet.runtime.model_files import model_file


def add_commands(add: AddCommand) -> None:
    evaluate = add("evaluate", "keypoint AP of a model on annotated photos", "evaluate coco-dev.json --output report")
    add_annotations(evaluate)
    evaluate.add_argument(
        "--protocol",
        choices=("coco", "crowdpose", "ochuman", "cropped"),
        help="rules of a benchmark (default: the one that fits the keypoints, or else COCO's); cropped: COCO's, on "
        "photos cut so that people extend beyond the border",
    )
    evaluate.add_argument(
        "--tta",
        choices=("paper", "merged"),
        help="test-time augmentation with six sizes, each also mirrored; duplicates are dropped as in the paper, or "
        "averaged (merged: scores higher)",
    )
    evaluate.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="score an existing results file (COCO format, from any program) instead of running a model",
    )
    add_output(evaluate, "folder for results.json and report.json", required=False)
    add_detector_options(evaluate)
    add_number(evaluate, "--batch", "photos of one size per run (default: 1); faster on GPUs", metavar="PHOTOS")
    evaluate.add_argument("--device", help="device for PyTorch weights, such as cuda (default: cpu)")
    evaluate.set_defaults(command=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    needs("posedet evaluate", "evaluate", ("pycocotools", "yaml"))
    from posedet.evaluation.report import score_table
    from posedet.evaluation.run import evaluate, evaluate_file
    from posedet.runtime.detector import DEFAULT_MODEL
    from posedet.runtime.tta import Augmented

    if options.results is not None:
        if options.protocol == "cropped":
            raise ConfigError("--protocol cropped does not go with --results: it cuts photos before they are predicted")
        photos, protocol = rules_for_results(options, "tta", "photos", "batch", "device")
        scores = evaluate_file(options.results, photos, protocol, output=options.output, truth=options.annotations)
        print(score_table({f"{options.results}, {protocol.name}": scores}))
        return 0
    if options.tta and options.long_side:
        raise ConfigError("--long-side does not go with --tta, which has six sizes of its own")
    batch = options.batch or 1
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
