"""Reading of COCO-style keypoint files, good ones and hostile ones."""

import copy
import gzip
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from posedet.data import json_entries
from posedet.data.annotations import AnnotatedPhoto, Person, estimated_area, fingerprint
from posedet.data.formats.coco import read_content
from posedet.data.json_entries import MAX_NUMBER, MAX_SIDE, known_category, listed, numbers, photo_sides, read_json
from posedet.data.sources import MissingPhotosError, Source, read_photos
from posedet.errors import DataError
from posedet.skeleton import BODY19, CROWDPOSE, CROWDPOSE15, Skeleton

TRIO = Skeleton("trio", ("nose", "left_eye", "right_eye"), (), ((1, 2),), (0.1, 0.1, 0.1))


def labels() -> dict[str, Any]:
    """Two photos; in the first a person with the keypoints of `TRIO` in another order, and a crowd."""
    return {
        "images": [
            {"id": 7, "file_name": "one.jpg", "width": 200, "height": 100, "crowdIndex": 0.5},
            {"id": 3, "file_name": "sub/two.jpg", "width": 64, "height": 48},
        ],
        "annotations": [
            {
                "id": 11,
                "image_id": 7,
                "category_id": 1,
                "bbox": [10, 20, 30, 40.5],
                "area": 600.25,
                "iscrowd": 0,
                "num_keypoints": 2,
                "keypoints": [31, 32, 1, 0, 0, 0, 11, 12.5, 2],
            },
            {
                "id": 12,
                "image_id": 7,
                "category_id": 1,
                "bbox": [0, 0, 200, 100],
                "iscrowd": 1,
                "num_keypoints": 0,
                "keypoints": [0] * 9,
            },
        ],
        "categories": [{"id": 1, "name": "person", "keypoints": ["right_eye", "left_eye", "nose"]}],
    }


def read(data: Any, folder: Path, skeleton: Skeleton = TRIO) -> tuple[AnnotatedPhoto, ...]:
    path = folder / "val.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return read_photos(f"{path}:{folder}/photos", skeleton, check_files=False)


def person(data: Any, folder: Path, skeleton: Skeleton = TRIO) -> Person:
    return read(data, folder, skeleton)[0].persons[0]


def error(data: Any, folder: Path, skeleton: Skeleton = TRIO) -> str:
    """The message, without the folder of the test."""
    with pytest.raises(DataError) as caught:
        read(data, folder, skeleton)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{folder}/val.json: ")
    return message.removeprefix(f"{folder}/")


def test_all_fields(tmp_path: Path) -> None:
    photos = read(labels(), tmp_path)
    assert [(photo.image_id, photo.path, photo.size) for photo in photos] == [
        (7, tmp_path / "photos" / "one.jpg", (100, 200)),
        (3, tmp_path / "photos" / "sub" / "two.jpg", (48, 64)),
    ]
    assert [photo.crowd_index for photo in photos] == [0.5, None]
    assert not photos[0].only_main_person and photos[1].persons == ()
    first, crowd = photos[0].persons
    # In the order of the skeleton, not of the file.
    np.testing.assert_array_equal(first.keypoints, np.array([[11, 12.5], [0, 0], [31, 32]]), strict=True)
    np.testing.assert_array_equal(first.visibility, np.array([2, 0, 1], np.uint8), strict=True)
    np.testing.assert_array_equal(first.keypoint_weights, np.ones(3, np.float32), strict=True)
    np.testing.assert_array_equal(first.box, np.array([10, 20, 40, 60.5]), strict=True)
    assert (first.area, first.score, first.annotation_id) == (600.25, 1.0, 11)
    assert (first.category_id, first.place) == (1, f"{tmp_path}/val.json: annotations[0] (id 11, one.jpg)")
    assert [photo.place for photo in photos] == [f"{tmp_path}/val.json: images[{number}]" for number in (0, 1)]
    assert [photo.categories for photo in photos] == [{1: ("right_eye", "left_eye", "nose")}] * 2
    assert (first.is_crowd, first.ignore, crowd.is_crowd, crowd.ignore) == (False, False, True, True)


def test_keypoints_that_the_file_does_not_have(tmp_path: Path) -> None:
    first = person(labels(), tmp_path, BODY19)
    assert np.flatnonzero(first.visibility).tolist() == [BODY19.index("nose"), BODY19.index("right_eye")]
    assert first.keypoints[BODY19.index("right_eye")].tolist() == [31, 32]
    assert set(first.visible[3:].tolist()) == {-1}
    assert set(first.keypoint_weights.tolist()) == {1.0}


def test_a_keypoint_that_the_file_does_not_have_is_unknown(tmp_path: Path) -> None:
    four = Skeleton("four", (*TRIO.keypoints, "tail"), (), (), (0.1,) * 4)
    first = read_content(labels(), "x", tmp_path, four)[0].persons[0]
    np.testing.assert_array_equal(first.keypoints, np.array([[11, 12.5], [0, 0], [31, 32], [0, 0]]), strict=True)
    np.testing.assert_array_equal(first.visibility, np.array([2, 0, 1, 0], np.uint8), strict=True)
    np.testing.assert_array_equal(first.visible, np.array([1, 0, 0, -1], np.int8), strict=True)


@pytest.mark.parametrize("name", ["head", "top_head", "Head Top", "head_top"])
def test_crowdpose_words_for_the_top_of_the_head(tmp_path: Path, name: str) -> None:
    data = labels()
    data["categories"][0]["keypoints"] = [name, "Left-Shoulder", "neck"]
    first = person(data, tmp_path, CROWDPOSE)
    assert first.keypoints[CROWDPOSE.index("head_top")].tolist() == [31, 32]
    assert first.keypoints[CROWDPOSE.index("neck")].tolist() == [11, 12.5]


def test_an_exact_name_goes_before_another_word_for_it(tmp_path: Path) -> None:
    data = labels()
    data["categories"][0]["keypoints"] = ["head", "neck", "head_top"]
    assert person(data, tmp_path, BODY19).keypoints[BODY19.index("head_top")].tolist() == [11, 12.5]


@pytest.mark.parametrize("name", ["keypoint_scores", "joint_scores"])
def test_a_teachers_labels(tmp_path: Path, name: str) -> None:
    data = labels()
    data["annotations"][0] |= {"score": 0.5, name: [0.75, 0.1, 1.09]}
    first = person(data, tmp_path)
    np.testing.assert_array_equal(first.keypoint_weights, np.array([1, 0.1, 0.75], np.float32), strict=True)
    assert first.score == 0.5
    assert first.visible.tolist() == [-1, -1, -1]


def test_a_teachers_confidence_is_from_0_to_1(tmp_path: Path) -> None:
    data = labels()
    data["annotations"][0]["keypoint_scores"] = [-0.25, 0.5, 1.25]
    assert person(data, tmp_path).keypoint_weights.tolist() == [1, 0.5, 0]


@pytest.mark.parametrize("name", ["labelled_keypoints", "labelled_joints"])
def test_labelled_keypoints_are_the_only_known_ones(tmp_path: Path, name: str) -> None:
    data = labels()
    data["annotations"][0] |= {name: ["right_eye", "left_eye"], "keypoints": [31, 32, 2, 1, 2, 0, 5, 6, 2]}
    first = person(data, tmp_path)
    assert first.visibility.tolist() == [0, 0, 2]
    assert first.visible.tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    ("change", "ignored"),
    [
        ({}, False),
        ({"ignore": 1}, True),
        ({"ignore": 0}, False),
        ({"iscrowd": 1}, True),
        ({"num_keypoints": 0}, True),  # as in CrowdPose, where head and neck do not count
        ({"keypoints": [1, 2, 0] * 3}, True),
        ({"labelled_joints": []}, True),
        ({"labelled_keypoints": []}, True),
    ],
)
def test_who_is_ignored(tmp_path: Path, change: dict[str, Any], ignored: bool) -> None:
    data = labels()
    data["annotations"][0] |= change
    assert person(data, tmp_path).ignore == ignored


@pytest.mark.parametrize(("part", "number"), [("images", 0), ("annotations", 0), ("annotations", 1)])
def test_only_main_person_may_stand_at_the_photo_or_at_a_person(tmp_path: Path, part: str, number: int) -> None:
    data = labels()
    data[part][number]["only_main_person"] = True
    assert [photo.only_main_person for photo in read(data, tmp_path)] == [True, False]


def test_without_an_area_it_is_estimated_from_the_box(tmp_path: Path) -> None:
    data = labels()
    del data["annotations"][0]["area"]
    assert person(data, tmp_path).area == pytest.approx(0.53 * 30 * 40.5)


def test_without_a_box_the_area_is_that_around_labelled_keypoints(tmp_path: Path) -> None:
    data = labels()
    data["annotations"][0] |= {"area": 0, "bbox": [5, 5, 0, 0], "keypoints": [3, 4, 1, 23, 34, 1, 99, 99, 0]}
    assert person(data, tmp_path).area == 20 * 30


def test_every_mistake_is_reported_with_its_kind_and_the_rest_is_read(tmp_path: Path) -> None:
    data = labels()
    category, photo, first = data["categories"][0], data["images"][1], data["annotations"][0]
    category["skeleton"] = [[1, 9], [1, 2]]
    data["categories"] += [category, {"id": "x"}, 5]
    data["images"] += [photo, {**photo, "id": 4}, {"id": 5}, []]
    data["annotations"] += [
        *(first, {**first, "id": 13, "image_id": 6}, {**first, "id": 14, "image_id": 5, "num_keypoints": 3}),
        *({**first, "id": 15, "num_keypoints": 3}, {**first, "id": 16, "num_keypoints": 2.0}, {"id": 17}),
        {key: value for key, value in first.items() if key != "num_keypoints"} | {"id": 18},
        None,
    ]
    found: list[tuple[str, str]] = []
    photos = read_content(data, "x", tmp_path, None, lambda kind, problem: found.append((kind, str(problem))))
    assert found == [
        ("list", "x: categories[3]: 5, expected an object"),
        ("category entry", "x: categories[0].skeleton[0]: [1, 9], expected two keypoints, 1 to 3"),
        ("category entry", "x: categories[1].id: duplicate id 1"),
        ("category entry", "x: categories[2].id: 'x', expected a whole number"),
        ("image entry", "x: images[2].id: duplicate id 3"),
        ("duplicate photo", "x: images[3].file_name: duplicate photo 'sub/two.jpg'"),
        ("image entry", "x: images[4]: 'file_name' is missing"),
        ("list", "x: images[5]: [], expected an object"),
        ("annotation entry", "x: annotations[2].id: duplicate id 11"),
        ("annotation entry", "x: annotations[3].image_id: 6 is not among the file's images"),
        ("keypoint count", "x: annotations[5] (id 15, one.jpg): num_keypoints is 3, 2 are labelled"),
        ("annotation entry", "x: annotations[7]: 'image_id' is missing"),
        ("list", "x: annotations[9]: None, expected an object"),
    ]
    people = {photo.image_id: [each.annotation_id for each in photo.persons] for photo in photos}
    assert people == {7: [11, 12, 11, 15, 16, 18], 3: [], 4: []}


def test_mistakes_of_all_categories_together_are_reported(tmp_path: Path) -> None:
    found: list[tuple[str, str]] = []

    def reported(data: Any, skeleton: Skeleton | None) -> list[tuple[str, str]]:
        found.clear()
        read_content(data, "x", tmp_path, skeleton, lambda kind, problem: found.append((kind, str(problem))))
        return found

    data = labels()
    data["categories"][0].pop("keypoints")
    lacking = "x: categories: none has 'keypoints'; is this a COCO-style keypoint file?"
    assert reported(data, None) == [("category entry", lacking)]
    data["annotations"] = {"id": 11}
    assert reported(data, TRIO) == [("list", "x: annotations: {'id': 11}, expected a list")]
    data = labels()
    data["categories"].append({"id": 2, "keypoints": ["nose", "tail"]})
    data["annotations"].append({**data["annotations"][0], "id": 5, "category_id": 2, "keypoints": [1, 1, 2] * 2})
    different = "x: categories with different keypoints: 'person' (1), '2' (2); choose one category"
    assert reported(data, None) == [("category entry", different)]


def test_a_category_s_own_keypoints_have_names(tmp_path: Path) -> None:
    data = labels()
    data["categories"][0]["keypoints"] = ["nose", "", "tail"]
    with pytest.raises(DataError) as caught:
        read_content(data, "x", tmp_path, None)
    said = "category 'person': keypoints[1]: '', expected 1 to 100 printable characters"
    assert str(caught.value) == f"x: categories[0]: {said}"


@pytest.mark.parametrize(("count", "kinds"), [(0, ["keypoint count"]), (1, []), (2, ["keypoint count"]), (3, [])])
def test_head_and_neck_may_be_left_out_of_the_count(tmp_path: Path, count: int, kinds: list[str]) -> None:
    data = labels()
    data["categories"][0]["keypoints"] = ["head", "neck", "nose"]
    data["annotations"][0] |= {"keypoints": [1, 2, 1] * 3, "num_keypoints": count}
    found: list[str] = []
    read_content(data, "x", tmp_path, TRIO, lambda kind, _: found.append(kind))
    assert found == kinds


def test_one_of_several_categories_is_read(tmp_path: Path) -> None:
    data = labels()
    data["categories"].append({"id": 2, "name": "cat", "keypoints": ["left_eye", "nose"]})
    assert [each.annotation_id for each in read(data, tmp_path)[0].persons] == [11, 12]  # there is no cat
    cat = {**data["annotations"][0], "id": 20, "category_id": 2, "keypoints": [1, 2, 2, 3, 4, 2]}
    data["annotations"].append(cat)
    named = "'person' (1), 'cat' (2)"
    said = f"val.json: categories with different keypoints: {named}; choose one category"
    assert error(data, tmp_path) == said

    def people(category: str) -> list[tuple[int, int]]:
        source = Source(tmp_path / "val.json", f"{tmp_path}/photos", category=category)
        persons = read_photos(source, TRIO, check_files=False)[0].persons
        return [(each.annotation_id, each.category_id) for each in persons]

    assert people("cat") == people("2") == [(20, 2)]
    assert people("person") == people("1") == [(11, 1), (12, 1)]
    for twin, count in (({"id": 3, "name": "ball"}, 0), ({**data["categories"][1], "id": 4, "name": "1"}, 2)):
        data["categories"].append(twin)
        (tmp_path / "val.json").write_text(json.dumps(data))
        category = "1" if count else "ball"
        named += ", '1' (4)" if count else ""
        with pytest.raises(DataError) as caught:
            people(category)
        assert str(caught.value).endswith(f": {count} are '{category}' with keypoints, expected one of {named}")


def test_which_categories_are_read_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    data = labels()
    data["categories"] += [{**data["categories"][0], "id": 4, "name": "player"}, {"id": 5, "keypoints": ["paw"]}]
    read(data, tmp_path)
    assert caplog.messages == [
        f"{tmp_path}/val.json: categories[2]: no keypoint of 'trio'; the category is left out",
        f"{tmp_path}/val.json: categories with the same keypoints, read together: 'person' (1), 'player' (4)",
    ]
    caplog.clear()
    read(labels(), tmp_path)
    assert caplog.messages == []


@pytest.mark.parametrize(("left_out", "known"), [("neck", True), ("left_hip", False)])
def test_an_abdomen_is_known_where_all_around_it_is(tmp_path: Path, left_out: str, known: bool) -> None:
    data = labels()
    names = [name for name in CROWDPOSE.keypoints if name != left_out]
    data["categories"][0]["keypoints"] = names
    for entry in data["annotations"]:
        entry["keypoints"] = [1, 2, 2] * 13
    categories = {1: (*names, "abdomen") if known else tuple(names)}
    assert read(data, tmp_path, CROWDPOSE15)[0].categories == categories
    assert read(data, tmp_path, CROWDPOSE)[0].categories == {1: tuple(names)}


def test_what_is_seen(tmp_path: Path) -> None:
    """Flag 1 is "hidden" only where a file shows, for that keypoint and that person, that it tells it from "seen"."""
    data = labels()
    rows = [[2, 1, 2], [2, 0, 1], [1, 1, 1], [0, 1, 2]]  # right eye, left eye, nose
    data["annotations"] = [
        data["annotations"][0] | {"id": number, "keypoints": [value for flag in flags for value in (5, 5, flag)]}
        for number, flags in enumerate(rows)
    ]
    seen = [each.visible.tolist() for each in read(data, tmp_path)[0].persons]
    assert seen == [[1, -1, 1], [0, -1, 1], [-1, -1, -1], [1, -1, 0]]


def test_annotations_of_things_without_keypoints_are_left_out(tmp_path: Path) -> None:
    data = labels()
    data["categories"].append({"id": 44, "name": "ball"})
    data["annotations"].insert(0, {"id": 1, "image_id": 7, "category_id": 44, "bbox": [0, 0, 1, 1]})
    assert [each.annotation_id for each in read(data, tmp_path)[0].persons] == [11, 12]


def test_packed_files(tmp_path: Path) -> None:
    path = tmp_path / "val.json.gz"
    path.write_bytes(gzip.compress(json.dumps(labels()).encode()))
    packed = read_photos(f"{path}:{tmp_path}/photos", TRIO, check_files=False)
    plain = read(labels(), tmp_path)
    assert [photo.path for photo in packed] == [photo.path for photo in plain]
    np.testing.assert_array_equal(packed[0].persons[0].keypoints, plain[0].persons[0].keypoints)


def test_missing_photos_are_named_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "val.json"
    path.write_text(json.dumps(labels()))
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    Image.new("RGB", (200, 100)).save(tmp_path / "photos" / "one.jpg")
    with pytest.raises(MissingPhotosError) as caught:
        read_photos(f"{path}:{tmp_path}/photos", TRIO)
    assert str(caught.value) == (
        f"{path}: images[1]: '{tmp_path}/photos/sub/two.jpg': no such photo (1 of 2 are missing)"
    )
    Image.new("RGB", (64, 48)).save(tmp_path / "photos" / "sub" / "two.jpg")
    assert len(read_photos(f"{path}:{tmp_path}/photos", TRIO)) == 2


@given(st.permutations(range(19)), st.data())
@settings(max_examples=25, deadline=None)
def test_order_in_the_file_does_not_matter(tmp_path_factory: pytest.TempPathFactory, order, drawn) -> None:
    table = drawn.draw(st.lists(st.tuples(*[st.integers(-50, 700)] * 2, st.integers(0, 2)), min_size=19, max_size=19))
    data = labels()
    data["categories"][0]["keypoints"] = [BODY19.keypoints[place] for place in order]
    data["annotations"] = [
        data["annotations"][0] | {"keypoints": [value for place in order for value in table[place]]},
    ]
    first = person(data, tmp_path_factory.mktemp("order"), BODY19)
    assert first.keypoints.tolist() == [[x, y] for x, y, _ in table]
    assert first.visibility.tolist() == [flag for _, _, flag in table]


DAMAGE = [
    ("images", 0, {"only_main_person": 2}, "images[0].only_main_person: 2, expected 0 or 1"),
    ("images", 0, {"crowdIndex": 1000001}, "images[0].crowdIndex: 1000001, expected a number from 0 to 1e+06"),
    ("annotations", 0, {"only_main_person": 2}, "annotations[0].only_main_person: 2, expected 0 or 1"),
    ("annotations", 0, {"id": "x"}, "annotations[0].id: 'x', expected a whole number"),
    ("annotations", 0, {"category_id": "x"}, "annotations[0].category_id: 'x', expected a whole number"),
    ("annotations", 0, {"keypoints": [1] * 8}, "annotations[0].keypoints: 8 numbers, expected 9 (3 x 3)"),
    ("annotations", 0, {"keypoints": "none"}, "annotations[0].keypoints: 'none', expected a list of 9 (3 x 3) numbers"),
    (
        "annotations",
        0,
        {"keypoints": [1, 2, 2] * 2 + [1, float("nan"), 2]},
        "annotations[0].keypoints[7]: nan, expected a number of at most 1e+09",
    ),
    (
        "annotations",
        0,
        {"keypoints": [1, "2", 2] * 3},
        "annotations[0].keypoints[1]: '2', expected a number of at most 1e+09",
    ),
    (
        "annotations",
        0,
        {"keypoints": [1, 2, 2, 10**400, 2, 2, 1, 2, 2]},
        "annotations[0].keypoints[3]: 100000000000000000...0000000000000000000, expected a number of at most 1e+09",
    ),
    ("annotations", 0, {"keypoints": [1, 2, 0, 3, 4, 1, 1, 2, 3]}, "annotations[0].keypoints[8]: flag 3, expected 0,"),
    ("annotations", 0, {"keypoints": [1, 2, 2, 3, 4, 3, 1, 2, 2]}, "annotations[0].keypoints[5]: flag 3, expected 0,"),
    (
        "annotations",
        1,
        {"bbox": [1, 2, -3, 4]},
        "annotations[1].bbox: width -3, height 4, expected values of at least 0",
    ),
    (
        "annotations",
        1,
        {"bbox": [1, 2, 3, -4]},
        "annotations[1].bbox: width 3, height -4, expected values of at least 0",
    ),
    ("annotations", 1, {"bbox": [1, 2, 3]}, "annotations[1].bbox: 3 numbers, expected 4 (x, y, width, height)"),
    ("annotations", 1, {"bbox": None}, "annotations[1].bbox: None, expected a list of 4 (x, y, width, height) numbers"),
    ("annotations", 0, {"area": -1}, "annotations[0].area: -1, expected a number from 0 to 1e+18"),
    ("annotations", 0, {"area": float("inf")}, "annotations[0].area: inf, expected a number from 0 to 1e+18"),
    ("annotations", 0, {"score": float("nan")}, "annotations[0].score: nan, expected a number from 0 to 1"),
    ("annotations", 0, {"joint_scores": [1, 1]}, "annotations[0].joint_scores: 2 numbers, expected 3 (one a keypoint)"),
    ("annotations", 0, {"keypoint_scores": [1]}, "annotations[0].keypoint_scores: 1 numbers, expected 3 (one a key"),
    (
        "annotations",
        0,
        {"labelled_keypoints": [3]},
        "annotations[0].labelled_keypoints[0]: 3 is not a keypoint of the file",
    ),
    (
        "annotations",
        0,
        {"labelled_joints": ["tail"]},
        "annotations[0].labelled_joints[0]: 'tail' is not a keypoint of the file",
    ),
    ("annotations", 0, {"labelled_joints": 3}, "annotations[0].labelled_joints: 3, expected a list of names"),
    ("annotations", 1, {"id": 11}, "annotations[1].id: duplicate id 11"),
    ("annotations", 1, {"id": 1.5}, "annotations[1].id: 1.5, expected a whole number"),
    ("annotations", 1, {"id": 2**63}, "annotations[1].id: 9223372036854775808, expected a whole number"),
    ("annotations", 1, {"id": -(2**63)}, "annotations[1].id: -9223372036854775808, expected a whole number"),
    ("annotations", 1, {"id": True}, "annotations[1].id: True, expected a whole number"),
    ("annotations", 1, {"image_id": 8}, "annotations[1].image_id: 8 is not among the file's images"),
    ("annotations", 1, {"category_id": 2}, "annotations[1].category_id: 2 is not among the file's categories (1)"),
    ("annotations", 1, {"iscrowd": 2}, "annotations[1].iscrowd: 2, expected 0 or 1"),
    ("annotations", 1, {"ignore": "yes"}, "annotations[1].ignore: 'yes', expected 0 or 1"),
    ("annotations", 0, {"num_keypoints": "2"}, "annotations[0].num_keypoints: '2', expected a number from 0 to 1e+09"),
    ("images", 1, {"id": 7}, "images[1].id: duplicate id 7"),
    ("images", 1, {"width": 0}, "images[1].width: 0, expected a number from 1 to 1e+06"),
    ("images", 1, {"width": 1_000_001}, "images[1].width: 1000001, expected a number from 1 to 1e+06"),
    ("images", 1, {"file_name": 3}, "images[1].file_name: 3, expected the name of a photo"),
    ("images", 1, {"file_name": "a\0b"}, "images[1].file_name: 'a\\x00b', expected the name of a photo"),
    ("images", 1, {"file_name": ""}, "images[1].file_name: '', expected the name of a photo"),
    ("images", 1, {"file_name": "/etc/passwd"}, "images[1].file_name: '/etc/passwd' is outside the photo folder"),
    ("images", 1, {"file_name": "a/../../b"}, "images[1].file_name: 'a/../../b' is outside the photo folder"),
    ("images", 1, {"file_name": "..\\b"}, "images[1].file_name: '..\\\\b' is outside the photo folder"),
    ("images", 1, {"file_name": "C:\\b"}, "images[1].file_name: 'C:\\\\b' is outside the photo folder"),
    ("images", 0, {"crowdIndex": -1}, "images[0].crowdIndex: -1, expected a number from 0 to 1e+06"),
    ("categories", 0, {"keypoints": ["nose", "nose"]}, "categories[0].keypoints[1]: duplicate keypoint 'nose'"),
    ("categories", 0, {"keypoints": [1]}, "categories[0].keypoints: [1], expected a list of names"),
    ("categories", 0, {"keypoints": ["paw"]}, "categories: no keypoint of skeleton 'trio' among ['paw']; they are"),
]


@pytest.mark.parametrize(("part", "number", "change", "message"), DAMAGE)
def test_damage_is_named(tmp_path: Path, part: str, number: int, change: dict[str, Any], message: str) -> None:
    data = labels()
    data[part][number] |= change
    assert error(data, tmp_path).startswith(f"val.json: {message}")


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("annotations", {"id": 2**63 - 1}),
        ("annotations", {"id": -(2**63 - 1)}),
        ("annotations", {"bbox": [-1e9, 1e9, 0, 0]}),
        ("annotations", {"bbox": [1, 2, 0.5, 0.25]}),
        ("annotations", {"keypoints": [1e9, -1e9, 2] * 3, "num_keypoints": 3}),
        ("annotations", {"area": 0.5}),
        ("annotations", {"area": 1e18}),
        ("annotations", {"score": 0}),
        ("annotations", {"score": 1}),
        ("images", {"width": 1, "height": 1}),
        ("images", {"width": MAX_SIDE, "height": MAX_SIDE}),
        ("images", {"crowdIndex": 0}),
        ("images", {"crowdIndex": 1e6}),
    ],
)
def test_the_limits_themselves_are_allowed(tmp_path: Path, part: str, change: dict[str, Any]) -> None:
    data = labels()
    data[part][0] |= change
    assert len(read(data, tmp_path)[0].persons) == 2


def test_numbers_are_of_these_types_and_the_first_other_one_is_named() -> None:
    each = [1, 1.0, np.float32(1), np.float64(1), np.int32(1), np.int64(1)]
    np.testing.assert_array_equal(numbers({"k": each}, "k", "x", 6), np.ones(6), strict=True)
    np.testing.assert_array_equal(numbers({"k": [1, 2]}, "k", "x", 2), np.array([1.0, 2.0]), strict=True)
    for wrong, text in ((True, "True"), (None, "None"), (1.1e9, "1100000000.0"), (-1.1e9, "-1100000000.0")):
        with pytest.raises(DataError) as caught:
            numbers({"k": [MAX_NUMBER, -MAX_NUMBER, wrong, "x"]}, "k", "x", 4)
        assert str(caught.value) == f"x.k[2]: {text}, expected a number of at most 1e+09"
    for layout, text in (("", "2"), ("a, b", "2 (a, b)")):
        with pytest.raises(DataError) as caught:
            numbers({"k": [1]}, "k", "x", 2, layout)
        assert str(caught.value) == f"x.k: 1 numbers, expected {text}"
    assert photo_sides({"width": 7, "height": 5.0}, "x") == (5, 7)


def test_of_many_categories_ten_are_named() -> None:
    with pytest.raises(DataError) as caught:
        known_category({"category_id": 0}, range(1, 20), "x")
    named = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10"
    assert str(caught.value) == f"x.category_id: 0 is not among the file's categories ({named})"


def test_what_is_no_list_of_objects_is_reported_and_left_out() -> None:
    found: list[tuple[str, str]] = []

    def report(kind: str, problem: object) -> None:
        found.append((kind, str(problem)))

    assert list(listed([{"a": 1}, 5, {}], "x", report)) == [("x[0]", {"a": 1}), ("x[2]", {})]
    assert list(listed("abc", "x", report)) == []
    assert found == [("list", "x[1]: 5, expected an object"), ("list", "x: 'abc', expected a list")]


@pytest.mark.parametrize(
    ("box", "points", "area"),
    [
        ((0, 0, 0.5, 40), [(1, 1), (9, 9)], 0.53 * 20),
        ((0, 0, 40, 0.5), [(1, 1), (9, 9)], 0.53 * 20),
        ((5, 5, 5, 9), [(1, 1), (4, 3)], 6),
        ((5, 5, 9, 5), [(1, 1), (2.5, 2)], 1.5),
        ((5, 5, 5, 5), [(1, 1), (1, 9)], 1),
        ((5, 5, 5, 5), [], 1),
    ],
)
def test_the_area_of_a_small_or_empty_box(box: Any, points: list[tuple[float, float]], area: float) -> None:
    assert estimated_area(np.array(box, float), np.array(points).reshape(-1, 2)) == pytest.approx(area)


def test_a_fingerprint_is_of_all_that_is_read(tmp_path: Path) -> None:
    """It changes with every part, and else not."""
    photo = read(labels(), tmp_path)[0]
    first = photo.persons[0]
    photos = [
        *(replace(photo, **change) for change in ({"image_id": 8}, {"path": Path("b")}, {"size": (1, 2)})),
        *(replace(photo, **change) for change in ({"crowd_index": None}, {"persons": ()})),
        *(
            replace(photo, persons=(replace(first, **change), *photo.persons[1:]))
            for change in (
                *({"category_id": 2}, {"area": 1.0}, {"ignore": True}, {"is_crowd": True}),
                *({"keypoints": first.keypoints + 1}, {"visibility": first.visibility + 1}, {"box": first.box + 1}),
            )
        ),
    ]
    assert fingerprint(read(labels(), tmp_path)[:1]) == fingerprint([photo])
    prints = [fingerprint(each) for each in ([], [photo], [photo, photo], *([each] for each in photos))]
    assert len({*prints}) == 3 + len(photos) and {len(each) for each in prints} == {64}


@pytest.mark.parametrize(
    ("part", "key"),
    [("annotations", key) for key in ("id", "image_id", "category_id", "bbox", "keypoints")]
    + [("images", key) for key in ("id", "file_name", "width", "height")]
    + [("categories", "id")],
)
def test_missing_fields_are_named(tmp_path: Path, part: str, key: str) -> None:
    data = labels()
    del data[part][0][key]
    assert error(data, tmp_path) == f"val.json: {part}[0]: '{key}' is missing"


@pytest.mark.parametrize("part", ["images", "annotations", "categories"])
def test_missing_and_misshapen_parts_are_named(tmp_path: Path, part: str) -> None:
    data = labels()
    data[part] = {"0": 1}
    assert error(data, tmp_path) == f"val.json: {part}: {{'0': 1}}, expected a list"
    data[part] = [5]
    assert error(data, tmp_path) == f"val.json: {part}[0]: 5, expected an object"
    del data[part]
    assert error(data, tmp_path) == f"val.json: '{part}' is missing; is this a COCO-style keypoint file?"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a JSON file (Expecting value: line 1 column 1 (char 0))"),
        ("[1, 2]", "[1, 2], expected an object with images, annotations and categories"),
        ("[" * 200_000, "nested too deeply, expected annotations or results"),
        ('{"images": ' + "1" * 10_000 + "}", "not a JSON file (Exceeds the limit"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    assert error(content, tmp_path).startswith(f"val.json: {message}")


def test_a_file_of_boxes_is_refused(tmp_path: Path) -> None:
    data = labels()
    del data["categories"][0]["keypoints"]
    for annotation in data["annotations"]:
        del annotation["keypoints"]
    assert error(data, tmp_path) == "val.json: categories: none has 'keypoints'; is this a COCO-style keypoint file?"


def test_keypoints_without_names_are_those_of_the_skeleton(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As many, in its order; and the log says so."""
    data = labels()
    del data["categories"][0]["keypoints"]
    assert person(data, tmp_path).keypoints.tolist() == [[31, 32], [0, 0], [11, 12.5]]
    assert caplog.messages == [f"{tmp_path}/val.json names no keypoints; assuming those of 'trio', in its order"]
    assert error(data, tmp_path, BODY19) == "val.json: annotations[0].keypoints: 9 numbers, expected 57 (19 x 3)"


def test_unreadable_files(tmp_path: Path) -> None:
    missing, folder, cut, plain = (tmp_path / name for name in ("no.json", "folder.json", "cut.json.gz", "no.json.gz"))
    folder.mkdir()
    cut.write_bytes(gzip.compress(json.dumps(labels()).encode())[:-20])
    plain.write_text(json.dumps(labels()))
    texts = {missing: "no such file", folder: "a folder without data.yaml", cut: "not a gzip file, or truncated (Comp"}
    for path, text in (texts | {plain: "not a gzip file, or truncated (Not a gzipped file"}).items():
        with pytest.raises(DataError) as caught:
            read_photos(str(path), TRIO)
        assert str(caught.value).startswith(f"{path}: {text}")


def test_results_that_are_a_folder_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_json(tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot be read (Is a directory)"


def test_a_file_as_large_as_the_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "set.json"
    path.write_text("[1]   ")
    monkeypatch.setattr(json_entries, "MAX_JSON_BYTES", 6)
    assert read_json(path) == [1]
    monkeypatch.setattr(json_entries, "MAX_JSON_BYTES", 5)
    with pytest.raises(DataError, match="larger than 0 MiB"):
        read_json(path)


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_entries, "MAX_JSON_BYTES", 1 << 20)
    path = tmp_path / "bomb.json.gz"
    path.write_bytes(gzip.compress(b" " * (1 << 25)))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"bomb\.json\.gz: larger than 1 MiB, expected annotations or results"):
            read_photos(str(path), TRIO)
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
    finally:
        tracemalloc.stop()


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([0, 1, 7, 1e300, -1]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


@pytest.mark.slow
@given(st.data())
@settings(max_examples=200, deadline=None)
def test_whatever_the_file_says_it_is_read_or_refused_in_one_line(tmp_path_factory, drawn) -> None:
    """Anything anywhere in a good file, replaced by something else."""
    data = copy.deepcopy(labels())
    place: Any = data
    while True:
        key = drawn.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or drawn.draw(st.integers(0, 4)) == 0:
            break
        place = place[key]
    place[key] = drawn.draw(junk)
    folder = tmp_path_factory.mktemp("junk", numbered=True)
    try:
        read(data, folder)
    except DataError as refused:
        assert "\n" not in str(refused) and str(refused).startswith(f"{folder}/val.json: ")
