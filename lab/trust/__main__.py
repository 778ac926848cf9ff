"""Reproduce docs/lab/trust.md and docs/lab/mutants.md: `python -m lab.trust threads | memory | mutants`."""

import argparse
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from posedet.commands.main import run
from posedet.commands.options import add_number

PHOTOS = Path(__file__).parents[2] / "photos"
MOST_GROWTH_MB = 10
LEAST_PERCENT = 85  # of the mutants of each module


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    return run(_parser(), arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab.trust", description="Long checks of what users rely on.")
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    threads = commands.add_parser("threads", help="the poses of many threads are those of a series, bit for bit")
    add_number(threads, "--photos", "photos (default: %(default)s)", default=1000)
    add_number(threads, "--threads", "threads that share a detector (default: %(default)s)", default=32)
    threads.set_defaults(command=_threads)

    memory = commands.add_parser("memory", help="memory of a detector does not grow with the number of photos")
    add_number(memory, "--photos", "photos (default: %(default)s)", default=20_000)
    memory.set_defaults(command=_memory)
    for command in (threads, memory):
        add_number(command, "--long-side", "size of the network's input (default: %(default)s)", least=32, default=128)

    mutants = commands.add_parser("mutants", help="tests notice changes of the code: `make mutants`")
    add_number(mutants, "--jobs", "processes (default: %(default)s)", default=1)
    mutants.set_defaults(command=_mutants)
    return parser


def _threads(options: argparse.Namespace) -> int:
    from lab.trust.detecting import many_photos, threads_against_series
    from posedet.runtime.detector import PoseDet

    differing = 0
    for cores in (1, 4):  # the runtime without threads of its own, and with some
        detector = PoseDet(long_side=options.long_side, score_threshold=0.1, threads=cores, embedding=True)
        photos = islice(many_photos(sorted(PHOTOS.glob("*.jpg"))), options.photos)
        found = threads_against_series(detector, photos, options.threads)
        print(
            f"{options.threads} threads, {cores} of the runtime, {found.num_photos} photos, {found.num_poses} poses: "
            f"{found.differing} photos differ from a series"
        )
        differing += found.differing
    return 1 if differing else 0


def _memory(options: argparse.Namespace) -> int:
    from lab.trust.detecting import SETTLED, many_photos, memory_over
    from posedet.runtime.detector import PoseDet

    detector = PoseDet(long_side=options.long_side, score_threshold=0.1, threads=1)
    found = memory_over(detector, many_photos(sorted(PHOTOS.glob("*.jpg"))), options.photos)
    print(
        f"{options.photos} photos: {found.settled:.1f} MB after {SETTLED}, {found.most:.1f} at most, "
        f"{found.end:.1f} at the end: grown by {found.grown:.1f} MB"
    )
    return 1 if found.grown >= MOST_GROWTH_MB else 0


def _mutants(options: argparse.Namespace) -> int:
    from lab.trust.mutants import NOTICED, by_module, mutants

    found = mutants(options.jobs)
    for name, status in found.items():
        if status not in NOTICED:
            print(f"{name}: {status}")
    modules = by_module(found)
    print("\n| module | mutants | noticed | |\n|---|---|---|---|")
    for each in modules:
        print(f"| `{each.module}` | {each.total} | {each.noticed} | {each.percent:.1f} % |")
    return 1 if any(each.percent < LEAST_PERCENT for each in modules) else 0


if __name__ == "__main__":
    sys.exit(main())
