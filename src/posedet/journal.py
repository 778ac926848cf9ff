"""Results of a long command, kept one by one, so that the same command resumes after any interruption."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from posedet.errors import DataError, PoseDetError
from posedet.files import one_line
from posedet.outputs import ForeignFileError, LineFile, generator_of

MAX_BYTES = 1 << 32


class Journal:
    """What an interrupted run of the same command with the same settings has found, and what this run adds.

    The file `STEM-DIGEST.jsonl` has a line for each result. The digest is that of the settings, so results of other
    settings are never mixed in. Use a journal in a `with` statement: at its end the file is deleted; an error or an
    interruption keeps it, and says how much there is.

    Args:
        stem: The path without digest and suffix.
        generator: The command, as in `posedet.outputs`.
        settings: Everything that all results depend on, as JSON.
        total: The number of items that the command will process; None if that is not known.
        unit: What an item is.

    Raises:
        ForeignFileError: If a file of this name is there, but is no journal of this command.
    """

    def __init__(
        self, stem: Path, generator: str, settings: Mapping[str, Any], total: int | None, *, unit: str = "photos"
    ) -> None:
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        self._lines = LineFile(stem.with_name(f"{stem.name}-{digest[:16]}.jsonl"), generator)
        self._generator, self._total, self._unit = generator, total, unit
        path = self._lines.path
        self._has_mark = generator_of(path) == generator
        if not self._has_mark and os.path.lexists(path):
            raise ForeignFileError(f"{one_line(path)}: exists, but is no journal of `{generator}`; remove it")
        self._size = path.stat().st_size if self._has_mark else 0
        self._count: int | None = None  # not known before the file is read

    @cached_property
    def kept(self) -> dict[str | int, Any]:
        """What an interrupted run has found: key -> result.

        A key is a string or a number; a result is anything that JSON can hold. Check results: the file may have been
        changed. Raises DataError if the journal is damaged.
        """
        kept = dict(self.results())
        self._count = len(kept)
        return kept

    def results(self) -> Iterator[tuple[str | int, Any]]:
        """The items of `kept` in the order in which they were found, read one by one."""
        path = self._lines.path
        damaged = DataError(f"{one_line(path)}: not a valid journal of an interrupted run; delete it to start again")
        if self._size > MAX_BYTES:
            raise damaged
        if not self._has_mark:
            return
        try:
            with path.open("rb") as file:
                file.readline()
                # The last line may be incomplete.
                while file.tell() < self._size and (line := file.readline()).endswith(b"\n"):
                    key, result = json.loads(line)
                    if not isinstance(key, str | int):
                        raise damaged
                    self._count = (self._count or 0) + 1
                    yield key, result
        except (OSError, ValueError, TypeError, RecursionError):
            raise damaged from None

    def forget(self) -> None:
        """Start again, without the results of an interrupted run."""
        if self._has_mark:
            self._lines.path.unlink()
        self._has_mark, self._size = False, 0

    def keep(self, key: str | int, result: object) -> None:
        """Add a result, and write it to the file. Raises PoseDetError if that is not possible."""
        if not self._has_mark:
            self._lines.add({"generator": self._generator})
            self._has_mark = True
        self._lines.add([key, result])
        self._count = (self._count or 0) + 1

    def forget_others(self, keys: Iterable[str | int]) -> None:
        """Forget results of other keys than these, such as those of photos that have changed."""
        self.kept = {key: self.kept[key] for key in keys if key in self.kept}
        self._count = len(self.kept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lines.close()
        if error is None:
            self._lines.path.unlink(missing_ok=True)
            return
        total = "" if self._total is None else f" of {self._total}"
        number = self._number() if self._count is None else self._count
        kept = f"{number}{total} {self._unit} are kept; the same command resumes from there"
        if isinstance(error, (PoseDetError, KeyboardInterrupt)):
            raise type(error)(f"{error}; {kept}" if str(error) else kept) from None
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            raise PoseDetError(f"{one_line(error)}; {kept}") from None

    def _number(self) -> int:
        """How many results the file holds."""
        try:
            with self._lines.path.open("rb") as file:
                return sum(part.count(b"\n") for part in iter(lambda: file.read(1 << 20), b"")) - 1
        except OSError:
            return 0
