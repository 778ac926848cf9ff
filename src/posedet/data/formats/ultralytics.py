"""Read Ultralytics' pose format: photos, a text file for each photo, and a data.yaml with the keypoints.

Each line of a text file is one person: class, box (centre, width, height), then x y or x y flag for each keypoint, all
relative to the photo's width and height. Format: docs.ultralytics.com/datasets/pose.
"""

import math
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from posedet.data.annotations import AnnotatedPhoto, Person, estimated_area
from posedet.data.formats.format import AnnotationFile, Format
from posedet.data.keypoint_columns import KeypointColumns, keypoint_columns
from posedet.data.remarks import Reporter, reporting
from posedet.errors import DataError
from posedet.files import PHOTO_SUFFIXES
from posedet.image import size_of
from posedet.skeleton import Skeleton

MAX_YAML_BYTES = 200_000
MAX_TEXT_BYTES = 10_000_000  # of a file of labels, or a list of photos
MAX_KEYPOINTS = 1000
MAX_SHARE = 10.0  # of a photo's side; larger values are probably pixels


class _Lines(NamedTuple):
    """The layout of the lines of a set's text files."""

    columns: KeypointColumns
    has_flags: bool  # x y flag for each keypoint, not only x y

    @property
    def num_values(self) -> int:
        """The number of values for each keypoint."""
        return 3 if self.has_flags else 2


def recognises(file: AnnotationFile) -> bool:
    """Whether the file is a folder or a YAML file; no other format has those."""
    return file.path.is_dir() or file.path.suffix.lower() in (".yaml", ".yml")


def read(
    file: AnnotationFile, part: str | None, skeleton: Skeleton | None, report: Reporter
) -> tuple[AnnotatedPhoto, ...]:
    """Read one part (train by default, val or test) of a set: all its photos sorted by name, also unlabelled ones.

    The file is the data.yaml or its folder. If it has no `kpt_names`, its keypoints are assumed to be those of
    `skeleton`, in its order. A relative coordinate times the side is COCO's pixel coordinate, as in Ultralytics' own
    conversion from COCO. Without flags, keypoints at (0, 0) or below 0 are not labelled.
    """
    part = part or "train"
    yaml_file = _yaml_in(file.path) if file.path.is_dir() else file.path
    data = _read_yaml(yaml_file)
    num_keypoints, num_values = _shape(data, yaml_file)
    wanted = skeleton or _own_skeleton(data, yaml_file, num_keypoints)
    columns = _columns(data, yaml_file, num_keypoints, wanted)
    # For keypoints without names it is unknown which of them mirror each other.
    known = wanted if skeleton is not None or _names(data) is not None else None
    _check_flip(data.get("flip_idx"), yaml_file, columns, known)
    paths = _photos(data, yaml_file, part)
    lines = _Lines(columns, num_values == 3)
    photos = []
    for number, path in enumerate(paths, 1):
        with reporting(report, "photo"):
            photos.append(_read_photo(number, path, lines, report))
    if not any(photo.persons for photo in photos):
        text = f"{len(paths)} photos, none with labels such as {labels_of(paths[0])}"
        report("label file", DataError(f"{yaml_file}: {part}: {text}"))
    return tuple(photos)


def _own_skeleton(data: dict[str, Any], file: Path, num_keypoints: int) -> Skeleton:
    """Return a skeleton with the names in the data.yaml, or with numbered keypoints."""
    names = _names(data) or [f"keypoint {k}" for k in range(num_keypoints)]
    try:
        return Skeleton.from_dict({"name": file.stem, "keypoints": names})
    except DataError as error:
        raise DataError(f"{file}: kpt_names: {error}") from None


def _read_photo(number: int, path: Path, lines: _Lines, report: Reporter) -> AnnotatedPhoto:
    size = size_of(path)
    persons = []
    with reporting(report, "label file"):
        for place, line_number, text in _label_lines(path):
            with reporting(report, "label line"):
                persons.append(_read_line(text, place, line_number, lines, size))
    categories = {1: lines.columns.names}
    return AnnotatedPhoto(number, path, size, tuple(persons), categories=categories, place=str(path))


def _label_lines(photo: Path) -> Iterator[tuple[str, int, str]]:
    """Yield place, number and text of a photo's lines, one per person. A photo without a text file has no people."""
    file = labels_of(photo)
    if not file.is_file():
        return
    for number, line in enumerate(_read_text(file, MAX_TEXT_BYTES).splitlines(), 1):
        if line.strip():
            yield f"{file}: line {number}", number, line


def labels_of(photo: Path) -> Path:
    """Map `.../images/a.jpg` to `.../labels/a.txt` (last folder `images`), or beside the photo."""
    parts = list(photo.parts)
    for place in reversed(range(len(parts) - 1)):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _read_line(text: str, where: str, number: int, lines: _Lines, size: tuple[int, int]) -> Person:
    """Convert a line to a person with the skeleton's keypoints, in pixels of a photo of `size` (height, width)."""
    columns = lines.columns
    layout = f"5 + {columns.num_keypoints} x {lines.num_values}"
    values = _numbers(text, where, 5 + columns.num_keypoints * lines.num_values, layout)
    if values[0] < 0 or values[0] != int(values[0]):
        raise DataError(f"{where}: class {values[0]:g}, expected a whole number from 0")
    if np.abs(values[1:5]).max() > MAX_SHARE or min(values[3:5]) < 0:
        raise DataError(f"{where}: box {values[1:5].tolist()}, expected shares of the photo's sides, 0 to 1")
    table = values[5:].reshape(-1, lines.num_values)
    flags = _flags(table, where, lines)
    sides = np.array(size[::-1], np.float64)
    middle, extent, points = values[1:3] * sides, values[3:5] * sides, table[:, :2] * sides
    corners = np.concatenate((middle - extent / 2, middle + extent / 2))
    visibility = columns.spread(flags, 0, np.uint8)
    return Person(
        keypoints=columns.spread(points, 0, np.float64),
        visibility=visibility,
        visible=columns.spread((flags == 2) if lines.has_flags else np.full(len(flags), -1), -1, np.int8),
        keypoint_weights=np.ones(columns.num_wanted, np.float32),
        box=corners,
        area=estimated_area(corners, points[flags > 0]),
        score=1.0,
        is_crowd=False,
        ignore=not visibility.any(),
        annotation_id=number,
        place=where,
    )


def _flags(table: NDArray[np.float64], where: str, lines: _Lines) -> NDArray[np.float64]:
    """Return COCO's flags (J,) of the keypoints (J, 2 or 3) of a line."""
    if np.abs(table[:, :2]).max() > MAX_SHARE:
        raise DataError(f"{where}: a keypoint at {np.abs(table[:, :2]).max():g}, expected shares of the photo's sides")
    if not lines.has_flags:
        # Ultralytics marks missing keypoints by a coordinate below 0; most other tools write (0, 0).
        return np.where((table < 0).any(1) | (table == 0).all(1), 0.0, 1.0)
    if not np.isin(table[:, 2], (0, 1, 2)).all():
        raise DataError(f"{where}: flags {sorted({*table[:, 2].tolist()})}, expected 0, 1 or 2 after each x and y")
    return table[:, 2]


def _yaml_in(folder: Path) -> Path:
    """Return the data.yaml of a folder, or the only YAML file in it."""
    if (folder / "data.yaml").is_file():
        return folder / "data.yaml"
    found = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    if len(found) != 1:
        raise DataError(f"{folder}: a folder without data.yaml, which a set in Ultralytics' format has")
    return found[0]


class _PlainLoader(yaml.SafeLoader):
    """A loader that refuses references, because a few lines of them could fill the memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("a reference with *, which such a file does not need")
        return super().compose_node(parent, index)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        data = yaml.load(_read_text(file, MAX_YAML_BYTES), _PlainLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise DataError(f"{file}: not a YAML file ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(data, dict):
        raise DataError(f"{file}: {reprlib.repr(data)}, expected train, val, kpt_shape, names")
    return data


def _read_text(file: Path, limit: int) -> str:
    try:
        with file.open("rb") as stream:
            content = stream.read(limit + 1)
        if len(content) > limit:
            raise DataError(f"{file}: larger than {limit} bytes")
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise DataError(f"{file}: not a text file") from None


def _shape(data: dict[str, Any], file: Path) -> tuple[int, int]:
    """Return the number of keypoints, and the number of values for each."""
    shape = data.get("kpt_shape")
    if isinstance(shape, list) and len(shape) == 2 and all(type(each) is int for each in shape):
        num_keypoints, dimensions = shape
        if 1 <= num_keypoints <= MAX_KEYPOINTS and dimensions in (2, 3):
            return num_keypoints, dimensions
    raise DataError(f"{file}: kpt_shape: {reprlib.repr(shape)}, expected [number of keypoints, 2 or 3]")


def _columns(data: dict[str, Any], file: Path, num_keypoints: int, skeleton: Skeleton) -> KeypointColumns:
    """Find the keypoints by the file's own names, or assume the skeleton's order if it has none."""
    names = _names(data)
    if names is None:
        if num_keypoints != skeleton.num_keypoints:
            raise DataError(
                f"{file}: kpt_shape: {num_keypoints} keypoints without names (kpt_names), "
                f"skeleton '{skeleton.name}' has {skeleton.num_keypoints}; set model.skeleton to one of {num_keypoints}"
            )
        names = list(skeleton.keypoints)
    columns = keypoint_columns(names, f"{file}: kpt_names", skeleton)
    if columns.num_keypoints != num_keypoints:
        raise DataError(f"{file}: kpt_names: {columns.num_keypoints} names, kpt_shape says {num_keypoints}")
    if not len(columns.wanted):
        raise DataError(f"{file}: kpt_names: none is a keypoint of skeleton '{skeleton.name}'")
    return columns


def _names(data: dict[str, Any]) -> Any:
    """Return the file's own keypoint names, unchecked; None if it has none."""
    names = data.get("kpt_names")
    # There is a list for each class, but all classes of a set have the same order.
    return next(iter(names.values())) if isinstance(names, dict) and names else names


def _check_flip(flip: Any, file: Path, columns: KeypointColumns, skeleton: Skeleton | None) -> None:
    """Check that `flip_idx` agrees with the skeleton; otherwise the names or their order are wrong."""
    if flip is None:
        return
    whole = isinstance(flip, list) and all(type(each) is int for each in flip)
    if not whole or sorted(flip) != list(range(columns.num_keypoints)):
        raise DataError(
            f"{file}: flip_idx: {reprlib.repr(flip)}, expected each of 0 to {columns.num_keypoints - 1} once"
        )
    if skeleton is None:
        return
    place = dict(zip(columns.wanted.tolist(), columns.column.tolist(), strict=True))
    for k, column in place.items():
        mirrored = int(skeleton.mirror[k])
        if mirrored in place and flip[column] != place[mirrored]:
            raise DataError(
                f"{file}: flip_idx[{column}] is {flip[column]}, but '{skeleton.keypoints[k]}' mirrors "
                f"'{skeleton.keypoints[mirrored]}' in skeleton '{skeleton.name}': is this the order of its keypoints?"
            )


def _photos(data: dict[str, Any], file: Path, part: str) -> list[Path]:
    """Return the photos of a part, which is a folder, a text file that lists photos, or several of them."""
    named = data.get(part)
    places: list[Any] = named if isinstance(named, list) else [named]
    if not places or not all(isinstance(each, str) and each and "\0" not in each for each in places):
        raise DataError(f"{file}: {part}: {reprlib.repr(named)}, expected a folder of photos")
    photos: list[Path] = []
    for each in places:
        place = _found(each, data.get("path"), file, part)
        if place.is_dir():
            photos += sorted(p for p in place.rglob("*") if p.suffix.lower() in PHOTO_SUFFIXES and p.name[0] != ".")
        else:
            lines = [line.strip() for line in _read_text(place, MAX_TEXT_BYTES).splitlines()]
            photos += [place.parent / line for line in lines if line]
    if not photos:
        raise DataError(f"{file}: {part}: no photos in {reprlib.repr(named)}")
    return list(dict.fromkeys(photos))


def _found(name: str, root: Any, file: Path, part: str) -> Path:
    """Find a folder or list, relative to `path` or to the file. Roboflow writes one `../` too many."""
    roots = [file.parent]
    if isinstance(root, str) and root and "\0" not in root:
        roots.insert(0, file.parent / root)
    tried = [root / each for root in roots for each in dict.fromkeys((name, name.removeprefix("../")))]
    for place in tried:
        if place.exists():
            return place
    raise DataError(f"{file}: {part}: no folder {tried[0]}")


def _numbers(line: str, where: str, length: int, layout: str) -> NDArray[np.float64]:
    words = line.split()
    if len(words) != length:
        raise DataError(f"{where}: {len(words)} numbers, expected {length} ({layout})")
    try:
        values = [float(word) for word in words]
    except ValueError:
        raise DataError(f"{where}: {reprlib.repr(line)}, expected numbers") from None
    if not all(map(math.isfinite, values)):
        raise DataError(f"{where}: {reprlib.repr(line)}, expected finite numbers")
    return np.array(values)


FORMAT = Format("a folder or data.yaml in Ultralytics' format", recognises, read)
