"""What other programs write and read: poses go there and come back, and damaged files are one line."""

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from posedet.commands.main import main
from posedet.commands.predict import FORMATS
from posedet.errors import ConfigError, DataError, PoseDetError
from posedet.formats import (
    PosedPhoto,
    from_csv,
    from_cvat,
    from_cvat_xml,
    from_fiftyone,
    from_label_studio,
    from_openpose,
    from_parquet,
    from_supervision,
    from_ultralytics,
    to_csv,
    to_cvat,
    to_cvat_labels,
    to_cvat_xml,
    to_fiftyone,
    to_fiftyone_skeleton,
    to_label_studio,
    to_label_studio_config,
    to_openpose,
    to_parquet,
    to_supervision,
    to_ultralytics,
)
from posedet.formats.files import FILE_FORMATS
from posedet.formats.photos import FLAG_SCORES, file_names, labels
from posedet.outputs import generator_of
from posedet.poses import Poses
from posedet.skeleton import COCO, CROWDPOSE, Skeleton

SIZE = (90, 120)


def people(count: int, skeleton: Skeleton = COCO) -> Poses:
    """People in a photo of `SIZE`, whose keypoints are seen, hidden, or have no score."""
    generator = np.random.default_rng(count)
    keypoints = generator.random((count, skeleton.num_keypoints, 2)) * (SIZE[1] - 1, SIZE[0] - 1)
    flags = generator.integers(0, 3, (count, skeleton.num_keypoints))
    flags[:, :3] = 0, 1, 2
    keypoints[flags == 0] = 0
    return Poses(keypoints.round(2), np.ones(count), FLAG_SCORES[flags], skeleton)


@pytest.fixture
def posed() -> list[PosedPhoto]:
    """Three photos with two people, nobody and one person."""
    names = ("a.jpg", "below/b ü.png", 'c&<">.jpg')
    return [PosedPhoto(name, SIZE, people(count)) for name, count in zip(names, (2, 0, 1), strict=True)]


def assert_same(found: list[PosedPhoto], wanted: list[PosedPhoto], atol: float = 0.006) -> None:
    assert [each.file_name for each in found] == [each.file_name for each in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert (one.size, one.poses.skeleton) == (other.size, other.poses.skeleton)
        np.testing.assert_allclose(one.poses.keypoints, other.poses.keypoints, atol=atol)
        np.testing.assert_allclose(one.poses.keypoint_scores, other.poses.keypoint_scores, atol=1e-7)
        np.testing.assert_allclose(one.poses.scores, other.poses.scores, atol=1e-7)


# --- labels ----------------------------------------------------------------------------------------------------------


def test_scores_become_flags_and_what_is_outside_the_photo_is_not_labelled() -> None:
    keypoints = np.array([[[0, 0], [119.4, 89.4], [120, 10], [-0.4, 5], [50, 60]]], np.float32)
    skeleton = COCO.subset(COCO.keypoints[:5])
    poses = Poses(keypoints, [0.7], [[0.9, 0.1, 0.9, 0.4, 0.0]], skeleton)
    found = labels(PosedPhoto("a.jpg", SIZE, poses))
    assert found.flags.tolist() == [[2, 1, 0, 2, 0]]
    assert found.keypoints.tolist() == [[[0, 0], [119, 89], [0, 0], [0, 5], [0, 0]]]
    assert found.boxes.tolist() == [[0, 0, 120, 89.9]] and found.scores.tolist() == [0.7]
    outside = replace(poses, keypoints=keypoints + 500)
    assert len(labels(PosedPhoto("a.jpg", SIZE, outside)).flags) == 0
    with pytest.raises(DataError, match=r"^a.jpg: size: unknown, but this format needs \(height, width\)$"):
        labels(PosedPhoto("a.jpg", None, poses))


def test_photos_are_named_as_programs_list_uploads(tmp_path: Path) -> None:
    def names(*paths: str) -> list[str]:
        return file_names([tmp_path / path for path in paths])

    assert names("a.jpg") == ["a.jpg"] and names() == []
    assert names("in/a.jpg", "in/b.jpg") == ["a.jpg", "b.jpg"]
    assert file_names([tmp_path / "in" / "a.jpg"], with_folder=True) == ["in/a.jpg"]
    assert names("in/a.jpg", "in/deep/er/a.jpg", "b.jpg") == ["in/a.jpg", "in/deep/er/a.jpg", "b.jpg"]


# --- there and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "read", "suffix"),
    [
        (to_cvat, from_cvat, ".json"),
        (to_cvat_xml, from_cvat_xml, ".xml"),
        (to_label_studio, from_label_studio, ".json"),
        (to_csv, from_csv, ".csv"),
        (to_parquet, from_parquet, ".parquet"),
    ],
)
@pytest.mark.parametrize("skeleton", [COCO, CROWDPOSE], ids=lambda skeleton: skeleton.name)
def test_poses_come_back(
    write: Callable[..., None], read: Callable[..., Any], suffix: str, skeleton: Skeleton, tmp_path: Path
) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    names = ("a.jpg", "below/b ü.png", 'c&<">.jpg')
    photos = [PosedPhoto(name, SIZE, people(count, skeleton)) for name, count in zip(names, (2, 0, 1), strict=True)]
    file = tmp_path / f"out{suffix}"
    for _ in range(2):  # the second time it replaces its own file
        write(photos, file)
    wanted = list(photos)
    if suffix in (".csv", ".parquet"):  # a row for each person
        del wanted[1]
    elif write is to_label_studio:  # it keeps the size in the regions
        wanted[1] = wanted[1]._replace(size=None)
    assert_same(read(file, skeleton), wanted)
    file.write_text("mine")
    with pytest.raises(PoseDetError, match="did not write it"):
        write(photos, file)


def test_tables_keep_scores_and_places_outside_the_photo(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    poses = Poses(generator.normal(0, 500, (3, 17, 2)), generator.random(3), generator.random((3, 17)), COCO)
    to_csv([PosedPhoto("a.jpg", None, poses)], tmp_path / "a.csv")
    (found,) = from_csv(tmp_path / "a.csv")
    assert found.size is None
    for name in ("keypoints", "scores", "keypoint_scores"):
        np.testing.assert_array_equal(getattr(found.poses, name), getattr(poses, name))
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[1]["left_eye_x"]) == pytest.approx(poses.keypoints[1, 1, 0])
    assert float(rows[2]["y2"]) == pytest.approx(poses.boxes[2, 3])


def test_ultralytics(posed: list[PosedPhoto], tmp_path: Path) -> None:
    """Read by the reader for training, which takes the sizes from the photos."""
    to_ultralytics(posed, tmp_path)
    for photo in posed:
        (tmp_path / "images" / photo.file_name).parent.mkdir(exist_ok=True, parents=True)
        Image.new("RGB", SIZE[::-1]).save(tmp_path / "images" / photo.file_name)
    found = {each.file_name: each for each in from_ultralytics(tmp_path)}
    wanted = [photo._replace(file_name=Path(photo.file_name).name) for photo in posed]
    assert_same([found[photo.file_name] for photo in wanted], wanted)
    values = (tmp_path / "labels" / "a.txt").read_text().splitlines()[0].split()
    assert values[0] == "0" and len(values) == 1 + 4 + 17 * 3
    assert all(0 <= float(value) <= 1 for place, value in enumerate(values[5:]) if place % 3 < 2)
    with pytest.raises(PoseDetError, match=r"a.txt: exists"):  # people may have corrected it
        to_ultralytics(posed, tmp_path)


def test_openpose(posed: list[PosedPhoto], tmp_path: Path) -> None:
    to_openpose(posed[:1], tmp_path / "out")
    to_openpose(posed[:1], tmp_path / "out")
    (found,) = from_openpose(tmp_path / "out")
    wanted = posed[0].poses
    assert (found.file_name, found.size) == ("a", None)
    np.testing.assert_allclose(found.poses.keypoints, wanted.keypoints, atol=1e-4)
    np.testing.assert_allclose(found.poses.keypoint_scores, wanted.keypoint_scores, atol=1e-4)
    content = json.loads((tmp_path / "out" / "a_keypoints.json").read_text())
    neck = np.reshape(content["people"][1]["pose_keypoints_2d"], (25, 3))[1]
    np.testing.assert_allclose(neck[:2], wanted.keypoints[1, 5:7].mean(axis=0), atol=1e-4)
    assert generator_of(tmp_path / "out" / "a_keypoints.json") == "posedet formats"
    hooves = Skeleton("hooves", ("a", "b", "c"), (), (), (0.1, 0.1, 0.1))
    with pytest.raises(ConfigError, match="none of OpenPose's keypoints"):
        to_openpose([PosedPhoto("a", None, people(1, hooves))], tmp_path)


# --- what the programs need ------------------------------------------------------------------------------------------


def test_cvat_gets_the_limbs_and_boxes_of_coco(posed: list[PosedPhoto], tmp_path: Path) -> None:
    to_cvat(posed, tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text())
    (category,) = content["categories"]
    assert category["name"] == "person" and category["skeleton"][0] == [16, 14]  # COCO's, from 1
    assert [image["id"] for image in content["images"]] == [1, 2, 3]
    assert [each["image_id"] for each in content["annotations"]] == [1, 1, 3]
    first = content["annotations"][0]
    assert first["num_keypoints"] == sum(flag > 0 for flag in first["keypoints"][2::3])
    assert all(isinstance(flag, int) for flag in first["keypoints"][2::3])


def test_the_labels_of_cvat_name_each_node_and_join_them(tmp_path: Path) -> None:
    skeleton = replace(COCO, keypoints=("tail", *COCO.keypoints[1:]))
    to_cvat_labels(skeleton, tmp_path / "a.json")
    (label,) = json.loads((tmp_path / "a.json").read_text())
    assert [each["name"] for each in label["sublabels"]] == list(skeleton.keypoints)
    svg = ElementTree.fromstring(f"<svg>{label['svg']}</svg>")
    nodes = {circle.get("data-node-id"): circle for circle in svg.iter("circle")}
    assert [circle.get("data-label-name") for circle in nodes.values()] == list(skeleton.keypoints)
    joined = [(int(line.get("data-node-from")) - 1, int(line.get("data-node-to")) - 1) for line in svg.iter("line")]
    assert tuple(joined) == skeleton.limbs
    for line in svg.iter("line"):
        node = nodes[line.get("data-node-from")]
        assert (line.get("x1"), line.get("y1")) == (node.get("cx"), node.get("cy"))


def test_label_studio_gets_what_its_configuration_names(posed: list[PosedPhoto], tmp_path: Path) -> None:
    to_label_studio(posed, tmp_path / "a.json")
    to_label_studio_config(COCO, tmp_path / "a.xml")
    view = ElementTree.parse(tmp_path / "a.xml").getroot()
    values = {tag.get("name"): {each.get("value") for each in tag} for tag in view if len(tag)}
    assert values["keypoint"] == set(COCO.keypoints)
    tasks = json.loads((tmp_path / "a.json").read_text())
    assert tasks[1]["data"]["image"] == "/data/local-files/?d=below/b%20%C3%BC.png"
    for task in tasks:
        for region in task["predictions"][0]["result"]:
            assert {*region["value"][region["type"]]} <= values[region["from_name"]]
            assert (region["original_width"], region["original_height"]) == (120, 90)


def test_corrections_in_label_studio_are_read(posed: list[PosedPhoto], tmp_path: Path) -> None:
    """The newest annotation counts, and a keypoint that somebody drew belongs to the person around it."""
    to_label_studio(posed[:1], tmp_path / "a.json")
    (task,) = json.loads((tmp_path / "a.json").read_text())
    regions = [each for each in task["predictions"][0]["result"] if each["id"].startswith("person-1")]
    drawn = json.loads(json.dumps(next(each for each in regions if each["type"] == "keypointlabels")))
    box = regions[0]["value"]
    drawn["value"].update(x=box["x"] + 1, y=box["y"] + 1, keypointlabels=["nose"])
    del drawn["parentID"]
    drawn["id"] = "new"
    task["annotations"] = [
        {"created_at": "2026-01-01", "result": []},
        {"created_at": "2026-01-03", "result": [], "was_cancelled": True},
        {"created_at": "2026-01-02", "result": [*regions, drawn]},
    ]
    task["data"]["image"] = "https://example.org/photos/a.jpg?token=1"
    file = tmp_path / "b.json"
    file.write_text(json.dumps([task]))
    (found,) = from_label_studio(file)
    assert found.file_name == "a.jpg" and len(found.poses) == 1
    nose = np.array([(box["x"] + 1) * 1.2, (box["y"] + 1) * 0.9])
    np.testing.assert_allclose(found.poses.keypoints[0, 0], nose, atol=0.01)
    assert found.poses.keypoint_scores[0, 0] == 1
    exported = {**task, "annotations": [], "predictions": [7]}  # an export names predictions by their ids
    file.write_text(json.dumps([exported]))
    assert [(photo.size, len(photo.poses)) for photo in from_label_studio(file)] == [(None, 0)]
    drawn["value"]["x"] = 500
    file.write_text(json.dumps([task]))
    with pytest.raises(DataError, match=r"'nose' belongs to no rectangle of a person; drag it onto one in the list$"):
        from_label_studio(file)


# --- damaged files ---------------------------------------------------------------------------------------------------

IMAGE = '<image id="0" name="a" width="9" height="9">'
XML = f'<annotations>{IMAGE}<skeleton label="person">{{}}</skeleton></image></annotations>'
POINT = '<points label="nose" occluded="0" outside="{}" points="{}"/>'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not an XML file (not well-formed (invalid token): line 1, column 0)"),
        ("<html/>", "<html>, expected <annotations> of CVAT for images 1.1"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "has a DOCTYPE, which CVAT does not write"),
        ('<annotations><image width="9" height="x"/></annotations>', "image[0].height: 'x', expected a number from 1"),
        ('<annotations><image width="9" height="9"/></annotations>', "image[0]: 'name' is missing"),
        (XML.format(POINT.format(0, "1,nan")), "image[0].skeleton[0].points[0].points: '1,nan', expected x,y"),
        (XML.format(POINT.format(2, "1,2")), "points[0].outside: '2', expected a number from 0 to 1"),
        (XML.format(2 * POINT.format(0, "1,2")), "image[0].skeleton[0][1]: duplicate keypoint 'nose'"),
    ],
)
def test_damaged_xml_names_the_place(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "a.xml"
    file.write_text(text)
    with pytest.raises(DataError) as caught:
        from_cvat_xml(file)
    assert str(caught.value).startswith(f"{file}: ") and said in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda task: task.pop("data"), "[0]: 'data' is missing"),
        (lambda task: task.update(data={}), "[0].data: {}, expected an object with image"),
        (lambda task: task["predictions"][0].update(result=5), "[0].predictions[0].result: 5, expected a list"),
        (lambda task: task["predictions"][0]["result"][0].pop("original_width"), "[0]: 'original_width' is missing"),
        (
            lambda task: task["predictions"][0]["result"][1]["value"].update(x=1e99),
            ".result[1].value.x: 1e+99, expected",
        ),
        (
            lambda task: task["predictions"][0]["result"][1]["value"].update(keypointlabels=5),
            "5, expected a list of names",
        ),
    ],
)
def test_damaged_tasks_name_the_place(
    change: Callable[[dict[str, Any]], None], said: str, posed: list[PosedPhoto], tmp_path: Path
) -> None:
    file = tmp_path / "a.json"
    to_label_studio(posed[:1], file)
    (task,) = json.loads(file.read_text())
    change(task)
    file.write_text(json.dumps([task]))
    with pytest.raises(DataError) as caught:
        from_label_studio(file)
    assert str(caught.value).startswith(f"{file}[0]") and said in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("nose_x", "nase_x"), "column 'nose_x' is missing; expected a table of"),
        (lambda text: text.replace("a.jpg,90", "a.jpg,inf", 1), "line 2: height, width: 'inf', expected a number"),
        (lambda text: text.replace("a.jpg,", ",", 1), "line 2: photo: '', expected the name of a photo"),
        (lambda text: text.replace(",1.0", ",x", 1), "line 2: score: 'x', expected a number"),
        (lambda text: text.replace(",1.0", ",7", 1), "line 2: poses: scores: 7.0 at [0], expected 0 to 1"),
        (lambda text: text + "b\n", "line 5: 1 values, expected 59"),
        (lambda text: "\0", "column 'photo' is missing"),
    ],
)
def test_damaged_tables_name_the_line(
    change: Callable[[str], str], said: str, posed: list[PosedPhoto], tmp_path: Path
) -> None:
    file = tmp_path / "a.csv"
    to_csv(posed, file)
    file.write_text(change(file.read_text()))
    with pytest.raises(DataError) as caught:
        from_csv(file)
    assert str(caught.value).startswith(f"{file}: ") and said in str(caught.value)


@pytest.mark.parametrize(
    ("person", "said"),
    [
        ({}, "people[0]: 'pose_keypoints_2d' is missing"),
        ({"pose_keypoints_2d": [1] * 54}, "people[0].pose_keypoints_2d: 54 numbers, expected 75 (25 x 3)"),
        ({"pose_keypoints_2d": [5] * 75}, "people[0].pose_keypoints_2d: confidence 5, expected 0 to 1"),
    ],
)
def test_damaged_openpose_names_the_person(person: dict[str, Any], said: str, tmp_path: Path) -> None:
    file = tmp_path / "a_keypoints.json"
    file.write_text(json.dumps({"people": [person]}))
    with pytest.raises(DataError) as caught:
        from_openpose(tmp_path)
    assert str(caught.value) == f"{file}: {said}"
    with pytest.raises(DataError, match=r"no files NAME_keypoints\.json in this folder"):
        from_openpose(Path(__file__).parent)


@pytest.mark.parametrize("read", [from_cvat, from_cvat_xml, from_label_studio, from_csv, from_openpose, from_parquet])
@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\0", b"[" * 9999])
def test_no_file_makes_a_reader_raise_anything_else(
    read: Callable[..., Any], content: bytes | None, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(PoseDetError) as caught:
        read(tmp_path / "a.json")
    assert "a.json: " in str(caught.value) and "\n" not in str(caught.value)


def test_one_file_has_one_skeleton(posed: list[PosedPhoto], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^b.jpg: skeleton 'crowdpose', but 'coco' before$"):
        to_cvat([*posed, PosedPhoto("b.jpg", SIZE, people(1, CROWDPOSE))], tmp_path / "a.json")


# --- supervision -----------------------------------------------------------------------------------------------------


@dataclass
class FakeKeyPoints:
    """The fields of supervision 0.29 and later. The laboratory runs the real one."""

    xy: Any
    class_id: Any = None
    keypoint_confidence: Any = None
    detection_confidence: Any = None
    data: Any = None


@dataclass
class OldKeyPoints:
    """The fields before."""

    xy: Any
    class_id: Any = None
    confidence: Any = None
    data: Any = None


def install(monkeypatch: pytest.MonkeyPatch, key_points: type) -> None:
    module = ModuleType("supervision")
    module.__spec__ = sys.__spec__
    monkeypatch.setattr(module, "KeyPoints", key_points, raising=False)
    monkeypatch.setitem(sys.modules, "supervision", module)


def test_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeKeyPoints)
    poses = people(3)
    key_points = to_supervision(poses)
    assert isinstance(key_points, FakeKeyPoints) and key_points.class_id.tolist() == [0, 0, 0]
    assert not np.shares_memory(key_points.xy, poses.keypoints)
    for there in (poses, Poses.empty(COCO)):
        back = from_supervision(to_supervision(there))
        for name in ("keypoints", "scores", "keypoint_scores"):
            np.testing.assert_array_equal(getattr(back, name), getattr(there, name), strict=True)
    bare = from_supervision(FakeKeyPoints(poses.keypoints))
    np.testing.assert_array_equal(bare.keypoint_scores, poses.keypoints.any(axis=2))
    with pytest.raises(DataError, match=r"xy: shape \(3, 17, 2\), expected \(N, 14, 2\) for skeleton 'crowdpose'"):
        from_supervision(key_points, CROWDPOSE)


@pytest.mark.parametrize("installed", [None, OldKeyPoints])
def test_supervision_says_what_to_install(monkeypatch: pytest.MonkeyPatch, installed: type | None) -> None:
    if installed is None:
        monkeypatch.setitem(sys.modules, "supervision", None)  # what Python leaves there to refuse an import
    else:
        install(monkeypatch, installed)
    with pytest.raises(ConfigError) as caught:
        to_supervision(people(1))
    assert str(caught.value).startswith("'to_supervision' needs a")
    assert str(caught.value).endswith(': pip install "supervision>=0.29"')


# --- FiftyOne --------------------------------------------------------------------------------------------------------


class FakeLabel:
    """A label of FiftyOne: fields of any name. The laboratory runs the real ones."""

    confidence: Any = None

    def __init__(self, **fields: Any) -> None:
        vars(self).update(fields)

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def has_field(self, name: str) -> bool:
        return hasattr(self, name)


def test_fiftyone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "fiftyone", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^'to_fiftyone' needs another package; install it with: pip install"):
        to_fiftyone(people(1), SIZE)
    monkeypatch.undo()
    module = ModuleType("fiftyone")
    module.__spec__ = sys.__spec__
    vars(module).update(Keypoint=FakeLabel, Keypoints=FakeLabel, KeypointSkeleton=FakeLabel)
    monkeypatch.setitem(sys.modules, "fiftyone", module)
    poses = people(2)
    made = to_fiftyone(poses, SIZE)
    assert made.keypoints[1].points[2] == pytest.approx((poses.keypoints[1, 2] / (120, 90)).tolist())
    back = from_fiftyone(made, SIZE)
    np.testing.assert_allclose(back.keypoints, poses.keypoints, atol=1e-4)
    np.testing.assert_array_equal(back.keypoint_scores, poses.keypoint_scores)
    assert len(from_fiftyone(to_fiftyone(Poses.empty(COCO), SIZE), SIZE)) == 0
    drawn = FakeLabel(keypoints=[FakeLabel(points=[(np.nan, np.nan), *[(0.5, 0.5)] * 16])])
    found = from_fiftyone(drawn, SIZE)
    assert found.keypoint_scores[0].tolist() == [0, *[1] * 16] and found.scores.tolist() == [1]
    assert found.keypoints[0, :2].tolist() == [[0, 0], [60, 45]]
    with pytest.raises(DataError, match=r"^keypoints\[0\]: 17 points, 17 confidences, expected 14 of skeleton"):
        from_fiftyone(made, SIZE, CROWDPOSE)
    assert to_fiftyone_skeleton(COCO).edges[0] == [15, 13]


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_knows_all_formats() -> None:
    assert set(FORMATS) == {"coco", *FILE_FORMATS}


def test_predict_writes_every_format(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the names of the photos alone, and twice, but for labels that people may have corrected."""
    pytest.importorskip("pyarrow")
    out = tmp_path / "out"
    for each in FILE_FORMATS:
        run = ["predict", str(photos / "skiers.jpg"), str(photos / "food.jpg"), "--output", str(out), "--format", each]
        run += ["--no-pictures", "--threads", "1", "--long-side", "192", "--score-threshold", "0.2"]
        assert main(run) == 0
        assert main(run) == (2 if each == "ultralytics" else 0)
    assert "labels/skiers.txt: exists" in capsys.readouterr().err
    assert not (out / "poses.json").exists()
    sets = [from_cvat(out / "cvat.json"), from_cvat_xml(out / "cvat.xml"), from_label_studio(out / "label-studio.json")]
    for found, folder in zip(sets, ("", "", "photos/"), strict=True):
        assert [photo.file_name for photo in found] == [f"{folder}skiers.jpg", f"{folder}food.jpg"]
        np.testing.assert_allclose(found[0].poses.keypoints, sets[0][0].poses.keypoints, atol=0.01)
    assert sets[0][0].size == (480, 640) and len(sets[0][0].poses) > 0
    tables = [from_csv(out / "poses.csv"), from_parquet(out / "poses.parquet")]
    np.testing.assert_array_equal(tables[0][0].poses.keypoints, tables[1][0].poses.keypoints)
    assert {path.name for path in (out / "openpose").iterdir()} == {"skiers_keypoints.json", "food_keypoints.json"}
    for name in ("cvat.json", "cvat.xml", "cvat-labels.json", "label-studio.json", "label-studio.xml", "poses.parquet"):
        assert generator_of(out / name) == "posedet predict"


def test_predict_refuses_before_it_works(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["predict", str(photos / "food.jpg"), "--output", str(tmp_path / "out"), "--format"]
    assert main([*run, "openpose", "--skeleton", "head_top"]) == 2
    assert capsys.readouterr().err.startswith("posedet: error: --format openpose: skeleton 'body19-1' has none of")
