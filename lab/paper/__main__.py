"""Reproduce the paper's tables and figure 3: `python -m lab.paper table1 --data coco-dev.json --output tables`."""

import argparse
import sys
from collections.abc import Sequence

from lab.paper import GENERATOR
from lab.paper.tables import TABLES
from posedet.commands.main import run
from posedet.commands.options import add_number, add_output, add_settings, claim, seen_once
from posedet.extras import needs
from posedet.runtime.model_files import model_file

_CROWDS = {
    "crowdpose": "annotations of CrowdPose (default folder of the photos: beside the JSON, same name)",
    "ochuman": "annotations of OCHuman, in its own format or in COCO's",
    "cropped": "annotations of COCO; photos are cut so that people extend beyond the border",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    return run(_parser(), arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lab.paper", description="Reproduce a table or figure of the paper."
    )
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    whats = parser.add_subparsers(required=True, metavar="WHAT")
    figure3 = whats.add_parser("figure3", help="upper bound of AP in crowds that suppressing duplicates leaves")
    figure3.add_argument("--data", required=True, help="annotations of CrowdPose; photos are not needed")
    add_output(figure3, "folder for figure3.png, figure3.md and figure3.json")
    figure3.set_defaults(command=_figure3)
    crowds = whats.add_parser("crowds", help="AP of a model on CrowdPose, OCHuman and cropped COCO, in one table")
    for name, what in _CROWDS.items():
        crowds.add_argument(f"--{name}", metavar="JSON[:FOLDER]", help=what)
    crowds.add_argument("--model", default="posedet-s", help="ONNX file or PyTorch weights (default: %(default)s)")
    crowds.add_argument(
        "--device", default="cpu", help="device for PyTorch weights: cpu or cuda (default: %(default)s)"
    )
    add_output(crowds, "folder for the table and its evaluations")
    crowds.set_defaults(command=_crowds)
    for table in TABLES.values():
        command = whats.add_parser(table.name, help=table.title, description=table.title)
        _add_table_options(command, runs=", ".join(table.runs))
        command.set_defaults(command=_table, table=table)
    return parser


def _add_table_options(parser: argparse.ArgumentParser, *, runs: str) -> None:
    add = parser.add_argument
    add("--data", required=True, metavar="JSON[:FOLDER]", help="annotated photos for evaluation")
    add("--photos", metavar="FOLDER", help="folder of the photos of --data (default: beside the JSON, same name)")
    add_output(parser, "folder for the table, its training runs and evaluations")
    add(
        "--train-data",
        action="append",
        default=[],
        metavar="JSON[:FOLDER][*N]",
        help="training data, as for posedet train; repeatable",
    )
    add(
        "--start",
        action="append",
        default=[],
        metavar="[RUN=]FILE",
        help="start weights of all runs, or of one run; repeatable",
    )
    add(
        "--weights",
        action="append",
        default=[],
        metavar="RUN=FILE",
        help=f"evaluate these weights instead of training; repeat for several seeds. Runs: {runs}",
    )
    add("--only", action="append", default=[], metavar="RUN", help="train only this run; repeatable")
    add("--preset", help="preset of all runs, instead of the paper's (not for tables that compare presets)")
    add("--protocol", choices=("coco", "crowdpose"), help="rules for our results (default: the paper's)")
    add_settings(parser, "change a setting of all runs; repeatable")
    add_number(parser, "--seeds", "number of trainings of each run (default: %(default)s)", default=1)
    add("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    add_number(parser, "--workers", "processes that prepare photos (default: %(default)s)", least=0, default=1)


def _figure3(options: argparse.Namespace) -> int:
    needs("python -m lab.paper figure3", "evaluate", ("matplotlib", "pycocotools", "yaml"))
    from lab.paper.figure3 import reproduce_figure3

    claim(options, GENERATOR, [options.output / f"figure3.{kind}" for kind in ("json", "md", "png")])
    print(reproduce_figure3(seen_once(options.data), options.output))
    return 0


def _crowds(options: argparse.Namespace) -> int:
    needs("python -m lab.paper crowds", "evaluate", ("pycocotools", "yaml"))
    from lab.paper.crowds import reproduce_crowds

    claim(options, GENERATOR, [options.output / f"crowds.{kind}" for kind in ("json", "md")])
    sets = {name: seen_once(given) for name in _CROWDS if (given := getattr(options, name)) is not None}
    print(reproduce_crowds(model_file(options.model), sets, options.output, device=options.device), end="")
    return 0


def _table(options: argparse.Namespace) -> int:
    name = options.table.name
    needs(f"python -m lab.paper {name}", "train", ("torch", "cv2", "safetensors", "pycocotools", "yaml"))
    from lab.paper.table_runs import Request, reproduce

    claim(options, GENERATOR, [options.output / f"{name}.{kind}" for kind in ("json", "md")])
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
