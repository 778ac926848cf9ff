import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posedet.errors import DataError
from posedet.keypoint_names import infer_pairs
from posedet.skeleton import BODY19, COCO, CROWDPOSE, DEFAULT_SIGMA, SKELETONS, Skeleton, find_skeleton

# As in the annotation files of COCO, whose limbs count from 1.
COCO_CATEGORY = {
    "supercategory": "person",
    "id": 1,
    "name": "person",
    "keypoints": [
        *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder"),
        *("left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip"),
        *("left_knee", "right_knee", "left_ankle", "right_ankle"),
    ],
    "skeleton": [
        *([16, 14], [14, 12], [17, 15], [15, 13], [12, 13], [6, 12], [7, 13], [6, 7], [6, 8], [7, 9], [8, 10]),
        *([9, 11], [2, 3], [1, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7]),
    ],
}
COCO_SIGMAS = (26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89)
CROWDPOSE_SIGMAS = (79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89, 79, 79)

HAND = {"name": "hand", "keypoints": ["wrist", "thumb", "little"], "limbs": [[0, 1], [0, 2]]}


def test_built_in_skeletons_are_those_of_the_data_sets():
    assert list(SKELETONS) == ["coco", "crowdpose", "crowdpose15", "body19"]
    assert [skeleton.num_keypoints for skeleton in SKELETONS.values()] == [17, 14, 15, 19]
    assert COCO.sigmas == tuple(sigma / 1000 for sigma in COCO_SIGMAS)
    assert CROWDPOSE.sigmas == tuple(sigma / 1000 for sigma in CROWDPOSE_SIGMAS)
    assert COCO.keypoints == tuple(COCO_CATEGORY["keypoints"])
    assert CROWDPOSE.keypoints == (*COCO.keypoints[5:], "head_top", "neck")
    assert BODY19.keypoints == (*COCO.keypoints, "head_top", "neck")
    assert BODY19.sigmas == (*COCO.sigmas, 0.079, 0.079)
    assert set(COCO.limbs) < set(BODY19.limbs)


def test_coco_is_what_its_own_category_says():
    read = Skeleton.from_coco_category(COCO_CATEGORY)
    assert read.name == "person"
    assert (read.keypoints, read.pairs, read.sigmas) == (COCO.keypoints, COCO.pairs, COCO.sigmas)
    assert {frozenset(limb) for limb in read.limbs} == {frozenset(limb) for limb in COCO.limbs}


def test_crowdpose_category_has_the_limbs_of_coco():
    """Its own files join 14 keypoints by COCO's numbers, 1 to 17: by name they are the limbs of COCO's body."""
    names = [*CROWDPOSE.keypoints[:12], "head", "neck"]
    category = {"name": "person", "keypoints": names, "skeleton": COCO_CATEGORY["skeleton"][:12]}
    read = Skeleton.from_coco_category(category)
    assert [[names[end] for end in limb] for limb in read.limbs[:2]] == [
        ["left_ankle", "left_knee"],
        ["left_knee", "left_hip"],
    ]
    assert read.limbs == CROWDPOSE.limbs[:12]


@pytest.mark.parametrize(
    ("limbs", "read"),
    [
        ([[1, 2], [2, 3]], ((0, 1), (1, 2))),
        ([[0, 1], [1, 2]], ((0, 1), (1, 2))),
        ([["left_toe", "heel"], ["heel", "right_toe"]], ((0, 1), (1, 2))),
        ([[1, 2], [3, 4], "heel", [1, 1], [1], None, [1.0, 2], [["heel"], 2], ["heel", "knee"]], ((0, 1),)),
        (None, ()),
        ("left_toe-heel", ()),
    ],
)
def test_limbs_of_a_category_are_only_drawn(limbs, read):
    category = {"name": "paw", "keypoints": ["left_toe", "heel", "right_toe"], "skeleton": limbs}
    assert Skeleton.from_coco_category(category).limbs == read


def test_a_category_that_holds_others_together_has_no_keypoints(tmp_path):
    file = tmp_path / "set.json"
    others = [{"id": 0, "name": "things", "keypoints": []}, {"id": 2, "name": "more", "keypoints": None}]
    same = {"id": 3, "name": "twin", "keypoints": ["LeftToe", "right-toe", "Heel"]}
    paw = {"id": 1, "name": "paw", "keypoints": ["left_toe", "heel", "right_toe"], "skeleton": None}
    file.write_text(json.dumps({"categories": [*others, paw, same]}))
    assert Skeleton.from_file(file).keypoints == ("left_toe", "heel", "right_toe")


def test_coco_category_without_limbs_and_with_own_sigmas():
    category = {"name": "paw", "keypoints": ["left_toe", "heel", "right_toe"]}
    read = Skeleton.from_coco_category(category, sigmas=[0.1, 0.2, 0.3])
    assert read == Skeleton("paw", ("left_toe", "heel", "right_toe"), (), ((0, 2),), (0.1, 0.2, 0.3))


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)
def test_mirror_exchanges_left_and_right_and_nothing_else(skeleton):
    swapped = {"left": "right", "right": "left"}
    for name, mirrored in zip(skeleton.keypoints, np.array(skeleton.keypoints)[skeleton.mirror], strict=True):
        side, _, rest = name.partition("_")
        assert mirrored == (f"{swapped[side]}_{rest}" if side in swapped else name)
    np.testing.assert_array_equal(skeleton.mirror[skeleton.mirror], np.arange(skeleton.num_keypoints))
    # A limb stays a limb in the mirror.
    limbs = {frozenset(limb) for limb in skeleton.limbs}
    assert {frozenset(skeleton.mirror[list(limb)].tolist()) for limb in skeleton.limbs} == limbs


@pytest.mark.parametrize(
    ("left", "right"),
    [
        *(("left_eye", "right_eye"), ("eye_left", "eye_right"), ("leftEye", "rightEye"), ("LeftEye", "RightEye")),
        *(("l_eye", "r_eye"), ("eye.L", "eye.R"), ("LEye", "REye"), ("left eye", "right eye"), ("L-EYE", "R-EYE")),
        *(("lefteye", "righteye"), ("left_big_toe", "right_big_toe"), ("EyeL", "EyeR")),
    ],
)
def test_pairs_are_inferred_from_names(left, right):
    assert infer_pairs([left, "nose", right]) == ((0, 2),)
    assert infer_pairs([right, "nose", left]) == ((2, 0),)


def test_pairs_are_inferred_only_where_the_names_differ_in_the_side_alone():
    names = ["left_eye", "right_ear", "left", "tail", "collar", "rear", "left_é", "right_ü", "left_hip", "left_ear"]
    assert infer_pairs(names) == ((9, 1),)
    assert infer_pairs([]) == ()
    assert infer_pairs(["left_hip", "left_eye", "right_eye", "right_hip"]) == ((0, 3), (1, 2))


def test_subset_keeps_limbs_and_pairs_with_both_ends():
    arms = COCO.subset(["right_wrist", "right_elbow", "left_wrist", "nose"])
    assert arms == Skeleton(
        "coco-4",
        ("right_wrist", "right_elbow", "left_wrist", "nose"),
        limbs=((1, 0),),
        pairs=((2, 0),),
        sigmas=(0.062, 0.072, 0.062, 0.026),
    )
    assert BODY19.subset(COCO.keypoints, name="coco") == COCO
    assert BODY19.subset(CROWDPOSE.keypoints, name="crowdpose") == CROWDPOSE


def test_index_and_find_skeleton():
    assert COCO.index("left_hip") == 11
    assert find_skeleton("crowdpose") is CROWDPOSE


@st.composite
def skeletons(draw):
    names = draw(st.lists(st.from_regex(r"[a-z_]{1,8}\d", fullmatch=True), min_size=1, max_size=7, unique=True))
    links = [(i, j) for i in range(len(names)) for j in range(len(names)) if i != j]
    order = draw(st.permutations(range(len(names))))
    num_pairs = draw(st.integers(0, len(names) // 2))
    return Skeleton(
        name=draw(st.from_regex("[ -~]*[!-~][ -~]*", fullmatch=True).filter(lambda text: len(text) < 30)),
        keypoints=names,
        limbs=draw(st.lists(st.sampled_from(links), max_size=4)) if links else [],
        pairs=[(order[2 * i], order[2 * i + 1]) for i in range(num_pairs)],
        sigmas=draw(st.lists(st.floats(0.001, 1), min_size=len(names), max_size=len(names))),
    )


@pytest.mark.slow
@given(skeletons())
def test_any_skeleton_survives_json_and_mirrors_twice(skeleton):
    again = Skeleton.from_dict(json.loads(json.dumps(skeleton.to_dict())))
    assert again == skeleton
    assert hash(again) == hash(skeleton)
    np.testing.assert_array_equal(skeleton.mirror[skeleton.mirror], np.arange(skeleton.num_keypoints))
    assert skeleton.subset(skeleton.keypoints, name=skeleton.name) == skeleton


def test_a_skeleton_written_by_hand_needs_little(tmp_path):
    file = tmp_path / "dog.toml"
    file.write_text(
        'name = "dog"\nkeypoints = ["nose", "left_paw", "right_paw", "tail"]\n'
        'limbs = [["nose", "tail"], [1, "tail"]]\n',
        encoding="utf-8",
    )
    expected = Skeleton(
        "dog", ("nose", "left_paw", "right_paw", "tail"), ((0, 3), (1, 3)), ((1, 2),), (0.026, *[DEFAULT_SIGMA] * 3)
    )
    assert Skeleton.from_file(file) == expected
    as_json = tmp_path / "dog.JSON"
    as_json.write_text("\ufeff" + json.dumps(expected.to_dict()), encoding="utf-8")  # some editors write that mark
    assert Skeleton.from_file(str(as_json)) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "skeleton: name: '', expected 1 to 100 printable characters"),
        ({"name": "a\nb"}, r"skeleton: name: 'a\nb', expected 1 to 100 printable characters"),
        ({"name": 3}, "skeleton: name: 3, expected 1 to 100 printable characters"),
        ({"keypoints": []}, "skeleton 'hand': keypoints: [], expected a list of names"),
        ({"keypoints": "wrist"}, "skeleton 'hand': keypoints: 'wrist', expected a list of names"),
        ({"keypoints": ["a", 1]}, "skeleton 'hand': keypoints[1]: 1, expected 1 to 100 printable characters"),
        ({"keypoints": ["a", "b", "a"]}, "skeleton 'hand': keypoints[2]: duplicate keypoint 'a'"),
        ({"limbs": 3}, "skeleton 'hand': limbs: 3, expected a list of pairs of keypoint indices"),
        ({"limbs": [[0, 1], 2]}, "skeleton 'hand': limbs[1]: 2, expected two keypoint indices"),
        ({"limbs": [[0, 1, 2]]}, "skeleton 'hand': limbs[0]: [0, 1, 2], expected two keypoint indices"),
        ({"limbs": [[0, 1.0]]}, "skeleton 'hand': limbs[0]: [0, 1.0], expected two keypoint indices"),
        ({"limbs": [[0, True]]}, "skeleton 'hand': limbs[0]: [0, True], expected two keypoint indices"),
        ({"limbs": [[0, 3]]}, "skeleton 'hand': limbs[0]: [0, 3], keypoint indices run from 0 to 2"),
        ({"limbs": [[-1, 2]]}, "skeleton 'hand': limbs[0]: [-1, 2], keypoint indices run from 0 to 2"),
        ({"limbs": [["wrist", "thum"]]}, "skeleton 'hand': limbs[0]: unknown keypoint 'thum' (did you mean 'thumb'?)"),
        ({"pairs": [[1, 1]]}, "skeleton 'hand': pairs[0]: [1, 1] connects a keypoint with itself"),
        ({"pairs": [[1, 2], [0, 1]]}, "skeleton 'hand': pairs[1]: keypoint 1 (thumb) is already in another pair"),
        ({"sigmas": 0.1}, "skeleton 'hand': sigmas: 0.1, expected a list of 3 numbers"),
        ({"sigmas": [0.1, 0.1]}, "skeleton 'hand': sigmas: 2 numbers, expected 3, one per keypoint"),
        *(
            (
                {"sigmas": [0.1, sigma, 0.1]},
                f"skeleton 'hand': sigmas[1]: {sigma!r}, expected a fraction of the person's size, 0.001 to 1",
            )
            for sigma in (0, -0.1, 1.5, float("nan"), float("inf"), "0.1", True, None)
        ),
        ({"sigma": [0.1]}, "skeleton: unknown key 'sigma' (did you mean 'sigmas'?)"),
    ],
)
def test_what_is_wrong_is_named(change, message):
    with pytest.raises(DataError) as caught:
        Skeleton.from_dict(HAND | change)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: Skeleton.from_dict([]), "skeleton: [], expected a table with name, keypoints, limbs, pairs, sigmas"),
        (lambda: Skeleton.from_dict({"name": "a"}), "skeleton: key 'keypoints' is missing"),
        (lambda: COCO.index("left_hipp"), "skeleton 'coco': unknown keypoint 'left_hipp' (did you mean 'left_hip'?)"),
        (lambda: COCO.subset(["tail"]), "skeleton 'coco': unknown keypoint 'tail'"),
        (lambda: COCO.subset(["nose", "nose"]), "skeleton 'coco-2': keypoints[1]: duplicate keypoint 'nose'"),
        (
            lambda: find_skeleton("coc"),
            "unknown skeleton 'coc' (did you mean 'coco'?); built-in skeletons: coco, crowdpose, crowdpose15, body19",
        ),
        (lambda: Skeleton.from_coco_category(7), "categories: 7, expected a table with name, keypoints, skeleton"),
        (
            lambda: Skeleton.from_coco_category({"name": "person"}),
            "categories: key 'keypoints' is missing; is this a COCO-style keypoint file?",
        ),
    ],
)
def test_other_mistakes_are_named(action, message):
    with pytest.raises(DataError) as caught:
        action()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"[" * 100_000, "a.json: not a JSON file (maximum recursion depth exceeded"),
        ("a.json", b"{'name'", "a.json: not a JSON file (Expecting property name"),
        ("a.json", b"\xff\xfe", "a.json: not a JSON file ('utf-8' codec can't decode"),
        ("a.json", b"[" + b"1" * 5000 + b"]", "a.json: not a JSON file (Exceeds the limit"),
        ("a.toml", b"name = ", "a.toml: not a TOML file (Invalid value"),
        ("a.toml", b"a = " + b"[" * 100_000, "a.toml: not a TOML file ("),
        ("a.toml", b"name = 'x'\n", "a.toml: skeleton: key 'keypoints' is missing"),
        ("a.toml", b"#" * 1_000_001, "a.toml: the file is larger than 1000000 bytes and therefore not a skeleton"),
        ("a.yaml", b"", "a.yaml: not a skeleton file; expected a .toml or .json file"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, name, content, message):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        Skeleton.from_file(file)
    assert str(caught.value).startswith(f"{tmp_path}/{message}")
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file_is_one_line(tmp_path):
    for path in (tmp_path / "none.toml", Path("nowhere") / "none.json"):
        with pytest.raises(DataError, match=r"none\.(toml|json): no such file"):
            Skeleton.from_file(path)
