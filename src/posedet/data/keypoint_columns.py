"""From the keypoints of a file, in its own order, to those of the wanted skeleton: they are found by name."""

import reprlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posedet.errors import DataError
from posedet.skeleton import Skeleton

# Other data sets' words for the same place: CrowdPose's files say "head" or "top_head" for the top of the head.
_SYNONYMS = {"head": "head_top", "top_head": "head_top", "headtop": "head_top", "top_of_head": "head_top"}


class KeypointColumns(NamedTuple):
    """Where a file keeps the keypoints of the wanted skeleton."""

    names: tuple[str, ...]  # J, all that the file has, in its order
    wanted: NDArray[np.intp]  # indices of the skeleton's keypoints that the file has
    column: NDArray[np.intp]  # their indices in the file, in the same order
    num_wanted: int  # K, of the skeleton

    @property
    def num_keypoints(self) -> int:
        """J, in the file."""
        return len(self.names)

    def spread(self, values: NDArray[Any], missing: int, dtype: type[np.generic]) -> NDArray[Any]:
        """The file's values for its keypoints (J, ...) in the skeleton's order (K, ...)."""
        spread = np.full((self.num_wanted, *values.shape[1:]), missing, dtype)
        spread[self.wanted] = values[self.column]
        return spread


def keypoint_columns(names: Any, where: str, skeleton: Skeleton) -> KeypointColumns:
    """Where the keypoints of `skeleton` stand among a file's `names`, perhaps not all of them.

    Raises DataError, which begins with `where`, for anything but a list of different names.
    """
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{where}: {reprlib.repr(names)}, expected a list of names")
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        if _plain(name) in places:
            raise DataError(f"{where}[{place}]: {name!r:.80} stands there twice")
        places[_plain(name)] = place
    for other, name in _SYNONYMS.items():
        if other in places and name not in places:
            places[name] = places[other]
    found = [(k, places[_plain(name)]) for k, name in enumerate(skeleton.keypoints) if _plain(name) in places]
    wanted, column = np.array(found, np.intp).reshape(-1, 2).T
    return KeypointColumns(tuple(names), wanted, column, skeleton.num_keypoints)


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")
