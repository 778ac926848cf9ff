"""Find photos by path, folder or pattern, read files that are open already, and show names."""

import glob
import io
import logging
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posedet.errors import DataError, PoseDetError

PHOTO_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff"),
    ".webp",
)
VIDEO_SUFFIXES = (
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts"),
    *(".webm", ".wmv", ".y4m"),
)

CHUNK_BYTES = 1 << 20

log = logging.getLogger(__name__)


def find_photos(patterns: Sequence[str], *, quiet: bool = False) -> list[Path]:
    """List the photos that paths, folders and glob patterns name, without duplicates.

    Args:
        patterns: Paths of photos, folders (their photos are sorted) and glob patterns. The path of a missing file is
            kept, so that reading it reports the error.
        quiet: Whether not to log which files and subfolders of a folder are left out.

    Raises:
        DataError: If a folder or a pattern contains no photos, because the name is probably wrong.
    """
    found: list[Path] = []
    for pattern in patterns:
        if os.path.isdir(pattern):
            found += _photos_inside(Path(pattern), quiet)
        elif glob.has_magic(pattern) and not os.path.exists(pattern):
            fitting = [Path(path) for path in sorted(glob.glob(pattern, recursive=True)) if os.path.isfile(path)]
            if not fitting:
                raise DataError(f"{one_line(pattern)}: no file matches this pattern")
            found += fitting
        elif pattern.lower().endswith(VIDEO_SUFFIXES):
            raise DataError(f"{one_line(pattern)}: a video, expected photos; use `posedet track`")
        else:
            found.append(Path(pattern))
    return list(dict.fromkeys(found))


def _photos_inside(folder: Path, quiet: bool) -> list[Path]:
    try:
        # Operating systems and cameras leave hidden files behind.
        inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{one_line(folder)}: cannot be read ({error.strerror or error})") from None
    folders = sum(path.is_dir() for path in inside)
    photos = [path for path in inside if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file()]
    others = [path for path in inside if path.suffix.lower() not in PHOTO_SUFFIXES and not path.is_dir()]
    kinds = Counter(path.suffix.lower() or "without a suffix" for path in others).most_common()
    subfolders = [("subfolder" if folders == 1 else "subfolders", folders)] if folders else []
    left_out = [f"{count} {kind}" for kind, count in (*kinds, *subfolders)]
    if left_out and not quiet:
        log.info("%s: left out %s", one_line(folder), one_line(", ".join(left_out)))
    if not photos:
        raise DataError(f"{one_line(folder)}: the folder contains no photos (supported: {', '.join(PHOTO_SUFFIXES)})")
    return photos


def content_of(file: Any, name: str, limit: int, error: type[PoseDetError]) -> bytes:
    """Read a file that is open already, however little it gives at a time, and even if it never ends.

    Args:
        file: The binary file. It is read from its start, or from where it stands if it cannot seek.
        name: Its name in messages.
        limit: Bytes at which reading ends; more than these tell the caller that the file is too large.
        error: What is raised if the file cannot be read.
    """
    if isinstance(file, io.TextIOBase):
        raise error(f"{name}: is open in text mode, expected mode 'rb'")
    content = bytearray()
    try:
        if getattr(file, "seekable", lambda: False)():
            file.seek(0)  # as Pillow does
        while len(content) <= limit and (chunk := file.read(CHUNK_BYTES)):
            if not isinstance(chunk, bytes):
                raise error(f"{name}: read() gives {type(chunk).__name__}, expected bytes")
            content += chunk
    except (OSError, ValueError) as problem:  # ValueError: it is closed
        reason = problem.strerror if isinstance(problem, OSError) else problem
        raise error(f"{name}: cannot be read ({reason})") from None
    return bytes(content)


def photo_folder(annotations: Path) -> Path:
    """Return the default photo folder of an annotation file: `set.json` -> `set/`."""
    return annotations.parent / annotations.name.removesuffix(".gz").removesuffix(".json")


def no_terminal() -> bool:
    """Whether nobody would see a progress bar: errors go to a file, or nowhere, as in daemons and below pythonw."""
    return sys.stderr is None or sys.stderr.closed or not sys.stderr.isatty()


def one_line(text: object) -> str:
    """Return a name or a message without line breaks and control characters, for terminals and error messages."""
    shown = str(text)
    return shown if shown.isprintable() else ascii(shown)
