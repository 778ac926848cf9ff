"""Map the keypoints of a file, in any order, to those of a skeleton by their names; see `keypoint_names`."""

import reprlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posedet.errors import DataError
from posedet.keypoint_names import find_names, plain_names
from posedet.skeleton import Skeleton


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
    seen: set[str] = set()
    for place, (name, plain) in enumerate(zip(names, plain_names(names), strict=True)):
        if plain in seen:
            raise DataError(f"{where}[{place}]: duplicate keypoint {name!r:.80}")
        seen.add(plain)
    found = [(k, place) for k, place in enumerate(find_names(skeleton.keypoints, names)) if place is not None]
    wanted, column = np.array(found, np.intp).reshape(-1, 2).T
    return KeypointColumns(tuple(names), wanted, column, skeleton.num_keypoints)
