"""Whatever form annotations are kept in, every command takes them, and what is measured is the same."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from posedet.commands.main import main
from posedet.data import sources
from posedet.data.annotations import AnnotatedPhoto, Person, PhotoSet
from posedet.data.formats.format import AnnotationFile, Format
from posedet.data.remarks import Reporter
from posedet.data.sources import MissingPhotosError, Source, read_photos, read_sets
from posedet.errors import ConfigError, DataError
from posedet.evaluation.protocols import COCO_PROTOCOL
from posedet.evaluation.run import evaluate
from posedet.poses import Poses
from posedet.skeleton import COCO as SKELETON
from posedet.skeleton import Skeleton
from sets import as_ultralytics, made_up_set

FAST = ["--threads", "1", "--long-side", "192"]


class Twins(NamedTuple):
    """The same people of two shipped photos, in two forms."""

    coco: str
    ultralytics: str


@pytest.fixture
def twins(photos: Path, tmp_path: Path) -> Twins:
    """Without crowds and areas, which Ultralytics' format does not have."""
    truth = json.loads((photos / "truth.json").read_text())
    truth["images"] = [image for image in truth["images"] if image["file_name"] in ("child.jpg", "skiers.jpg")]
    chosen = {image["id"] for image in truth["images"]}
    truth["annotations"] = [
        {key: value for key, value in person.items() if key != "area"}
        for person in truth["annotations"]
        if person["image_id"] in chosen and not person["iscrowd"]
    ]
    (tmp_path / "twin.json").write_text(json.dumps(truth))
    yaml = as_ultralytics(truth, photos, tmp_path / "ul")
    yaml.write_text(yaml.read_text().replace("train: images/train", "train: images/val"))
    return Twins(f"{tmp_path}/twin.json:{photos}", str(yaml))


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: object, code: int = 0) -> str:
        assert main([str(each) for each in arguments]) == code
        out, err = capsys.readouterr()
        return err.removeprefix("posedet: error: ") if code == 2 else out

    return run


def test_the_same_people_are_read(twins: Twins) -> None:
    coco, ultralytics = (read_photos(text, SKELETON) for text in twins)
    by_name = {photo.path.name: photo for photo in ultralytics}
    assert by_name.keys() == {"child.jpg", "skiers.jpg"}
    for photo in coco:
        twin = by_name[photo.path.name]
        assert (twin.size, len(twin.persons)) == (photo.size, len(photo.persons))
        for person, other in zip(photo.persons, twin.persons, strict=True):
            np.testing.assert_allclose(other.box, person.box, rtol=1e-9)
            np.testing.assert_allclose(
                other.keypoints[other.labelled], person.keypoints[person.labelled], rtol=1e-9, atol=1e-9
            )
            assert other.area == pytest.approx(person.area) and other.ignore == person.ignore
            np.testing.assert_array_equal(other.visibility, person.visibility)
            np.testing.assert_array_equal(other.visible, person.visible)


@pytest.mark.slow
def test_evaluate_finds_the_same_ap(twins: Twins, said: Callable[..., str], tmp_path: Path) -> None:
    """By the part that is usual, by one that is named, of the folder, and by the option."""
    table = said("evaluate", twins.coco, *FAST)
    assert float(table.splitlines()[-1].split("|")[2]) > 10
    folder = Path(twins.ultralytics).parent
    for source in ((twins.ultralytics,), (f"{twins.ultralytics}:val",), (folder,), (folder, "--photos", "val")):
        assert said("evaluate", *source, *FAST) == table
    said("evaluate", twins.ultralytics, "--output", tmp_path / "report", *FAST)
    report = json.loads((tmp_path / "report" / "report.json").read_text())["results"]
    assert report["truth"] == twins.ultralytics and report["num_photos"] == 2
    results = tmp_path / "report" / "results.json"
    assert (
        said("evaluate", twins.ultralytics, "--results", results).splitlines()[-1].split("|")[2:]
        == (table.splitlines()[-1].split("|")[2:])
    )
    assert "AP" in said("evaluate", twins.ultralytics, "--protocol", "cropped", *FAST)


@pytest.mark.slow
def test_diagnosis_of_ultralytics_sets(twins: Twins, said: Callable[..., str], tmp_path: Path) -> None:
    errors = [
        said("errors", text, "--output", tmp_path / f"{number}.html", *FAST).partition("\n->")[0]
        for number, text in enumerate(twins)
    ]
    assert errors[0] == errors[1] and "people are found" in errors[0]
    assert "data:image/jpeg" in (tmp_path / "1.html").read_text()
    card = said("stress", f"{twins.ultralytics}:val", "--output", tmp_path / "card", "--count", 1, *FAST)
    assert "1 photos of data.yaml" in card and "| mirrored |" in card
    calibrated = [
        said("calibrate", text, "--output", tmp_path / f"calibrated{number}", *FAST)
        for number, text in enumerate(twins)
    ]
    assert sorted(calibrated[0].splitlines()[:1]) == sorted(calibrated[1].splitlines()[:1])


def test_training_validates_on_an_ultralytics_set(twins: Twins, said: Callable[..., str], tmp_path: Path) -> None:
    settings = ("train.steps=1", "train.batch_size=1", "data.patch=64", "train.warmup=0", "model.skeleton=coco")
    settings += ("decode.long_side=128",)
    options = [word for setting in settings for word in ("--set", setting)]
    said(
        *("train", "posedet-s", "--data", twins.ultralytics, "--run", tmp_path / "run", "--workers", 0, *options),
        *("--validate", f"{twins.ultralytics}:val", "--validate-every", 1),
    )
    last = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert set(last["validation"]) == {"ap", "ap50", "ap75", "ar"}
    line = said(
        *("train", "posedet-s", "--data", twins.ultralytics, "--run", tmp_path / "other", *options),
        *("--validate", f"{twins.ultralytics}:test"),
        code=2,
    )
    assert line == f"{twins.ultralytics}: test: None, expected a folder of photos\n"


def test_check_and_show(twins: Twins, said: Callable[..., str], tmp_path: Path) -> None:
    # The last one names no keypoints, but says which mirror which.
    summaries = [said("data", "check", text).splitlines()[-1].partition(": ")[2] for text in twins]
    assert summaries[0] == summaries[1] and "2 photos" in summaries[0]
    shown = ["--count", 1, "--set", "data.patch=64", "--set", "model.skeleton=coco"]
    said("data", "show", "posedet-s", "--data", twins.ultralytics, "--output", tmp_path / "look", *shown)
    assert len(list((tmp_path / "look").iterdir())) == 1


def test_a_number_of_times_is_for_training(twins: Twins, said: Callable[..., str]) -> None:
    for command in (["evaluate"], ["data", "check"]):
        line = said(*command, f"{twins.coco}*3", code=2)
        assert line.startswith(f"{twins.coco}*3: a repeat count (*N) is only for training data")


def test_missing_photos_and_the_option_that_names_them(photos: Path, said: Callable[..., str], tmp_path: Path) -> None:
    """The library says what is missing; the command, what to do."""
    truth = tmp_path / "set.json"
    truth.write_text((photos / "truth.json").read_text())
    with pytest.raises(MissingPhotosError) as caught:
        read_photos(str(truth), SKELETON)
    assert str(caught.value).startswith(f"{truth}: images[0]: '{tmp_path}/set/")
    assert str(caught.value).endswith("no such photo (8 of 8 are missing)")
    for command in (["evaluate"], ["stress", "--output", tmp_path / "x"], ["calibrate", "--output", tmp_path / "x"]):
        assert said(*command, truth, code=2) == f"{caught.value}; --photos FOLDER says where they are\n"


def test_photos_that_no_format_knows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"set\.csv: no such file or folder$"):
        read_photos(f"{tmp_path}/set.csv", SKELETON)
    (tmp_path / "set.csv").write_text("a,b")
    with pytest.raises(
        DataError, match=r"set\.csv: unknown annotation format; expected one of: .*Ultralytics.*, COCO-style JSON$"
    ):
        read_photos(f"{tmp_path}/set.csv", SKELETON)
    (tmp_path / "set.json").write_text(
        '{"images": [], "annotations": [], "categories": [{"id": 1, "keypoints": ["nose"]}]}'
    )
    with pytest.raises(DataError, match=r"set\.json: no photos$"):
        read_photos(f"{tmp_path}/set.json", SKELETON)


def test_names_may_hold_a_colon_or_a_star(tmp_path: Path) -> None:
    path = made_up_set(tmp_path / "a:b*c.json", SKELETON.keypoints)
    assert Source.parse(str(path)) == Source(path)
    assert len(read_photos(str(path), SKELETON)) == 3
    assert Source.parse(f"{path}*2") == Source(path, None, 2)
    assert Source.parse(f"{path}:photos") == Source(path, "photos")
    folder = tmp_path / "D:" / "pho*tos*2"
    folder.mkdir(parents=True)
    assert Source.parse(f"{path}:{folder}") == Source(path, str(folder))
    assert Source.parse(f"{path}:{folder}*4") == Source(path, str(folder), 4)
    (tmp_path / "photos").mkdir()
    assert Source.parse(f"{path}:{tmp_path}/photos*4") == Source(path, f"{tmp_path}/photos", 4)


def read_lines(file: AnnotationFile, folder: str | None, skeleton: Skeleton | None, report: Reporter) -> Any:
    wanted = skeleton or Skeleton.from_dict({"name": "lines", "keypoints": ["nose"]})
    photos = []
    for number, text in enumerate(file.path.read_text().splitlines(), 1):
        name, x, y = text.split(",")
        points, flags = np.zeros((wanted.num_keypoints, 2)), np.zeros(wanted.num_keypoints, np.uint8)
        points[wanted.index("nose")], flags[wanted.index("nose")] = (float(x), float(y)), 2
        person = Person(
            keypoints=points,
            visibility=flags,
            visible=np.where(flags == 2, 1, -1).astype(np.int8),
            keypoint_weights=np.ones(len(flags), np.float32),
            box=np.zeros(4),
            area=900.0,
            score=1.0,
            is_crowd=False,
            ignore=False,
            annotation_id=number,
        )
        path = Path(folder or file.path.parent) / name
        photos.append(AnnotatedPhoto(number, path, (90, 120), (person,), categories={1: ("nose",)}, place=text))
    return tuple(photos)


COMMON = replace(COCO_PROTOCOL, keypoints="common")


def test_a_new_format_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[..., str]) -> None:
    """Read, trained on, evaluated and checked, without another line anywhere."""
    csv = Format("lines of noses", lambda file: file.path.suffix == ".csv", read_lines)
    monkeypatch.setattr(sources, "FORMATS", (*sources.FORMATS, csv))
    made_up_set(tmp_path / "set.json", SKELETON.keypoints)
    path = tmp_path / "noses.csv"
    path.write_text("1.jpg,30,40\n2.jpg,50,60\n3.jpg,70,80\n")
    source = f"{path}:{tmp_path}/set"
    assert "3 photos, 3 people; " in said("data", "check", source, code=1)  # the boxes are empty

    def knowing(photo: Path) -> Poses:
        keypoints = np.zeros((1, 17, 2))
        keypoints[0, 0] = (10 + 20 * int(photo.stem), 20 + 20 * int(photo.stem))
        return Poses(keypoints, [0.5], np.ones((1, 17)), SKELETON)

    assert evaluate(knowing, read_photos(source, SKELETON), COMMON).ap == pytest.approx(1)
    settings = ("train.steps=1", "train.batch_size=1", "data.patch=64", "train.warmup=0", "model.skeleton=coco")
    options = [word for setting in settings for word in ("--set", setting)]
    said("train", "posedet-s", "--data", f"{source}*2", "--run", tmp_path / "run", "--workers", 0, *options)
    assert read_sets([f"{source}*2"], SKELETON).repeats == (2, 2, 2)


def test_a_photo_set(tmp_path: Path) -> None:
    somebody = read_photos(str(made_up_set(tmp_path / "set.json", SKELETON.keypoints, num_photos=2)), SKELETON)
    empty = AnnotatedPhoto(3, tmp_path / "set" / "1.jpg", (90, 120), ())
    photos = PhotoSet((empty, *somebody), (5, 1, 3))
    assert (len(photos), photos.epoch_length) == (3, 9)
    assert photos.without_empty() == PhotoSet(somebody, (1, 3))
    assert PhotoSet([*somebody]).photos == somebody
    assert PhotoSet(somebody).repeats == (1, 1) and PhotoSet(()).epoch_length == 0
    with pytest.raises(ValueError, match=r"^2 photos, but 1 repeats$"):
        PhotoSet(somebody, (1,))


@pytest.mark.parametrize("text", ["a.json*", "a.json:b*0"])
def test_a_source_that_cannot_be(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a whole number of at least 1 after the star"):
        Source.parse(text)
