"""Reproduce docs/lab/tracking.md: `python -m lab.tracking table | picture | speed`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lab.tracking import GENERATOR
from posedet.commands.main import run
from posedet.commands.options import add_number, add_output, add_overwrite, claim
from posedet.errors import ConfigError
from posedet.extras import needs
from posedet.files import one_line
from posedet.outputs import make_folder, write_markdown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    return run(_parser(), arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab.tracking", description="Reproduce docs/lab/tracking.md.")
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    table = commands.add_parser(
        "table", help="compare trackers on made-up scenes with truth, and measure the smoothing"
    )
    table.add_argument(
        "--people",
        type=Path,
        required=True,
        metavar="JSON",
        help="COCO keypoints with masks; photos in the folder beside",
    )
    table.add_argument("--backgrounds", type=Path, required=True, metavar="FOLDER", help="photos without people")
    table.add_argument(
        "--split", choices=("train", "test"), default="test", help="people and backgrounds (%(default)s)"
    )
    table.add_argument(
        "--poses",
        choices=("network", "errors"),
        default="network",
        help="what trackers are given: what posedet-s finds, or the truth with errors, which is faster (%(default)s)",
    )
    table.add_argument("--model", help="ONNX file that finds the poses (default: posedet-s)")
    add_number(table, "--scenes", "scenes of each kind (default: %(default)s)", default=6)
    add_number(table, "--first-seed", "seed of the first scene (default: %(default)s)", default=0, least=0)
    add_output(table, "folder for table.md and table.json")
    table.set_defaults(command=_table)

    picture = commands.add_parser("picture", help="the moving picture of docs/use/video.md")
    picture.add_argument("path", type=Path, metavar="WEBP", help="file to write")
    picture.add_argument("photos", nargs="+", metavar="PHOTO", help="photos over which the camera wanders")
    add_overwrite(picture)
    picture.set_defaults(command=_picture)

    speed = commands.add_parser("speed", help="time of the tracker and the smoothing for 10, 50 and 100 people")
    speed.set_defaults(command=_speed)
    return parser


def _table(options: argparse.Namespace) -> int:
    for name, path, there in (
        ("people", options.people, options.people.is_file()),
        ("backgrounds", options.backgrounds, options.backgrounds.is_dir()),
    ):
        if not there:
            raise ConfigError(f"--{name} {one_line(path)}: not found")
    claim(options, GENERATOR, [options.output / f"table.{kind}" for kind in ("json", "md")])
    make_folder(options.output)
    from lab.tracking.table import compare
    from posedet.evaluation.report import write_report

    text, results = compare(options)
    print(text)
    write_report(options.output / "table.json", GENERATOR, results)
    write_markdown(options.output / "table.md", GENERATOR, text)
    return 0


def _picture(options: argparse.Namespace) -> int:
    needs("python -m lab.tracking picture", "video", ("av",))
    claim(options, GENERATOR, [options.path])
    from lab.tracking.picture import moving_picture

    moving_picture(options.photos, options.path)
    return 0


def _speed(options: argparse.Namespace) -> int:
    from lab.tracking.table import speed_table

    print(speed_table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
