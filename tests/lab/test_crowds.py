"""The table of crowds: each row what `evaluate` finds, none made twice, and what cannot be said in one line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lab.paper import crowds, evaluations
from lab.paper.__main__ import main
from posedet import PoseDet
from posedet.data.sources import read_photos
from posedet.evaluation.protocols import PROTOCOLS
from posedet.evaluation.run import EVALUATED_SCORE, evaluate
from posedet.runtime.session import About
from posedet.skeleton import COCO
from sets import changed

CROWD_INDICES = {"street.jpg": 0.0, "child.jpg": 0.5, "tennis.jpg": 0.9}


@pytest.fixture
def sets(tmp_path: Path, photos: Path) -> dict[str, Path]:
    """Three photos as the set of each row; what CrowdPose has beyond COCO's keypoints, head and neck, is unlabelled."""
    truth = json.loads((photos / "truth.json").read_text())
    truth["images"] = [
        {**image, "crowdIndex": CROWD_INDICES[image["file_name"]]}
        for image in truth["images"]
        if image["file_name"] in CROWD_INDICES
    ]
    chosen = {image["id"] for image in truth["images"]}
    truth["annotations"] = [person for person in truth["annotations"] if person["image_id"] in chosen]
    sets = {name: tmp_path / f"{name}.json" for name in crowds.SETS}
    for path in sets.values():
        path.write_text(json.dumps(truth))
        path.with_suffix("").symlink_to(photos)
    changed(sets["crowdpose"], with_head_and_neck)
    return sets


def with_head_and_neck(truth: dict[str, Any]) -> None:
    truth["categories"][0]["keypoints"] += ["head", "neck"]
    for person in truth["annotations"]:
        person["keypoints"] += [0] * 6


def run(sets: dict[str, Path], output: Path, *more: str) -> int:
    options = [text for name, path in sets.items() for text in (f"--{name}", str(path))]
    return main(["crowds", *options, "--output", str(output), *more])


@pytest.mark.slow
def test_each_row_is_what_evaluate_finds(
    sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert run(sets, out) == 0
    table = capsys.readouterr().out
    assert (out / "crowds.md").read_text() == f"<!-- generator: lab.paper -->\n{table}"
    rows = json.loads((out / "crowds.json").read_text())["results"]["sets"]
    for name, path in sets.items():
        protocol = PROTOCOLS[name]
        detector = PoseDet(skeleton=protocol.skeleton, score_threshold=EVALUATED_SCORE)
        expected = evaluate(detector, read_photos(str(path), protocol.skeleton), protocol).to_dict()
        assert rows[name] == {"data": str(path), **expected}
        assert expected["ap"] > 0.02
    assert len({row["ap"] for row in rows.values()}) > 1 and rows["crowdpose"]["ap_easy"] is not None
    lines = table.splitlines()
    assert lines[0] == "**posedet-s in crowds**"
    assert [line.split(" | ")[0] for line in lines[4:7]] == ["| CrowdPose", "| OCHuman", "| COCO, cropped"]

    # A second time nothing is evaluated; a set that is not there says so, the others are as they were.
    monkeypatch.setattr(evaluations, "evaluate", lambda *_, **__: pytest.fail("evaluated again"))
    assert run(sets, out) == 0 and capsys.readouterr().out == table
    assert run({name: sets[name] for name in ("crowdpose", "cropped")}, out) == 0
    fewer = capsys.readouterr().out.splitlines()
    assert fewer[5] == "| OCHuman |" + " - |" * 11 + " not run: no --ochuman |"
    assert fewer[:5] + fewer[6:] == lines[:5] + lines[6:]
    assert json.loads((out / "crowds.json").read_text())["results"]["sets"]["ochuman"] == {
        "note": "not run: no --ochuman"
    }


def test_photos_may_lie_elsewhere(sets: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "ochuman").rename(tmp_path / "photos")
    assert main(["crowds", "--ochuman", f"{sets['ochuman']}:{tmp_path}/photos", "--output", str(tmp_path)]) == 0


def test_what_is_finished_stays_when_another_set_is_damaged(
    sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def damaged(content: dict[str, Any]) -> None:
        content["annotations"][1]["keypoints"] = [1, 2]

    changed(sets["ochuman"], damaged)
    assert run({"crowdpose": sets["crowdpose"]}, tmp_path / "out") == 0
    capsys.readouterr()
    assert run(sets, tmp_path / "out") == 2  # before anything is predicted
    expected = f"{sets['ochuman']}: annotations[1].keypoints: 2 numbers, expected 51 (17 x 3)"
    assert capsys.readouterr().err.splitlines()[-1] == f"posedet: error: {expected}"
    assert len(list((tmp_path / "out" / "evaluations").glob("*/report.json"))) == 1


def test_what_a_user_reads_when_it_cannot_be(
    sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(given: dict[str, Path], *more: str, output: Path = tmp_path / "out") -> str:
        assert run(given, output, *more) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("posedet: error: ")

    assert said({}) == "nothing to evaluate: give at least one of --crowdpose, --ochuman, --cropped"
    assert said({"cropped": tmp_path / "no.json"}) == f"{tmp_path}/no.json: no such file"
    (tmp_path / "ochuman").rename(tmp_path / "elsewhere")
    expected = rf"{sets['ochuman']}: images\[0\]: '{tmp_path}/ochuman/.*': no such photo \(3 of 3 are missing\); "
    assert re.fullmatch(rf"{expected}--ochuman {sets['ochuman']}:FOLDER says where they are", said(sets))
    (tmp_path / "elsewhere").rename(tmp_path / "ochuman")
    reason = "cannot be written to (File exists); choose another folder"
    assert said(sets, output=sets["cropped"]) == f"{sets['cropped']}: {reason}"
    assert said(sets, "--model", "no.onnx") == "no.onnx: no such model file"
    assert said(sets, "--device", "cuda") == "--device cuda needs PyTorch weights: --model x.safetensors"

    class OfCoco:
        """A model without head and neck."""

        about = About("coco", "1", COCO, PoseDet(threads=1).config, {})

    monkeypatch.setattr(crowds, "open_for", lambda *_: OfCoco())
    monkeypatch.setattr(crowds, "evaluated", lambda *_, **__: pytest.fail("evaluated"))
    expected = "--crowdpose does not go with posedet-s.onnx: skeleton 'coco': unknown keypoint 'head_top'"
    assert said(sets) == expected
