"""What the detector gives back: the poses found in one photo, as arrays that stay together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posedet.errors import DataError, PoseDetError
from posedet.oks import pose_boxes
from posedet.skeleton import Skeleton

Index = int | slice | Sequence[int] | Sequence[bool] | NDArray[np.integer[Any]] | NDArray[np.bool_]

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False, repr=False)
class Poses:
    """N poses of K keypoints, the best first if a detector made them; nobody there is N = 0.

    Arrays are taken as float32. `extra` holds whatever else is known of the poses, by name: arrays (N, K, ...) where
    the name begins with "keypoint_", (N, ...) otherwise. `DataError` names the field whose shape or range is wrong.
    """

    keypoints: NDArray[np.float32]  # (N, K, 2) x, y in pixels of the photo, pixel centres at whole numbers
    scores: NDArray[np.float32]  # (N,) 0 to 1
    keypoint_scores: NDArray[np.float32]  # (N, K) 0 to 1
    skeleton: Skeleton
    extra: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("keypoints", "scores", "keypoint_scores"):
            # Values beyond float32 become infinite, which is found below.
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
        """Nobody."""
        size = skeleton.num_keypoints
        nothing = np.zeros((0, size), np.float32)
        return cls(np.zeros((0, size, 2), np.float32), nothing[:, 0], nothing, skeleton)

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        scores = [f"{score:.2f}" for score in self.scores[:10]] + ["..."] * (len(self) > 10)
        return f"Poses({len(self)} x '{self.skeleton.name}', scores=[{', '.join(scores)}])"

    def __iter__(self) -> Iterator["Poses"]:
        """One `Poses` of length 1 after the other."""
        return (self[place] for place in range(len(self)))

    def __getitem__(self, index: Index) -> "Poses":
        """Some of the poses, always as `Poses`: by number, slice, mask (N,) of bool, or whole numbers in any order."""
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
        """The poses of all parts, one part after the other; `extra` holds what all parts have.

        There must be at least one part, and all must have the same keypoints.
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
        """(N, 4) x1, y1, x2, y2: the extent of the keypoints of each pose, in pixels of the photo."""
        return pose_boxes(self.keypoints)

    def select(self, keypoints: Skeleton | Sequence[str]) -> "Poses":
        """The same poses with the named keypoints only, in the order named; a skeleton is taken with its limbs."""
        skeleton = keypoints if isinstance(keypoints, Skeleton) else self.skeleton.subset(keypoints)
        chosen = [self.skeleton.index(name) for name in skeleton.keypoints]
        return self._cut(slice(None), chosen, skeleton)

    def _cut(self, rows: Any, columns: Any, skeleton: Skeleton) -> "Poses":
        """Some of the poses, `rows`, with some of their keypoints, `columns`."""
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
        """COCO's result format, an entry for each pose; the third value of a keypoint is its score.

        Numbers are the shortest that read back as the same float32.
        """
        return [{"image_id": image_id, "category_id": category_id, **entry} for entry in self._entries()]

    @classmethod
    def from_coco(cls, results: Sequence[dict[str, Any]], skeleton: Skeleton) -> "Poses":
        """Read the results of one photo; a third value above 1 is taken as 1, since many write COCO's flag 2 there.

        A `DataError` names the entry that is wrong, or that belongs to another photo than the first.
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
        """Skeleton and poses as names, numbers and lists, ready for JSON; `from_dict` gives equal poses back."""
        return {"skeleton": self.skeleton.to_dict(), "poses": self._entries()}

    @classmethod
    def from_dict(cls, data: object) -> "Poses":
        """Read `to_dict`'s form; a `DataError` names the entry that is wrong."""
        if not isinstance(data, dict):
            raise DataError(f"poses: {data!r:.80}, expected a table with skeleton and poses")
        for key in ("skeleton", "poses"):
            if key not in data:
                raise DataError(f"poses: key '{key}' is missing")
        return cls._from_entries(data["poses"], Skeleton.from_dict(data["skeleton"]), "poses")

    def to_supervision(self) -> Any:
        """As `supervision.KeyPoints` with both kinds of scores and class 0; needs that library from 0.29 on."""
        try:
            from supervision import KeyPoints
        except ImportError:
            KeyPoints = None
        # Before 0.29 there was one field for scores, and none for those of persons.
        if (
            not hasattr(KeyPoints, "__dataclass_fields__")
            or "keypoint_confidence" not in KeyPoints.__dataclass_fields__
        ):
            raise PoseDetError("'to_supervision' needs supervision: pip install \"supervision>=0.29\"")
        return KeyPoints(
            xy=self.keypoints.copy(),
            class_id=np.zeros(len(self), np.int64),
            keypoint_confidence=self.keypoint_scores.copy(),
            detection_confidence=self.scores.copy(),
        )

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
    """The 3 K numbers of an entry, each finite and no score below 0."""
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
    """What `Poses.extra` held: the same names in every entry, and under each numbers of one shape."""
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
        arrays[name] = array.astype(np.float32) if array.dtype == np.float64 else array
    return arrays


def _of_keypoints(name: str) -> bool:
    """Whether the extra array of this name has a value for each keypoint."""
    return name.startswith("keypoint_")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _shortest(array: NDArray[np.float32]) -> Any:
    """Lists of Python floats written as float32 would be: 0.1, not 0.10000000149011612."""
    return array.astype(str).astype(np.float64).tolist()


def _first_bad(array: NDArray[np.float32], good: NDArray[np.bool_]) -> str:
    """Value and place of the first number that is not good."""
    place = tuple(int(axis[0]) for axis in np.nonzero(~good))
    return f"{array[place]} at {list(place)}"
