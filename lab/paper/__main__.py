"""The paper's tables and figure 3 as commands: `python -m lab.paper table1 --data coco-dev.json --output tables`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lab.paper.tables import TABLES
from posedet.commands.main import run
from posedet.commands.options import seen_once
from posedet.errors import ConfigError
from posedet.extras import needs
from posedet.runtime.model_files import model_file

_CROWDS = {
    "crowdpose": "CrowdPose's annotations (default folder of the photos: beside the JSON, same name)",
    "ochuman": "OCHuman's, its own file or in COCO's form",
    "cropped": "COCO's; photos are cut so that people reach beyond them",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    return run(_parser().parse_args(arguments))


def _parser() -> argparse.ArgumentParser:
    """All tables and figures, each a command."""
    parser = argparse.ArgumentParser(prog="python -m lab.paper", description="a table or figure of the paper")
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    whats = parser.add_subparsers(required=True, metavar="WHAT")
    figure3 = whats.add_parser("figure3", help="what suppressing duplicates costs a perfect detector in crowds")
    figure3.add_argument("--data", required=True, help="CrowdPose's annotations; photos are not needed")
    figure3.add_argument("--output", type=Path, required=True, help="folder for figure3.png, .md and .json")
    figure3.set_defaults(command=_figure3)
    crowds = whats.add_parser("crowds", help="a model on CrowdPose, OCHuman and cropped COCO, in one table")
    for name, what in _CROWDS.items():
        crowds.add_argument(f"--{name}", metavar="JSON[:FOLDER]", help=what)
    crowds.add_argument("--model", default="posedet-s", help="ONNX file or PyTorch weights (default: %(default)s)")
    crowds.add_argument("--device", default="cpu", help="of PyTorch weights: cpu or cuda (%(default)s)")
    crowds.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="for the table, its evaluations")
    crowds.set_defaults(command=_crowds)
    for table in TABLES.values():
        command = whats.add_parser(table.name, help=table.title, description=table.title)
        _add_table_options(command, runs=", ".join(table.runs))
        command.set_defaults(command=_table, table=table)
    return parser


def _add_table_options(parser: argparse.ArgumentParser, *, runs: str) -> None:
    add = parser.add_argument
    add("--data", required=True, metavar="JSON[:FOLDER]", help="annotated photos to evaluate on")
    add("--photos", metavar="FOLDER", help="of these photos (default: beside the JSON, same name)")
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


def _figure3(options: argparse.Namespace) -> int:
    needs("python -m lab.paper figure3", "evaluate", ("matplotlib", "pycocotools", "yaml"))
    from lab.paper.figure3 import reproduce_figure3

    print(reproduce_figure3(seen_once(options.data), options.output))
    return 0


def _crowds(options: argparse.Namespace) -> int:
    needs("python -m lab.paper crowds", "evaluate", ("pycocotools", "yaml"))
    from lab.paper.crowds import reproduce_crowds

    sets = {name: seen_once(given) for name in _CROWDS if (given := getattr(options, name)) is not None}
    print(reproduce_crowds(model_file(options.model), sets, options.output, device=options.device), end="")
    return 0


def _table(options: argparse.Namespace) -> int:
    name = options.table.name
    needs(f"python -m lab.paper {name}", "train", ("torch", "cv2", "safetensors", "pycocotools", "yaml"))
    from lab.paper.table_runs import Request, reproduce

    if options.seeds < 1:
        raise ConfigError(f"--seeds {options.seeds}: expected at least 1")
    request = Request(
        table=options.table,
        data=seen_once(options.data, options.photos),
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


if __name__ == "__main__":
    sys.exit(main())
