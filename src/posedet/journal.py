"""Results of a long command, kept one by one, so that the same command resumes after any interruption."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
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
        total: The number of photos that the command will process.

    Attributes:
        kept: key -> result. A key is a string or a number; a result is anything that JSON can hold. Check results: the
            file may have been changed.

    Raises:
        ForeignFileError: If a file of this name is there, but is no journal of this command.
        DataError: If the journal is damaged.
    """

    def __init__(self, stem: Path, generator: str, settings: Mapping[str, Any], total: int) -> None:
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        self._lines = LineFile(stem.with_name(f"{stem.name}-{digest[:16]}.jsonl"), generator)
        self._generator, self._total = generator, total
        self._has_mark = generator_of(self._lines.path) == generator
        self.kept: dict[str | int, Any] = self._read()

    def keep(self, key: str | int, result: object) -> None:
        """Add a result, and write it to the file. Raises PoseDetError if that is not possible."""
        if not self._has_mark:
            self._lines.add({"generator": self._generator})
            self._has_mark = True
        self._lines.add([key, result])
        self.kept[key] = result

    def forget_others(self, keys: Iterable[str | int]) -> None:
        """Forget results of other keys than these, such as those of photos that have changed."""
        self.kept = {key: self.kept[key] for key in keys if key in self.kept}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lines.close()
        if error is None:
            self._lines.path.unlink(missing_ok=True)
            return
        kept = f"{len(self.kept)} of {self._total} photos are kept; the same command resumes from there"
        if isinstance(error, (PoseDetError, KeyboardInterrupt)):
            raise type(error)(f"{error}; {kept}" if str(error) else kept) from None
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            raise PoseDetError(f"{one_line(error)}; {kept}") from None

    def _read(self) -> dict[str | int, Any]:
        path = self._lines.path
        if not self._has_mark:
            if os.path.lexists(path):
                raise ForeignFileError(f"{one_line(path)}: exists, but is no journal of `{self._generator}`; remove it")
            return {}
        damaged = DataError(f"{one_line(path)}: not a valid journal of an interrupted run; delete it to start again")
        if path.stat().st_size > MAX_BYTES:
            raise damaged
        try:
            # The last line may be incomplete.
            whole = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
            return dict(json.loads(line) for line in whole[1:])
        except (OSError, ValueError, TypeError, RecursionError):
            raise damaged from None
