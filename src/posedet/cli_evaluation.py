"""The commands that measure: `posedet evaluate | reproduce`."""

import argparse
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from posedet.cli_predict import add_detector_options, open_detector
from posedet.errors import ConfigError
from posedet.extras import needs
from posedet.files import one_line, photo_folder
from posedet.reproduce.tables import TABLES
from posedet.weights import model_file

if TYPE_CHECKING:
    from posedet.detector import PoseDet
    from posedet.evaluation.protocols import Protocol
    from posedet.skeleton import Skeleton

# Of the protocols: those of COCO-style files, as they are.
_PLAIN_PROTOCOLS = ("coco", "crowdpose")
_CROWDS = {
    "crowdpose": "CrowdPose's annotations (default folder of the photos: beside the JSON, same name)",
    "ochuman": "OCHuman's, its own file or in COCO's form",
    "cropped": "COCO's; photos are cut so that people reach beyond them",
}


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

    errors = add("errors", "what a model is bad at, as an HTML page", "errors coco-dev.json --output errors.html")
    errors.add_argument("annotations", type=Path, help="COCO-style keypoint JSON")
    errors.add_argument("--output", type=Path, required=True, metavar="HTML", help="the page, complete in one file")
    errors.add_argument("--photos", type=Path, help="folder of the photos (default: beside the JSON, same name)")
    errors.add_argument("--protocol", choices=_PLAIN_PROTOCOLS, help="the rules (default: that of the keypoints)")
    errors.add_argument(
        "--results", type=Path, metavar="FILE", help="results in COCO's format, of any program, in place of a model's"
    )
    add_detector_options(errors)
    errors.set_defaults(command=_errors)

    stress = add("stress", "AP on photos altered one way at a time", "stress coco-dev.json --output stress --count 100")
    stress.add_argument("annotations", type=Path, help="COCO-style keypoint JSON")
    stress.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="for stress.md, .json and .png")
    stress.add_argument("--photos", type=Path, help="folder of the photos (default: beside the JSON, same name)")
    stress.add_argument("--protocol", choices=_PLAIN_PROTOCOLS, help="the rules (default: that of the keypoints)")
    stress.add_argument("--count", type=int, metavar="PHOTOS", help="take so many, evenly spread (default: all)")
    add_detector_options(stress)
    stress.set_defaults(command=_stress)

    _add_reproduce(add)


def _add_reproduce(add: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    reproduce = add("reproduce", "a table or figure of the paper", "reproduce figure3 --data val.json --output figure3")
    whats = reproduce.add_subparsers(required=True, metavar="WHAT")
    figure3 = whats.add_parser("figure3", help="what suppressing duplicates costs a perfect detector in crowds")
    figure3.add_argument("--data", type=Path, required=True, help="CrowdPose's annotations; photos are not needed")
    figure3.add_argument("--output", type=Path, required=True, help="folder for figure3.png, .md and .json")
    figure3.set_defaults(command=_figure3)
    crowds = whats.add_parser("crowds", help="a model on CrowdPose, OCHuman and cropped COCO, in one table")
    for name, what in _CROWDS.items():
        crowds.add_argument(f"--{name}", type=_photo_set, metavar="JSON[:FOLDER]", help=what)
    crowds.add_argument("--model", default="posedet-s", help="ONNX file or PyTorch weights (default: %(default)s)")
    crowds.add_argument("--device", default="cpu", help="of PyTorch weights: cpu or cuda (%(default)s)")
    crowds.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="for the table, its evaluations")
    crowds.set_defaults(command=_crowds)
    for table in TABLES.values():
        parser = whats.add_parser(table.name, help=table.title, description=table.title)
        _add_table_options(parser, runs=", ".join(table.runs))
        parser.set_defaults(command=_table, table=table)


def _add_table_options(parser: argparse.ArgumentParser, *, runs: str) -> None:
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="JSON", help="annotated photos to evaluate on")
    add("--photos", type=Path, metavar="FOLDER", help="of these photos (default: beside the JSON, same name)")
    add("--output", type=Path, required=True, metavar="FOLDER", help="for the table, its runs and evaluations")
    add("--train-data", action="append", default=[], metavar="JSON[:FOLDER][*N]", help="as of train --data; repeatable")
    add("--start", action="append", default=[], metavar="[RUN=]FILE", help="start weights of all runs, or of one")
    add(
        "--weights",
        action="append",
        default=[],
        metavar="RUN=FILE",
        help=f"take these instead of training; repeat for several seeds. Runs: {runs}",
    )
    add("--only", action="append", default=[], metavar="RUN", help="train this run alone; repeatable")
    add("--preset", help="of all runs, in place of the paper's (not for tables of presets)")
    add("--protocol", choices=("coco", "crowdpose"), help="rules for our figures (default: the paper's)")
    add("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change a setting of all rows")
    add("--seeds", type=int, default=1, help="train each run so many times (%(default)s)")
    add("--device", default="cpu", help="cpu or cuda (%(default)s)")
    add("--workers", type=int, default=1, help="processes that prepare photos (%(default)s)")


def _evaluate(options: argparse.Namespace) -> int:
    needs("evaluate", "train", ("pycocotools",))
    from posedet.detector import DEFAULT_MODEL
    from posedet.evaluation.report import score_table
    from posedet.evaluation.run import evaluate
    from posedet.tta import Augmented

    if options.results is not None:
        return _evaluate_results(options)
    if options.tta and options.long_side:
        raise ConfigError("--long-side does not go with --tta, which has six sizes of its own")
    batch = 1 if options.batch is None else options.batch
    if batch < 1:
        raise ConfigError(f"--batch {batch}: expected at least 1 photo")
    if options.tta and batch > 1:
        raise ConfigError("--batch does not go with --tta, which takes one photo at a time")
    detector, protocol = _judged_detector(options, device=options.device)
    with model_file(options.model or DEFAULT_MODEL).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    name = options.model or detector.about.name
    scores = evaluate(
        Augmented(detector, merge=options.tta) if options.tta else detector,
        options.annotations,
        options.photos or photo_folder(options.annotations),
        protocol,
        output=options.output,
        model=name,
        settings={
            "sha256": digest,
            "runtime": options.runtime,
            "tta": options.tta,
            "long_side": detector.long_side,
            "score_threshold": detector.score_threshold,
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

    protocol = _rules_for_results(options, "model", "tta", "photos", "long_side", "score_threshold", "batch", "device")
    scores = evaluate_file(options.results, options.annotations, protocol, output=options.output)
    print(score_table({f"{options.results}, {protocol.name}": scores}))
    return 0


def _rules_for_results(options: argparse.Namespace, *refused: str) -> "Protocol":
    """The protocol for the keypoints that `--skeleton` says results have; without the options of running a model."""
    from posedet.evaluation.run import check_order
    from posedet.skeleton import COCO, skeleton_for

    for name in refused:
        if getattr(options, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')} does not go with --results: nothing is run")
    if options.skeleton is not None:
        return _rules(options.protocol, skeleton_for(options.skeleton), chosen=True)
    protocol = _rules(options.protocol, COCO, chosen=False)
    check_order(options.annotations, protocol)
    return protocol


def _figure3(options: argparse.Namespace) -> int:
    needs("reproduce figure3", "train", ("matplotlib", "pycocotools"))
    from posedet.evaluation.upper_bound import reproduce_figure3

    print(reproduce_figure3(options.data, options.output))
    return 0


def _photo_set(text: str) -> tuple[Path, Path]:
    """`JSON[:FOLDER]` -> annotations, folder of the photos."""
    name, colon, folder = text.partition(":")
    return Path(name), Path(folder) if colon else photo_folder(Path(name))


def _crowds(options: argparse.Namespace) -> int:
    needs("reproduce crowds", "train", ("pycocotools",))
    from posedet.reproduce.crowds import reproduce_crowds

    sets = {name: given for name in _CROWDS if (given := getattr(options, name)) is not None}
    print(reproduce_crowds(model_file(options.model), sets, options.output, device=options.device), end="")
    return 0


def _table(options: argparse.Namespace) -> int:
    name = options.table.name
    needs(f"reproduce {name}", "train", ("torch", "cv2", "safetensors", "pycocotools", "yaml"))
    from posedet.reproduce.run import Request, reproduce

    if options.seeds < 1:
        raise ConfigError(f"--seeds {options.seeds}: expected at least 1")
    request = Request(
        table=options.table,
        data=options.data,
        photos=options.photos or photo_folder(options.data),
        output=options.output,
        train_data=options.train_data,
        start=options.start,
        weights=options.weights,
        only=options.only,
        preset=options.preset,
        protocol=options.protocol,
        settings=options.set,
        seeds=options.seeds,
        device=options.device,
        workers=options.workers,
    )
    print(reproduce(request), end="")
    return 0


def _errors(options: argparse.Namespace) -> int:
    needs("errors", "train", ("pycocotools",))
    from posedet.evaluation.error_report import report_errors

    folder: Path | None = options.photos or photo_folder(options.annotations)
    if options.results is None:
        predict, protocol = _judged_detector(options)
        found, costs = report_errors(
            options.annotations, predict, protocol, options.output, folder, name=predict.about.name
        )
    else:
        protocol = _rules_for_results(options, "model", "long_side", "score_threshold")
        # The page can do without pictures, unless they are asked for.
        folder = folder if options.photos is not None or (folder and folder.is_dir()) else None
        found, costs = report_errors(options.annotations, options.results, protocol, options.output, folder)
    for finding in found:
        print(f"- {finding.headline}. {finding.text}")
    print(f"\n{costs}\n\n-> {one_line(options.output)}")
    return 0


def _stress(options: argparse.Namespace) -> int:
    needs("stress", "train", ("matplotlib", "pycocotools"))
    from posedet.evaluation.stress import stress

    predict, protocol = _judged_detector(options)
    folder = options.photos or photo_folder(options.annotations)
    model = options.model or predict.about.name
    print(stress(predict, options.annotations, folder, protocol, options.output, count=options.count, model=model))
    return 0


def _judged_detector(options: argparse.Namespace, *, device: str | None = None) -> "tuple[PoseDet, Protocol]":
    """The detector as AP needs it, weak poses and the protocol's keypoints, and the protocol."""
    from posedet.evaluation.protocols import PROTOCOLS
    from posedet.evaluation.run import EVALUATED_SCORE

    chosen = options.skeleton is not None
    if options.protocol is not None and not chosen:
        options.skeleton = ",".join(PROTOCOLS[options.protocol].skeleton.keypoints)
    if options.score_threshold is None:
        options.score_threshold = EVALUATED_SCORE
    detector = open_detector(options, device=device)
    return detector, _rules(options.protocol, detector.skeleton, chosen=chosen)


def _rules(name: str | None, skeleton: "Skeleton", *, chosen: bool) -> "Protocol":
    """The protocol of that name, with its own keypoints unless others are `chosen`; that of the keypoints if None."""
    from posedet.evaluation.protocols import PROTOCOLS, protocol_for

    if name is None:
        return protocol_for(skeleton)
    return replace(PROTOCOLS[name], skeleton=skeleton) if chosen else PROTOCOLS[name]
