"""Tracks as files: JSON Lines, written frame by frame, and what other programs read, made of them afterwards."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from posedet.errors import ConfigError, DataError
from posedet.extras import needs
from posedet.files import one_line
from posedet.outputs import LineFile, make_folder, write_atomically
from posedet.poses import Poses
from posedet.runtime.session import EMBEDDING
from posedet.skeleton import Skeleton

GENERATOR = "posedet track"
# A line of one frame with 1,000 people has about 1.5 MB.
MAX_LINE_BYTES = 64_000_000
ROWS_IN_MEMORY = 5000

# OpenPose's model BODY_25; each of its keypoints is one of ours, or the middle of two.
BODY_25 = (
    ("nose",),
    ("left_shoulder", "right_shoulder"),
    ("right_shoulder",),
    ("right_elbow",),
    ("right_wrist",),
    ("left_shoulder",),
    ("left_elbow",),
    ("left_wrist",),
    ("left_hip", "right_hip"),
    ("right_hip",),
    ("right_knee",),
    ("right_ankle",),
    ("left_hip",),
    ("left_knee",),
    ("left_ankle",),
    ("right_eye",),
    ("left_eye",),
    ("right_ear",),
    ("left_ear",),
    ("left_big_toe",),
    ("left_small_toe",),
    ("left_heel",),
    ("right_big_toe",),
    ("right_small_toe",),
    ("right_heel",),
)


class TrackWriter:
    """Writes tracks as JSON Lines: a line about the source, then a line for each frame, complete at any time."""

    def __init__(self, path: Path, source: str, skeleton: Skeleton, frame_rate: float) -> None:
        path.unlink(missing_ok=True)
        self._lines = LineFile(path, GENERATOR)
        self._lines.add(
            {"generator": GENERATOR, "source": source, "frame_rate": frame_rate, "skeleton": skeleton.to_dict()}
        )

    def add(self, number: int, time: float, poses: Poses) -> None:
        """Add a frame, without the embeddings. Raises PoseDetError if it cannot be written."""
        extra = {name: array for name, array in poses.extra.items() if name != EMBEDDING}
        entries = replace(poses, extra=extra).to_dict()["poses"]
        self._lines.add({"frame": number, "time": round(time, 6), "poses": entries})

    def close(self) -> None:
        self._lines.close()


class Track(NamedTuple):
    """The people of a frame, as a file holds them."""

    number: int
    time: float  # seconds
    poses: Poses


class Tracks:
    """Tracks in a file that `TrackWriter` wrote: iterate over its frames, as often as you like.

    Attributes:
        source: Where the video came from.
        skeleton: The keypoints.
        frame_rate: Frames a second; 0 if unknown.

    Raises:
        DataError: If the file is damaged. The message names the line.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        _, first = next(self._lines(), (0, None))
        if not isinstance(first, dict) or not {"source", "frame_rate", "skeleton"} <= first.keys():
            raise DataError(f"{one_line(self.path)}: line 1: not tracks that `posedet track` wrote")
        try:
            self.source, self.frame_rate = str(first["source"]), float(first["frame_rate"])
            self.skeleton = Skeleton.from_dict(first["skeleton"])
        except (TypeError, ValueError, OverflowError, DataError) as error:
            raise DataError(f"{one_line(self.path)}: line 1: {one_line(error)}") from None

    def __iter__(self) -> Iterator[Track]:
        skeleton = self.skeleton.to_dict()
        for number, line in self._lines():
            if number == 1:
                continue
            try:
                poses = Poses.from_dict({"skeleton": skeleton, "poses": line["poses"]})
                yield Track(int(line["frame"]), float(line["time"]), poses)
            except (KeyError, TypeError, ValueError, OverflowError, DataError) as error:
                raise DataError(f"{one_line(self.path)}: line {number}: {one_line(error)}") from None

    def _lines(self) -> Iterator[tuple[int, Any]]:
        try:
            with self.path.open("rb") as file:
                number = 0
                while line := file.readline(MAX_LINE_BYTES):
                    number += 1
                    if line.endswith(b"\n"):  # the last line may be incomplete
                        yield number, json.loads(line)
        except OSError as error:
            raise DataError(f"{one_line(self.path)}: cannot be read ({error.strerror or error})") from None
        except (ValueError, RecursionError):
            raise DataError(f"{one_line(self.path)}: line {number}: not valid JSON") from None


def _rows(tracks: Tracks) -> Iterator[list[float | int]]:
    """One row per person and frame, see `_columns`."""
    for track in tracks:
        keypoints = np.concatenate([track.poses.keypoints, track.poses.keypoint_scores[..., None]], axis=2)
        for person, box, triples in zip(track.poses, track.poses.boxes, keypoints, strict=True):
            numbers = [person.scores[0], *box, *triples.ravel()]
            yield [track.number, round(track.time, 6), int(person.ids[0]), *(float(str(number)) for number in numbers)]


def _columns(skeleton: Skeleton) -> list[str]:
    names = [f"{name}_{what}" for name in skeleton.keypoints for what in ("x", "y", "score")]
    return ["frame", "time", "id", "score", "x1", "y1", "x2", "y2", *names]


def write_csv(tracks: Tracks, path: Path) -> None:
    """One row per person and frame: frame, time in seconds, id, score, box, then x, y and score of each keypoint."""
    write_atomically(path, GENERATOR, _csv_parts(tracks))


def _csv_parts(tracks: Tracks) -> Iterator[bytes]:
    """The CSV in parts of `ROWS_IN_MEMORY` rows."""
    rows: Iterator[Sequence[object]] = chain([_columns(tracks.skeleton)], _rows(tracks))
    while part := list(islice(rows, ROWS_IN_MEMORY)):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(part)
        yield text.getvalue().encode()


def write_parquet(tracks: Tracks, path: Path) -> None:
    """The table of `write_csv` as Parquet."""
    needs("posedet track --format parquet", "parquet", ("pyarrow",))
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = _columns(tracks.skeleton)
    kinds = {"frame": pa.int64(), "time": pa.float64(), "id": pa.int64()}
    schema = pa.schema([(name, kinds.get(name, pa.float32())) for name in names], metadata={"generator": GENERATOR})
    content, rows = io.BytesIO(), _rows(tracks)
    with pq.ParquetWriter(content, schema) as writer:
        while part := list(islice(rows, ROWS_IN_MEMORY)):
            columns = [
                pa.array(column, field.type) for column, field in zip(zip(*part, strict=True), schema, strict=True)
            ]
            writer.write_table(pa.table(columns, schema=schema))
    write_atomically(path, GENERATOR, content.getvalue())


def write_openpose(tracks: Tracks, path: Path) -> None:
    """A folder with one file per frame in the format of OpenPose's model BODY_25; keypoints that we lack are zero."""
    names = tracks.skeleton.keypoints
    parts = [[names.index(name) for name in wanted] if {*wanted} <= {*names} else [] for wanted in BODY_25]
    if not any(parts):
        raise ConfigError(f"--format openpose: skeleton '{tracks.skeleton.name}' has none of OpenPose's keypoints")
    make_folder(path)
    for track in tracks:
        people = []
        for pose in track.poses:
            triples = np.concatenate([pose.keypoints[0], pose.keypoint_scores[0][:, None]], axis=1)
            body = [triples[part].mean(0) if part else np.zeros(3) for part in parts]
            flat = [round(float(value), 4) for triple in body for value in triple]
            people.append({"person_id": [int(pose.ids[0])], "pose_keypoints_2d": flat})
        file = path / f"{path.name}_{track.number:012d}_keypoints.json"
        content = {"generator": GENERATOR, "version": 1.3, "people": people}
        write_atomically(file, GENERATOR, json.dumps(content).encode())


def write_trc(tracks: Tracks, path: Path) -> None:
    """A file per person with its keypoints as markers, for programs of biomechanics. x right and y up, in pixels."""
    people: dict[int, dict[int, tuple[float, Any]]] = {}
    first, last = 0, -1
    for track in tracks:
        last = track.number
        for pose in track.poses:
            people.setdefault(int(pose.ids[0]), {})[track.number] = (track.time, pose.keypoints[0])
    rate = tracks.frame_rate or 30.0
    names = tracks.skeleton.keypoints
    for number, frames in sorted(people.items()):
        first, last = min(frames), max(frames)
        count = last - first + 1
        file = path.with_name(f"{path.stem}-{number}.trc")
        lines = [
            f"PathFileType\t4\t(X/Y/Z)\t{GENERATOR} {file.name}",
            "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames",
            f"{rate:g}\t{rate:g}\t{count}\t{len(names)}\tpx\t{rate:g}\t{first + 1}\t{count}",
            "Frame#\tTime\t" + "\t\t\t".join(names),
            "\t\t" + "\t".join(f"X{n}\tY{n}\tZ{n}" for n in range(1, len(names) + 1)),
            "",
        ]
        for frame in range(first, last + 1):
            time, points = frames.get(frame, (frame / rate, None))
            values = ["", "", ""] * len(names)
            if points is not None:
                values = [f"{value:.3f}" for x, y in points for value in (x, -y, 0.0)]
            lines.append("\t".join([str(frame + 1), f"{time:.6f}", *values]))
        write_atomically(file, GENERATOR, ("\n".join(lines) + "\n").encode())


class Format(NamedTuple):
    """Another form of tracks."""

    suffix: str  # of its file; none if it writes several
    write: Callable[[Tracks, Path], None]


FORMATS: Mapping[str, Format] = {
    "csv": Format(".csv", write_csv),
    "parquet": Format(".parquet", write_parquet),
    "openpose": Format("", write_openpose),
    "trc": Format("", write_trc),
}
