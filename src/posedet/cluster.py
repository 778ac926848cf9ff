"""Find poses in more photos than one process should handle: a callable for Ray Data, Spark and pools of processes."""

import pickle
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from posedet.errors import DataError, PhotoError
from posedet.extras import needs
from posedet.files import one_line
from posedet.runtime.bulk import find_all
from posedet.runtime.detector import PoseDet

if TYPE_CHECKING:
    import pyarrow

# Columns that may hold the photos, as Ray Data's `read_images` and `read_binary_files` and Spark's `binaryFile` name
# them. Without any, they are read from their paths.
PHOTO_COLUMNS = ("image", "bytes", "content")


class FindPoses:
    """Finds the poses in batches of photos. Every process opens the model once, however many copies it gets.

    A batch has the column `path`, the names of its photos. The photos themselves are in a column `image` (arrays
    (H, W, 3) uint8 RGB), `bytes` or `content` (the bytes of files), or else in the files that `path` names.

    The result has a row for each person, and one for each photo without any:

    - `photo`: its name, from `path`.
    - `person`: the number of the person in the photo, 0 for the best; null if nobody was found.
    - `score`: 0 to 1.
    - `keypoints`: a list of x and y for each keypoint, in pixels of the photo.
    - `keypoint_scores`: a list of numbers from 0 to 1.
    - `box`: x1, y1, x2, y2 around the keypoints.
    - `error`: why the photo could not be read, in one line; otherwise null.

    Args:
        threads: Number of processor cores to use in each process.
        settings: All other arguments of `PoseDet`.

    Raises:
        ConfigError: If pyarrow is not installed. Otherwise as `PoseDet`.

    Examples:
        >>> table = FindPoses(score_threshold=0.4)({"path": ["a.jpg", "b.jpg"]})
    """

    def __init__(self, *, threads: int = 1, **settings: Any) -> None:
        needs("posedet.cluster", "parquet", ("pyarrow",))
        self.detector = PoseDet(threads=threads, **settings)

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        return _copy, (pickle.dumps(self.detector),)

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> "pyarrow.Table":
        """Find the poses in a batch.

        Args:
            batch: Columns by name, or a pandas DataFrame.

        Returns:
            The rows as a pyarrow Table; for a DataFrame, as a DataFrame.

        Raises:
            DataError: If a column is missing.
        """
        import pyarrow as pa

        numbers = pa.list_(pa.float32())
        schema = pa.schema(
            {
                "photo": pa.string(),
                "person": pa.int32(),
                "score": pa.float32(),
                "keypoints": pa.list_(numbers),
                "keypoint_scores": numbers,
                "box": numbers,
                "error": pa.string(),
            }
        )
        names = list(batch.keys())
        if "path" not in names:
            raise DataError(
                f"batch: columns {one_line(', '.join(map(str, names)))}; expected 'path', the photos' names"
            )
        photos = next((batch[name] for name in PHOTO_COLUMNS if name in names), batch["path"])
        rows: list[dict[str, Any]] = []
        for path, poses in zip(batch["path"], find_all(self.detector, list(photos), None), strict=True):
            photo = {"photo": str(path)}
            if isinstance(poses, PhotoError):
                rows.append(photo | {"error": str(poses)})
                continue
            people = [
                {
                    "person": number,
                    "score": float(pose.scores[0]),
                    "keypoints": pose.keypoints[0].tolist(),
                    "keypoint_scores": pose.keypoint_scores[0].tolist(),
                    "box": pose.boxes[0].tolist(),
                }
                for number, pose in enumerate(poses)
            ]
            rows += [photo | person for person in people or [{}]]
        table = pa.Table.from_pylist(rows, schema=schema)
        return table.to_pandas(integer_object_nulls=True) if hasattr(batch, "iloc") else table


@lru_cache(maxsize=1)
def _copy(detector: bytes) -> FindPoses:
    """Unpickle once per process: pools and Spark send a copy with every piece of work."""
    copy = FindPoses.__new__(FindPoses)
    copy.detector = pickle.loads(detector)
    return copy
