"""Find photos by path, folder or pattern, name the annotated pictures, and write files atomically."""

import glob
import logging
import os
import secrets
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from posedet.errors import ConfigError, DataError, PoseDetError

PHOTO_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff"),
    ".webp",
)
MAX_STEM_BYTES = 200  # most file systems limit a whole file name to 255 bytes

log = logging.getLogger(__name__)


def find_photos(patterns: Sequence[str]) -> list[Path]:
    """List the photos that paths, folders and glob patterns name, without duplicates.

    Args:
        patterns: Paths of photos, folders (their photos are sorted) and glob patterns. The path of a missing file is
            kept, so that reading it reports the error. The log says which files and subfolders a folder leaves out.

    Raises:
        DataError: If a folder or a pattern contains no photos, because the name is probably wrong.
    """
    found: list[Path] = []
    for pattern in patterns:
        if os.path.isdir(pattern):
            found += _photos_inside(Path(pattern))
        elif glob.has_magic(pattern) and not os.path.exists(pattern):
            fitting = [Path(path) for path in sorted(glob.glob(pattern, recursive=True)) if os.path.isfile(path)]
            if not fitting:
                raise DataError(f"{one_line(pattern)}: no file matches this pattern")
            found += fitting
        else:
            found.append(Path(pattern))
    return list(dict.fromkeys(found))


def _photos_inside(folder: Path) -> list[Path]:
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
    if left_out:
        log.info("%s: left out %s", one_line(folder), one_line(", ".join(left_out)))
    if not photos:
        raise DataError(f"{one_line(folder)}: the folder contains no photos (supported: {', '.join(PHOTO_SUFFIXES)})")
    return photos


def picture_names(photos: Sequence[Path]) -> list[str]:
    """Return one JPEG file name per photo for the annotated picture; duplicate names get a number."""
    names: list[str] = []
    taken: set[str] = set()
    for photo in photos:
        stem = os.fsdecode(os.fsencode(photo.stem)[:MAX_STEM_BYTES])
        name, number = f"{stem}.jpg", 1
        while name.casefold() in taken:  # on many file systems a.jpg and A.jpg are the same file
            number += 1
            name = f"{stem}-{number}.jpg"
        taken.add(name.casefold())
        names.append(name)
    return names


def photo_folder(annotations: Path) -> Path:
    """Return the default photo folder of an annotation file: `set.json` -> `set/`."""
    return annotations.parent / annotations.name.removesuffix(".gz").removesuffix(".json")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a temporary file in the same folder, then rename it.

    Several threads and processes may write the same file: the result is one complete version.

    Raises:
        PoseDetError: If the file cannot be written. An existing file is then unchanged.
    """
    # A random name, because `path` may have the maximum length already. Mode "x" never follows a planted link.
    partial = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        try:
            with partial.open("xb") as file:
                file.write(content)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise PoseDetError(f"{one_line(path)}: could not be written ({error.strerror or error})") from None


def make_folder(folder: Path) -> None:
    """Create an output folder and its parents. Raises ConfigError with the reason if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{one_line(folder)}: cannot be created ({reason}); choose another folder") from None


def one_line(text: object) -> str:
    """Return a name or a message without line breaks and control characters, for terminals and error messages."""
    shown = str(text)
    return shown if shown.isprintable() else ascii(shown)
