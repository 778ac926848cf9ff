"""The commands around training: `posedet data check | data show | train | plot`."""

import argparse
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from posedet.commands.options import (
    AddCommand,
    add_annotations,
    add_category,
    add_keypoints,
    add_number,
    add_output,
    add_overwrite,
    add_settings,
    check_scored,
    claim,
    never_replace,
    photos_named_by,
    seen_once,
    source_of,
)
from posedet.errors import ConfigError
from posedet.extras import needs
from posedet.files import one_line

if TYPE_CHECKING:
    from posedet.data.sources import Source
    from posedet.runtime.session import Session
    from posedet.skeleton import Skeleton

log = logging.getLogger(__name__)

VALIDATE_EVERY = 2000
DATA = "JSON[:FOLDER][*N]"
DATA_HELP = (
    "COCO-style annotations, the folder of their photos (default: beside the JSON, same name), and how often each "
    "epoch repeats them; or a folder or data.yaml in Ultralytics' format, followed by :val for another split than "
    "train; repeatable"
)


def add_commands(add: AddCommand) -> None:
    data = add("data", "check annotations, or draw training samples", "data check train.json")
    whats = data.add_subparsers(required=True, metavar="WHAT")

    check = whats.add_parser("check", help="list impossible annotations and broken photos; exit code 1 if any")
    add_annotations(check)
    check.add_argument(
        "--skeleton", metavar="NAME", help="keypoints to check: coco, crowdpose, or a file (default: the annotations')"
    )
    check.set_defaults(command=_check)

    show = whats.add_parser("show", help="draw patches, labels, positives and heatmaps exactly as training uses them")
    show.add_argument("preset", help="name of a preset, or a TOML file")
    show.add_argument("--data", action="append", required=True, metavar=DATA, help=DATA_HELP)
    add_category(show)
    add_output(show, "folder for the pictures")
    add_number(show, "--count", "number of samples to draw, from the first (default: %(default)s)", default=12)
    add_settings(show)
    show.set_defaults(command=_show)

    plot = add("plot", "the curves of a training run (needs posedet[evaluate])", "plot runs/a")
    plot.add_argument("run", type=Path, help="folder of the run")
    plot.add_argument("--output", type=Path, help=".png, .svg or .pdf file to write (default: curves.png in the run)")
    add_overwrite(plot)
    plot.set_defaults(command=_plot)

    train = add("train", "train a preset (needs posedet[train])", "train posedet-s --data train.json --run runs/a")
    train.add_argument("preset", help="name of a preset, or a TOML file")
    train.add_argument("--show", action="store_true", help="print all settings as TOML, a complete preset, and stop")
    train.add_argument("--data", action="append", default=[], metavar=DATA, help=DATA_HELP)
    add_category(train)
    train.add_argument("--run", type=Path, help="folder for checkpoints and log; resumes the run if it has any")
    add_overwrite(train)
    train.add_argument(
        "--start",
        metavar="FILE",
        help="start weights of the backbone or of a posedet model: .safetensors, .pth, or https://...#sha256=HEX",
    )
    train.add_argument("--validate", metavar="JSON[:FOLDER]", help="annotated photos to measure AP on while training")
    add_keypoints(train)
    add_number(train, "--validate-every", f"steps between validations (default: {VALIDATE_EVERY})", metavar="STEPS")
    train.add_argument("--compile", action="store_true", help="compile the backbone with torch.compile")
    add_settings(train)
    train.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    add_number(train, "--workers", "processes that prepare photos (default: %(default)s)", least=0, default=1)
    train.set_defaults(command=_train)


def _check(options: argparse.Namespace) -> int:
    needs("posedet data check", "evaluate", ("yaml",))
    from posedet.data.check import check
    from posedet.skeleton import skeleton_for

    skeleton = None if options.skeleton is None else skeleton_for(options.skeleton)
    report = check(source_of(options), skeleton)
    if report.pairs:
        print(f"{one_line(options.annotations)}: {one_line(report.pairs)}")
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
    from posedet.training.show import GENERATOR, sample_paths, show
    from posedet.training.state import skeleton_to_train

    config = load_config(options.preset, options.set)
    claim(options, GENERATOR, sample_paths(options.output, options.count), reads=[Path(config.model.skeleton)])
    skeleton = skeleton_to_train(config.model.skeleton, options.output)
    with photos_named_by(f"--data {DATA}"):
        photos = read_sets(_sources(options), skeleton)
    never_replace(options, photos.photos)
    files = show(config, photos, skeleton, options.output, count=options.count)
    print(f"{len(files)} samples -> {one_line(options.output)}")
    return 0


def _plot(options: argparse.Namespace) -> int:
    needs("posedet plot", "evaluate", ("matplotlib",))
    from posedet.training.plot import GENERATOR, write_curves

    output = options.output or options.run / "curves.png"
    claim(options, GENERATOR, [output], reads=[options.run / name for name in ("log.jsonl", "config.json")])
    write_curves(options.run, output)
    print(f"curves -> {one_line(output)}")
    return 0


def _train(options: argparse.Namespace) -> int:
    from posedet.config import load_config, to_toml

    config = load_config(options.preset, options.set)
    if options.show:
        for name in ("data", "run", "start", "validate", "validate_every", "category", "compile", "overwrite"):
            if getattr(options, name):
                wrong = f"--{name.replace('_', '-')} does not go with --show"
                raise ConfigError(f"{wrong}, which only prints the settings; remove one of them")
        print(to_toml(config), end="")
        return 0
    if not options.data or options.run is None:
        raise ConfigError("train needs --data and --run; only --show works without them")
    if options.validate_every is not None and options.validate is None:
        raise ConfigError("--validate-every needs --validate, which says on which photos")
    needs("posedet train", "train", ("torch", "cv2", "safetensors", "yaml"))
    from posedet.data.sources import read_sets
    from posedet.training.loop import GENERATOR, train
    from posedet.training.setup import reported
    from posedet.training.state import RUN_FILES, skeleton_to_train

    written = [options.run / name for name in RUN_FILES]
    claim(options, GENERATOR, written, reads=[Path(config.model.skeleton)])
    skeleton = skeleton_to_train(config.model.skeleton, options.run)
    kept = reported(config, skeleton)
    with photos_named_by(f"--data {DATA}"):
        photos = read_sets(_sources(options), skeleton)
    never_replace(options, photos.photos)
    weights = train(
        config,
        photos,
        options.run,
        start=options.start,
        skeleton=skeleton,
        device=options.device,
        workers=options.workers,
        compiled=options.compile,
        validate=_validation(options, kept) if options.validate else None,
        validate_every=options.validate_every or VALIDATE_EVERY,
    )
    print(f"trained -> {weights}")
    return 0


def _sources(options: argparse.Namespace) -> "list[Source]":
    from posedet.data.sources import Source

    return [replace(Source.parse(text), category=options.category) for text in options.data]


def _validation(options: argparse.Namespace, skeleton: "Skeleton") -> "Callable[[Session], dict[str, float]]":
    """A function that measures a network reporting `skeleton`; raises at once if the annotations are wrong."""
    needs("posedet train --validate", "evaluate", ("pycocotools",))
    from posedet.data.sources import read_photos
    from posedet.evaluation.protocols import protocol_for
    from posedet.evaluation.run import validation
    from posedet.training.processes import Processes

    with photos_named_by("--validate JSON:FOLDER"):
        source = seen_once(options.validate, category=options.category)
        photos = read_photos(source, skeleton)
    never_replace(options, photos)
    protocol = replace(protocol_for(skeleton), keypoints=options.keypoints)
    log.info("validation: %s", check_scored(photos, protocol, source))
    return validation(photos, protocol, Processes.join(options.device))
