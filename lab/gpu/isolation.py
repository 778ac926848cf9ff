"""Parts in processes of their own: a fault of the device or a slow compiler costs one part, not the others."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from lab.gpu.rows import Row, said


class Task(NamedTuple):
    """A part to run: a function of a module, so that another process can import it, and its arguments."""

    name: str
    run: Callable[..., Iterator[Row]]
    arguments: tuple[Any, ...]
    model: str = ""


def rows_of(task: Task) -> Iterator[Row]:
    """The rows of a task, one more that says so if it cannot go on."""
    try:
        yield from task.run(*task.arguments)
    except Exception as error:
        yield Row(task.name, task.model, "", failed=said(error))


def isolated(task: Task, seconds: float) -> Iterator[Row]:
    """As `rows_of`, from a process of its own; also where that ends badly, or not within so many seconds."""
    until = time.monotonic() + seconds
    context = multiprocessing.get_context("spawn")  # CUDA cannot be used after a fork
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(task, theirs))
    process.start()
    theirs.close()
    try:
        while True:
            if not ours.poll(max(0.0, until - time.monotonic())):
                yield Row(task.name, task.model, "", failed=f"not done after {seconds:.0f} s: given up")
                return
            row = ours.recv()
            if row is None:
                return
            yield row
    except EOFError:
        process.join()
        yield Row(task.name, task.model, "", failed=f"its process ended (exit code {process.exitcode})")
    finally:
        process.kill()
        process.join()
        ours.close()


def _serve(task: Task, pipe: Connection) -> None:
    for row in rows_of(task):
        pipe.send(row)
    pipe.send(None)
