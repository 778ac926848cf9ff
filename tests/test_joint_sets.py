"""One network of 19 keypoints, any of them asked for: the same people and scores, and columns of the same poses."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from posedet import PoseDet, Poses, Skeleton
from posedet.errors import DataError
from posedet.image import Letterbox, read_photo
from posedet.runtime.model_files import model_file
from posedet.runtime.session import Outputs, Session, open_session
from posedet.skeleton import BODY19, COCO, CROWDPOSE


class Recorded:
    """A session that runs once for each input, and then gives what it gave."""

    def __init__(self, session: Session) -> None:
        self.about = session.about
        self._session = session
        self.seen: dict[bytes, Outputs] = {}

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        key = images.tobytes()
        if key not in self.seen:
            self.seen[key] = self._session.run(images)
        return self.seen[key]


@pytest.fixture(scope="module")
def session() -> Recorded:
    return Recorded(open_session(model_file("posedet-s"), threads=1))


@pytest.fixture(scope="module")
def photo(photos: Path) -> NDArray[np.uint8]:
    """Ten people, some of whom overlap."""
    return read_photo(photos / "hall.jpg")


@pytest.fixture(scope="module")
def whole(session: Recorded, photo: NDArray[np.uint8]) -> Poses:
    poses = PoseDet(session, skeleton="body19", score_threshold=0.1)(photo)
    assert len(poses) > 5
    return poses


def assert_columns(poses: Poses, whole: Poses, names: Sequence[str]) -> None:
    """`poses` are those of `whole`, all of them in the same order, with the columns of `names`."""
    assert poses.skeleton.keypoints == tuple(names)
    columns = [BODY19.keypoints.index(name) for name in names]
    assert_array_equal(poses.scores, whole.scores, strict=True)
    assert_array_equal(poses.keypoints, whole.keypoints[:, columns], strict=True)
    assert_array_equal(poses.keypoint_scores, whole.keypoint_scores[:, columns], strict=True)


def test_the_columns_are_those_of_the_network(session: Recorded, photo: NDArray[np.uint8], whole: Poses) -> None:
    """Each pose stands in the network's output, brought to the photo, keypoint by keypoint under its name."""
    ((scores, keypoints, keypoint_scores, _),) = session.seen.values()
    decode = session.about.decode
    letterbox = Letterbox.fit(photo.shape[:2], long_side=decode.long_side, short_side=decode.short_side)
    assert session.about.skeleton.keypoints == BODY19.keypoints
    placed = letterbox.to_photo(keypoints[0]).astype(np.float32)
    for pose in whole:
        (row,) = np.flatnonzero(scores[0] == pose.scores[0])
        assert_array_equal(pose.keypoints[0], placed[row])
        assert_array_equal(pose.keypoint_scores[0], keypoint_scores[0, row])


@pytest.mark.parametrize("skeleton", [COCO, CROWDPOSE, BODY19], ids=lambda skeleton: skeleton.name)
def test_sets_by_name(session: Recorded, photo: NDArray[np.uint8], whole: Poses, skeleton: Skeleton) -> None:
    for asked in (skeleton, skeleton.name, skeleton.keypoints):
        poses = PoseDet(session, skeleton=asked, score_threshold=0.1)(photo)
        assert_columns(poses, whole, skeleton.keypoints)
        assert set(poses.skeleton.sigmas) <= set(BODY19.sigmas)
    assert PoseDet(session, skeleton=skeleton.name).skeleton == skeleton


def test_coco_is_what_is_reported_unasked(session: Recorded, photo: NDArray[np.uint8], whole: Poses) -> None:
    assert_columns(PoseDet(session, score_threshold=0.1)(photo), whole, COCO.keypoints)


@settings(max_examples=40)
@given(st.permutations(BODY19.keypoints), st.integers(1, 19), st.sampled_from((0.1, 0.4)))
def test_any_list_of_names(
    session: Recorded, photo: NDArray[np.uint8], whole: Poses, names: list[str], count: int, score_threshold: float
) -> None:
    names = names[:count]
    poses = PoseDet(session, skeleton=names, score_threshold=score_threshold)(photo)
    assert_columns(poses, whole[whole.scores > score_threshold], names)
    for first, second in poses.skeleton.limbs:
        joined = {BODY19.keypoints.index(names[first]), BODY19.keypoints.index(names[second])}
        assert joined in [set(limb) for limb in BODY19.limbs]


def test_sigmas_of_ones_own_drop_nobody(session: Recorded, photo: NDArray[np.uint8], whole: Poses) -> None:
    """Duplicates are told by all keypoints of the network: a set of vague or few ones does not make people alike."""
    vague = Skeleton("vague", ("nose", "neck"), ((0, 1),), (), (1.0, 1.0))
    assert_columns(PoseDet(session, skeleton=vague, score_threshold=0.1)(photo), whole, vague.keypoints)


def test_a_name_twice_is_refused(session: Recorded) -> None:
    with pytest.raises(DataError, match=r"keypoints\[1\]: duplicate keypoint 'nose'$"):
        PoseDet(session, skeleton=["nose", "nose"])
