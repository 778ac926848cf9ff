"""The command line, `posedet COMMAND`: predict, evaluate, reproduce, train and the others.

Only the `cli` modules print. What a command needs is imported inside it: `--help` answers at once, and running needs no
torch.
"""

import argparse
import io
import json
import logging
import os
import sys
from collections.abc import Sequence

from posedet import __version__, cli_benchmark, cli_evaluation, cli_predict, cli_training, cli_weights
from posedet.errors import PoseDetError
from posedet.files import one_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 all well, 1 a photo failed, 2 nothing could be done."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names that the terminal cannot show
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        code: int = options.command(options)
        sys.stdout.flush()
        return code
    except PoseDetError as error:
        if options.debug:
            raise
        print(f"posedet: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("posedet: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Who read our output, such as `head`, has seen enough; Python must not try again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a disk that is full, a folder that may not be written
        if options.debug:
            raise
        print(f"posedet: error: {one_line(error)}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="posedet",
        description="Find the people in photos, and where their joints are.",
        epilog="`posedet COMMAND --help` says more. Start with: posedet predict photo.jpg",
    )
    parser.add_argument("--version", action="version", version=f"posedet {__version__}")
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, summary: str, example: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, description=summary, epilog=f"example: posedet {example}")
        command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        return command

    for group in (cli_predict, cli_evaluation, cli_benchmark, cli_training, cli_weights):
        group.add_commands(add)

    info = add("info", "what a model file says of itself", "info model.onnx")
    info.add_argument("model", nargs="?", help="ONNX file (default: the shipped model)")
    info.set_defaults(command=_info)
    return parser


def _info(options: argparse.Namespace) -> int:
    from posedet.detector import PoseDet

    about = PoseDet(options.model).about
    print(f"{about.name} (posedet {about.version}): {len(about.skeleton.keypoints)} keypoints, {about.skeleton.name}")
    print(json.dumps(about.config, indent=1))
    return 0
