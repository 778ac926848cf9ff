"""The command line, `posedet COMMAND`.

Only the command modules print. Each command imports what it needs when it runs: `--help` stays fast, and running a
model needs no torch.
"""

import argparse
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

from posedet import __version__
from posedet.commands import benchmark, diagnose, evaluate, heads, models, predict, serve, track, train
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
    _replace_missing_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names that the terminal cannot show
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    for ours in ("posedet", "lab"):  # other packages only warn
        logging.getLogger(ours).setLevel(logging.INFO)
    options = argparse.Namespace(debug=False)
    can_set = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _terminate) if can_set else None
    try:
        code: int = parser.parse_args(arguments, options).command(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as stop:
        what, code = ("terminated", 143) if isinstance(stop, _Terminated) else ("interrupted", 130)
        print(f"posedet: {what}{f'; {stop}' if str(stop) else ''}", file=sys.stderr)
        return code
    except BrokenPipeError:
        # The reader of our output, such as `head`, has ended. Python must not flush to it again on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (PoseDetError, OSError) as error:  # OSError: for example a full disk
        if options.debug:
            raise
        print(f"posedet: error: {one_line(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        return 2
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


class _Terminated(KeyboardInterrupt):
    """SIGTERM: ends a command as Ctrl-C does."""


def _terminate(*_: object) -> NoReturn:
    raise _Terminated


def _replace_missing_streams() -> None:
    """Let output go nowhere if standard output or error is missing, as in daemons and below pythonw.

    Their numbers are taken, too: otherwise the next file that is opened would get one, and the messages of a library
    written in C would go into that file.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or getattr(stream, "closed", False):
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


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

    for group in (predict, track, serve, evaluate, diagnose, benchmark, train, heads, models):
        group.add_commands(add)
    return parser
