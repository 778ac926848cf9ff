"""Annotations that say the same in another way are read alike; those that do not fit are refused in one line."""

import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from posedet.commands.main import main
from posedet.config import load_config
from posedet.data.augment import make_patch
from posedet.data.check import check
from posedet.data.sources import Source, read_photos
from posedet.errors import DataError
from posedet.evaluation.keypoint_ap import evaluate_keypoints
from posedet.evaluation.protocols import COCO_PROTOCOL
from posedet.skeleton import COCO, Skeleton
from sets import as_ultralytics, photos_of

Data = dict[str, Any]
NAMES = list(COCO.keypoints)


@pytest.fixture
def truth(photos: Path) -> Data:
    content: Data = json.loads((photos / "truth.json").read_text())
    return content


def results_for(truth: Data, *, names: bool = False) -> list[Data]:
    """All labelled people, found exactly; with the names of the files, as `predict` writes them."""
    files = {image["id"]: image["file_name"] for image in truth["images"]}
    return [
        {
            "image_id": person["image_id"],
            "category_id": person["category_id"],
            "keypoints": person["keypoints"],
            "score": 0.5,
            **({"file_name": f"somewhere/photos/{files[person['image_id']]}"} if names else {}),
        }
        for person in truth["annotations"]
        if person["num_keypoints"]
    ]


@pytest.fixture
def ap(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, float]]:
    """What `evaluate --results` says of the keypoints, and AP; or the error and -1."""

    def run(truth: Data, results: list[Data], *options: str) -> tuple[str, float]:
        (tmp_path / "truth.json").write_text(json.dumps(truth))
        (tmp_path / "results.json").write_text(json.dumps(results))
        command = ["evaluate", f"{tmp_path}/truth.json:{photos}", "--results", f"{tmp_path}/results.json", *options]
        if main(command) == 2:
            (line,) = capsys.readouterr().err.splitlines()
            return line.removeprefix("posedet: error: ").replace(f"{tmp_path}/", ""), -1
        lines = capsys.readouterr().out.splitlines()
        return lines[0], float(lines[-1].split("|")[2])

    return run


# ---- Names of keypoints


@pytest.mark.parametrize(
    "spelt",
    [
        lambda name: re.sub("_(.)", lambda letter: letter[1].upper(), name),
        lambda name: "_".join(reversed(name.split("_"))),
        lambda name: name.replace("left_", "l").replace("right_", "r"),
        lambda name: name.upper().replace("_", " "),
        lambda name: "".join(word.title() for word in reversed(name.split("_"))).replace("Left", "L"),
    ],
)
def test_other_spellings_are_scored_and_mirrored_alike(truth: Data, ap: Callable[..., Any], spelt: Any) -> None:
    expected = ap(truth, results_for(truth))
    assert expected == ("scored 17 of 17 keypoints", 100)
    truth["categories"][0]["keypoints"] = [spelt(name) for name in NAMES]
    assert ap(truth, results_for(truth)) == expected
    own = Skeleton.from_coco_category(truth["categories"][0])
    assert own.pairs == COCO.pairs and own.sigmas == COCO.sigmas
    assert COCO.subset(own.keypoints).pairs == COCO.pairs


def test_missing_keypoints_are_refused_or_left_out(truth: Data, ap: Callable[..., Any]) -> None:
    truth["categories"][0]["keypoints"] = ["muzzle", "left_horn", *NAMES[2:]]
    said = "truth.json: the annotations have 15 of the 17 keypoints to score; missing: nose, left_eye"
    text, _ = ap(truth, results_for(truth))
    assert text.endswith(f"{said}; --keypoints common scores the others")
    assert ap(truth, results_for(truth), "--keypoints", "common") == (
        "scored 15 of 17 keypoints; missing: nose, left_eye",
        100,
    )


def test_training_names_the_pairs(truth: Data, tmp_path: Path, photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    names = ["lip", "rip", *NAMES[2:]]
    truth["categories"][0]["keypoints"] = names
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    settings = ("train.steps=1", "train.batch_size=1", "data.patch=64", f"model.skeleton={tmp_path}/truth.json")
    options = [word for setting in settings for word in ("--set", setting)]
    command = ["train", "posedet-s", "--data", f"{tmp_path}/truth.json:{photos}", "--run", str(tmp_path / "run")]
    main([*command, "--workers", "0", *options])
    (line,) = [text for text in caplog.messages if "left and right" in text]
    assert line.startswith("keypoints of 'person': left and right: left_ear - right_ear, ")
    assert "but are no pair: lip - rip; a skeleton file can pair them; without a partner: right_eye" in line


# ---- Photos


def test_file_names_decide_whose_results_they_are(truth: Data, ap: Callable[..., Any]) -> None:
    """Ids in another order than the truth's, all of them known there."""
    results = results_for(truth, names=True)
    ids = sorted({result["image_id"] for result in results})
    for result in results:
        result["image_id"] = ids[(ids.index(result["image_id"]) + 1) % len(ids)]
    assert ap(truth, results) == ("scored 17 of 17 keypoints", 100)
    for result in results:
        result["file_name"] = result["file_name"].replace("/", "\\")
        result["image_id"] = 1
    assert ap(truth, results) == ("scored 17 of 17 keypoints", 100)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file_name": "other.jpg"}, ".file_name: 'other.jpg' is not a photo of the annotations"),
        ({"file_name": None}, ".file_name: None, expected the name of a photo, as in other results"),
        ({"file_name": 3}, ".file_name: 3, expected the name of a photo, as in other results"),
        ({"file_name": "b/hall.jpg"}, ".file_name: 'b/hall.jpg' is not a photo of the annotations"),
    ],
)
def test_uncertain_photos_are_refused(truth: Data, ap: Callable[..., Any], change: Data, message: str) -> None:
    for image in truth["images"]:
        image["file_name"] = image["file_name"].replace("hall.jpg", "a/hall.jpg")
    results = results_for(truth, names=True)
    results[-1] |= change
    assert ap(truth, results)[0] == f"results.json: results[{len(results) - 1}]{message}"


def test_names_that_several_photos_have_are_refused(truth: Data) -> None:
    def score(first: str, second: str, *files: str) -> float:
        for image, name in zip(truth["images"], (first, second), strict=False):
            image["file_name"] = name
        two = {image["id"]: name for image, name in zip(truth["images"], files, strict=False)}
        results = [
            {**each, "file_name": two[each["image_id"]]} for each in results_for(truth) if each["image_id"] in two
        ]
        known = {**truth, "images": truth["images"][:2]}
        known["annotations"] = [each for each in truth["annotations"] if each["image_id"] in two]
        return evaluate_keypoints(photos_of(known, COCO), results, COCO_PROTOCOL).ap

    assert score("a/x.jpg", "b/x.jpg", "p/a/x.jpg", "p/b/x.jpg") == pytest.approx(1)
    assert score("x.jpg", "b/x.jpg", "x.jpg", "b/x.jpg") == pytest.approx(1)
    with pytest.raises(DataError, match=r"'x.jpg' may be several photos of the annotations$"):
        score("a/x.jpg", "b/x.jpg", "x.jpg", "b/x.jpg")
    with pytest.raises(DataError, match=r"'p/y.jpg' and 'q/y.jpg' are one photo of the annotations$"):
        score("y.jpg", "z.jpg", "q/y.jpg", "p/y.jpg")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_of_photos_from_other_systems(tmp_path: Path, form: str) -> None:
    """An absolute name, backslashes, and letters that are composed otherwise; the labels of Ultralytics' as well."""
    folder = tmp_path / "set"
    (folder / "below").mkdir(parents=True)
    stored = unicodedata.normalize("NFD" if form == "NFC" else "NFC", "übung.png")
    for name in (stored, "below/a.png"):
        Image.new("RGB", (64, 48)).save(folder / name)
    names = [unicodedata.normalize(form, "übung.png"), "below\\a.png", f"{folder}/below/a.png"]
    person = {"image_id": 0, "category_id": 1, "bbox": [1, 1, 30, 30], "keypoints": [10, 10, 2]}
    content = {
        "images": [{"id": n, "file_name": name, "width": 64, "height": 48} for n, name in enumerate(names)],
        "annotations": [{"id": n, **person, "image_id": n} for n in range(3)],
        "categories": [{"id": 1, "name": "dot", "keypoints": ["dot"]}],
    }
    (tmp_path / "set.json").write_text(json.dumps(content))
    dot = Skeleton("dot", ("dot",), (), (), (0.1,))
    assert [photo.path.name for photo in read_photos(f"{tmp_path}/set.json", dot)] == [stored, "a.png", "a.png"]
    content["images"][2]["file_name"] = f"{tmp_path}/other/a.png"
    (tmp_path / "set.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"images\[2\].file_name: .* is outside the photo folder {folder}$"):
        read_photos(f"{tmp_path}/set.json", dot)
    (folder / f"{unicodedata.normalize(form, 'übung')}.txt").write_text("0 .5 .5 .5 .5 .5 .5 2")
    (folder / "data.yaml").write_text("train: .\nkpt_shape: [1, 3]\nkpt_names: [dot]\n")
    assert sum(len(photo.persons) for photo in read_photos(str(folder), dot)) == 1
    assert not [finding for finding in check(str(folder)).findings if finding.kind == "unused label file"]


# ---- Areas and categories


@pytest.mark.parametrize("case", ["area zero", "area missing", "box zero"])
def test_one_rule_for_a_missing_area(
    truth: Data, ap: Callable[..., Any], photos: Path, tmp_path: Path, case: str
) -> None:
    for person in truth["annotations"]:
        person["area"] = 0
        if case == "area missing":
            del person["area"]
        if case == "box zero":
            person["bbox"] = [0, 0, 0, 0]
    assert ap(truth, results_for(truth)) == ("scored 17 of 17 keypoints", 100)
    found = read_photos(f"{tmp_path}/truth.json:{photos}", COCO)
    labelled = [
        person for photo in found for person in photo.persons if person.labelled.sum() > 2 and not person.ignore
    ]
    for person in labelled:
        points = person.keypoints[person.labelled]
        sides = np.ptp(points, axis=0) if case == "box zero" else person.box[2:] - person.box[:2]
        assert person.area == pytest.approx(max(1, sides.prod()) * (1 if case == "box zero" else 0.53))
    # Nobody is lost in training: neither where a patch keeps boxes, nor where it keeps keypoints.
    for preset in ("posedet-s", "dla34-coco"):
        config = load_config(preset, ["data.patch=256"]).data
        draws = (make_patch(found[0], found[1:4], COCO, config, np.random.default_rng(n)) for n in range(20))
        assert sum(len(patch.keypoints) for patch in draws) > 20, preset


def test_categories_with_the_same_keypoints_are_one(truth: Data, ap: Callable[..., Any]) -> None:
    results = results_for(truth)
    expected = ap(truth, results)
    truth["categories"] += [{**truth["categories"][0], "id": 2, "name": "player"}, {"id": 3, "name": "ball"}]
    for person in truth["annotations"][::2]:
        person["category_id"] = 2
    assert ap(truth, results) == ap(truth, results_for(truth)) == expected
    half = sum(person["category_id"] == 2 and person["num_keypoints"] > 0 for person in truth["annotations"])
    chosen = [result for result in results_for(truth) if result["category_id"] == 2]
    assert len(chosen) == half and ap(truth, chosen, "--category", "player") == expected
    assert ap(truth, chosen, "--category", "ball")[0].endswith(
        "categories: 0 are 'ball' with keypoints, expected one of 'person' (1), 'player' (2); "
        "--category NAME names the one to read"
    )


def test_categories_with_other_keypoints_are_asked_for(truth: Data, ap: Callable[..., Any]) -> None:
    results = results_for(truth)
    truth["categories"].append({"id": 2, "name": "dog", "keypoints": ["nose", "left_eye", "right_eye"]})
    assert ap(truth, results) == ("scored 17 of 17 keypoints", 100)  # there is no dog
    dog = {**truth["annotations"][0], "id": 5, "category_id": 2, "keypoints": [10, 10, 2] * 3, "num_keypoints": 3}
    truth["annotations"].append(dog)
    assert ap(truth, results)[0].endswith(
        "categories with different keypoints: 'person' (1), 'dog' (2); choose one category; "
        "--category NAME names the one to read"
    )
    assert ap(truth, results, "--category", "person") == ("scored 17 of 17 keypoints", 100)


def test_classes_of_ultralytics_sets(truth: Data, photos: Path, tmp_path: Path) -> None:
    yaml = as_ultralytics(truth, photos, tmp_path, "train")
    text = yaml.read_text()
    label = tmp_path / "labels" / "train" / "hall.txt"
    lines = label.read_text().splitlines()
    label.write_text("\n".join([f"1{lines[0][1:]}", *lines[1:]]))

    def people(category: str | None, names: str) -> int:
        yaml.write_text(f"{text}{names}\n")
        found = read_photos(Source(tmp_path, category=category), COCO)
        return len(next(photo for photo in found if photo.path.name == "hall.jpg").persons)

    assert people(None, "names: {0: person, 1: player}") == len(lines)
    assert people("player", "names: [person, player]") == people("1", "names: [person, player]") == 1
    other = f"names: [person, player]\nkpt_names: {{0: {NAMES}, 1: {[*NAMES[:-1], 'tail']}}}"
    with pytest.raises(DataError, match=r"classes with different keypoints: person \(0\), player \(1\); choo"):
        people(None, other)
    assert people("player", other) == 1
    with pytest.raises(DataError, match=r"names: 0 are 'dog', expected one of person \(0\), player \(1\)"):
        people("dog", other)


# ---- Labels and pixels


def doubled(truth: Data) -> None:
    for image in truth["images"]:
        image["width"], image["height"] = 2 * image["width"], 2 * image["height"]
    for person in truth["annotations"]:
        person["bbox"] = [2 * value for value in person["bbox"]]
        person["keypoints"] = [v if k % 3 == 2 else 2 * v for k, v in enumerate(person["keypoints"])]


def scaled(truth: Data, unit: float) -> None:
    sizes = {image["id"]: (image["width"] / unit, image["height"] / unit, 1) for image in truth["images"]}
    for person in truth["annotations"]:
        size = sizes[person["image_id"]]
        person["keypoints"] = [value / size[k % 3] for k, value in enumerate(person["keypoints"])]


def enlarged(truth: Data) -> None:
    for person in truth["annotations"]:
        person["bbox"] = [1.5 * value for value in person["bbox"]]
        person["keypoints"] = [v if k % 3 == 2 else 1.5 * v for k, v in enumerate(person["keypoints"])]


def exchanged(truth: Data) -> None:
    for person in truth["annotations"]:
        person["keypoints"] = np.reshape(person["keypoints"], (-1, 3))[:, [1, 0, 2]].ravel().tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (doubled, "images[0]: width and height are 1280 x 960, the photo {photos}/group.jpg is 640 x 480"),
        (lambda truth: scaled(truth, 1), "keypoints from 0 to 1, as those of all people; expected pixels, not shares"),
        (
            lambda truth: scaled(truth, 100),
            "keypoints from 0 to 100, as those of all people; expected pixels, not p",
        ),
        (
            enlarged,
            "most keypoints lie far outside the photo, as those of 8 of 32 people; expected pixels of the photo",
        ),
        (exchanged, "most keypoints lie far outside the person's own box, as those of "),
    ],
)
def test_labels_that_do_not_fit_the_pixels(
    truth: Data, ap: Callable[..., Any], photos: Path, tmp_path: Path, change: Any, message: str
) -> None:
    results = results_for(truth)
    change(truth)
    text, _ = ap(truth, results)
    expected = message.format(photos=photos)
    assert expected in text
    with pytest.raises(DataError, match=re.escape(expected)):
        read_photos(f"{tmp_path}/truth.json:{photos}", COCO)
    assert any(expected in finding.text for finding in check(f"{tmp_path}/truth.json:{photos}").findings)


def test_a_photo_that_only_its_exif_data_turn(truth: Data, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for image in truth["images"]:
        with Image.open(photos / image["file_name"]) as photo:
            exif = photo.getexif()
            exif[0x0112] = 6 if image["file_name"] == "hall.jpg" else 1
            photo.save(tmp_path / "set" / image["file_name"], exif=exif)
    (tmp_path / "set.json").write_text(json.dumps(truth))
    said = r"hall\.jpg is \d+ x \d+; its EXIF data turn it, but not the labels$"
    with pytest.raises(DataError, match=said):
        read_photos(f"{tmp_path}/set.json", COCO)
    (finding,) = check(f"{tmp_path}/set.json").findings
    assert re.search(said, finding.text)


def test_nobody_is_not_right(truth: Data, ap: Callable[..., Any], photos: Path, tmp_path: Path, capsys: Any) -> None:
    truth["annotations"] = []
    assert ap(truth, [])[0].endswith("truth.json: no labelled people in 8 photos, so there is nothing to evaluate")
    assert main(["data", "check", f"{tmp_path}/truth.json:{photos}"]) == 1
    *_, line, summary = capsys.readouterr().out.splitlines()
    assert line.endswith("nobody has a labelled keypoint, so there is nothing to learn or measure")
    assert summary.endswith("8 photos, 0 people; no labels: 1")


def test_boxes_as_corners_are_found(truth: Data, photos: Path, tmp_path: Path) -> None:
    for person in truth["annotations"]:
        x, y, width, height = person["bbox"]
        person["bbox"] = [x, y, x + width, y + height]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    texts = [finding.text for finding in check(f"{tmp_path}/truth.json:{photos}").findings]
    assert any("boxes fit their people as x1, y1, x2, y2; expected x, y, width, height" in text for text in texts)


def test_flags_between_whole_numbers_are_refused_in_every_format(truth: Data, photos: Path, tmp_path: Path) -> None:
    for person in truth["annotations"]:
        person["keypoints"][2] = 0.8
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    coco = f"{tmp_path}/truth.json:{photos}"
    ultralytics = str(as_ultralytics(truth, photos, tmp_path / "set", "train"))
    image = {"image_id": 1, "file_name": "hall.jpg", "width": 640, "height": 480}
    person = {"bbox": [0, 0, 9, 9], "keypoints": [1, 1, 0.8]}
    content = {"keypoint_names": ["nose"], "images": [{**image, "annotations": [person]}]}
    (tmp_path / "ochuman.json").write_text(json.dumps(content))
    for source in (coco, ultralytics, f"{tmp_path}/ochuman.json:{photos}"):
        with pytest.raises(DataError, match=r"flags? (0\.8|\[.*0\.8)"):
            read_photos(source, COCO)
        assert any("0.8" in finding.text for finding in check(source).findings)


# ---- Ultralytics' sets


def test_a_set_without_names_has_the_pairs_of_flip_idx(truth: Data, photos: Path, tmp_path: Path) -> None:
    """With COCO's number and pairs, it has COCO's names."""
    yaml = as_ultralytics(truth, photos, tmp_path, "train")
    more = Skeleton.from_dict({"name": "more", "keypoints": ["head_top", *NAMES]})
    (person, *_) = read_photos(str(yaml), more)[0].persons
    assert not person.labelled[0] and person.labelled[1:].any()
    report = check(str(yaml))
    assert report.pairs.startswith("left and right: left_eye - right_eye") and not report.findings
    yaml.write_text(yaml.read_text().replace(str(COCO.mirror.tolist()), str([*range(15), 16, 15])))
    assert check(str(yaml)).pairs == "left and right: left 15-16 - right 15-16"
    yaml.write_text(yaml.read_text().replace(str([*range(15), 16, 15]), str([1, 2, 0, *range(3, 17)])))
    with pytest.raises(DataError, match=r"flip_idx\[0\] is 1, but flip_idx\[1\] is 2, expected 0$"):
        check(str(yaml))


def test_labels_without_a_photo_are_named(truth: Data, photos: Path, tmp_path: Path) -> None:
    yaml = as_ultralytics(truth, photos, tmp_path, "train")
    for name in ("gone.txt", "deep/gone.txt", "classes.txt"):
        (tmp_path / "labels" / "train" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "labels" / "train" / name).write_text("0 0.5 0.5 0.1 0.1" + " 0.5 0.5 2" * 17)
    texts = [finding.text for finding in check(str(yaml)).findings]
    said = "no photo of this name, so these labels are not used"
    assert texts == [f"{tmp_path}/labels/train/{name}.txt: {said}" for name in ("deep/gone", "gone")]
