"""How readers report mistakes in annotations: they either stop at the first one or collect all of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from posedet.errors import DataError, PhotoError, PoseDetError

# Called with the kind of mistake and one line that names file, entry and values. An error means that the entry cannot
# be read and is skipped; a string means that the entry is read, but looks wrong.
Reporter = Callable[[str, PoseDetError | str], None]


def refuse(kind: str, problem: PoseDetError | str) -> None:
    """Raise the first error, and ignore everything that can still be read."""
    if isinstance(problem, PoseDetError):
        raise problem


@contextmanager
def reporting(report: Reporter, kind: str) -> Iterator[None]:
    """Report an error raised in the block, and skip the rest of the block."""
    try:
        yield
    except (DataError, PhotoError) as error:
        report(kind, error)
