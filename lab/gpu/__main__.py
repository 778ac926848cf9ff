"""Measure the paper's models on a GPU: `python -m lab.gpu [--device cpu]`; see docs/lab/gpu.md."""

import argparse
import sys
from collections.abc import Sequence

from lab.gpu import GENERATOR
from posedet.commands.benchmark import PHOTOS, add_photos, add_report, claim_report, cores, timed_photos, write_results
from posedet.commands.main import run
from posedet.commands.options import add_threads
from posedet.errors import ConfigError
from posedet.extras import needs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    return run(_parser(), arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lab.gpu", description="Measure the speed of the paper's models on a GPU."
    )
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    add_photos(parser)
    parser.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="cpu: a test run with tiny inputs (default: %(default)s)",
    )
    parser.add_argument(
        "--parts",
        help="what to measure, separated by commas: limits, inference, accuracy, sampling, training, loader, compiled "
        "(default: all)",
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="time limit for all parts (default: %(default)g)")
    parser.add_argument(
        "--annotations",
        metavar="JSON[:FOLDER]",
        help=f"annotated photos for accuracy and loader (default: {PHOTOS}/truth.json:{PHOTOS})",
    )
    add_threads(parser)
    add_report(parser)
    parser.set_defaults(command=_measure)
    return parser


def _measure(options: argparse.Namespace) -> int:
    needs("python -m lab.gpu", "train", ("torch", "cv2", "safetensors", "yaml"))
    from lab.gpu.parts import PARTS, draw_rates, measure_parts, results_dict, summary
    from lab.gpu.rows import Plan

    claim_report(options, GENERATOR)
    parts = options.parts.split(",") if options.parts else PARTS
    for part in parts:
        if part not in PARTS:
            raise ConfigError(f"--parts {part}: expected some of {', '.join(PARTS)}")
    if not options.minutes > 0:
        raise ConfigError(f"--minutes {options.minutes:g}: expected more than 0")
    annotations = options.annotations or f"{PHOTOS}/truth.json:{PHOTOS}"
    plan = Plan(options.device, options.device == "cpu", tuple(timed_photos(options)), annotations, cores(options))

    def tell(line: str) -> None:
        print(line, flush=True)

    rows = measure_parts(plan, parts=parts, seconds=60 * options.minutes, output=options.output, tell=tell)
    print(f"\n{summary(rows)}")
    if plan.toy:
        print("Run on a CPU with tiny inputs: only the operation counts are meaningful.")
    write_results(options, results_dict(plan, rows), lambda path: draw_rates(rows, path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
