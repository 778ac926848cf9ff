"""The commands that measure: `posedet evaluate | reproduce`."""

import argparse
from collections.abc import Callable
from pathlib import Path

from posedet.cli_predict import add_detector_options, open_detector
from posedet.errors import ConfigError
from posedet.extras import needs
from posedet.files import photo_folder


def add_commands(add: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    """Add the commands to the parser; `add` makes one from its name, summary and example."""
    evaluate = add("evaluate", "keypoint AP of a model on annotated photos", "evaluate coco-dev.json --output report")
    evaluate.add_argument("annotations", type=Path, help="COCO-style keypoint JSON, or ochuman.json")
    evaluate.add_argument("--photos", type=Path, help="folder of the photos (default: beside the JSON, same name)")
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
    evaluate.add_argument("--output", type=Path, help="folder for results.json and report.json")
    add_detector_options(evaluate)
    evaluate.set_defaults(command=_evaluate)

    reproduce = add("reproduce", "a table or figure of the paper", "reproduce figure3 --data val.json --output figure3")
    whats = reproduce.add_subparsers(required=True, metavar="WHAT")
    figure3 = whats.add_parser("figure3", help="what suppressing duplicates costs a perfect detector in crowds")
    figure3.add_argument("--data", type=Path, required=True, help="CrowdPose's annotations; photos are not needed")
    figure3.add_argument("--output", type=Path, required=True, help="folder for figure3.png, .md and .json")
    figure3.set_defaults(command=_figure3)


def _evaluate(options: argparse.Namespace) -> int:
    needs("evaluate", "train", ("pycocotools",))
    from posedet.evaluation.protocols import PROTOCOLS, protocol_for
    from posedet.evaluation.report import score_table
    from posedet.evaluation.run import EVALUATED_SCORE, evaluate
    from posedet.tta import Augmented

    if options.tta and options.long_side:
        raise ConfigError("--long-side does not go with --tta, which has six sizes of its own")
    if options.protocol is not None and options.skeleton is None:
        options.skeleton = ",".join(PROTOCOLS[options.protocol].skeleton.keypoints)
    if options.score_threshold is None:
        options.score_threshold = EVALUATED_SCORE
    detector = open_detector(options)
    protocol = PROTOCOLS[options.protocol] if options.protocol else protocol_for(detector.skeleton)
    folder = options.photos or photo_folder(options.annotations)
    name = options.model or detector.about.name
    predict = Augmented(detector, merge=options.tta) if options.tta else detector
    scores = evaluate(predict, options.annotations, folder, protocol, output=options.output, model=name)
    print(score_table({name: scores}))
    return 0


def _figure3(options: argparse.Namespace) -> int:
    needs("reproduce figure3", "train", ("matplotlib", "pycocotools"))
    from posedet.evaluation.upper_bound import reproduce_figure3

    print(reproduce_figure3(options.data, options.output))
    return 0
