"""Reproduce docs/lab/serve.md: `python -m lab.serve load | attack | batches`."""

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from posedet.benchmark.timing import Spread, interleaved, ratio
from posedet.commands.main import run
from posedet.commands.options import add_number
from posedet.evaluation.report import markdown_table
from posedet.extras import needs

PHOTOS = Path(__file__).parents[2] / "photos"
MAX_BYTES = 20_000_000  # the server's default


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    return run(_parser(), arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab.serve", description="Reproduce docs/lab/serve.md.")
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    load = commands.add_parser("load", help="throughput under load, beside the same model called in Python")
    add_number(load, "--clients", "clients that send photos (default: %(default)s)", default=16)
    add_number(load, "--seconds", "length of a turn (default: %(default)s)", default=10)
    add_number(load, "--rounds", "turns of the server and of Python (default: %(default)s)", default=6)
    load.set_defaults(command=_load)

    attack = commands.add_parser("attack", help="bad uploads in parallel with good ones")
    add_number(attack, "--count", "bad uploads (default: %(default)s)", default=1000)
    add_number(attack, "--at-once", "bad uploads at a time (default: %(default)s)", default=50)
    add_number(attack, "--clients", "clients that send good photos (default: %(default)s)", default=4)
    attack.set_defaults(command=_attack)

    batches = commands.add_parser("batches", help="milliseconds of the network for a photo, in batches")
    add_number(batches, "--rounds", "rounds (default: %(default)s)", default=10)
    batches.set_defaults(command=_batches)
    return parser


def _photos() -> list[bytes]:
    return [path.read_bytes() for path in sorted(PHOTOS.glob("*.jpg"))]


def _load(options: argparse.Namespace) -> int:
    needs("python -m lab.serve", "serve", ("fastapi", "prometheus_client", "python_multipart", "uvicorn"))
    from lab.serve.client import running
    from lab.serve.load import compare
    from posedet.runtime.bulk import MOST_AT_ONCE, best_at_once
    from posedet.runtime.detector import PoseDet

    detector = PoseDet(at_once=best_at_once(MOST_AT_ONCE, None))
    with running() as server:
        found = compare(
            server, detector, _photos(), num_clients=options.clients, seconds=options.seconds, rounds=options.rounds
        )
    lines = [["", "photos a second", "ms of a core for a photo"]]
    for name, loads in found.items():
        rates, processor = [load.rate for load in loads], [1000 * load.processor for load in loads]
        lines.append([name, str(Spread.of(rates)), str(Spread.of(processor))])
    shares = [
        ratio(*([getattr(load, name) for load in found[who]] for who in ("server", "Python")))
        for name in ("rate", "processor")
    ]
    lines.append(["server / Python", *map(str, shares)])
    print(markdown_table(lines))
    seconds = [second for load in found["server"] for second in load.seconds]
    statuses = Counter(status for load in found["server"] for status in load.statuses)
    print(f"statuses: {dict(statuses)}")
    print(f"latency: median {np.median(seconds):.3f} s, 99th percentile {np.percentile(seconds, 99):.3f} s")
    return 0


def _attack(options: argparse.Namespace) -> int:
    needs("python -m lab.serve", "serve", ("fastapi", "prometheus_client", "python_multipart", "uvicorn"))
    from lab.serve.attack import attack
    from lab.serve.client import running

    lines = [
        ["", "bad uploads", "good photos", "median, 99 % of good", "99 % of `/healthz`", "peak memory", "memory after"]
    ]
    wrong: list[str] = []
    with running() as server:
        # The first line is only the good ones, for comparison.
        for name, count in (("good only", 0), ("attack", options.count), ("good again", 0)):
            outcome = asyncio.run(
                attack(
                    server,
                    _photos(),
                    count=count,
                    at_once=options.at_once,
                    num_good=options.clients,
                    max_bytes=MAX_BYTES,
                )
            )
            wrong += outcome.wrong
            lines.append(
                [
                    name,
                    str(count),
                    ", ".join(f"{number} x {status}" for status, number in outcome.good.items()),
                    f"{np.median(outcome.good_seconds):.2f}, {np.percentile(outcome.good_seconds, 99):.2f} s",
                    f"{1000 * np.percentile(outcome.health_seconds, 99):.0f} ms",
                    f"{outcome.peak_mb:.0f} MB",
                    f"{outcome.left_mb:.0f} MB",
                ]
            )
    print(markdown_table(lines))
    print("answered otherwise than they should:", dict(Counter(wrong)) or "none")
    return 1 if wrong else 0


def _batches(options: argparse.Namespace) -> int:
    from posedet.benchmark.stages import Ours
    from posedet.runtime.model_files import model_file
    from posedet.runtime.session import open_session

    subject, photo = Ours(open_session(model_file("posedet-s")), "float32"), _photos()[0]

    def timed(size: int) -> Callable[[bytes], float]:
        return lambda photo: subject.measure(photo, batch=size).ms["network"]

    found = interleaved({str(size): timed(size) for size in (1, 2, 4, 8)}, [photo], options.rounds)
    lines = [["batch", "ms for a photo", "share of single photos"]]
    lines += [[name, str(Spread.of(times)), str(ratio(times, found["1"]))] for name, times in found.items()]
    print(markdown_table(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
