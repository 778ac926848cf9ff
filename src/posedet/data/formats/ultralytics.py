"""Read Ultralytics' pose format: photos, a text file for each photo, and a data.yaml with the keypoints.

Each line of a text file is one person: class, box (centre, width, height), then x y or x y flag for each keypoint, all
relative to the photo's width and height. Format: docs.ultralytics.com/datasets/pose.
"""

import logging
import math
import os
import reprlib
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from posedet.data.annotations import AnnotatedPhoto, Person, estimated_area
from posedet.data.formats.format import AnnotationFile, CategoryError, Format
from posedet.data.json_entries import on_disk
from posedet.data.keypoint_columns import KeypointColumns, keypoint_columns
from posedet.data.remarks import Reporter, reporting
from posedet.errors import DataError
from posedet.files import PHOTO_SUFFIXES, one_line
from posedet.image import size_of
from posedet.keypoint_names import plain_names
from posedet.skeleton import COCO, MAX_KEYPOINTS, Skeleton

MAX_YAML_BYTES = 100_000  # two seconds
MAX_TEXT_BYTES = 10_000_000  # of a file of labels, or a list of photos
MAX_SHARE = 10.0  # of a photo's side; larger values are probably pixels

log = logging.getLogger(__name__)


class _Lines(NamedTuple):
    """The layout of the lines of a set's text files."""

    columns: KeypointColumns
    has_flags: bool  # x y flag for each keypoint, not only x y
    only_class: int | None  # the class to read; None: all

    @property
    def num_values(self) -> int:
        """The number of values for each keypoint."""
        return 3 if self.has_flags else 2


def recognises(file: AnnotationFile) -> bool:
    """Whether the file is a folder or a YAML file; no other format has those."""
    return os.path.isdir(file.path) or file.path.suffix.lower() in (".yaml", ".yml")


def read(
    file: AnnotationFile, part: str | None, skeleton: Skeleton | None, report: Reporter
) -> tuple[AnnotatedPhoto, ...]:
    """Read one part (train by default, val or test) of a set: all its photos sorted by name, also unlabelled ones.

    The file is the data.yaml or its folder. If it has no `kpt_names`, its keypoints are assumed to be those of
    `skeleton`, in its order, or COCO's where number and `flip_idx` are COCO's. A relative coordinate times the side is
    COCO's pixel coordinate, as in Ultralytics' own conversion from COCO. Without flags, keypoints at (0, 0) or below 0
    are not labelled.
    """
    part = part or "train"
    yaml_file = _yaml_in(file.path) if os.path.isdir(file.path) else file.path
    data = _read_yaml(yaml_file)
    num_keypoints, num_values = _shape(data, yaml_file)
    only_class = _chosen_class(data, yaml_file, file.category)
    names = _names(data, only_class)
    _check_flip(data.get("flip_idx"), yaml_file, num_keypoints)
    wanted = skeleton or _own_skeleton(names, data, yaml_file, num_keypoints)
    columns = _columns(names, data, yaml_file, num_keypoints, wanted)
    _check_mirror(data.get("flip_idx"), yaml_file, columns, wanted)
    paths = _photos(data, yaml_file, part)
    lines = _Lines(columns, num_values == 3, only_class)
    photos = []
    for number, path in enumerate(paths, 1):
        with reporting(report, "photo"):
            photos.append(_read_photo(number, path, lines, report))
    if not any(photo.persons for photo in photos):
        text = f"{len(paths)} photos, none with labels such as {labels_of(paths[0])}"
        report("label file", DataError(f"{yaml_file}: {part}: {text}"))
    for unused in _unused_labels(paths):
        report("unused label file", f"{unused}: no photo of this name, so these labels are not used")
    return tuple(photos)


def skeleton_of(yaml_file: Path) -> Skeleton:
    """Return the skeleton that a data.yaml describes; see `_own_skeleton`."""
    data = _read_yaml(yaml_file)
    num_keypoints, _ = _shape(data, yaml_file)
    _check_flip(data.get("flip_idx"), yaml_file, num_keypoints)
    return _own_skeleton(_names(data, _chosen_class(data, yaml_file, None)), data, yaml_file, num_keypoints)


def _own_skeleton(names: Any, data: dict[str, Any], file: Path, num_keypoints: int) -> Skeleton:
    """Return a skeleton with the names in the data.yaml; otherwise COCO's names if the pairs are COCO's, or numbers."""
    if names is None and _is_coco(data, num_keypoints):
        return COCO
    if names is None:
        names = [f"keypoint {k}" for k in range(num_keypoints)]
        for k, mirrored in enumerate(data.get("flip_idx") or ()):
            if k < mirrored:  # which of the two is the left one is unknown
                names[k], names[mirrored] = f"left {k}-{mirrored}", f"right {k}-{mirrored}"
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
                person = _read_line(text, place, line_number, lines, size)
                if lines.only_class in (None, float(text.split()[0])):
                    persons.append(person)
    categories = {1: lines.columns.names}
    return AnnotatedPhoto(
        number, path, size, tuple(persons), categories=categories, place=str(path), file_name=path.name
    )


def _label_lines(photo: Path) -> Iterator[tuple[str, int, str]]:
    """Yield place, number and text of a photo's lines, one per person. A photo without a text file has no people."""
    file = on_disk(labels_of(photo).parent, labels_of(photo).name)
    if not os.path.isfile(file):
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


def _unused_labels(photos: list[Path]) -> list[Path]:
    """Return the label files in the folders of these photos' labels that belong to no photo, of whatever part."""

    def stem(path: Path, folder: Path) -> str:
        return unicodedata.normalize("NFC", str(path.relative_to(folder).with_suffix("")))

    unused: set[Path] = set()
    for folder, beside in {(labels_of(photo).parent, photo.parent) for photo in photos}:
        known = {stem(path, beside) for path in beside.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES}
        unused |= {file for file in folder.rglob("*.txt") if stem(file, folder) not in known}
    return sorted(file for file in unused if file.stem not in ("classes", "train", "val", "test"))  # lists, not labels


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
    if os.path.isfile(folder / "data.yaml"):
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
        raise DataError(f"{file}: not a YAML file ({one_line(' '.join(str(error).split()))[:120]})") from None
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


def _columns(names: Any, data: dict[str, Any], file: Path, num_keypoints: int, skeleton: Skeleton) -> KeypointColumns:
    """Find the keypoints by the file's own names; if it has none, assume the skeleton's or COCO's."""
    if names is None:
        assumed = COCO if skeleton.num_keypoints != num_keypoints and _is_coco(data, num_keypoints) else skeleton
        if num_keypoints != assumed.num_keypoints:
            raise DataError(
                f"{file}: kpt_shape: {num_keypoints} keypoints without names (kpt_names), "
                f"skeleton '{skeleton.name}' has {skeleton.num_keypoints}; set model.skeleton to one of {num_keypoints}"
            )
        log.info("%s names no keypoints; assuming those of '%s', in its order", file, assumed.name)
        names = list(assumed.keypoints)
    columns = keypoint_columns(names, f"{file}: kpt_names", skeleton)
    if columns.num_keypoints != num_keypoints:
        raise DataError(f"{file}: kpt_names: {columns.num_keypoints} names, kpt_shape says {num_keypoints}")
    if not len(columns.wanted):
        raise DataError(f"{file}: kpt_names: none is a keypoint of skeleton '{skeleton.name}'")
    return columns


def _chosen_class(data: dict[str, Any], file: Path, wanted: str | None) -> int | None:
    """Return the number of the only class to read, whose name or number is `wanted`; None: all, with one skeleton."""
    listed, keypoints = data.get("names"), data.get("kpt_names")
    classes = listed if isinstance(listed, dict) else dict(enumerate(listed if isinstance(listed, list) else []))
    named = ", ".join(f"{name!s:.80} ({number})" for number, name in classes.items())
    if wanted is not None:
        fitting = [each for each, name in classes.items() if wanted in (str(name), str(each)) and isinstance(each, int)]
        if len(fitting) != 1:
            raise CategoryError(f"{file}: names: {len(fitting)} are {wanted!r:.80}, expected one of {named or 'none'}")
        return fitting[0]
    by_class = keypoints.values() if isinstance(keypoints, dict) else ()
    if len({tuple(plain_names([str(name) for name in each])) for each in by_class if isinstance(each, list)}) > 1:
        raise CategoryError(f"{file}: kpt_names: classes with different keypoints: {named}; choose one category")
    if len(classes) > 1:
        log.info("%s: classes with the same keypoints, read together: %s", file, named)
    return None


def _names(data: dict[str, Any], only_class: int | None) -> Any:
    """Return the file's own keypoint names, unchecked; None if it has none."""
    names = data.get("kpt_names")
    # There is a list for each class; all classes that are read together have the same.
    return names.get(only_class, next(iter(names.values()))) if isinstance(names, dict) and names else names


def _is_coco(data: dict[str, Any], num_keypoints: int) -> bool:
    return num_keypoints == COCO.num_keypoints and data.get("flip_idx") == COCO.mirror.tolist()


def _check_flip(flip: Any, file: Path, num_keypoints: int) -> None:
    """Check that `flip_idx`, if there is one, exchanges keypoints in pairs."""
    if flip is None:
        return
    whole = isinstance(flip, list) and all(type(each) is int for each in flip)
    if not whole or sorted(flip) != list(range(num_keypoints)):
        raise DataError(f"{file}: flip_idx: {reprlib.repr(flip)}, expected each of 0 to {num_keypoints - 1} once")
    for k, mirrored in enumerate(flip):
        if flip[mirrored] != k:
            raise DataError(
                f"{file}: flip_idx[{k}] is {mirrored}, but flip_idx[{mirrored}] is {flip[mirrored]}, expected {k}"
            )


def _check_mirror(flip: list[int] | None, file: Path, columns: KeypointColumns, skeleton: Skeleton) -> None:
    """Check that `flip_idx` agrees with the skeleton; otherwise the names or their order are wrong."""
    if flip is None:
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
        if os.path.isdir(place):
            photos += _photos_inside(place, f"{file}: {part}")
        else:
            lines = [line.strip() for line in _read_text(place, MAX_TEXT_BYTES).splitlines()]
            photos += [on_disk(place.parent, line) for line in lines if line]
    if not photos:
        raise DataError(f"{file}: {part}: no photos in {reprlib.repr(named)}")
    return list(dict.fromkeys(photos))


def _photos_inside(folder: Path, where: str) -> list[Path]:
    """Return the photos in a folder and its subfolders, sorted."""
    if folder.resolve() == Path(folder.resolve().anchor):
        raise DataError(f"{where}: {folder} is the whole disk, expected a folder of photos")
    try:
        return sorted(p for p in folder.rglob("*") if p.suffix.lower() in PHOTO_SUFFIXES and p.name[0] != ".")
    except OSError as error:
        raise DataError(f"{where}: {one_line(error.filename)} cannot be read ({error.strerror})") from None


def _found(name: str, root: Any, file: Path, part: str) -> Path:
    """Find a folder or list, relative to `path` or to the file. Roboflow writes one `../` too many."""
    roots = [file.parent]
    if isinstance(root, str) and root and "\0" not in root:
        roots.insert(0, file.parent / root)
    tried = [root / each for root in roots for each in dict.fromkeys((name, name.removeprefix("../")))]
    for place in tried:
        if os.path.exists(place):
            return place
    raise DataError(f"{file}: {part}: no folder {one_line(tried[0]):.300}")


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
