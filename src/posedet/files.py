"""Writing files so that a reader never meets half of one."""

import os
import threading
from pathlib import Path

from posedet.errors import PoseDetError


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside and rename. Raises PoseDetError naming the file when that fails; an earlier file stays as it was."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        try:
            partial.write_bytes(content)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise PoseDetError(f"{path}: could not be written ({error.strerror})") from None
