"""Several sets as one: which photos are seen, how often, and which keypoints of each are known."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from posedet.commands.main import main
from posedet.config import load_config
from posedet.data.annotations import Person
from posedet.data.augment import make_patch
from posedet.data.sources import read_photos, read_sets
from posedet.errors import DataError
from posedet.skeleton import BODY19, COCO, CROWDPOSE, CROWDPOSE15, Skeleton
from posedet.training.batches import PhotoStream
from sets import changed, made_up_set

WRISTS = Skeleton("wrists", ("nose", "left_wrist", "right_wrist"), (), ((1, 2),), (0.026, 0.062, 0.062))
DATA = load_config("posedet-s", ["data.patch=64"]).data


@pytest.fixture
def mixed(tmp_path: Path) -> list[str]:
    """One set beside its photos, one in another folder and seen three times an epoch, one of Ultralytics'."""
    made_up_set(tmp_path / "a.json", COCO.keypoints, num_photos=2)
    made_up_set(tmp_path / "b.json", ["right_wrist", "left_wrist", "tail"], num_photos=1)
    (tmp_path / "b").rename(tmp_path / "elsewhere")
    made_up_set(tmp_path / "val.json", COCO.keypoints, num_photos=1)
    yolo = tmp_path / "yolo"
    for folder in ("images", "labels"):
        (yolo / folder).mkdir(parents=True)
    (tmp_path / "val" / "1.jpg").rename(yolo / "images" / "c.jpg")
    (yolo / "labels" / "c.txt").write_text("0 0.5 0.5 0.8 0.8 " + "0.25 0.5 2 " * 3)
    (yolo / "data.yaml").write_text(
        "val: images\nkpt_shape: [3, 3]\nkpt_names: {0: [nose, left_wrist, right_wrist]}\nflip_idx: [0, 2, 1]\n"
    )
    return [f"{tmp_path}/a.json", f"{tmp_path}/b.json:{tmp_path}/elsewhere*3", f"{yolo}:val*2"]


def test_mixed_sets_are_matched_by_name(mixed: list[str]) -> None:
    found = read_sets(mixed, WRISTS)
    photos = found.photos
    assert [(photo.path.parent.name, photo.path.name) for photo in photos] == [
        ("a", "1.jpg"),
        ("a", "2.jpg"),
        ("elsewhere", "1.jpg"),
        ("images", "c.jpg"),
    ]
    assert found.repeats == (1, 1, 3, 2) and len(found) == 4
    labelled = [photo.persons[0].visibility.astype(bool).tolist() for photo in photos]
    assert labelled == [[True] * 3, [True] * 3, [False, True, True], [True] * 3]
    table = np.array(json.loads(Path(mixed[0]).read_text())["annotations"][0]["keypoints"]).reshape(17, 3)
    named = [COCO.index(name) for name in WRISTS.keypoints]
    np.testing.assert_allclose(photos[0].persons[0].keypoints, table[named, :2], rtol=1e-6)
    # The second set names them the other way round.
    set_b = json.loads(Path(mixed[1].split(":")[0]).read_text())["annotations"][0]["keypoints"]
    np.testing.assert_allclose(photos[2].persons[0].keypoints[1:], [set_b[3:5], set_b[0:2]], rtol=1e-6)
    np.testing.assert_allclose(photos[3].persons[0].keypoints, [[30, 45]] * 3)


def test_an_epoch_shows_each_photo_as_often_as_asked(mixed: list[str]) -> None:
    photos = read_sets(mixed, WRISTS)
    stream = PhotoStream(photos, WRISTS, DATA, 0)
    assert stream.epoch_length == 7
    orders = []
    for epoch in range(4):
        names = [stream.photo_at(7 * epoch + place).path.parent.name for place in range(7)]
        assert Counter(names) == {"a": 2, "elsewhere": 3, "images": 2}
        orders.append(tuple(names))
    assert len(set(orders)) > 1
    # Whoever asks, in whatever order.
    again = PhotoStream(photos, WRISTS, DATA, 0)
    assert [again.photo_at(number).path for number in range(27, -1, -1)] == [
        stream.photo_at(number).path for number in range(27, -1, -1)
    ]


def test_what_a_set_does_not_label_is_not_learnt(mixed: list[str]) -> None:
    """Its weight is 0 in every patch, mirrored or not; the others' is not."""
    partly = read_sets(mixed, WRISTS).photos[2]
    for seed in range(12):
        patch = make_patch(partly, [], WRISTS, DATA, np.random.default_rng(seed))
        assert (patch.weights[:, 0] == 0).all()
    assert any(
        make_patch(partly, [], WRISTS, DATA, np.random.default_rng(seed)).weights[:, 1:].any() for seed in range(12)
    )


def test_keypoints_that_no_set_labels_are_named(mixed: list[str], caplog: pytest.LogCaptureFixture) -> None:
    read_sets(mixed[:1], BODY19)
    assert caplog.messages == ["no photo labels head_top, neck: these keypoints will not be learnt"]
    caplog.clear()
    read_sets(mixed, WRISTS)
    assert caplog.messages == []


def test_a_missing_set_is_one_line(mixed: list[str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"/none\.json: no such file$"):
        read_sets([*mixed, f"{tmp_path}/none.json"], WRISTS)


# --- what training says of bad input ---------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, *arguments: object) -> str:
    """The one line that `posedet train` has to say, and nothing is left behind."""
    run = tmp_path / "run"
    settings = ("--set", "data.patch=64", "--set", "train.steps=1", "--workers", "0")
    assert main([str(each) for each in ("train", *settings, "--run", run, *arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.splitlines()) == 1
    assert not run.exists()
    return printed.err.removeprefix("posedet: error: ").strip()


def no_categories(content: dict) -> None:
    del content["categories"]


def empty_categories(content: dict) -> None:
    content["categories"] = []


def fewer_numbers(content: dict) -> None:
    del content["annotations"][1]["keypoints"][-3:]


def nobody_labelled(content: dict) -> None:
    for person in content["annotations"]:
        person["keypoints"][2::3] = [0] * 17
        person["num_keypoints"] = 0


def only_crowds(content: dict) -> None:
    for person in content["annotations"]:
        person["iscrowd"] = 1


def no_people(content: dict) -> None:
    content["annotations"] = []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_categories, "{json}: 'categories' is missing; is this a COCO-style keypoint file?"),
        (empty_categories, "{json}: categories: none has 'keypoints'; is this a COCO-style keypoint file?"),
        (fewer_numbers, "{json}: annotations[1].keypoints: 48 numbers, expected 51 (17 x 3)"),
        (nobody_labelled, "the training photos contain no person with labelled keypoints"),
        (only_crowds, "the training photos contain no person with labelled keypoints"),
        (no_people, "the training photos contain no person with labelled keypoints"),
    ],
)
def test_annotations_that_cannot_be_trained_on(
    change, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations = changed(made_up_set(tmp_path / "set.json", COCO.keypoints), change)
    line = refused(capsys, tmp_path, "posedet-s", "--data", annotations)
    assert line == message.format(json=annotations)


def test_photos_that_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = made_up_set(tmp_path / "set.json", COCO.keypoints)
    photo = tmp_path / "set" / "2.jpg"
    photo.unlink()
    assert refused(capsys, tmp_path, "posedet-s", "--data", annotations) == (
        f"{annotations}: images[1]: '{photo}': no such photo (1 of 3 are missing); "
        "--data JSON[:FOLDER][*N] says where they are"
    )


def test_keypoints_that_are_not_the_skeletons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A set that shares no keypoint with the skeleton: as many, but others."""
    annotations = made_up_set(tmp_path / "set.json", [f"finger_{k}" for k in range(14)])
    line = refused(capsys, tmp_path, "posedet-s", "--data", annotations, "--set", f"model.skeleton={CROWDPOSE.name}")
    assert line.startswith(f"{annotations}: categories: no keypoint of skeleton 'crowdpose' among ['finger_0', ")
    assert line.endswith("; they are found by name")


def test_a_misspelt_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = made_up_set(tmp_path / "set.json", COCO.keypoints)
    line = refused(capsys, tmp_path, "posedet-s", "--data", annotations, "--set", "train.learningrate=1")
    assert line == "posedet-s: unknown key 'train.learningrate' (did you mean 'train.learning_rate'?)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--set", "assign.selected=0"), "posedet-s: 'assign.selected' is 0, expected at least 1 with model.presence"),
        (("--workers", "-1"), "--workers -1: expected at least 0"),
        (("--validate-every", "0"), "--validate-every 0: expected at least 1"),
        (("--validate-every", "5"), "--validate-every needs --validate, which says on which photos"),
        (("--device", "abacus"), "device 'abacus' is not available: "),
        (("--validate", "none.json"), "none.json: no such file"),
        (
            ("--validate", "{json}:elsewhere"),
            "{json}: images[0]: 'elsewhere/1.jpg': no such photo (3 of 3 are missing); --validate JSON:FOLDER says",
        ),
        (("--validate", "{json}*2"), "{json}*2: a repeat count (*N) is only for training data; remove it"),
    ],
)
def test_options_that_cannot_be(
    options: tuple[str, str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also what is needed only hours later, to validate."""
    annotations = made_up_set(tmp_path / "set.json", BODY19.keypoints)
    arguments = [option.format(json=annotations) for option in options]
    line = refused(capsys, tmp_path, "posedet-s", "--data", annotations, *arguments)
    assert line.startswith(message.format(json=annotations))


def test_a_run_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = made_up_set(tmp_path / "set.json", BODY19.keypoints)
    assert main(["train", "posedet-s", "--data", str(annotations), "--run", str(annotations), "--workers", "0"]) == 2
    line = f"posedet: error: {annotations}: cannot be written to (File exists); choose another folder"
    assert capsys.readouterr().err.splitlines() == [line]


@pytest.mark.slow
def test_validation_photos_may_lie_elsewhere(tmp_path: Path) -> None:
    def with_areas(content: dict) -> None:
        for person in content["annotations"]:
            person["area"] = 4000.0

    annotations = changed(made_up_set(tmp_path / "set.json", BODY19.keypoints), with_areas)
    (tmp_path / "set").rename(tmp_path / "photos")
    photo_set, run = f"{annotations}:{tmp_path}/photos", tmp_path / "run"
    small = ("train.steps=1", "train.batch_size=1", "data.patch=64", "train.warmup=0")
    settings = [argument for setting in small for argument in ("--set", setting)]
    validation = ("--validate", photo_set, "--validate-every", "1")
    options = ("--data", photo_set, "--run", str(run), "--workers", "0", *settings, *validation)
    assert main(["train", "posedet-s", *options]) == 0
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert set(last["validation"]) == {"ap", "ap50", "ap75", "ar"}


def fifteen(
    tmp_path: Path, name: str, keypoints: dict[str, tuple[float, float, int]], extra: tuple[str, ...] = ()
) -> Person:
    """The only person of a file with CrowdPose's keypoints, of which these are given, read with the 15th point."""
    names = [*CROWDPOSE.keypoints, *extra]

    def change(content: dict) -> None:
        table = [keypoints.get(each, (0, 0, 0)) for each in names]
        content["annotations"][0]["keypoints"] = [number for point in table for number in point]

    annotations = changed(made_up_set(tmp_path / name, names, num_photos=1), change)
    (photo,) = read_photos(str(annotations), CROWDPOSE15)
    return photo.persons[0]


def test_the_official_abdomen(tmp_path: Path) -> None:
    """The vector of facts 15.2; with two of the four around it, it is not known."""
    around = {"left_shoulder": (10, 20, 2), "right_shoulder": (30, 20, 1), "left_hip": (12, 60, 2)}
    whole = fifteen(tmp_path, "a.json", {**around, "right_hip": (28, 64, 1), "neck": (20, 10, 2)})
    assert whole.keypoints[14].tolist() == [20, 41]
    assert whole.visibility[14] == 1 and whole.visible[14] == -1
    three = fifteen(tmp_path, "b.json", around)
    np.testing.assert_allclose(three.keypoints[14], [52 / 3, 100 / 3], rtol=1e-6)
    assert three.visibility[14] == 1
    del around["left_hip"]
    assert fifteen(tmp_path, "c.json", around).visibility[14] == 0
    # A file that knows an abdomen is believed.
    own = fifteen(tmp_path, "d.json", {**around, "left_hip": (12, 60, 2), "abdomen": (1, 2, 2)}, ("abdomen",))
    assert own.keypoints[14].tolist() == [1, 2]
