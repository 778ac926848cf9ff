"""The paper's models on a GPU: `python -m lab.gpu [--device cpu]`; see docs/lab/gpu.md."""

import argparse
import sys
from collections.abc import Sequence

from posedet.commands.benchmark import PHOTOS, add_output, cores, make_report_folder, timed_photos, write_results
from posedet.commands.main import run as run_command
from posedet.errors import ConfigError
from posedet.extras import needs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    return run_command(_parser().parse_args(arguments))


def _parser() -> argparse.ArgumentParser:
    """The options of the one command."""
    parser = argparse.ArgumentParser(prog="python -m lab.gpu", description="how fast the paper's models are on a GPU")
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    parser.add_argument(
        "photos", nargs="*", metavar="PATH", help=f"photos, folders or patterns (default: the folder {PHOTOS}/)"
    )
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: the same at a toy size, to see that it works"
    )
    parser.add_argument(
        "--parts", help="some of limits, inference, accuracy, sampling, training, loader, compiled (default: all)"
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="for all of it (default: %(default)g)")
    parser.add_argument(
        "--annotations",
        metavar="JSON[:FOLDER]",
        help=f"for accuracy and loader (default: {PHOTOS}/truth.json:{PHOTOS})",
    )
    parser.add_argument("--threads", type=int, metavar="CORES", help="how many to use (default: all)")
    add_output(parser)
    parser.set_defaults(command=_measure)
    return parser


def _measure(options: argparse.Namespace) -> int:
    make_report_folder(options)
    needs("python -m lab.gpu", "train", ("torch", "cv2", "safetensors", "yaml"))
    from lab.gpu.parts import PARTS, draw, run, summary, to_dict
    from lab.gpu.rows import Plan

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

    rows = run(plan, parts=parts, seconds=60 * options.minutes, output=options.output, tell=tell)
    print(f"\n{summary(rows)}")
    if plan.toy:
        print("On a CPU, at a toy size: what is not counted means nothing but that it works.")
    write_results(options, to_dict(plan, rows), lambda path: draw(rows, path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
