"""Tables, CSV and Parquet: a row for each person, with box and keypoints."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from posedet.errors import DataError
from posedet.extras import needs
from posedet.files import one_line
from posedet.formats.photos import GENERATOR, MAX_BYTES, PosedPhoto, read_bytes, skeleton_of
from posedet.outputs import write_atomically
from posedet.poses import Poses
from posedet.skeleton import COCO, Skeleton

ROWS_IN_MEMORY = 5000
MAX_CELLS = 200_000_000  # of a Parquet file: a small one may hold any number of equal values
PHOTO = ("photo", "height", "width")


def pose_columns(skeleton: Skeleton) -> list[str]:
    """Return the columns of a pose: score, box, then x, y and score of each keypoint."""
    names = [f"{name}_{what}" for name in skeleton.keypoints for what in ("x", "y", "score")]
    return ["score", "x1", "y1", "x2", "y2", *names]


def pose_rows(poses: Poses) -> Iterator[list[float]]:
    """Yield the values of `pose_columns` for each pose, with the fewest digits that read back as the same float32."""
    keypoints = np.concatenate([poses.keypoints, poses.keypoint_scores[..., None]], axis=2)
    for score, box, triples in zip(poses.scores, poses.boxes, keypoints, strict=True):
        yield [float(str(number)) for number in (score, *box, *triples.ravel())]


def write_csv(path: Path, generator: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table as CSV. Raises as `write_atomically`."""
    write_atomically(path, generator, _csv_parts(chain([columns], rows)))


def _csv_parts(rows: Iterator[Sequence[object]]) -> Iterator[bytes]:
    """The CSV in parts of `ROWS_IN_MEMORY` rows."""
    while part := list(islice(rows, ROWS_IN_MEMORY)):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(part)
        yield text.getvalue().encode()


def write_parquet(
    path: Path,
    generator: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    kinds: Mapping[str, str],
) -> None:
    """Write a table as Parquet. kinds: the Arrow types of columns other than float. Raises as `write_atomically`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = [(name, pa.type_for_alias(kinds.get(name, "float"))) for name in columns]
    schema = pa.schema(types, metadata={"generator": generator})
    content, remaining = io.BytesIO(), iter(rows)
    with pq.ParquetWriter(content, schema) as writer:
        while part := list(islice(remaining, ROWS_IN_MEMORY)):
            arrays = [
                pa.array(column, field.type) for column, field in zip(zip(*part, strict=True), schema, strict=True)
            ]
            writer.write_table(pa.table(arrays, schema=schema))
    write_atomically(path, generator, content.getvalue())


def _photo_rows(photos: Sequence[PosedPhoto]) -> Iterator[list[object]]:
    for photo in photos:
        for row in pose_rows(photo.poses):
            yield [photo.file_name, *(photo.size or (None, None)), *row]


def to_csv(photos: Sequence[PosedPhoto], path: str | Path, *, generator: str = GENERATOR) -> None:
    """Write a table with a row for each person: photo, height, width, score, box, and x, y, score of each keypoint.

    Args:
        photos: Photos and their poses, all with the same skeleton. Photos without people are in no row.
        path: The CSV file.
        generator: The command that writes it.

    Raises:
        DataError: If skeletons differ.
        PoseDetError: If the file cannot be written, or is there already and was not written by posedet.
    """
    columns = [*PHOTO, *pose_columns(skeleton_of(photos))]
    write_csv(Path(path), generator, columns, _photo_rows(photos))


def to_parquet(photos: Sequence[PosedPhoto], path: str | Path, *, generator: str = GENERATOR) -> None:
    """Write the table of `to_csv` as Parquet, also with its arguments and errors.

    Raises:
        ConfigError: If pyarrow is not installed.
    """
    needs("to_parquet", "parquet", ("pyarrow",))
    columns = [*PHOTO, *pose_columns(skeleton_of(photos))]
    kinds = {"photo": "string", "height": "int64", "width": "int64"}
    write_parquet(Path(path), generator, columns, _photo_rows(photos), kinds)


def from_csv(path: str | Path, skeleton: Skeleton = COCO) -> list[PosedPhoto]:
    """Read a table that `to_csv` or `posedet predict --format csv` wrote.

    Args:
        path: The CSV file.
        skeleton: The wanted keypoints, all of which the table must have; other columns are left out.

    Returns:
        The photos that have people, with their poses.

    Raises:
        DataError: If the file is invalid. The message names line and column.
    """
    where = one_line(path)
    try:
        lines = csv.reader(io.StringIO(read_bytes(path).decode("utf-8-sig"), newline=""), strict=True)
        names = next(lines, [])
        rows = list(lines)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{where}: not a CSV file ({error})") from None
    for line, row in enumerate(rows, 2):
        if len(row) != len(names):
            raise DataError(f"{where}: line {line}: {len(row)} values, expected {len(names)}")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(names, ())
    return _photos(columns, skeleton, where)


def from_parquet(path: str | Path, skeleton: Skeleton = COCO) -> list[PosedPhoto]:
    """Read a table that `to_parquet` or `posedet predict --format parquet` wrote; otherwise as `from_csv`.

    Raises:
        ConfigError: If pyarrow is not installed.
    """
    needs("from_parquet", "parquet", ("pyarrow",))
    import pyarrow as pa
    import pyarrow.parquet as pq

    where, content = one_line(path), read_bytes(path, 4 * MAX_BYTES)
    try:
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            if file.metadata.num_rows * file.metadata.num_columns > MAX_CELLS:
                raise DataError(f"{where}: more than {MAX_CELLS} values")
            wanted = [*PHOTO, *pose_columns(skeleton)]
            table = file.read([name for name in wanted if name in file.schema_arrow.names])
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{where}: not a Parquet file ({one_line(str(error).splitlines()[0]):.120})") from None
    return _photos(columns, skeleton, where)


def _photos(columns: Mapping[str, Sequence[Any]], skeleton: Skeleton, where: str) -> list[PosedPhoto]:
    """Group the rows of a table by photo."""
    wanted = pose_columns(skeleton)
    if missing := [name for name in (*PHOTO, *wanted) if name not in columns]:
        raise DataError(f"{where}: column '{missing[0]}' is missing; expected a table of `posedet predict`")
    values = np.array([_numbers(columns[name], name, where) for name in wanted]).T
    places: dict[str, list[int]] = {}
    for place, name in enumerate(columns["photo"]):
        if not isinstance(name, str) or not name:
            raise DataError(f"{where}: line {place + 2}: photo: {name!r:.80}, expected the name of a photo")
        places.setdefault(name, []).append(place)
    photos = []
    for name, rows in places.items():
        sides = [columns[side][rows[0]] for side in ("height", "width")]
        known = all(side not in (None, "") for side in sides)
        size = tuple(int(side) for side in _numbers(sides, "height, width", where)) if known else None
        triples = values[rows, 5:].reshape(len(rows), skeleton.num_keypoints, 3)
        try:
            poses = Poses(triples[..., :2], values[rows, 0], triples[..., 2], skeleton)
        except DataError as error:
            raise DataError(f"{where}: line {rows[0] + 2}: {error}") from None
        photos.append(PosedPhoto(name, size, poses))  # type: ignore[arg-type]
    return photos


def _numbers(values: Sequence[Any], name: str, where: str) -> list[float]:
    """Return finite numbers. Raises DataError for the first value that is none."""
    found = []
    for line, value in enumerate(values, 2):
        try:
            found.append(float(value))
        except (TypeError, ValueError):
            found.append(math.nan)
        if not math.isfinite(found[-1]):
            raise DataError(f"{where}: line {line}: {name}: {value!r:.80}, expected a number")
    return found
