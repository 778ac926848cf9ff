"""Files by name: which photos are meant, what their pictures are called, and writing without half-written files."""

import glob
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from posedet.errors import DataError, PoseDetError

PHOTO_SUFFIXES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MAX_STEM_BYTES = 200  # of a picture's name; most file systems take 255 in all


def find_photos(patterns: Sequence[str]) -> list[Path]:
    """Photos named by paths, folders (their own photos, sorted) and glob patterns, each once.

    A missing file stays in the list. Raises DataError for a folder or pattern without photos: most likely a mistake
    in the name.
    """
    found: list[Path] = []
    for pattern in patterns:
        if os.path.isdir(pattern):
            found += _photos_inside(Path(pattern))
        elif glob.has_magic(pattern) and not os.path.exists(pattern):
            fitting = [Path(path) for path in sorted(glob.glob(pattern, recursive=True)) if os.path.isfile(path)]
            if not fitting:
                raise DataError(f"{one_line(pattern)}: no file fits this pattern")
            found += fitting
        else:
            found.append(Path(pattern))
    return list(dict.fromkeys(found))


def _photos_inside(folder: Path) -> list[Path]:
    try:
        # Hidden files are what systems and cameras leave behind.
        inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{one_line(folder)}: cannot be read ({error.strerror or error})") from None
    photos = [path for path in inside if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file()]
    if not photos:
        raise DataError(f"{one_line(folder)}: a folder without photos (looked for {', '.join(PHOTO_SUFFIXES)})")
    return photos


def picture_names(photos: Sequence[Path]) -> list[str]:
    """File names for annotated pictures: those of the photos, as JPEG, numbered where two would be the same."""
    names: list[str] = []
    taken: set[str] = set()
    for photo in photos:
        stem = os.fsdecode(os.fsencode(photo.stem)[:MAX_STEM_BYTES])
        name, number = f"{stem}.jpg", 1
        while name.casefold() in taken:  # many file systems do not tell a.jpg from A.jpg
            number += 1
            name = f"{stem}-{number}.jpg"
        taken.add(name.casefold())
        names.append(name)
    return names


def photo_folder(annotations: Path) -> Path:
    """Where the photos of an annotation file lie unless said otherwise: `set.json` -> `set/`."""
    return annotations.parent / annotations.name.removesuffix(".gz").removesuffix(".json")


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside and rename. Raises PoseDetError naming the file when that fails; an earlier file stays as it was.

    Any number of threads and processes may write the same file: one of them wins, whole.
    """
    # Not named after `path`, whose name may be as long as names can be; "x" never follows a link laid out before.
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


def one_line(text: object) -> str:
    """A name or a message fit for one line of a terminal, whatever bytes it came from."""
    shown = str(text)
    return shown if shown.isprintable() else ascii(shown)
