"""The result of a detector: the poses found in one photo, as arrays of equal length."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posedet.errors import DataError
from posedet.oks import pose_boxes
from posedet.skeleton import Skeleton

Index = int | slice | Sequence[int] | Sequence[bool] | NDArray[np.integer[Any]] | NDArray[np.bool_]

_LARGEST = float(np.finfo(np.float32).max)
COVARIANCES = "keypoint_covariances"  # the name in `Poses.extra`


@dataclass(frozen=True, eq=False, repr=False)
class Poses:
    """N poses of K keypoints in one photo; a detector returns the best first. N is 0 if nobody is found.

    `len(poses)` is N. Iterating gives one `Poses` of length 1 per pose, and indexing gives a `Poses` with some of them.
    Coordinates are pixels of the photo, x right and y down, with pixel centres at whole numbers; they may lie outside
    the photo. Arrays are converted to float32.

    Attributes:
        keypoints: (N, K, 2) float32, x and y in pixels of the photo.
        scores: (N,) float32, 0 to 1: the confidence that this is a person in the right pose.
        keypoint_scores: (N, K) float32, 0 to 1: the confidence in each keypoint; for a model that learns visibility,
            the probability that the keypoint is visible.
        skeleton: The names of the K keypoints, their limbs, pairs and sigmas.
        extra: Further data by name: arrays (N, K, ...) if the name begins with "keypoint_", otherwise (N, ...).
            Indexing, joining and JSON conversion keep them.

    Raises:
        DataError: If an array has the wrong shape, a number that is not finite, or a score outside 0 to 1. The
            message names the field.
    """

    keypoints: NDArray[np.float32]
    scores: NDArray[np.float32]
    keypoint_scores: NDArray[np.float32]
    skeleton: Skeleton
    extra: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("keypoints", "scores", "keypoint_scores"):
            # Values beyond the range of float32 become infinite and are rejected below.
            with np.errstate(over="ignore"):
                object.__setattr__(self, name, np.asarray(getattr(self, name), np.float32))
        count, size = len(np.atleast_1d(self.scores)), self.skeleton.num_keypoints
        for name, shape in {
            "keypoints": (count, size, 2),
            "scores": (count,),
            "keypoint_scores": (count, size),
        }.items():
            array = getattr(self, name)
            if array.shape != shape:
                what = f"{count} scores and the {size} keypoints of skeleton '{self.skeleton.name}'"
                raise DataError(f"poses: {name}: shape {array.shape}, expected {shape} for {what}")
            if not np.isfinite(array).all():
                raise DataError(f"poses: {name}: {_first_bad(array, np.isfinite(array))}, expected finite numbers")
            if name != "keypoints" and not ((array >= 0) & (array <= 1)).all():
                raise DataError(f"poses: {name}: {_first_bad(array, (array >= 0) & (array <= 1))}, expected 0 to 1")
        extra = {name: np.asarray(array) for name, array in self.extra.items()}
        for name, array in extra.items():
            wanted = (count, size) if _of_keypoints(name) else (count,)
            if array.shape[: len(wanted)] != wanted:
                expected = f"({', '.join(map(str, wanted))}, ...)"
                raise DataError(f"poses: extra[{name!r}]: shape {array.shape}, expected {expected}")
        object.__setattr__(self, "extra", extra)

    @classmethod
    def empty(cls, skeleton: Skeleton) -> "Poses":
        """Return a `Poses` of length 0.

        Args:
            skeleton: The skeleton of the (missing) poses.
        """
        size = skeleton.num_keypoints
        nothing = np.zeros((0, size), np.float32)
        return cls(np.zeros((0, size, 2), np.float32), nothing[:, 0], nothing, skeleton)

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        scores = [f"{score:.2f}" for score in self.scores[:10]] + ["..."] * (len(self) > 10)
        return f"Poses({len(self)} x '{self.skeleton.name}', scores=[{', '.join(scores)}])"

    def __iter__(self) -> Iterator["Poses"]:
        """Iterate over the poses, each as a `Poses` of length 1."""
        return (self[place] for place in range(len(self)))

    def __getitem__(self, index: Index) -> "Poses":
        """Return some of the poses, always as a `Poses`.

        Args:
            index: An integer, a slice, a boolean mask (N,), or a sequence of integers in any order.

        Raises:
            IndexError: If the index is of another type or out of range.
        """
        chosen: slice | NDArray[Any]
        if isinstance(index, slice):
            chosen = index
        else:
            chosen = np.atleast_1d(np.asarray(index))
            if chosen.size == 0 and chosen.dtype != bool:
                chosen = chosen.astype(np.intp)  # an empty list is an array of float
            if chosen.ndim != 1 or chosen.dtype.kind not in "biu" or isinstance(index, bool | np.bool_):
                raise IndexError(f"poses: index {index!r:.80}, expected a number, a slice, a mask or a list of numbers")
        return self._cut(chosen, slice(None), self.skeleton)

    @classmethod
    def joined(cls, parts: Sequence["Poses"]) -> "Poses":
        """Concatenate poses. `extra` keeps the arrays that all parts have.

        Args:
            parts: At least one `Poses`; all must have the same keypoints.
        """
        common = [name for name in parts[0].extra if all(name in part.extra for part in parts)]
        return cls(
            np.concatenate([part.keypoints for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.keypoint_scores for part in parts]),
            parts[0].skeleton,
            {name: np.concatenate([part.extra[name] for part in parts]) for name in common},
        )

    @property
    def boxes(self) -> NDArray[np.float32]:
        """(N, 4) float32: the box x1, y1, x2, y2 around all keypoints of each pose, in pixels of the photo."""
        return pose_boxes(self.keypoints)

    @property
    def ids(self) -> NDArray[np.int64]:
        """(N,) int64: whose pose each is, as `posedet.tracking.Tracker` says; kept in `extra["id"]`.

        Raises:
            DataError: If the poses have no ids.
        """
        ids = self.extra.get("id", np.zeros(0, np.int64))
        if ids.shape != (len(self),) or ids.dtype.kind not in "iu":
            raise DataError("poses: no ids; Tracker.update of posedet.tracking gives poses with ids")
        return ids.astype(np.int64)

    @property
    def covariances(self) -> NDArray[np.floating[Any]] | None:
        """(N, K, 2, 2): how uncertain the place of each keypoint is, in pixels of the photo squared; None if unknown.

        They are kept in `extra["keypoint_covariances"]`; `PoseDet(covariances=True)` computes them. The true place x of
        a labelled keypoint of a person who was found lies in the ellipse (x - keypoint)' covariance^-1 (x - keypoint)
        <= 4.605 in 90 % of the cases.

        Raises:
            DataError: If they have another shape, or no ellipse belongs to a matrix.
        """
        covariances = self.extra.get(COVARIANCES)
        if covariances is None:
            return None
        wanted = (*self.keypoints.shape, 2)
        if covariances.shape != wanted or covariances.dtype.kind not in "iuf":
            found = f"{covariances.dtype} of shape {covariances.shape}"
            raise DataError(f"poses: extra[{COVARIANCES!r}]: {found}, expected numbers of shape {wanted}")
        x, xy, yx, y = np.moveaxis(covariances.astype(np.float64).reshape(*wanted[:2], 4), -1, 0)
        good = np.isfinite(x + y) & (x > 0) & (y > 0) & np.isclose(xy, yx) & (xy * yx < x * y)
        if not good.all():
            place = [int(axis[0]) for axis in np.nonzero(~good)]
            raise DataError(f"poses: extra[{COVARIANCES!r}]: no ellipse has the matrix at {place}")
        return covariances

    def select(self, keypoints: Skeleton | Sequence[str]) -> "Poses":
        """Return the same poses with only the given keypoints.

        Args:
            keypoints: Names of keypoints, in the wanted order, or a skeleton, whose limbs and pairs are then used.

        Raises:
            DataError: If a name is not in the skeleton of these poses.
        """
        skeleton = keypoints if isinstance(keypoints, Skeleton) else self.skeleton.subset(keypoints)
        chosen = self.skeleton.indices(skeleton.keypoints)
        return self._cut(slice(None), chosen, skeleton)

    def _cut(self, rows: Any, columns: Any, skeleton: Skeleton) -> "Poses":
        """Return the poses `rows` with the keypoints `columns`."""
        return Poses(
            self.keypoints[rows][:, columns],
            self.scores[rows],
            self.keypoint_scores[rows][:, columns],
            skeleton,
            {
                name: array[rows][:, columns] if _of_keypoints(name) else array[rows]
                for name, array in self.extra.items()
            },
        )

    def to_coco(self, image_id: int, *, category_id: int = 1) -> list[dict[str, Any]]:
        """Convert to COCO's result format.

        Args:
            image_id: The photo's id in the annotation file.
            category_id: The id of the category "person".

        Returns:
            One dictionary per pose with `image_id`, `category_id`, `keypoints` (x, y and score of each keypoint, 3 K
            numbers) and `score`. Numbers have the fewest digits that read back as the same float32.
        """
        return [{"image_id": image_id, "category_id": category_id, **entry} for entry in self._entries()]

    @classmethod
    def from_coco(cls, results: Sequence[dict[str, Any]], skeleton: Skeleton) -> "Poses":
        """Read the results of one photo in COCO's result format.

        Args:
            results: Dictionaries with `keypoints` (3 K numbers) and `score`, all with the same `image_id`. The third
                value of a keypoint is its score; a value above 1 is read as 1, because many programs write COCO's
                flag 2 there.
            skeleton: The meaning of the K keypoints.

        Raises:
            DataError: If an entry is invalid or belongs to another photo. The message names the entry.
        """
        poses = cls._from_entries(results, skeleton, "results")
        for place, result in enumerate(results):
            if result.get("image_id") != results[0].get("image_id"):
                first = f"{results[0].get('image_id')!r:.40} in results[0]"
                raise DataError(
                    f"results[{place}].image_id: {result.get('image_id')!r:.40}, but {first}; pass one photo"
                )
        return poses

    def to_dict(self) -> dict[str, Any]:
        """Convert to names, numbers and lists that can be written as JSON. `from_dict` restores equal poses."""
        return {"skeleton": self.skeleton.to_dict(), "poses": self._entries()}

    @classmethod
    def from_dict(cls, data: object) -> "Poses":
        """Read the form that `to_dict` returns.

        Args:
            data: A dictionary with `skeleton` and `poses`.

        Raises:
            DataError: If an entry is invalid. The message names the entry.
        """
        if not isinstance(data, dict):
            raise DataError(f"poses: {data!r:.80}, expected a table with skeleton and poses")
        for key in ("skeleton", "poses"):
            if key not in data:
                raise DataError(f"poses: key '{key}' is missing")
        return cls._from_entries(data["poses"], Skeleton.from_dict(data["skeleton"]), "poses")

    def _entries(self) -> list[dict[str, Any]]:
        triples = np.concatenate([self.keypoints, self.keypoint_scores[..., None]], axis=2)
        flat = triples.reshape(len(self), 3 * self.skeleton.num_keypoints)
        pairs = zip(_shortest(self.scores), _shortest(flat), strict=True)
        entries: list[dict[str, Any]] = [{"keypoints": keypoints, "score": score} for score, keypoints in pairs]
        for name, array in self.extra.items():
            values = _shortest(array) if array.dtype == np.float32 else array.tolist()
            for entry, value in zip(entries, values, strict=True):
                entry.setdefault("extra", {})[name] = value
        return entries

    @classmethod
    def _from_entries(cls, entries: object, skeleton: Skeleton, where: str) -> "Poses":
        if not isinstance(entries, list | tuple):
            raise DataError(f"{where}: {entries!r:.80}, expected a list of poses")
        scores, triples = [], []
        for place, entry in enumerate(entries):
            triples.append(_checked_keypoints(entry, skeleton.num_keypoints, f"{where}[{place}]"))
            score = entry.get("score")
            if not _is_number(score) or not 0 <= score <= 1:
                raise DataError(f"{where}[{place}].score: {score!r:.80}, expected a number from 0 to 1")
            scores.append(score)
        if not entries:
            return cls.empty(skeleton)
        values = np.array(triples, np.float32).reshape(len(entries), skeleton.num_keypoints, 3)
        keypoint_scores = np.minimum(values[..., 2], 1)
        return cls(
            values[..., :2], np.array(scores, np.float32), keypoint_scores, skeleton, _read_extra(entries, where)
        )


def _checked_keypoints(entry: object, num_keypoints: int, where: str) -> Sequence[float]:
    """Return the 3 K numbers of an entry after checking that all are finite and no score is below 0."""
    if not isinstance(entry, dict):
        raise DataError(f"{where}: {entry!r:.80}, expected a table with keypoints and score")
    keypoints = entry.get("keypoints")
    expected = f"expected {3 * num_keypoints} ({num_keypoints} x 3)"
    if not isinstance(keypoints, list | tuple):
        raise DataError(f"{where}.keypoints: {keypoints!r:.80}, {expected} numbers")
    if len(keypoints) != 3 * num_keypoints:
        raise DataError(f"{where}.keypoints: {len(keypoints)} numbers, {expected}")
    for place, value in enumerate(keypoints):
        if not _is_number(value) or not -_LARGEST <= value <= _LARGEST:
            raise DataError(f"{where}.keypoints[{place}]: {value!r:.80}, expected a finite number")
        if place % 3 == 2 and value < 0:
            raise DataError(f"{where}.keypoints[{place}]: {value!r:.80}, expected a score or flag of at least 0")
    return keypoints


def _read_extra(entries: Sequence[Any], where: str) -> dict[str, NDArray[Any]]:
    """Read `Poses.extra`: every entry must have the same names, with numbers of the same shape."""
    tables = [entry.get("extra", {}) for entry in entries]
    for place, table in enumerate(tables):
        if not isinstance(table, dict) or table.keys() != tables[0].keys():
            raise DataError(f"{where}[{place}].extra: {table!r:.80}, expected the same names as in {where}[0]")
    arrays: dict[str, NDArray[Any]] = {}
    for name in tables[0]:
        try:
            array = np.array([table[name] for table in tables])
        except ValueError:
            array = np.array(None)
        if array.dtype.kind not in "biuf":
            raise DataError(f"{where}: extra[{name!r:.80}]: expected numbers, in lists of the same length")
        with np.errstate(over="ignore"):
            arrays[name] = array.astype(np.float32) if array.dtype == np.float64 else array
        if not np.isfinite(arrays[name]).all():
            raise DataError(f"{where}: extra[{name!r:.80}]: expected finite numbers")
    return arrays


def _of_keypoints(name: str) -> bool:
    """Return whether the extra array of this name has one value per keypoint."""
    return name.startswith("keypoint_")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _shortest(array: NDArray[np.float32]) -> Any:
    """Convert to lists of Python floats with the digits of float32: 0.1, not 0.10000000149011612."""
    return array.astype(str).astype(np.float64).tolist()


def _first_bad(array: NDArray[np.float32], good: NDArray[np.bool_]) -> str:
    """Describe the value and the position of the first invalid number."""
    place = tuple(int(axis[0]) for axis in np.nonzero(~good))
    return f"{array[place]} at {list(place)}"
