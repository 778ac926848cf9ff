"""OCHuman's own file, by hand in small, and what is wrong with one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from posedet.data.annotations import AnnotatedPhoto, fingerprint
from posedet.data.check import check
from posedet.data.formats import ochuman as ochuman_format
from posedet.data.formats.format import AnnotationFile
from posedet.data.sources import read_photos
from posedet.errors import DataError
from posedet.evaluation.protocols import OCHUMAN_PROTOCOL
from posedet.evaluation.run import evaluate
from posedet.poses import Poses
from posedet.skeleton import COCO, Skeleton

# The order of the 19 keypoints in OCHuman's file.
NAMES = [f"{side}_{part}" for side in ("right", "left") for part in ("shoulder", "elbow", "wrist")]
NAMES += [f"{side}_{part}" for side in ("right", "left") for part in ("hip", "knee", "ankle")]
NAMES += ["head", "neck", "right_ear", "left_ear", "nose", "right_eye", "left_eye"]
ALL = Skeleton.from_dict({"name": "all", "keypoints": NAMES})


def person(first: float, flags: list[int] | None = None) -> dict[str, Any]:
    """Keypoint number k lies at (first + k, 2 * first + 3 * k)."""
    flags = flags or [1] * 19
    keypoints = [value for k in range(19) for value in (first + k, 2 * first + 3 * k, flags[k])]
    return {
        "bbox": [first, 2 * first, first + 30, 2 * first + 60],
        "keypoints": keypoints,
        "segms": None,
        "max_iou": 0.6,
    }


def ochuman() -> dict[str, Any]:
    boxed = {"bbox": [1, 2, 3, 4], "keypoints": None, "segms": None, "max_iou": 0.1}
    size = {"width": 640, "height": 480}
    return {
        "keypoint_names": NAMES,
        "keypoint_visible": {"missing": 0, "vis": 1, "self_occluded": 2, "others_occluded": 3},
        "images": [
            {
                "image_id": "000010",
                "file_name": "b.jpg",
                **size,
                "annotations": [boxed, person(50, [0, 1, 2, 3] + [1] * 15)],
            },
            {"image_id": "000003", "file_name": "empty.jpg", **size, "annotations": [boxed]},
            {"image_id": "000002", "file_name": "a.jpg", **size, "annotations": [person(10), person(200)]},
        ],
    }


def read(data: Any, folder: Path, skeleton: Skeleton = ALL) -> tuple[AnnotatedPhoto, ...]:
    (folder / "o.json").write_text(json.dumps(data))
    return read_photos(f"{folder}/o.json:{folder}", skeleton, check_files=False)


def test_all_fields(tmp_path: Path) -> None:
    photos = read(ochuman(), tmp_path)
    assert [(photo.image_id, photo.path, photo.size) for photo in photos] == [
        (1, tmp_path / "a.jpg", (480, 640)),
        (2, tmp_path / "b.jpg", (480, 640)),
    ]
    assert [photo.categories for photo in photos] == [{1: tuple(NAMES)}] * 2
    assert [photo.place for photo in photos] == [f"{tmp_path}/o.json: images[2]", f"{tmp_path}/o.json: images[0]"]
    assert [[each.annotation_id for each in photo.persons] for photo in photos] == [[1, 2], [3]]
    first, third = photos[0].persons[0], photos[1].persons[0]
    assert first.box.tolist() == [10, 20, 40, 80] and first.area == 1800 and first.labelled.sum() == 19
    # Missing, seen, hidden by oneself, hidden by others -> not labelled, seen, seen, hidden.
    assert third.visibility.tolist() == [0, 2, 2, 1] + [2] * 15
    assert third.place == f"{tmp_path}/o.json: images[0].annotations[1] (b.jpg)"


def test_fields_that_the_format_does_not_have(tmp_path: Path) -> None:
    photos = read(ochuman(), tmp_path, Skeleton.from_dict({"name": "two", "keypoints": ["tail", "right_wrist"]}))
    (hidden,) = photos[1].persons
    assert_array_equal(hidden.keypoints, np.array([[0, 0], [52, 106.0]]), strict=True)
    assert_array_equal(hidden.visibility, np.array([0, 2], np.uint8), strict=True)
    assert_array_equal(hidden.visible, np.array([-1, 1], np.int8), strict=True)
    assert_array_equal(hidden.keypoint_weights, np.ones(2, np.float32), strict=True)
    assert (hidden.score, hidden.is_crowd, hidden.ignore) == (1.0, False, False)
    assert photos[1].file_name == "b.jpg"
    first = Skeleton.from_dict({"name": "one", "keypoints": ["right_shoulder"]})  # which is not labelled here
    assert [each.ignore for photo in read(ochuman(), tmp_path, first) for each in photo.persons] == [False, False, True]


def test_an_empty_box_has_the_area_of_its_keypoints(tmp_path: Path) -> None:
    """All but the first keypoint, which is missing: hidden ones count."""
    data = ochuman()
    data["images"][2]["annotations"] = [{**person(10, [0, *[3] * 18]), "bbox": [5, 5, 5, 9]}]
    (somebody,) = read(data, tmp_path)[0].persons
    assert somebody.box.tolist() == [5, 5, 5, 9] and somebody.area == 17 * 51


@pytest.mark.parametrize("wrong", [True, "9" * 19, "-1", "1.0", "\u0661", 1.5, None])
def test_image_ids_are_digits(tmp_path: Path, wrong: Any) -> None:
    data = ochuman()
    data["images"][1]["image_id"] = "9" * 18
    assert len(read(data, tmp_path)) == 2
    data["images"][1]["image_id"] = wrong
    with pytest.raises(DataError, match=r"o\.json: images\[1\]\.image_id: .*, expected a whole number$"):
        read(data, tmp_path)


def test_every_mistake_is_reported_with_its_kind_and_the_rest_is_read(tmp_path: Path) -> None:
    data = ochuman()
    twin = {**data["images"][2], "image_id": 2, "file_name": "c.jpg"}  # the same number: in the file's order
    data["images"] += [{**twin, "image_id": "x"}, {**twin, "file_name": ""}, twin]
    data["images"].append(5)
    data["images"][2]["annotations"] = [person(10, [4, *[1] * 18]), 5, person(10)]
    (tmp_path / "o.json").write_text(json.dumps(data))
    found: list[tuple[str, str]] = []
    photos = ochuman_format.read(
        AnnotationFile(tmp_path / "o.json"), None, None, lambda kind, problem: found.append((kind, str(problem)))
    )
    where = f"{tmp_path}/o.json: images"
    assert found == [
        ("image entry", f"{where}[3].image_id: 'x', expected a whole number"),
        ("list", f"{where}[6]: 5, expected an object"),
        ("list", f"{where}[2].annotations[1]: 5, expected an object"),
        ("annotation entry", f"{where}[2].annotations[0].keypoints[2]: flag 4, expected 0, 1, 2 or 3"),
        ("image entry", f"{where}[4].file_name: '', expected the name of a photo"),
    ]
    assert [(photo.image_id, photo.path) for photo in photos] == [
        (number, tmp_path / "o" / f"{name}.jpg") for number, name in ((1, "a"), (2, "c"), (3, "b"))
    ]
    assert [[each.annotation_id for each in photo.persons] for photo in photos] == [[1], [2, 3], [4]]


def test_photos_of_one_number_stay_in_the_order_of_the_file(tmp_path: Path) -> None:
    data = ochuman()
    data["images"] = [{**data["images"][2], "file_name": f"{number}.jpg"} for number in range(12)]
    assert [photo.path.stem for photo in read(data, tmp_path)] == [str(number) for number in range(12)]


def test_keypoints_that_the_file_does_not_have_and_categories(tmp_path: Path) -> None:
    tail = Skeleton.from_dict({"name": "tail", "keypoints": ["tail"]})
    with pytest.raises(DataError, match=r"o\.json: keypoint_names: no keypoint of skeleton 'tail' among \['right_sh"):
        read(ochuman(), tmp_path, tail)
    file = AnnotationFile(tmp_path / "o.json", "dog")
    with pytest.raises(DataError, match=r"o\.json: this format has only people, and no category 'dog'$"):
        ochuman_format.read(file, None, None, lambda *_: None)
    small = {"keypoint_names": ["nose"], "images": []}
    (tmp_path / "o.json").write_text(json.dumps(small))
    assert ochuman_format.recognises(AnnotationFile(tmp_path / "o.json"))
    for name in small:
        (tmp_path / "o.json").write_text(json.dumps({name: []}))
        assert not ochuman_format.recognises(AnnotationFile(tmp_path / "o.json"))


def test_coco_s_17_keypoints_are_found_by_name(tmp_path: Path) -> None:
    """A prediction of the truth, in COCO's order, is perfect; with left and right exchanged it is not."""
    (tmp_path / "ochuman.json").write_text(json.dumps(ochuman()))

    def truth_at(first: int) -> list[tuple[float, float]]:
        return [(first + NAMES.index(name), 2 * first + 3 * NAMES.index(name)) for name in COCO.keypoints]

    people = {"a.jpg": [10, 200], "b.jpg": [50]}
    for name in people:
        Image.new("RGB", (640, 480)).save(tmp_path / name)

    def found(path: Path) -> Poses:
        keypoints = np.array([truth_at(first) for first in people[path.name]])
        return Poses(keypoints, np.ones(len(keypoints)), np.ones((len(keypoints), 17)), COCO)

    def exchanged(path: Path) -> Poses:
        poses = found(path)
        return Poses(poses.keypoints[:, COCO.mirror], poses.scores, poses.keypoint_scores, COCO)

    photos = read_photos(f"{tmp_path}/ochuman.json:{tmp_path}", COCO)
    scores = evaluate(found, photos, OCHUMAN_PROTOCOL)
    assert (scores.protocol, scores.num_photos, scores.num_persons, scores.ap) == ("ochuman", 2, 3, 1)
    assert evaluate(exchanged, photos, OCHUMAN_PROTOCOL).ap < 0.2


def published() -> dict[str, Any]:
    """As the authors convert it to COCO's form."""
    people = [(1, person(10)), (1, person(200)), (2, person(50, [0, 2, 2, 1] + [2] * 15))]
    return {
        "images": [
            {"id": number, "file_name": name, "height": 480, "width": 640}
            for number, name in enumerate(("a.jpg", "b.jpg"), 1)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": image_id,
                "category_id": 1,
                "keypoints": each["keypoints"],
                "num_keypoints": 18 if image_id == 2 else 19,
                "bbox": [*each["bbox"][:2], 30, 60],
                "area": 1800,
                "iscrowd": 0,
            }
            for number, (image_id, each) in enumerate(people, 1)
        ],
        "categories": [{"id": 1, "name": "person", "keypoints": NAMES}],
    }


def test_the_published_conversion_is_read_too(tmp_path: Path) -> None:
    """Converted by us or by its authors, the same AP."""
    for image in published()["images"]:
        Image.new("RGB", (640, 480)).save(tmp_path / image["file_name"])

    def guess(path: Path) -> Poses:
        keypoints = [[(9 + NAMES.index(name), 25 + 3 * NAMES.index(name)) for name in COCO.keypoints]]
        return Poses(keypoints, [0.5], np.ones((1, 17)), COCO)

    own, other = (evaluate(guess, read(data, tmp_path, COCO), OCHUMAN_PROTOCOL) for data in (ochuman(), published()))
    assert own == other and 0 < own.ap < 1
    assert_array_equal(own.num_persons, 3)


def test_image_ids_may_be_numbers(tmp_path: Path) -> None:
    data = ochuman()
    for image in data["images"]:
        image["image_id"] = int(image["image_id"])
    assert fingerprint(read(data, tmp_path)) == fingerprint(read(ochuman(), tmp_path))


def test_check_goes_on_after_a_mistake(tmp_path: Path) -> None:
    data = ochuman()
    data["images"][2]["annotations"][0]["bbox"] = [5, 5, 4, 6]
    data["images"][2]["annotations"][1]["keypoints"].pop()
    data["images"][1]["image_id"] = "x1"
    (tmp_path / "o.json").write_text(json.dumps(data))
    for name in ("a", "b"):
        Image.new("RGB", (640, 480)).save(tmp_path / f"{name}.jpg")
    report = check(f"{tmp_path}/o.json:{tmp_path}")
    places = [finding.text.removeprefix(f"{tmp_path}/o.json: ").partition(":")[0] for finding in report.findings]
    assert places[:3] == ["images[1].image_id", "images[2].annotations[0].bbox", "images[2].annotations[1].keypoints"]
    assert (report.num_photos, report.num_persons) == (2, 1)


def damaged(change: Any) -> dict[str, Any]:
    data = ochuman()
    change(data)
    return data


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda data: data.pop("keypoint_names"),
            "o.json: 'categories' is missing; is this a COCO-style keypoint file?",
        ),
        (lambda data: data.update(keypoint_names=[1]), "o.json: keypoint_names: [1], expected a list of names"),
        (lambda data: data["images"][2].pop("annotations"), "o.json: images[2]: 'annotations' is missing"),
        (
            lambda data: data["images"][1].update(image_id="x1"),
            "o.json: images[1].image_id: 'x1', expected a whole number",
        ),
        (lambda data: data["images"][1].pop("image_id"), "o.json: images[1]: 'image_id' is missing"),
        (
            lambda data: data["images"][2]["annotations"][1]["keypoints"].pop(),
            "o.json: images[2].annotations[1].keypoints: 56 numbers, expected 57 (19 x 3)",
        ),
        (
            lambda data: data["images"][2]["annotations"][1]["keypoints"].__setitem__(5, 4),
            "o.json: images[2].annotations[1].keypoints[5]: flag 4, expected 0, 1, 2 or 3",
        ),
        (
            lambda data: data["images"][2]["annotations"][0].update(bbox=[5, 5, 4, 6]),
            "o.json: images[2].annotations[0].bbox: x2 or y2 lies before x1 or y1, expected x1, y1, x2, y2",
        ),
        (
            lambda data: data["images"][2]["annotations"][0].update(bbox=[5, 5, 4]),
            "o.json: images[2].annotations[0].bbox: 3 numbers, expected 4 (x1, y1, x2, y2)",
        ),
        (
            lambda data: data["images"][0].update(width=None),
            "o.json: images[0].width: None, expected a number from 1 to 1e+06",
        ),
        (lambda data: data.update(images={}), "o.json: images: {}, expected a list"),
    ],
)
def test_damage(change: Any, expected: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(damaged(change), tmp_path)
    assert str(caught.value) == f"{tmp_path}/{expected}"


@pytest.mark.parametrize("data", [None, [], 5, {}])
def test_other_files(data: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"o\.json: ('categories' is missing|.*expected an object)"):
        read(data, tmp_path)
