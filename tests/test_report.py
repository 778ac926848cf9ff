import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from posedet import __version__
from posedet.errors import PoseDetError
from posedet.evaluation.keypoint_ap import KeypointAP
from posedet.evaluation.report import score_table, write_report

SCORES = KeypointAP(
    protocol="coco",
    num_photos=400,
    num_persons=1088,
    num_keypoints=17,
    missing_keypoints=[],
    num_poses=3000,
    ap=0.5764,
    ap50=0.8,
    ap75=1.0,
    ap_medium=0.0,
    ap_large=-1.0,
    ar=0.1,
    ar50=0.2,
    ar75=0.3,
    ar_medium=0.4,
    ar_large=-1.0,
    ap_easy=None,
    ap_medium_crowd=None,
    ap_hard=None,
    ap_easy_paper=None,
    ap_medium_crowd_paper=None,
    ap_hard_paper=None,
)
CROWDED = replace(SCORES, protocol="crowdpose", ap_easy=0.7, ap_medium_crowd=0.6, ap_hard=-1.0)


def test_table() -> None:
    assert score_table({"posedet-s": SCORES, "b": replace(SCORES, ap=0.05)}).splitlines() == [
        "|           |   AP | AP50 |  AP75 | APm | APl |   AR | AR50 | AR75 |  ARm | ARl |",
        "|-----------|-----:|-----:|------:|----:|----:|-----:|-----:|-----:|-----:|----:|",
        "| posedet-s | 57.6 | 80.0 | 100.0 | 0.0 |   - | 10.0 | 20.0 | 30.0 | 40.0 |   - |",
        "| b         |  5.0 | 80.0 | 100.0 | 0.0 |   - | 10.0 | 20.0 | 30.0 | 40.0 |   - |",
    ]


def test_table_by_crowd_index() -> None:
    assert score_table({"m": CROWDED}).splitlines() == [
        "|   |   AP | AP50 |  AP75 |   AR | AR50 | AR75 | AP easy | AP medium | AP hard |",
        "|---|-----:|-----:|------:|-----:|-----:|-----:|--------:|----------:|--------:|",
        "| m | 57.6 | 80.0 | 100.0 | 10.0 | 20.0 | 30.0 |    70.0 |      60.0 |       - |",
    ]


def test_report_says_how_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["posedet", "evaluate", "val.json"])
    path = tmp_path / "report.json"
    path.write_text('{"generator": "posedet evaluate", "an": "earlier report"}')
    write_report(path, "posedet evaluate", {"coco": SCORES.to_dict(), "photos_per_s": 12.5})
    report = json.loads(path.read_text())
    assert report["command"] == ["posedet", "evaluate", "val.json"]
    assert report["results"]["photos_per_s"] == 12.5
    assert KeypointAP(**report["results"]["coco"]) == SCORES
    assert report["versions"]["posedet"] == __version__
    assert {"python", "numpy", "onnxruntime"} <= report["versions"].keys()
    assert report["hardware"]["cores"] >= 1 and report["hardware"]["processor"]
    assert report["time"].endswith("+00:00")
    assert [each.name for each in tmp_path.iterdir()] == ["report.json"]


def test_a_report_that_cannot_be_written_leaves_the_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("an earlier report")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report(path, "posedet evaluate", {"ap": float("nan")}, command=["x"])
    assert path.read_text() == "an earlier report"
    with pytest.raises(PoseDetError, match=r"no/report\.json: could not be written \(No such file or directory\)"):
        write_report(tmp_path / "no" / "report.json", "posedet evaluate", {}, command=["x"])
