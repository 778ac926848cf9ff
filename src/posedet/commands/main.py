"""The command line, `posedet COMMAND`.

Only the command modules print. Each command imports what it needs when it runs: `--help` stays fast, and running a
model needs no torch.
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
    return run(_parser(), arguments)


def run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> int:
    """Parse the arguments, run the command that they name, and return its exit code.

    The exit code is 0 for success, 1 if a photo failed, and 2 if nothing could be done. An error that a user can cause
    is one line; `--debug` adds a traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names that the terminal cannot show
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    options = argparse.Namespace(debug=False)
    try:
        code: int = parser.parse_args(arguments, options).command(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("posedet: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output, such as `head`, has ended. Python must not flush to it again on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (PoseDetError, OSError) as error:  # OSError: for example a full disk
        if options.debug:
            raise
        print(f"posedet: error: {one_line(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="posedet",
        description="Find people in photos and locate their keypoints.",
        epilog="`posedet COMMAND --help` describes a command. Start with: posedet predict photo.jpg",
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
