"""Running a detector over a set: in batches, interrupted and gone on with, and what is wrong known at once."""

import argparse
import json
import tempfile
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from posedet import PoseDet, Poses
from posedet.commands.main import main
from posedet.commands.options import add_detector_options
from posedet.config import DecodeConfig
from posedet.data.annotations import AnnotatedPhoto
from posedet.data.sources import MissingPhotosError, read_photos
from posedet.diagnosis.error_report import report_errors
from posedet.errors import ConfigError, DataError, PhotoError, PoseDetError
from posedet.evaluation.protocols import CROPPED_PROTOCOL, Protocol, protocol_for
from posedet.evaluation.run import evaluate, predict_all
from posedet.runtime.session import About, Outputs
from posedet.skeleton import COCO, Skeleton
from posedet.weights.opening import open_model
from sets import changed

SKELETON = Skeleton("line", tuple(f"point_{number}" for number in range(6)), (), (), (0.1,) * 6)
RULES = protocol_for(SKELETON)
DECODE = DecodeConfig(
    long_side=256,
    short_side=None,
    candidates=1,
    score_threshold=0.01,
    nms="oks",
    nms_threshold=0.5,
    min_area=1.0,
    clamp=False,
    skeleton="line",
)
# Two forms of photos, mixed: (height, width).
SIZES = [(256, 256), (128, 256), (256, 256), (128, 256), (256, 256), (256, 256), (256, 256)]


class Lines:
    """A network that finds one person in every photo, on a line at a height that the first pixel tells."""

    about = About("lines", "1", SKELETON, DECODE, {})

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def run(self, images: np.ndarray) -> Outputs:
        self.shapes.append(images.shape[:3])
        height = images[:, 0, 0, 0].astype(np.float32)
        keypoints = np.stack(
            [np.broadcast_to(np.arange(6) * 40.0, (len(images), 6)), np.repeat(height, 6).reshape(-1, 6)], -1
        )
        scores = np.full((len(images), 1), 0.5, np.float32) + height[:, None] / 1000
        return Outputs(scores, keypoints[:, None].astype(np.float32), np.ones((len(images), 1, 6), np.float32))


@pytest.fixture
def photo_set(tmp_path: Path) -> Path:
    """Photo n says 10 n, and the person stands there."""
    images, annotations = [], []
    (tmp_path / "val").mkdir()
    for number, (height, width) in enumerate(SIZES, 1):
        Image.new("RGB", (width, height), (10 * number,) * 3).save(tmp_path / "val" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        keypoints = [value for place in range(6) for value in (40 * place, 10 * number, 2)]
        where = {"bbox": [0, 10 * number, 200, 30], "area": 3000}
        annotations.append({"id": number, "image_id": number, "category_id": 1, "keypoints": keypoints, **where})
    categories = [{"id": 1, "name": "person", "keypoints": list(SKELETON.keypoints)}]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "val.json").write_text(json.dumps(truth))
    return tmp_path / "val.json"


def people_in(path: Path, folder: Path | None = None) -> tuple[AnnotatedPhoto, ...]:
    return read_photos(f"{path}:{folder or path.parent / 'val'}", SKELETON)


def results_of(output: Path) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = json.loads((output / "results.json").read_text())
    return results


def test_photos_of_one_size_share_a_run_and_results_keep_their_order(photo_set: Path, tmp_path: Path) -> None:
    shapes, found = {}, {}
    for batch in (1, 2, 100):
        network = Lines()
        output = tmp_path / f"{batch}"
        scores = evaluate(PoseDet(network), people_in(photo_set), RULES, output=output, batch=batch)
        assert (scores.ap, scores.num_photos) == (1, 7)
        shapes[batch], found[batch] = network.shapes, results_of(output)
    assert shapes[1] == [(1, *size) for size in SIZES]
    assert shapes[2] == [(2, 256, 256), (2, 128, 256), (2, 256, 256), (1, 256, 256)]
    assert sorted(shapes[100]) == [(2, 128, 256), (5, 256, 256)]
    assert found[1] == found[2] == found[100]
    assert [result["image_id"] for result in found[1]] == [1, 2, 3, 4, 5, 6, 7]


def test_cropped_photos_share_runs_too(photo_set: Path, tmp_path: Path) -> None:
    network = Lines()
    scores = evaluate(PoseDet(network), people_in(photo_set), CROPPED_LINES, output=tmp_path / "out", batch=100)
    alone = evaluate(PoseDet(Lines()), people_in(photo_set), CROPPED_LINES)
    assert scores == alone and sum(shape[0] for shape in network.shapes) == scores.num_photos > len(network.shapes)


CROPPED_LINES = type(CROPPED_PROTOCOL)(**{**vars(RULES), "name": "cropped", "view": "cropped"})


@pytest.mark.parametrize("batch", [1, 2])
def test_an_interrupted_evaluation_goes_on(photo_set: Path, tmp_path: Path, batch: int) -> None:
    sixth = (tmp_path / "val" / "6.png").read_bytes()
    (tmp_path / "val" / "6.png").write_bytes(sixth[:100])
    output = tmp_path / "out"

    def run(network: Lines, model: str = "m", **settings: Any) -> None:
        evaluate(
            PoseDet(network),
            people_in(photo_set),
            RULES,
            output=output,
            model=model,
            settings=settings,
            batch=batch,
        )

    with pytest.raises(PhotoError, match=r"6.png"):
        run(Lines())
    (tmp_path / "val" / "6.png").write_bytes(sixth)
    # A line that was cut off is made again.
    (partial,) = output.glob("predictions-*.jsonl")
    mark, *lines = partial.read_text().splitlines(keepends=True)
    assert json.loads(mark) == {"generator": "posedet evaluate"}
    assert [json.loads(line)[0] for line in lines] == ([1, 2, 3, 4, 5] if batch == 1 else [1, 3, 2, 4])
    partial.write_text((mark + "".join(lines))[:-9])
    network = Lines()
    run(network)
    assert sum(shape[0] for shape in network.shapes) == 7 - (len(lines) - 1)
    assert [result["image_id"] for result in results_of(output)] == [1, 2, 3, 4, 5, 6, 7]
    assert sorted(path.name for path in output.iterdir()) == ["report.json", "results.json"]


def test_another_model_does_not_go_on_with_what_is_not_its_own(photo_set: Path, tmp_path: Path) -> None:
    sixth = (tmp_path / "val" / "6.png").read_bytes()

    def run(damaged: bool, **settings: Any) -> int:
        (tmp_path / "val" / "6.png").write_bytes(sixth[:100] if damaged else sixth)
        network = Lines()
        rest = {"output": tmp_path / "out", "settings": settings}
        if damaged:
            with pytest.raises(PhotoError):
                evaluate(PoseDet(network), people_in(photo_set), RULES, **rest)
        else:
            evaluate(PoseDet(network), people_in(photo_set), RULES, **rest)
        return len(network.shapes)

    assert run(True, sha256="a") == 5
    assert run(True, sha256="b") == 5
    assert run(False, sha256="a") == 2
    assert json.loads((tmp_path / "out" / "report.json").read_text())["results"]["settings"] == {"sha256": "a"}


@pytest.mark.parametrize("change", ["photos", "annotations"])
def test_nor_with_what_was_found_in_other_photos(change: str, photo_set: Path, tmp_path: Path) -> None:
    """Only the settings' sha256 changed above; here the same model sees other photos under the same ids."""
    seventh = (tmp_path / "val" / "7.png").read_bytes()
    (tmp_path / "val" / "7.png").write_bytes(seventh[:100])
    with pytest.raises(PhotoError):
        evaluate(PoseDet(Lines()), people_in(photo_set), RULES, output=tmp_path / "out")
    folder = tmp_path / "val"
    (folder / "7.png").write_bytes(seventh)
    if change == "photos":
        folder = folder.rename(tmp_path / "renamed")
    else:
        changed(photo_set, lambda truth: truth["images"][0].update(file_name="3.png"))
    network = Lines()
    evaluate(PoseDet(network), people_in(photo_set, folder), RULES, output=tmp_path / "out")
    assert len(network.shapes) == 7


def test_results_have_the_category_of_people(photo_set: Path, tmp_path: Path) -> None:
    def renumber(truth: dict[str, Any]) -> None:
        truth["categories"] = [
            {"id": 1, "name": "car"},
            {"id": 2, "name": "dot", "keypoints": ["point_0"]},
            truth["categories"][0] | {"id": 7},
        ]
        for annotation in truth["annotations"]:
            annotation["category_id"] = 7

    changed(photo_set, renumber)
    scores = evaluate(PoseDet(Lines()), people_in(photo_set), RULES, output=tmp_path / "out")
    assert scores.ap == 1 and {result["category_id"] for result in results_of(tmp_path / "out")} == {7}
    report_errors(people_in(photo_set), PoseDet(Lines()), RULES, tmp_path / "page.html", truth="val.json")


def test_a_folder_in_which_nothing_can_be_written(
    photo_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(PoseDetError, match=r"out: cannot be written to \(Permission denied\); choose another folder"):
        evaluate(lambda photo: pytest.fail("predicted"), people_in(photo_set), RULES, output=tmp_path / "out")


def test_what_is_wrong_with_the_truth_is_known_before_predicting(photo_set: Path, tmp_path: Path) -> None:
    for rules in (crowded(RULES), crowded(CROPPED_LINES)):
        with pytest.raises(DataError, match=rf"^{photo_set}: images\[0\]: the crowd index \('crowdIndex'\) is missing"):
            evaluate(lambda photo: pytest.fail("predicted"), people_in(photo_set), rules)
    changed(photo_set, lambda truth: truth["annotations"][3].update(area=None))
    with pytest.raises(DataError, match=rf"^{photo_set}: annotations\[3\].area: None"):
        people_in(photo_set)
    changed(photo_set, lambda truth: truth["annotations"][3].pop("area"))
    (tmp_path / "val" / "5.png").unlink()
    with pytest.raises(MissingPhotosError, match=r"images\[4\]: '.*5.png': no such photo \(1 of 7 are missing\)$"):
        people_in(photo_set)
    changed(photo_set, lambda truth: truth["images"][0].update(file_name="../val.json"))
    with pytest.raises(DataError, match="is outside the photo folder"):
        people_in(photo_set)


def crowded(rules: Protocol) -> Protocol:
    return replace(rules, crowd_bins=(0.1, 0.8))


def test_only_a_detector_runs_batches() -> None:
    def alone(photo: object) -> Poses:
        raise AssertionError

    with pytest.raises(ConfigError, match=r"^batch is 2, but function takes one photo at a time$"):
        predict_all(alone, [], batch=2)
    with pytest.raises(ConfigError, match=r"^size is 0, expected at least 1 photo$"):
        predict_all(PoseDet(Lines()), [(1, Path("x.jpg"))], batch=0)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--batch", "0"], "--batch 0: expected at least 1"),
        (["--batch", "2", "--tta", "paper"], "--batch does not go with --tta, which takes one photo at a time"),
        (["--batch", "2", "--results", "x.json"], "--batch does not go with --results, which runs no model"),
        (["--device", "cuda", "--results", "x.json"], "--device does not go with --results, which runs no model"),
        (["--photos", "a", "--results", "x.json"], "--photos does not go with --results, which runs no model"),
        (
            ["--device", "cuda", "--model", "posedet-s"],
            "device 'cuda' is not in this ONNX Runtime; install onnxruntime-gpu in its place",
        ),
    ],
)
def test_options_that_cannot_be(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "val.json", *arguments]) == 2
    assert capsys.readouterr().err == f"posedet: error: {expected}\n"


def test_a_device_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    weights = resources.files("posedet") / "released" / "posedet-s.safetensors"
    assert main(["evaluate", "val.json", "--model", str(weights), "--device", "abacus"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("posedet: error: device 'abacus' is not available: ") and said.count("\n") == 1
    assert open_model(str(weights), device="auto").device == ("cuda:0" if torch.cuda.is_available() else "cpu")


def test_a_folder_that_cannot_be(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("a file")
    command = ["evaluate", str(photos / "truth.json"), "--photos", str(photos), "--output", str(tmp_path / "out")]
    assert main(command) == 2
    reason = "cannot be written to (File exists); choose another folder"
    assert capsys.readouterr().err == f"posedet: error: {tmp_path}/out: {reason}\n"


def test_whose_order_results_have_is_asked(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A truth with COCO's keypoints reversed, found exactly: 100 by one order, next to nothing by the other."""
    truth = json.loads((photos / "truth.json").read_text())
    truth["categories"][0] |= {"keypoints": list(reversed(COCO.keypoints)), "skeleton": []}
    for person in truth["annotations"]:
        person["keypoints"] = np.reshape(person["keypoints"], (17, 3))[::-1].ravel().tolist()
    found = [{**person, "score": 0.5} for person in truth["annotations"] if person["num_keypoints"]]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(found))
    command = ["evaluate", str(tmp_path / "truth.json"), "--results", str(tmp_path / "found.json")]
    assert main(command) == 2
    assert capsys.readouterr().err == (
        f"posedet: error: {tmp_path}/truth.json: lists the keypoints of 'coco' in another order; name the order of the "
        f"results with --skeleton coco, or --skeleton {tmp_path}/truth.json for the order of the file\n"
    )
    scores = []
    for order in (str(tmp_path / "truth.json"), "coco"):
        assert main([*command, "--skeleton", order]) == 0
        scores.append(float(capsys.readouterr().out.splitlines()[-1].split("|")[2]))
    assert scores[0] == 100 and scores[1] < 10


@pytest.mark.slow
def test_chosen_keypoints_by_chosen_rules(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a model and of a file; keypoints that are as wide as a person are found where narrow ones are not."""
    truth, rows = photos / "truth.json", []
    for name, sigma in (("narrow", 0.002), ("wide", 1.0)):
        skeleton = tmp_path / f"{name}.toml"
        skeleton.write_text(f'name = "{name}"\nkeypoints = ["left_wrist", "nose"]\nsigmas = [{sigma}, {sigma}]\n')
        chosen = ["--protocol", "coco", "--skeleton", str(skeleton)]
        found = ["--photos", str(photos), "--output", str(tmp_path / name), "--threads", "1", "--long-side", "128"]
        assert main(["evaluate", str(truth), *chosen, *found]) == 0
        rows.append(capsys.readouterr().out.splitlines()[-1].split("|")[2:])
        assert main(["evaluate", str(truth), *chosen, "--results", str(tmp_path / name / "results.json")]) == 0
        assert capsys.readouterr().out.splitlines()[-1].split("|")[2:] == rows[-1]
    narrow, wide = (float(row[0]) for row in rows)
    assert narrow < 10 < 50 < wide


@pytest.mark.slow
def test_batches_on_the_command_line(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same table as one by one."""
    command = ["evaluate", str(photos / "truth.json"), "--photos", str(photos), "--threads", "1", "--long-side", "128"]
    assert main(command) == 0
    table = capsys.readouterr().out
    assert main([*command, "--batch", "4", "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out == table
    settings = json.loads((tmp_path / "report.json").read_text())["results"]["settings"]
    assert settings["long_side"] == 128 and len(settings["sha256"]) == 64


@pytest.mark.parametrize("command", ["evaluate", "errors"])
def test_no_option_about_a_model_goes_with_results(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_detector_options(parser)
    options = [action.option_strings[0] for action in parser._actions if action.dest not in ("help", "skeleton")]
    assert {"--model", "--runtime", "--device", "--threads", "--long-side", "--score-threshold"} <= set(options)
    for option in options:
        value = {"--runtime": "openvino", "--model": "posedet-s"}.get(option, "1")
        output = ["--output", "x.html"] if command == "errors" else []
        assert main([command, "x.json", "--results", "y.json", *output, option, value]) == 2
        expected = f"posedet: error: {option} does not go with --results, which runs no model\n"
        assert capsys.readouterr().err == expected


def test_the_folder_of_the_photos_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "val.json:a", "--photos", "b"]) == 2
    expected = "--photos b: val.json:a already names a folder; give only one of them"
    assert capsys.readouterr().err == f"posedet: error: {expected}\n"
