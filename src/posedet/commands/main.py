"""The command line, `posedet COMMAND`.

Only the command modules print. What a command needs is imported inside it: `--help` answers at once, and running needs
no torch.
"""

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence

from posedet import __version__
from posedet.commands import benchmark, diagnose, evaluate, models, predict, train
from posedet.errors import PoseDetError
from posedet.files import one_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of `posedet` and return its exit code."""
    return run(_parser().parse_args(arguments))


def run(options: argparse.Namespace) -> int:
    """Run `options.command` and return its exit code: 0 all well, 1 a photo failed, 2 nothing could be done.

    An error that a user can cause is one line, a traceback only with `options.debug`.
    """
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

    for group in (predict, evaluate, diagnose, benchmark, train, models):
        group.add_commands(add)
    return parser
