"""Map the keypoints of a file, in any order, to those of a skeleton by their names."""

import reprlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posedet.errors import DataError
from posedet.skeleton import Skeleton

# Names that other datasets use for the same place: CrowdPose's files say "head" or "top_head" for the top of the head.
_SYNONYMS = {"head": "head_top", "top_head": "head_top", "headtop": "head_top", "top_of_head": "head_top"}


class KeypointColumns(NamedTuple):
    """Which of a file's J keypoints are which of the wanted skeleton's K keypoints."""

    names: tuple[str, ...]  # all J keypoints of the file, in its order
    wanted: NDArray[np.intp]  # indices of the skeleton's keypoints that the file has
    column: NDArray[np.intp]  # indices of these keypoints in the file, in the same order
    num_wanted: int  # K

    @property
    def num_keypoints(self) -> int:
        """The number of keypoints in the file, J."""
        return len(self.names)

    def spread(self, values: NDArray[Any], missing: int, dtype: type[np.generic]) -> NDArray[Any]:
        """Reorder values for the file's keypoints (J, ...) to the skeleton's (K, ...); absent ones become `missing`."""
        spread = np.full((self.num_wanted, *values.shape[1:]), missing, dtype)
        spread[self.wanted] = values[self.column]
        return spread


def keypoint_columns(names: Any, where: str, skeleton: Skeleton) -> KeypointColumns:
    """Find the keypoints of `skeleton` among the `names` in a file, which need not have all of them.

    Raises DataError, which begins with `where`, unless `names` is a list of distinct names.
    """
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{where}: {reprlib.repr(names)}, expected a list of names")
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        if _plain(name) in places:
            raise DataError(f"{where}[{place}]: duplicate keypoint {name!r:.80}")
        places[_plain(name)] = place
    for other, name in _SYNONYMS.items():
        if other in places and name not in places:
            places[name] = places[other]
    found = [(k, places[_plain(name)]) for k, name in enumerate(skeleton.keypoints) if _plain(name) in places]
    wanted, column = np.array(found, np.intp).reshape(-1, 2).T
    return KeypointColumns(tuple(names), wanted, column, skeleton.num_keypoints)


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")
