"""`posedet data check`: each mistake is planted alone, and all of them together; what is right is not complained of."""

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from posedet.commands.main import main
from posedet.data.check import Report, check
from posedet.errors import DataError
from posedet.skeleton import COCO, Skeleton

Data = dict[str, Any]

# Somebody who faces us, in a photo of 400 x 300: left is to the right.
FACING = {
    "nose": (200, 60),
    "left_eye": (206, 54),
    "right_eye": (194, 54),
    "left_ear": (214, 58),
    "right_ear": (186, 58),
    "left_shoulder": (230, 90),
    "right_shoulder": (170, 90),
    "left_elbow": (245, 130),
    "right_elbow": (155, 130),
    "left_wrist": (250, 165),
    "right_wrist": (150, 165),
    "left_hip": (218, 170),
    "right_hip": (182, 170),
    "left_knee": (220, 220),
    "right_knee": (180, 220),
    "left_ankle": (222, 270),
    "right_ankle": (178, 270),
}


def person(**changes: Any) -> Data:
    keypoints = [number for name in COCO.keypoints for number in (*FACING[name], 2)]
    entry = {"id": 7, "image_id": 1, "category_id": 1, "bbox": [145, 45, 110, 235], "area": 14000.0, "iscrowd": 0}
    return {**entry, "num_keypoints": 17, "keypoints": keypoints, **changes}


def moved(entry: Data, **places: tuple[float, float]) -> Data:
    """The person with some keypoints elsewhere."""
    keypoints = list(entry["keypoints"])
    for name, place in places.items():
        k = COCO.index(name)
        keypoints[3 * k : 3 * k + 2] = place
    return {**entry, "keypoints": keypoints}


def annotations(*people: Data, **changes: Any) -> Data:
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": 400, "height": 300}],
        "annotations": list(people),
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.keypoints)}],
        **changes,
    }


@pytest.fixture
def checked(tmp_path: Path) -> Callable[..., Report]:
    def run(data: Any, **options: Any) -> Report:
        (tmp_path / "set").mkdir(exist_ok=True)
        if not (tmp_path / "set" / "a.png").exists():
            Image.new("RGB", (400, 300)).save(tmp_path / "set" / "a.png")
        (tmp_path / "set.json").write_text(json.dumps(data))
        return check(str(tmp_path / "set.json"), **options)

    return run


def only(report: Report, kind: str) -> str:
    """The text of the only finding, which is of this kind."""
    assert [finding.kind for finding in report.findings] == [kind], report.findings
    return report.findings[0].text


def test_nothing_is_wrong_with_the_shipped_photos(photos: Path) -> None:
    report = check(f"{photos}/truth.json:{photos}")
    assert replace(report, pairs="") == Report(num_photos=8, num_persons=49, num_unlabelled=15, findings=[])


def test_nothing_is_wrong(checked: Callable[..., Report]) -> None:
    assert checked(annotations(person())).findings == []


# What to plant, what kind of finding it is, and what the line says of it.
PLANTED: list[tuple[Data, str, str]] = [
    (
        moved(person(), left_wrist=(4000, 20)),
        "keypoint outside the photo",
        "left_wrist at (4000, 20) lies far outside the photo of 400 x 300",
    ),
    (
        moved(person(), left_wrist=(4000, 20), nose=(-50, 20)),
        "keypoint outside the photo",
        "left_wrist at (4000, 20) lies far outside the photo of 400 x 300 (2 keypoints do)",
    ),
    (
        moved(person(), left_wrist=(399, 165)),
        "keypoint outside the person's own box",
        "left_wrist at (399, 165) lies far outside the person's own box",
    ),
    (moved(person(), nose=(0, 0)), "keypoint at (0, 0)", "nose labelled at (0, 0); use flag 0 for an unknown position"),
    (person(bbox=[145, 45, 0, 235]), "box", "the box has no area: 0 x 235"),
    (
        moved(person(), left_hip=FACING["right_hip"], right_hip=FACING["left_hip"]),
        "left and right swapped",
        "left and right hip are reversed compared with left and right shoulder: probably swapped",
    ),
    (
        moved(person(), left_ear=FACING["right_ear"], right_ear=FACING["left_ear"]),
        "left and right swapped",
        "left and right shoulder are reversed compared with left and right ear: probably swapped",
    ),
    (person(num_keypoints=3), "keypoint count", "num_keypoints is 3, 17 are labelled"),
]


@pytest.mark.parametrize(("entry", "kind", "text"), PLANTED, ids=[text[:40] for _, _, text in PLANTED])
def test_one_mistake_is_one_line(checked: Callable[..., Report], entry: Data, kind: str, text: str) -> None:
    line = only(checked(annotations(entry)), kind)
    assert line.endswith(f"set.json: annotations[0] (id 7, a.png): {text}")


def test_all_of_them_together_with_other_mistakes(checked: Callable[..., Report]) -> None:
    """The first finding does not hide the others."""
    shifted = [moved({**entry, "id": 10 + number}) for number, (entry, _, _) in enumerate(PLANTED)]
    report = checked(annotations(5, person(keypoints=[1, 2]), *shifted, person(bbox="no")))
    texts = [finding.text.partition("set.json: ")[2] for finding in report.findings]
    assert texts[0] == "annotations[0]: 5, expected an object"
    assert "annotations[1].keypoints: 2 numbers, expected 51 (17 x 3)" in texts
    assert "annotations[10].id: duplicate id 7" in texts
    assert any(text.startswith("annotations[10].bbox: 'no'") for text in texts)
    for number, (_, kind, text) in enumerate(PLANTED):
        assert f"annotations[{2 + number}] (id {10 + number}, a.png): {text}" in texts, kind
    # Most of them stand in the same place, too.
    assert any("the same person as" in text for text in texts)


def test_who_stands_far_outside_the_photo_altogether(checked: Callable[..., Report]) -> None:
    far = person(bbox=[1145, 45, 110, 235])
    far["keypoints"] = [value + 1000 * (place % 3 == 0) for place, value in enumerate(far["keypoints"])]
    kinds = [finding.kind for finding in checked(annotations(far)).findings]
    assert kinds == ["box", "keypoint outside the photo"]


def test_crossed_limbs_and_backs_are_no_mistake(checked: Callable[..., Report]) -> None:
    """Arms and legs cross; who turns away has left on the left, all of it; who stands sideways says nothing."""
    crossed = moved(
        person(),
        left_wrist=FACING["right_wrist"],
        right_wrist=FACING["left_wrist"],
        left_knee=FACING["right_knee"],
        right_knee=FACING["left_knee"],
        left_ankle=FACING["right_ankle"],
        right_ankle=FACING["left_ankle"],
    )
    assert checked(annotations(crossed)).findings == []
    away = person()
    away["keypoints"] = [400 - value if place % 3 == 0 else value for place, value in enumerate(away["keypoints"])]
    away["bbox"] = [145, 45, 110, 235]
    assert checked(annotations(away)).findings == []
    sideways = moved(person(), left_hip=(198, 170), right_hip=(202, 170))
    assert checked(annotations(sideways)).findings == []


def test_a_person_twice(checked: Callable[..., Report]) -> None:
    again = moved(person(id=8), nose=(201, 61))
    line = only(checked(annotations(person(), again)), "duplicate person")
    assert line.endswith("annotations[1] (id 8, a.png): the same person as annotations[0] (id 7, a.png) (OKS 1.00)")
    beside = person(id=8)
    beside["keypoints"] = [value + 25 * (place % 3 == 0) for place, value in enumerate(beside["keypoints"])]
    beside["bbox"] = [170, 45, 110, 235]
    assert checked(annotations(person(), beside)).findings == []
    crowd = person(id=8, iscrowd=1)
    assert checked(annotations(person(), crowd)).findings == []


def test_photos_missing_damaged_or_of_another_size(checked: Callable[..., Report], tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    Image.effect_noise((400, 300), 50).save(tmp_path / "set" / "cut.jpg")
    content = (tmp_path / "set" / "cut.jpg").read_bytes()
    (tmp_path / "set" / "cut.jpg").write_bytes(content[: len(content) // 2])
    turned = Image.new("RGB", (400, 300))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "set" / "turned.jpg", exif=exif)
    Image.new("RGB", (200, 150)).save(tmp_path / "set" / "small.png")
    names = ["a.png", "gone.png", "cut.jpg", "turned.jpg", "small.png", "a.png", "../../etc/passwd"]
    images = [{"id": number, "file_name": name, "width": 400, "height": 300} for number, name in enumerate(names)]
    images += [{"id": 0, "file_name": "b.png", "width": 400, "height": 300}, {"id": 20, "file_name": "c.png"}]
    report = checked(annotations(person(), images=images))
    texts = [finding.text.partition("set.json: ")[2] for finding in report.findings]
    assert [text.partition(":")[0] for text in texts] == [
        "images[5].file_name",
        "images[6].file_name",
        "images[7].id",
        "images[8]",
        "images[1]",
        "images[2]",
        "images[3]",
        "images[4]",
    ]
    assert texts[0] == "images[5].file_name: duplicate photo 'a.png'"
    assert "is outside the photo folder" in texts[1]
    assert texts[4].endswith("gone.png: no such file")
    assert "damaged or truncated" in texts[5]
    assert texts[6].endswith("turned.jpg is 300 x 400; its EXIF data turn it, but not the labels")
    assert texts[7].endswith("small.png is 200 x 150")


def test_unknown_photos_and_categories(checked: Callable[..., Report]) -> None:
    report = checked(annotations(person(image_id=2), person(id=8, category_id=3), person(id=9)))
    texts = [finding.text.partition("set.json: ")[2] for finding in report.findings]
    assert texts == [
        "annotations[0].image_id: 2 is not among the file's images",
        "annotations[1].category_id: 3 is not among the file's categories (1)",
    ]
    assert report.num_persons == 1


def test_people_without_labels_are_counted_and_nobody_labelled_is_wrong(checked: Callable[..., Report]) -> None:
    unlabelled = person(id=8, keypoints=[0] * 51, num_keypoints=0)
    report = checked(annotations(person(), unlabelled))
    assert (report.num_persons, report.num_unlabelled, report.findings) == (2, 1, [])
    assert "nothing to learn" in only(checked(annotations(unlabelled)), "no labels")
    assert "nobody has a labelled keypoint" in only(checked(annotations()), "no labels")


def test_crowdposes_own_files_are_right(checked: Callable[..., Report]) -> None:
    """They count 12 of 14 keypoints, all but head and neck, and have limbs of COCO's numbers."""
    names = ["head", "neck", "left_wrist", "right_wrist"]
    table = [(200, 50, 1), (200, 80, 1), (250, 165, 2), (150, 165, 0)]
    entry = person(keypoints=[number for point in table for number in point], num_keypoints=1)
    category = {"id": 1, "name": "person", "keypoints": names, "skeleton": [[16, 14], [14, 12]]}
    report = checked(annotations(entry, categories=[category]))
    assert (report.num_persons, report.findings) == (1, [])
    assert only(checked(annotations({**entry, "num_keypoints": 2}, categories=[category])), "keypoint count")


def test_wrong_limbs_do_not_hide_the_people(checked: Callable[..., Report]) -> None:
    category = {"id": 1, "name": "person", "keypoints": list(COCO.keypoints), "skeleton": [[1, 18]]}
    report = checked(annotations(moved(person(), nose=(0, 0)), categories=[category]))
    texts = [finding.text.partition("set.json: ")[2] for finding in report.findings]
    assert texts == [
        "categories[0].skeleton[0]: [1, 18], expected two keypoints, 1 to 17",
        "annotations[0] (id 7, a.png): nose labelled at (0, 0); use flag 0 for an unknown position",
    ]


def test_a_skeleton_that_is_wanted(checked: Callable[..., Report]) -> None:
    hand = Skeleton("hand", ("thumb", "wrist"), (), (), (0.05, 0.05))
    texts = [finding.text for finding in checked(annotations(person()), skeleton=hand).findings]
    assert len(texts) == 2 and "categories: no keypoint of skeleton 'hand' among ['nose', " in texts[0]
    arm = COCO.subset(["left_wrist", "left_elbow", "left_shoulder"])
    # What lies outside is none of the keypoints that are asked for.
    assert checked(annotations(moved(person(), nose=(4000, 0))), skeleton=arm).findings == []


def test_keypoints_that_no_skeleton_can_have(checked: Callable[..., Report]) -> None:
    category = {"id": 1, "name": "person", "keypoints": ["nose", "nose"]}
    texts = [finding.text for finding in checked(annotations(person(), categories=[category])).findings]
    assert any("keypoints[1]: duplicate keypoint 'nose'" in text for text in texts)


@pytest.mark.parametrize("content", [b"[", b"[1]", b'{"images": []}', b"\x00\xff"])
def test_what_is_no_annotation_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "set.json").write_bytes(content)
    with pytest.raises(DataError, match=r"set\.json: ") as caught:
        check(str(tmp_path / "set.json"))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("value", [None, 3, "x", {}, [[]], [None]])
@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_lists_of_anything_are_findings(checked: Callable[..., Report], key: str, value: Any) -> None:
    assert checked(annotations(person(), **{key: value})).findings


def test_any_single_value_replaced_is_no_crash(checked: Callable[..., Report]) -> None:
    """Whatever stands in a field: findings, or none; every one a line."""
    whole = annotations(person())
    for part in ("images", "annotations", "categories"):
        for key in whole[part][0]:
            for value in (None, -1, 1e300, float("nan"), "x", [], {}, [1, "x"], True):
                data = copy.deepcopy(whole)
                data[part][0][key] = value
                for finding in checked(data).findings:
                    assert len(finding.text.splitlines()) == 1


def test_ultralytics_lines_are_checked_too(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (400, 300)).save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "images" / "c.png").write_bytes(b"no photo")
    (tmp_path / "data.yaml").write_text(
        "train: images\nval: images\nkpt_shape: [3, 3]\nkpt_names: {0: [nose, l_eye, r_eye]}"
    )
    good = "0 0.5 0.5 0.2 0.2 0.5 0.5 2 0.45 0.5 2 0.55 0.5 2"
    far = "0 0.2 0.5 0.2 0.2 3.5 0.5 2 0.15 0.5 2 0.25 0.5 2"
    (tmp_path / "labels" / "a.txt").write_text(f"{good}\n{far}\n0 1 2\n")
    (tmp_path / "labels" / "b.txt").write_text(f"{good}\n\n{good}\n")
    report = check(str(tmp_path))
    texts = [finding.text.removeprefix(f"{tmp_path}/") for finding in report.findings]
    assert len(texts) == 4
    assert texts[0] == "labels/a.txt: line 3: 3 numbers, expected 14 (5 + 3 x 3)"
    assert "c.png: not a photo" in texts[1]
    assert texts[2].startswith("labels/a.txt: line 2: nose at (1400, 150) lies far outside the photo of 400 x 300")
    assert texts[3].startswith("labels/b.txt: line 3: the same person as line 1")
    assert check(f"{tmp_path}/data.yaml:val").findings == report.findings


def test_the_command(tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(photos / "truth.json"), "--photos", str(photos)]) == 0
    pairs, summary = capsys.readouterr().out.splitlines()
    assert pairs.startswith(f"{photos}/truth.json: left and right: left_eye - right_eye, left_ear - right_ear, ")
    assert summary == (f"{photos}/truth.json: 8 photos, 49 people (15 without labelled keypoints); nothing wrong found")
    truth = json.loads((photos / "truth.json").read_text())
    labelled = [number for number, entry in enumerate(truth["annotations"]) if entry["num_keypoints"] > 5]
    truth["annotations"][labelled[0]]["bbox"][2:] = [0, 0]
    truth["annotations"][labelled[1]]["id"] = truth["annotations"][0]["id"] = 3
    truth["images"][0]["file_name"] = "gone.jpg"
    shutil.copytree(photos, tmp_path / "set")
    (tmp_path / "set.json").write_text(json.dumps(truth))
    assert main(["data", "check", str(tmp_path / "set.json"), "--skeleton", "coco"]) == 1
    _, *lines, summary = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all(line.startswith(f"{tmp_path}/set.json: ") for line in lines)
    assert summary.startswith(f"{tmp_path}/set.json: 8 photos, 49 people (15 without labelled keypoints); ")
    assert main(["data", "check", str(tmp_path / "none.json")]) == 2
    assert capsys.readouterr().err.splitlines() == [f"posedet: error: {tmp_path}/none.json: no such file"]


def test_a_crowd_holds_no_person_twice(tmp_path: Path) -> None:
    """Two hundred small people on a grid, and one of them again."""
    people = []
    for number, place in enumerate([*np.ndindex(20, 10), (3, 5)]):
        points = np.array(person()["keypoints"], float).reshape(17, 3)
        points[:, :2] = (points[:, :2] - (145, 45)) * 0.08 + (10 + 9.5 * place[0], 10 + 19.5 * place[1])
        low, high = points[:, :2].min(0), points[:, :2].max(0)
        changes = {"keypoints": points.ravel().tolist(), "bbox": [*low.tolist(), *(high - low).tolist()], "area": 90}
        people.append(person(id=number, **changes))
    (tmp_path / "set").mkdir()
    Image.new("RGB", (220, 220)).save(tmp_path / "set" / "a.png")
    data = annotations(*people, images=[{"id": 1, "file_name": "a.png", "width": 220, "height": 220}])
    (tmp_path / "set.json").write_text(json.dumps(data))
    line = only(check(str(tmp_path / "set.json")), "duplicate person")
    assert "annotations[200] (id 200, a.png): the same person as annotations[35] (id 35, a.png)" in line
