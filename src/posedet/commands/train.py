"""The commands around training: `posedet data check | data show | train | plot`."""

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from posedet.commands.options import add_annotations, photos_named_by, seen_once, source_of
from posedet.errors import ConfigError
from posedet.extras import needs
from posedet.files import one_line

if TYPE_CHECKING:
    from posedet.runtime.session import Session
    from posedet.skeleton import Skeleton

DATA = "JSON[:FOLDER][*N]"
DATA_HELP = (
    "COCO-style annotations, the folder of their photos (default: beside the JSON, same name), and how often each "
    "photo is seen an epoch; or a folder or data.yaml in Ultralytics' format, with :val for another part than train; "
    "repeatable"
)


def add_commands(add: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    """Add the commands to the parser; `add` makes one from its name, summary and example."""
    data = add("data", "check annotations, or show what is trained on", "data check train.json")
    whats = data.add_subparsers(required=True, metavar="WHAT")

    check = whats.add_parser("check", help="find impossible annotations and photos: a line each, exit code 1 if any")
    add_annotations(check)
    check.add_argument(
        "--skeleton", metavar="NAME", help="the keypoints to look at: coco, ..., or a file (default: the annotations')"
    )
    check.set_defaults(command=_check)

    show = whats.add_parser("show", help="draw patches, labels, positives and heatmaps exactly as they are trained on")
    show.add_argument("preset", help="a preset's name, or a TOML file")
    show.add_argument("--data", action="append", required=True, metavar=DATA, help=DATA_HELP)
    show.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="for the pictures")
    show.add_argument("--count", type=int, default=12, help="how many samples, from the first on (%(default)s)")
    show.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change a setting")
    show.set_defaults(command=_show)

    plot = add("plot", "the curves of a training run (needs posedet[evaluate])", "plot runs/a")
    plot.add_argument("run", type=Path, help="folder of the run")
    plot.add_argument("--output", type=Path, help="the .png, .svg or .pdf to write (default: curves.png in the run)")
    plot.set_defaults(command=_plot)

    train = add("train", "train a preset (needs posedet[train])", "train posedet-s --data train.json --run runs/a")
    train.add_argument("preset", help="a preset's name, or a TOML file")
    train.add_argument("--show", action="store_true", help="print all settings as TOML, a complete preset, and stop")
    train.add_argument("--data", action="append", default=[], metavar=DATA, help=DATA_HELP)
    train.add_argument("--run", type=Path, help="folder for checkpoints and log; goes on if it has any")
    train.add_argument(
        "--start",
        metavar="FILE",
        help="start weights, of the backbone or of a posedet model: .safetensors, .pth, or https://...#sha256=HEX",
    )
    train.add_argument(
        "--validate",
        metavar="JSON[:FOLDER]",
        help="annotated photos to measure AP on while training, in any format of --data",
    )
    train.add_argument("--validate-every", type=int, default=2000, metavar="STEPS", help="(%(default)s)")
    train.add_argument("--compile", action="store_true", help="let torch.compile build the backbone")
    train.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change a setting")
    train.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    train.add_argument("--workers", type=int, default=1, help="processes that prepare photos (%(default)s)")
    train.set_defaults(command=_train)


def _check(options: argparse.Namespace) -> int:
    needs("posedet data check", "evaluate", ("yaml",))
    from posedet.data.check import check
    from posedet.skeleton import skeleton_for

    skeleton = None if options.skeleton is None else skeleton_for(options.skeleton)
    report = check(source_of(options), skeleton)
    for finding in report.findings:
        print(one_line(finding.text))
    kinds = Counter(finding.kind for finding in report.findings)
    counted = ", ".join(f"{kind}: {count}" for kind, count in kinds.most_common())
    without = f" ({report.num_unlabelled} without labelled keypoints)" if report.num_unlabelled else ""
    seen = f"{report.num_photos} photos, {report.num_persons} people{without}"
    print(f"{one_line(options.annotations)}: {seen}; {counted or 'nothing wrong found'}")
    return 1 if report.findings else 0


def _show(options: argparse.Namespace) -> int:
    needs("posedet data show", "train", ("torch", "cv2", "safetensors", "yaml"))
    from posedet.config import load_config
    from posedet.data.sources import read_sets
    from posedet.training.show import show
    from posedet.weights.checkpoint import named_skeleton

    if options.count < 1:
        raise ConfigError(f"--count {options.count}: expected at least 1")
    config = load_config(options.preset, options.set)
    skeleton = named_skeleton(config.model.skeleton)
    with photos_named_by(f"--data {DATA}"):
        photos = read_sets(options.data, skeleton)
    files = show(config, photos, skeleton, options.output, count=options.count)
    print(f"{len(files)} samples -> {one_line(options.output)}")
    return 0


def _plot(options: argparse.Namespace) -> int:
    needs("posedet plot", "evaluate", ("matplotlib",))
    from posedet.training.plot import write_curves

    print(f"curves -> {one_line(write_curves(options.run, options.output))}")
    return 0


def _train(options: argparse.Namespace) -> int:
    from posedet.config import load_config, to_toml

    if options.show:
        print(to_toml(load_config(options.preset, options.set)), end="")
        return 0
    if not options.data or options.run is None:
        raise ConfigError("train needs --data and --run; with --show it only prints the settings")
    needs("posedet train", "train", ("torch", "cv2", "safetensors", "yaml"))
    from posedet.data.sources import read_sets
    from posedet.training.loop import train
    from posedet.training.setup import reported
    from posedet.training.state import skeleton_to_train

    for option, least in (("workers", 0), ("validate_every", 1)):
        if (value := getattr(options, option)) < least:
            raise ConfigError(f"--{option.replace('_', '-')} {value}: expected at least {least}")
    config = load_config(options.preset, options.set)
    skeleton = skeleton_to_train(config.model.skeleton, options.run)
    with photos_named_by(f"--data {DATA}"):
        photos = read_sets(options.data, skeleton)
    weights = train(
        config,
        photos,
        options.run,
        start=options.start,
        skeleton=skeleton,
        device=options.device,
        workers=options.workers,
        compiled=options.compile,
        validate=_validation(options.validate, reported(config, skeleton)) if options.validate else None,
        validate_every=options.validate_every,
    )
    print(f"trained -> {weights}")
    return 0


def _validation(source: str, skeleton: "Skeleton") -> "Callable[[Session], dict[str, float]]":
    """What measures a network that reports `skeleton` on annotated photos; what is wrong with them is said at once."""
    needs("posedet train --validate", "evaluate", ("pycocotools",))
    from posedet.data.sources import read_photos
    from posedet.evaluation.protocols import protocol_for
    from posedet.evaluation.run import EVALUATED_SCORE, evaluate
    from posedet.poses import Poses
    from posedet.runtime.detector import PoseDet

    with photos_named_by("--validate JSON:FOLDER"):
        photos = read_photos(seen_once(source), skeleton)
    protocol = protocol_for(skeleton)
    evaluate(lambda _: Poses.empty(skeleton), photos, protocol)

    def validate(session: "Session") -> dict[str, float]:
        scores = evaluate(PoseDet(session, score_threshold=EVALUATED_SCORE), photos, protocol)
        return {"ap": scores.ap, "ap50": scores.ap50, "ap75": scores.ap75, "ar": scores.ar}

    return validate
