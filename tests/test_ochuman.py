"""OCHuman's own file, by hand in small, and what is wrong with one."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from posedet.data.formats.ochuman import coco_form
from posedet.errors import DataError
from posedet.evaluation.protocols import OCHUMAN
from posedet.evaluation.run import evaluate
from posedet.poses import Poses
from posedet.skeleton import COCO

# The order of the 19 keypoints in OCHuman's file.
NAMES = [f"{side}_{part}" for side in ("right", "left") for part in ("shoulder", "elbow", "wrist")]
NAMES += [f"{side}_{part}" for side in ("right", "left") for part in ("hip", "knee", "ankle")]
NAMES += ["head", "neck", "right_ear", "left_ear", "nose", "right_eye", "left_eye"]


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


def test_coco_form() -> None:
    data = ochuman()
    before = copy.deepcopy(data)
    coco = coco_form(data, "ochuman.json")
    assert data == before
    assert coco["images"] == [
        {"id": 1, "file_name": "a.jpg", "height": 480, "width": 640},
        {"id": 2, "file_name": "b.jpg", "height": 480, "width": 640},
    ]
    assert coco["categories"] == [{"id": 1, "name": "person", "keypoints": NAMES}]
    assert [(each["id"], each["image_id"]) for each in coco["annotations"]] == [(1, 1), (2, 1), (3, 2)]
    first, _, third = coco["annotations"]
    assert first["bbox"] == [10, 20, 30, 60] and first["area"] == 1800 and first["num_keypoints"] == 19
    # Missing, seen, hidden by oneself, hidden by others -> not labelled, seen, seen, hidden.
    assert third["keypoints"][2::3] == [0, 2, 2, 1] + [2] * 15 and third["num_keypoints"] == 18


def test_coco_s_17_keypoints_are_found_by_name(tmp_path: Path) -> None:
    """A prediction of the truth, in COCO's order, is perfect; with left and right exchanged it is not."""
    (tmp_path / "ochuman.json").write_text(json.dumps(ochuman()))

    def truth_at(first: int) -> list[tuple[float, float]]:
        return [(first + NAMES.index(name), 2 * first + 3 * NAMES.index(name)) for name in COCO.keypoints]

    people = {"a.jpg": [10, 200], "b.jpg": [50]}
    for name in people:
        (tmp_path / name).touch()

    def found(path: Path) -> Poses:
        keypoints = np.array([truth_at(first) for first in people[path.name]])
        return Poses(keypoints, np.ones(len(keypoints)), np.ones((len(keypoints), 17)), COCO)

    def exchanged(path: Path) -> Poses:
        poses = found(path)
        return Poses(poses.keypoints[:, COCO.mirror], poses.scores, poses.keypoint_scores, COCO)

    scores = evaluate(found, tmp_path / "ochuman.json", tmp_path, OCHUMAN)
    assert (scores.protocol, scores.num_photos, scores.num_persons, scores.ap) == ("ochuman", 2, 3, 1)
    assert evaluate(exchanged, tmp_path / "ochuman.json", tmp_path, OCHUMAN).ap < 0.2


def test_the_published_conversion_is_taken_as_it_is(tmp_path: Path) -> None:
    """Also its photos count from 1, and areas are the box's: converted by us or by its authors, the same AP."""
    published = coco_form(ochuman(), "ochuman.json")
    assert coco_form(published, "val.json") is published
    (tmp_path / "own.json").write_text(json.dumps(ochuman()))
    (tmp_path / "published.json").write_text(json.dumps(published))
    for image in published["images"]:
        (tmp_path / image["file_name"]).touch()

    def guess(path: Path) -> Poses:
        keypoints = [[(9 + NAMES.index(name), 25 + 3 * NAMES.index(name)) for name in COCO.keypoints]]
        return Poses(keypoints, [0.5], np.ones((1, 17)), COCO)

    own, other = (evaluate(guess, tmp_path / f"{name}.json", tmp_path, OCHUMAN) for name in ("own", "published"))
    assert own == other and 0 < own.ap < 1
    assert_array_equal(own.num_persons, 3)


def test_image_ids_may_be_numbers() -> None:
    data = ochuman()
    for image in data["images"]:
        image["image_id"] = int(image["image_id"])
    assert coco_form(data, "x") == coco_form(ochuman(), "x")


def damaged(change: Any) -> dict[str, Any]:
    data = ochuman()
    change(data)
    return data


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda data: data.pop("keypoint_names"),
            "o.json: 'keypoint_names' is missing; is this OCHuman's own file, or one in COCO's form?",
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
            lambda data: data["images"][0].update(width=None),
            "o.json: images[0].width: None, expected a number from 1 to 1e+09",
        ),
        (lambda data: data.update(images={}), "o.json: images: {}, expected a list"),
    ],
)
def test_damage(change: Any, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        coco_form(damaged(change), "o.json")
    assert str(caught.value) == expected


@pytest.mark.parametrize("data", [None, [], 5, {}])
def test_other_files(data: Any) -> None:
    with pytest.raises(DataError, match=r"^o\.json: 'keypoint_names' is missing"):
        coco_form(data, "o.json")
