"""Reproduce the paper's tables and figures: `python -m lab.paper table1 --data coco-dev.json --output tables`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lab.paper import GENERATOR
from lab.paper.tables import TABLES, Table
from posedet.commands.main import run
from posedet.commands.options import add_number, add_output, add_settings, claim, seen_once
from posedet.errors import ConfigError
from posedet.extras import needs
from posedet.files import find_photos, one_line
from posedet.runtime.model_files import model_file

if TYPE_CHECKING:
    from posedet.data.sources import Source

_DATASETS = ("coco", "crowdpose")
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
    figure4 = whats.add_parser(
        "figure4", aliases=["figure5"], help="coarse beside refined poses in given photos, as in figures 4 and 5"
    )
    figure4.add_argument("photos", nargs="+", metavar="PATH", help="photo, folder of photos, or quoted pattern")
    figure4.add_argument("--model", default="posedet-s", help="PyTorch weights (default: %(default)s)")
    figure4.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    add_output(figure4, "folder for the pictures")
    figure4.set_defaults(command=_figure4)
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
        command.add_argument("--data", metavar="JSON[:FOLDER]", help="annotated photos for evaluation")
        command.add_argument(
            "--photos", metavar="FOLDER", help="folder of the photos of --data (default: beside the JSON)"
        )
        command.set_defaults(command=_one_table, table=table)
    every = whats.add_parser("tables", help="all tables for which there are photos")
    _add_table_options(every, runs="those of all tables")
    every.set_defaults(command=_all_tables)
    return parser


def _add_table_options(parser: argparse.ArgumentParser, *, runs: str) -> None:
    add = parser.add_argument
    for name in _DATASETS:
        add(
            f"--{name}",
            type=Path,
            metavar="DIR",
            help=f"root folder of {name}, which has the photos for evaluation and, unless --train-data names others, "
            "for training",
        )
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


def _figure4(options: argparse.Namespace) -> int:
    needs("python -m lab.paper figure4", "export", ("torch", "safetensors"))
    from lab.paper.figure4 import reproduce_figure4
    from posedet.runtime.bulk import picture_paths

    photos = find_photos(options.photos)
    pictures = picture_paths(photos, options.output)
    claim(options, GENERATOR, pictures)
    reproduce_figure4(photos, pictures, model_file(options.model), device=options.device)
    print(f"{len(pictures)} pictures -> {one_line(options.output)}")
    return 0


def _crowds(options: argparse.Namespace) -> int:
    needs("python -m lab.paper crowds", "evaluate", ("pycocotools", "yaml"))
    from lab.paper.crowds import reproduce_crowds

    claim(options, GENERATOR, [options.output / f"crowds.{kind}" for kind in ("json", "md")])
    sets = {name: seen_once(given) for name in _CROWDS if (given := getattr(options, name)) is not None}
    print(reproduce_crowds(model_file(options.model), sets, options.output, device=options.device), end="")
    return 0


def _one_table(options: argparse.Namespace) -> int:
    roots = [name for name in _DATASETS if getattr(options, name) is not None]
    if (options.data is not None) + len(roots) != 1:
        raise ConfigError(f"{options.table.name} needs --data, --coco or --crowdpose, and only one of them")
    if options.data is None:
        _reproduce_from_root(options, options.table, roots[0])
    else:
        _reproduce(options, options.table, seen_once(options.data, options.photos), options.train_data)
    return 0


def _all_tables(options: argparse.Namespace) -> int:
    if all(getattr(options, name) is None for name in _DATASETS):
        raise ConfigError("tables needs --coco, --crowdpose or both")
    for table in TABLES.values():
        if getattr(options, table.protocol) is not None:
            _reproduce_from_root(options, table, table.protocol)
    return 0


def _reproduce_from_root(options: argparse.Namespace, table: Table, dataset: str) -> None:
    from lab.paper.layouts import find_layout

    layout = find_layout(dataset, getattr(options, dataset))
    train = [str(layout.train)] if layout.train is not None else []
    _reproduce(options, table, layout.evaluation, options.train_data or train)


def _reproduce(options: argparse.Namespace, table: Table, data: "Source", train_data: Sequence[str]) -> None:
    needs(f"python -m lab.paper {table.name}", "train", ("torch", "cv2", "safetensors", "pycocotools", "yaml"))
    from lab.paper.table_runs import Request, reproduce

    name = table.name
    claim(options, GENERATOR, [options.output / f"{name}.{kind}" for kind in ("json", "md")])
    known = {run for each in TABLES.values() for run in each.runs}

    def own(texts: Sequence[str]) -> list[str]:
        """What concerns the runs of this table, of RUN, RUN=FILE or FILE."""
        return [text for text in texts if (run := text.partition("=")[0]) in table.runs or run not in known]

    every = options.command is _all_tables
    request = Request(
        table=table,
        data=data,
        output=options.output,
        train_data=train_data,
        start=own(options.start) if every else options.start,
        weights=own(options.weights) if every else options.weights,
        only=own(options.only) if every else options.only,
        preset=options.preset,
        protocol=options.protocol,
        settings=options.set,
        seeds=options.seeds,
        device=options.device,
        workers=options.workers,
    )
    print(reproduce(request), end="")


if __name__ == "__main__":
    sys.exit(main())
