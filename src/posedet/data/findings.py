"""What is wrong in annotations, and who is told: a reader goes on after a mistake if the one who asked wants that."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from posedet.errors import DataError, PhotoError, PoseDetError

# Called with the kind of mistake, and one line that names file, entry and values: an error is about something that
# cannot be read and is left out; a text is about something that can be read, but should be looked at.
Reporter = Callable[[str, PoseDetError | str], None]


def refuse(kind: str, problem: PoseDetError | str) -> None:
    """The strict report: raise the first error."""
    if isinstance(problem, PoseDetError):
        raise problem


@contextmanager
def reporting(report: Reporter, kind: str) -> Iterator[None]:
    """An error in the block is reported; the rest of the block is left out."""
    try:
        yield
    except (DataError, PhotoError) as error:
        report(kind, error)
