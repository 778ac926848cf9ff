"""Read and check untrusted JSON. Every error is one line that names the file, the entry and the field."""

import gzip
import json
import os
import reprlib
import unicodedata
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posedet.data.remarks import Reporter, refuse
from posedet.errors import DataError

MAX_JSON_BYTES = 1 << 29  # unpacked; the largest keypoint file of COCO has 240 MB
MAX_NUMBER = 1e9  # largest coordinate; larger numbers are mistakes and would overflow float32
MAX_SIDE = 1_000_000  # pixels of a photo
_MAX_ID = 2**63 - 1
_NUMBER_TYPES = {int, float, np.float32, np.float64, np.int32, np.int64}


def read_json(path: str | Path) -> Any:
    """Parse a `.json` or `.json.gz` file of at most `MAX_JSON_BYTES` uncompressed bytes. Raises DataError."""
    file = Path(path)
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as stream:
            content = stream.read(MAX_JSON_BYTES + 1)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{file}: not a gzip file, or truncated ({error})") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from None
    if len(content) > MAX_JSON_BYTES:
        raise DataError(f"{file}: larger than {MAX_JSON_BYTES >> 20} MiB, expected annotations or results")
    try:
        return json.loads(content)
    except RecursionError:
        raise DataError(f"{file}: nested too deeply, expected annotations or results") from None
    except ValueError as error:  # not JSON, not UTF-8, or a number of thousands of digits
        raise DataError(f"{file}: not a JSON file ({str(error).splitlines()[0]:.120})") from None


def entries(data: Any, key: str, where: str, report: Reporter = refuse) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of the list `data[key]`, each with its place, such as `val.json: annotations[7]`."""
    if not isinstance(data, dict):
        raise DataError(f"{where}: {reprlib.repr(data)}, expected an object with images, annotations and categories")
    if key not in data:
        raise DataError(f"{where}: '{key}' is missing; is this a COCO-style keypoint file?")
    yield from listed(data[key], f"{where}: {key}", report)


def listed(value: Any, where: str, report: Reporter = refuse) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a list, each with its place, such as `results[7]`. Anything else is reported and skipped."""
    if not isinstance(value, list):
        report("list", DataError(f"{where}: {reprlib.repr(value)}, expected a list"))
        return
    for number, entry in enumerate(value):
        if isinstance(entry, dict):
            yield f"{where}[{number}]", entry
        else:
            report("list", DataError(f"{where}[{number}]: {reprlib.repr(entry)}, expected an object"))


def present(entry: dict[str, Any], key: str, where: str) -> Any:
    """Return `entry[key]`, which must exist."""
    if key not in entry:
        raise DataError(f"{where}: '{key}' is missing")
    return entry[key]


def identity(entry: dict[str, Any], key: str, where: str) -> int:
    """Return the whole number that identifies a photo, an annotation or a category."""
    value = present(entry, key, where)
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not -_MAX_ID <= value <= _MAX_ID:
        raise DataError(f"{where}.{key}: {reprlib.repr(value)}, expected a whole number")
    return int(value)


def new_identity(entry: dict[str, Any], taken: set[int] | dict[int, Any], where: str) -> int:
    """Return the entry's own `id`, which must differ from all ids in `taken`."""
    value = identity(entry, "id", where)
    if value in taken:
        raise DataError(f"{where}.id: duplicate id {value}")
    return value


def number(entry: dict[str, Any], key: str, where: str, *, low: float, high: float) -> float:
    """Return a number from `low` to `high`."""
    value = present(entry, key, where)
    if type(value) not in _NUMBER_TYPES or not low <= value <= high:  # NaN fails both comparisons
        raise DataError(f"{where}.{key}: {reprlib.repr(value)}, expected a number from {low:g} to {high:g}")
    return float(value)


def flag(entry: dict[str, Any], key: str, where: str) -> bool:
    """Return a flag, written as 0 / 1 or false / true. A missing flag is false."""
    value = entry.get(key, False)
    if not isinstance(value, bool | int) or value not in (0, 1):
        raise DataError(f"{where}.{key}: {reprlib.repr(value)}, expected 0 or 1")
    return bool(value)


def numbers(entry: dict[str, Any], key: str, where: str, length: int, layout: str = "") -> NDArray[np.float64]:
    """Return a list of `length` finite numbers; `layout`, such as "17 x 3", explains the length in errors."""
    value = present(entry, key, where)
    meant = f"{length} ({layout})" if layout else str(length)
    if not isinstance(value, list | tuple | np.ndarray):
        raise DataError(f"{where}.{key}: {reprlib.repr(value)}, expected a list of {meant} numbers")
    if len(value) != length:
        raise DataError(f"{where}.{key}: {len(value)} numbers, expected {meant}")
    # Check types first, because NumPy converts "1" and null to numbers.
    if set(map(type, value)) <= _NUMBER_TYPES and all(-MAX_NUMBER <= each <= MAX_NUMBER for each in value):
        return np.array(value, np.float64)
    place, wrong = next(
        (place, each)
        for place, each in enumerate(value)
        if type(each) not in _NUMBER_TYPES or not -MAX_NUMBER <= each <= MAX_NUMBER
    )
    raise DataError(f"{where}.{key}[{place}]: {reprlib.repr(wrong)}, expected a number of at most {MAX_NUMBER:g}")


def box(entry: dict[str, Any], where: str) -> NDArray[np.float64]:
    """Return `bbox`: x, y of the top-left corner, width and height in pixels. Width and height are at least 0."""
    values = numbers(entry, "bbox", where, 4, "x, y, width, height")
    if values[2] < 0 or values[3] < 0:
        raise DataError(f"{where}.bbox: width {values[2]:g}, height {values[3]:g}, expected values of at least 0")
    return values


def keypoint_table(entry: dict[str, Any], where: str, num_keypoints: int) -> NDArray[np.float64]:
    """Return `keypoints` as an array (num_keypoints, 3): x, y in pixels, and a flag or score."""
    return numbers(entry, "keypoints", where, 3 * num_keypoints, f"{num_keypoints} x 3").reshape(num_keypoints, 3)


def photo_path(entry: dict[str, Any], where: str, folder: Path) -> Path:
    """Return the path of the photo of an entry of `images`; see `on_disk`. The name may be an absolute one."""
    name = present(entry, "file_name", where)
    if not isinstance(name, str) or not name or "\0" in name:
        raise DataError(f"{where}.file_name: {reprlib.repr(name)}, expected the name of a photo")
    inside = name
    for root in (os.path.abspath(folder), os.path.realpath(folder)) if os.path.isabs(name) else ():
        if Path(name).is_relative_to(root):
            inside = str(Path(name).relative_to(root))
    # Annotations may name photos in subfolders, but must not give access to other files.
    if PurePosixPath(inside).is_absolute() or PureWindowsPath(inside).anchor or ".." in PureWindowsPath(inside).parts:
        raise DataError(f"{where}.file_name: {name!r:.80} is outside the photo folder {folder}")
    return on_disk(folder, inside)


def on_disk(folder: Path, name: str) -> Path:
    """Return the path of a file in a folder as the disk spells it: backslashes may separate folders, and the letters of
    names from other systems may be composed otherwise (NFC and NFD). A file that does not exist keeps its name.
    """
    path = folder / name
    if (name.isascii() and "\\" not in name) or os.path.exists(path):
        return path
    for form in ("NFC", "NFD"):
        for spelling in (name, name.replace("\\", "/")):
            other = folder / unicodedata.normalize(form, spelling)
            if os.path.exists(other):
                return other
    return path


def photo_sides(entry: dict[str, Any], where: str) -> tuple[int, int]:
    """Return (height, width) of an entry of `images`."""
    height, width = (int(number(entry, side, where, low=1, high=MAX_SIDE)) for side in ("height", "width"))
    return height, width


def known_category(entry: dict[str, Any], categories: Collection[int], where: str) -> int:
    """Return an entry's `category_id`, which must be one of the file's categories."""
    category_id = identity(entry, "category_id", where)
    if category_id not in categories:
        known = ", ".join(str(each) for each in list(categories)[:10])
        raise DataError(f"{where}.category_id: {category_id} is not among the file's categories ({known})")
    return category_id
