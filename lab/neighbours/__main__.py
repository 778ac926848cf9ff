"""Reproduce docs/lab/neighbours.md: `python -m lab.neighbours`."""

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lab.neighbours.readers import READERS
from posedet.commands.main import run
from posedet.evaluation.report import markdown_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 1 if a program reads anything else than was written."""
    return run(_parser(), arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab.neighbours", description="Reproduce docs/lab/neighbours.md.")
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    parser.add_argument(
        "programs", nargs="*", metavar="PROGRAM", help=f"{', '.join(READERS)} (default: all that are installed)"
    )
    parser.set_defaults(command=_check)
    return parser


def _check(options: argparse.Namespace) -> int:
    lines, failed = [["program", "version", "read back"]], False
    for name in options.programs or READERS:
        distribution, check = READERS[name]
        if importlib.util.find_spec(name) is None:
            lines.append([name, "-", "not installed"])
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                outcome = check(Path(folder))
            except AssertionError as error:
                if options.debug:
                    raise
                outcome, failed = f"differs: {' '.join(str(error).split())[:200]}", True
        lines.append([name, _version(distribution), outcome])
    print(markdown_table(lines))
    return int(failed)


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:  # run from its source
        return "source"


if __name__ == "__main__":
    sys.exit(main())
