"""The commands around training data and runs: `posedet data check | data show | plot`."""

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from posedet.errors import ConfigError
from posedet.extras import needs
from posedet.files import one_line

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
    check.add_argument(
        "annotations", type=Path, help="COCO-style JSON, or a folder or data.yaml in Ultralytics' format"
    )
    check.add_argument(
        "--photos", type=Path, metavar="FOLDER", help="of the photos; of a data.yaml its part (train, val)"
    )
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

    plot = add("plot", "the curves of a training run (needs posedet[train])", "plot runs/a")
    plot.add_argument("run", type=Path, help="folder of the run")
    plot.add_argument("--output", type=Path, help="the .png, .svg or .pdf to write (default: curves.png in the run)")
    plot.set_defaults(command=_plot)


def _check(options: argparse.Namespace) -> int:
    needs("data check", "train", ("cv2", "yaml"))
    from posedet.data.check import check
    from posedet.skeleton import skeleton_for

    skeleton = None if options.skeleton is None else skeleton_for(options.skeleton)
    report = check(options.annotations, options.photos, skeleton)
    for finding in report.findings:
        print(one_line(finding.text))
    kinds = Counter(finding.kind for finding in report.findings)
    counted = ", ".join(f"{kind}: {count}" for kind, count in kinds.most_common())
    without = f" ({report.num_unlabelled} without labelled keypoints)" if report.num_unlabelled else ""
    seen = f"{report.num_photos} photos, {report.num_persons} people{without}"
    print(f"{one_line(options.annotations)}: {seen}; {counted or 'nothing wrong found'}")
    return 1 if report.findings else 0


def _show(options: argparse.Namespace) -> int:
    needs("data show", "train", ("torch", "cv2", "safetensors", "yaml"))
    from posedet.config import load_config
    from posedet.data.sources import read_sets
    from posedet.training.checkpoint import named_skeleton
    from posedet.training.show import show

    if options.count < 1:
        raise ConfigError(f"--count {options.count}: expected at least 1")
    config = load_config(options.preset, options.set)
    skeleton = named_skeleton(config.model.skeleton)
    photos, repeats = read_sets(options.data, skeleton)
    files = show(config, photos, repeats, skeleton, options.output, count=options.count)
    print(f"{len(files)} samples -> {one_line(options.output)}")
    return 0


def _plot(options: argparse.Namespace) -> int:
    needs("plot", "train", ("matplotlib", "torch"))
    from posedet.training.plot import plot

    print(f"curves -> {one_line(plot(options.run, options.output))}")
    return 0
