"""Runs parts in separate processes: a device fault or a slow compiler affects only one part."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from lab.gpu.rows import Measurement, said


class Task(NamedTuple):
    """A part to run: a module-level function, which another process can import, and its arguments."""

    name: str
    run: Callable[..., Iterator[Measurement]]
    arguments: tuple[Any, ...]
    model: str = ""


def task_rows(task: Task) -> Iterator[Measurement]:
    """The rows of a task, with a final row for an exception that ends it."""
    try:
        yield from task.run(*task.arguments)
    except Exception as error:
        yield Measurement(task.name, task.model, "", failed=said(error))


def isolated(task: Task, seconds: float) -> Iterator[Measurement]:
    """As `task_rows`, from a separate process; a crash or a timeout also becomes a row."""
    until = time.monotonic() + seconds
    context = multiprocessing.get_context("spawn")  # CUDA cannot be used after a fork
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(task, theirs))
    process.start()
    theirs.close()
    try:
        while True:
            if not ours.poll(max(0.0, until - time.monotonic())):
                yield Measurement(task.name, task.model, "", failed=f"stopped after {seconds:.0f} s")
                return
            row = ours.recv()
            if row is None:
                return
            yield row
    except EOFError:
        process.join()
        yield Measurement(task.name, task.model, "", failed=f"its process ended (exit code {process.exitcode})")
    finally:
        process.kill()
        process.join()
        ours.close()


def _serve(task: Task, pipe: Connection) -> None:
    for row in task_rows(task):
        pipe.send(row)
    pipe.send(None)
