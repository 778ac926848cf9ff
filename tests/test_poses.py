import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from posedet.errors import DataError
from posedet.poses import Poses
from posedet.skeleton import BODY19, COCO, CROWDPOSE, Skeleton

TRIANGLE = Skeleton("triangle", ("left_foot", "right_foot", "top"), ((0, 2), (1, 2)), ((0, 1),), (0.1, 0.1, 0.1))

THREE = Poses(
    np.arange(18, dtype=np.float32).reshape(3, 3, 2),
    np.array([0.75, 0.5, 0.25], np.float32),
    np.linspace(0, 1, 9, dtype=np.float32).reshape(3, 3),
    TRIANGLE,
)


def assert_equal(got: Poses, expected: Poses) -> None:
    assert got.skeleton == expected.skeleton
    for field in ("keypoints", "scores", "keypoint_scores"):
        np.testing.assert_array_equal(getattr(got, field), getattr(expected, field), strict=True)


@st.composite
def some_poses(draw):
    count = draw(st.integers(0, 4))
    unit = st.floats(0, 1, width=32)
    return Poses(
        draw(arrays(np.float32, (count, 3, 2), elements=st.floats(-1e6, 1e6, width=32))),
        draw(arrays(np.float32, count, elements=unit)),
        draw(arrays(np.float32, (count, 3), elements=unit)),
        TRIANGLE,
    )


def test_arrays_are_float32_and_lists_are_taken():
    poses = Poses([[[1, 2], [3, 4], [5, 6]]], [1], np.ones((1, 3), np.float64), TRIANGLE)
    assert {array.dtype for array in (poses.keypoints, poses.scores, poses.keypoint_scores)} == {np.dtype(np.float32)}
    with pytest.raises(dataclasses.FrozenInstanceError):
        poses.scores = np.zeros(1)


def test_the_extent_of_the_keypoints_is_the_box():
    poses = Poses([[[3, 9], [1, 5], [2, 7]], [[4, -4], [4, -4], [4, -4]]], [1, 1], np.zeros((2, 3)), TRIANGLE)
    assert poses.boxes.tolist() == [[1, 5, 3, 9], [4, -4, 4, -4]]


@pytest.mark.parametrize(
    ("index", "places"),
    [
        *((0, [0]), (-1, [2]), (np.int64(1), [1]), (slice(1, None), [1, 2]), (slice(None, None, -1), [2, 1, 0])),
        *((slice(5, 9), []), ([], []), ((), []), ([2, 0, 2], [2, 0, 2]), (np.array([-1, 0], np.int32), [2, 0])),
        *((np.array([True, False, True]), [0, 2]), ([False, True, False], [1]), (np.zeros(3, bool), [])),
        *((np.array(2), [2]), (THREE.scores > 0.9, [])),
    ],
)
def test_any_index_gives_poses(index, places):
    assert_equal(
        THREE[index],
        Poses(
            np.array([THREE.keypoints[place] for place in places]).reshape(-1, 3, 2),
            np.array([THREE.scores[place] for place in places]),
            np.array([THREE.keypoint_scores[place] for place in places]).reshape(-1, 3),
            TRIANGLE,
        ),
    )


@pytest.mark.parametrize(
    "index", [3, -4, [0, 3], (slice(0, 1), 0), [[0, 1]], 0.5, True, np.True_, None, [True] * 4, "0"]
)
def test_no_other_index(index):
    with pytest.raises(IndexError):
        THREE[index]


def test_a_truth_value_is_no_mask():
    with pytest.raises(
        IndexError, match=r"^poses: index True, expected a number, a slice, a mask or a list of numbers$"
    ):
        THREE[:1][True]


def test_iterating_gives_one_at_a_time():
    ones = list(THREE)
    assert [len(one) for one in ones] == [1, 1, 1]
    for place, one in enumerate(ones):
        assert_equal(one, THREE[place])
    assert len(THREE) == 3


def test_nobody_is_nobody():
    nobody = Poses.empty(COCO)
    assert (nobody.keypoints.shape, nobody.scores.shape, nobody.keypoint_scores.shape) == ((0, 17, 2), (0,), (0, 17))
    assert nobody.boxes.shape == (0, 4)
    assert (len(nobody), list(nobody), nobody.to_coco(3), bool(nobody)) == (0, [], [], False)
    assert_equal(nobody[[]], nobody)
    assert_equal(nobody[nobody.scores > 0.5], nobody)
    assert_equal(nobody.select(["nose"]), Poses.empty(COCO.subset(["nose"])))
    assert_equal(Poses.from_coco([], COCO), nobody)
    assert_equal(Poses.from_dict(nobody.to_dict()), nobody)


def test_it_says_what_it_is_in_a_line():
    assert repr(THREE) == "Poses(3 x 'triangle', scores=[0.75, 0.50, 0.25])"
    assert repr(Poses.empty(COCO)) == "Poses(0 x 'coco', scores=[])"
    assert repr(THREE[[0] * 11]).endswith("0.75, 0.75, ...])")


def test_select_takes_keypoints_by_name():
    feet = THREE.select(["top", "left_foot"])
    assert feet.skeleton.keypoints == ("top", "left_foot")
    assert feet.skeleton.limbs == ((1, 0),)
    assert feet.keypoints.tolist() == [[[4, 5], [0, 1]], [[10, 11], [6, 7]], [[16, 17], [12, 13]]]
    assert feet.keypoint_scores.tolist() == THREE.keypoint_scores[:, [2, 0]].tolist()
    assert feet.scores.tolist() == THREE.scores.tolist()
    with pytest.raises(DataError, match=r"^skeleton 'triangle': unknown keypoint 'tip' \(did you mean 'top'\?\)$"):
        THREE.select(["tip"])


def test_select_turns_one_skeleton_into_another():
    generator = np.random.default_rng(0)
    poses = Poses(generator.uniform(0, 100, (2, 19, 2)), [1, 0.5], generator.uniform(0, 1, (2, 19)), BODY19)
    for skeleton in (COCO, CROWDPOSE):
        chosen = poses.select(skeleton)
        assert chosen.skeleton is skeleton
        for place, name in enumerate(skeleton.keypoints):
            old = BODY19.keypoints.index(name)
            np.testing.assert_array_equal(chosen.keypoints[:, place], poses.keypoints[:, old])
            np.testing.assert_array_equal(chosen.keypoint_scores[:, place], poses.keypoint_scores[:, old])


def test_to_coco_by_hand():
    poses = Poses([[[1.5, 2], [0.1, 4], [5, -6]]], [0.3], [[1, 0.7, 0]], TRIANGLE)
    assert poses.to_coco(42, category_id=7) == [
        {"image_id": 42, "category_id": 7, "keypoints": [1.5, 2, 1, 0.1, 4, 0.7, 5, -6, 0], "score": 0.3}
    ]
    assert poses.to_coco(1)[0]["category_id"] == 1


@pytest.mark.slow
@given(some_poses())
def test_any_poses_survive_both_formats(poses):
    assert_equal(Poses.from_coco(json.loads(json.dumps(poses.to_coco(7))), poses.skeleton), poses)
    assert_equal(Poses.from_dict(json.loads(json.dumps(poses.to_dict()))), poses)


def test_from_coco_takes_flags_for_scores():
    result = {"image_id": 1, "keypoints": [1, 2, 0, 3, 4, 1, np.float32(5), 6, 2], "score": 1}
    poses = Poses.from_coco([result], TRIANGLE)
    assert poses.keypoint_scores.tolist() == [[0, 1, 1]]
    assert poses.keypoints.tolist() == [[[1, 2], [3, 4], [5, 6]]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"keypoints": np.zeros((3, 4, 2))},
            "poses: keypoints: shape (3, 4, 2), expected (3, 3, 2) for 3 scores and the 3 keypoints of skeleton "
            "'triangle'",
        ),
        (
            {"keypoints": np.zeros((2, 3, 2))},
            "poses: keypoints: shape (2, 3, 2), expected (3, 3, 2) for 3 scores and the 3 keypoints of skeleton "
            "'triangle'",
        ),
        (
            {"scores": np.zeros((3, 1))},
            "poses: scores: shape (3, 1), expected (3,) for 3 scores and the 3 keypoints of skeleton 'triangle'",
        ),
        (
            {"keypoint_scores": np.zeros((3, 2))},
            "poses: keypoint_scores: shape (3, 2), expected (3, 3) for 3 scores and the 3 keypoints of skeleton "
            "'triangle'",
        ),
        (
            {"keypoints": np.where(THREE.keypoints == 9, np.nan, 0)},
            "poses: keypoints: nan at [1, 1, 1], expected finite numbers",
        ),
        ({"keypoints": np.full((3, 3, 2), 1e300)}, "poses: keypoints: inf at [0, 0, 0], expected finite numbers"),
        ({"scores": [0, 1, 1.5]}, "poses: scores: 1.5 at [2], expected 0 to 1"),
        ({"scores": [0, 1, np.nan]}, "poses: scores: nan at [2], expected finite numbers"),
        ({"keypoint_scores": np.full((3, 3), -0.5)}, "poses: keypoint_scores: -0.5 at [0, 0], expected 0 to 1"),
        (
            {"skeleton": COCO},
            "poses: keypoints: shape (3, 3, 2), expected (3, 17, 2) for 3 scores and the 17 keypoints",
        ),
    ],
)
def test_a_wrong_field_is_named(changes, message):
    with pytest.raises(DataError) as caught:
        dataclasses.replace(THREE, **changes)
    assert str(caught.value).startswith(message)


def test_one_score_is_not_an_array():
    with pytest.raises(DataError, match=r"^poses: scores: shape \(\), expected \(1,\) for 1 scores"):
        Poses(np.zeros((1, 3, 2)), 0.5, np.zeros((1, 3)), TRIANGLE)


GOOD = {"image_id": 5, "keypoints": [0.0] * 9, "score": 0.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keypoints": [0] * 8}, "results[1].keypoints: 8 numbers, expected 9 (3 x 3)"),
        ({"keypoints": None}, "results[1].keypoints: None, expected 9 (3 x 3) numbers"),
        ({"keypoints": [0, 0, 0, 0, float("nan"), *[0] * 4]}, "results[1].keypoints[4]: nan, expected a finite number"),
        ({"keypoints": [-1e39] + [0] * 8}, "results[1].keypoints[0]: -1e+39, expected a finite number"),
        ({"keypoints": [10**50] + [0] * 8}, f"results[1].keypoints[0]: {10**50}, expected a finite number"),
        ({"keypoints": ["1"] + [0] * 8}, "results[1].keypoints[0]: '1', expected a finite number"),
        ({"keypoints": [True] + [0] * 8}, "results[1].keypoints[0]: True, expected a finite number"),
        ({"keypoints": [0, 0, -1, *[0] * 6]}, "results[1].keypoints[2]: -1, expected a score or flag of at least 0"),
        ({"score": 1.5}, "results[1].score: 1.5, expected a number from 0 to 1"),
        ({"score": float("nan")}, "results[1].score: nan, expected a number from 0 to 1"),
        ({"score": None}, "results[1].score: None, expected a number from 0 to 1"),
        ({"image_id": 6}, "results[1].image_id: 6, but 5 in results[0]; pass one photo"),
    ],
)
def test_a_wrong_result_is_named(change, message):
    with pytest.raises(DataError) as caught:
        Poses.from_coco([GOOD, GOOD | change], TRIANGLE)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: Poses.from_coco({}, TRIANGLE), "results: {}, expected a list of poses"),
        (lambda: Poses.from_coco([7], TRIANGLE), "results[0]: 7, expected a table with keypoints and score"),
        (lambda: Poses.from_dict(7), "poses: 7, expected a table with skeleton and poses"),
        (lambda: Poses.from_dict({"poses": []}), "poses: key 'skeleton' is missing"),
        (
            lambda: Poses.from_dict({"skeleton": {"name": "x"}, "poses": []}),
            "skeleton: key 'keypoints' is missing",
        ),
        (
            lambda: Poses.from_dict({"skeleton": TRIANGLE.to_dict(), "poses": [GOOD, GOOD | {"score": 2}]}),
            "poses[1].score: 2, expected a number from 0 to 1",
        ),
    ],
)
def test_other_mistakes_are_named(action, message):
    with pytest.raises(DataError) as caught:
        action()
    assert str(caught.value) == message


# --- whatever else is known of poses ----------------------------------------------------------------------------------


def with_extra(count: int = 3) -> Poses:
    """Poses with track ids and a spread of every keypoint along x and y."""
    generator = np.random.default_rng(0)
    extra = {"ids": np.arange(7, 7 + count), "keypoint_spreads": generator.random((count, 17, 2)).astype(np.float32)}
    keypoints, scores = generator.random((count, 17, 2)), generator.random(count)
    return Poses(keypoints, scores, generator.random((count, 17)), COCO, extra)


def test_extra_is_cut_with_the_poses_and_their_keypoints() -> None:
    poses = with_extra()
    assert poses[[2, 0]].extra["ids"].tolist() == [9, 7]
    chosen = poses[1:].select(["left_wrist", "nose"])
    assert chosen.extra["ids"].tolist() == [8, 9]
    np.testing.assert_array_equal(chosen.extra["keypoint_spreads"], poses.extra["keypoint_spreads"][1:][:, [9, 0]])


def test_joined_poses_keep_what_all_have() -> None:
    first, second = with_extra(2), with_extra(1)
    plain = Poses(second.keypoints, second.scores, second.keypoint_scores, COCO, {"ids": np.array([3])})
    both = Poses.joined([first, plain])
    np.testing.assert_array_equal(both.keypoints, np.concatenate([first.keypoints, second.keypoints]))
    assert {name: len(array) for name, array in both.extra.items()} == {"ids": 3}
    assert both.extra["ids"].tolist() == [7, 8, 3]


def test_extra_goes_through_json() -> None:
    poses = with_extra()
    again = Poses.from_dict(json.loads(json.dumps(poses.to_dict())))
    assert again.extra["ids"].dtype.kind == "i"
    for name, array in poses.extra.items():
        np.testing.assert_array_equal(again.extra[name], array)
    assert "extra" not in Poses.empty(COCO).to_dict() and not Poses.from_dict(Poses.empty(COCO).to_dict()).extra


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ids": [1]}, r"extra\['ids'\]: shape \(1,\), expected \(3, ...\)"),
        (
            {"keypoint_spreads": np.zeros((3, 16))},
            r"extra\['keypoint_spreads'\]: shape \(3, 16\), expected \(3, 17, ...\)",
        ),
    ],
)
def test_extra_of_another_shape_is_refused(change: dict[str, Any], said: str) -> None:
    poses = with_extra()
    with pytest.raises(DataError, match=said):
        Poses(poses.keypoints, poses.scores, poses.keypoint_scores, COCO, change)


@pytest.mark.parametrize("wrong", [{"other": 1}, {"ids": "x"}, {"ids": [1, 2]}, 5])
def test_extra_of_a_file_is_checked(wrong: Any) -> None:
    data = with_extra().to_dict()
    for entry in data["poses"]:
        entry["extra"] = {"ids": 1}
    data["poses"][1]["extra"] = wrong
    with pytest.raises(DataError, match=r"extra"):
        Poses.from_dict(data)
