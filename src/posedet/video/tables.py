"""Tracks as files: JSON Lines, written frame by frame, and what other programs read, made of them afterwards."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from posedet.errors import DataError
from posedet.extras import needs
from posedet.files import one_line
from posedet.formats import openpose, tables
from posedet.formats.tables import pose_columns, pose_rows
from posedet.outputs import LineFile, make_folder, write_atomically, write_json
from posedet.poses import Poses
from posedet.runtime.session import EMBEDDING
from posedet.skeleton import Skeleton

GENERATOR = "posedet track"
# A line of one frame with 1,000 people has about 1.5 MB.
MAX_LINE_BYTES = 64_000_000


class TrackWriter:
    """Writes tracks as JSON Lines: a line about the source, then a line for each frame, complete at any time."""

    def __init__(self, path: Path, source: str, skeleton: Skeleton, frame_rate: float) -> None:
        self._lines = LineFile(path, GENERATOR, anew=True)
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
        for number, row in zip(track.poses.ids.tolist(), pose_rows(track.poses), strict=True):
            yield [track.number, round(track.time, 6), number, *row]


def _columns(skeleton: Skeleton) -> list[str]:
    return ["frame", "time", "id", *pose_columns(skeleton)]


def write_csv(tracks: Tracks, path: Path) -> None:
    """One row per person and frame: frame, time in seconds, id, score, box, then x, y and score of each keypoint."""
    tables.write_csv(path, GENERATOR, _columns(tracks.skeleton), _rows(tracks))


def write_parquet(tracks: Tracks, path: Path) -> None:
    """The table of `write_csv` as Parquet."""
    needs("posedet track --format parquet", "parquet", ("pyarrow",))
    kinds = {"frame": "int64", "time": "double", "id": "int64"}
    tables.write_parquet(path, GENERATOR, _columns(tracks.skeleton), _rows(tracks), kinds)


def write_openpose(tracks: Tracks, path: Path) -> None:
    """A folder with one file per frame in the format of OpenPose's model BODY_25; keypoints that we lack are zero."""
    openpose.check_keypoints(tracks.skeleton)
    make_folder(path)
    for track in tracks:
        file = path / f"{path.name}_{track.number:012d}{openpose.SUFFIX}"
        write_json(file, GENERATOR, openpose.content(track.poses), indent=None)


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
