"""The tables from one root folder, in the layouts in which people keep COCO and CrowdPose; also by two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.paper import table_runs
from lab.paper.__main__ import main
from lab.paper.layouts import find_layout
from lab.paper.table_runs import Request
from posedet.data.sources import Source, read_photos
from posedet.errors import DataError
from posedet.evaluation.protocols import COCO_PROTOCOL
from posedet.evaluation.run import evaluate
from posedet.poses import Poses
from posedet.skeleton import COCO

REPOSITORY = Path(__file__).parents[2]
PHOTOS = REPOSITORY / "photos"


def coco(root: Path, annotations: str = "annotations", photos: str = "val2017") -> Path:
    (root / annotations).mkdir(parents=True, exist_ok=True)
    (root / annotations / "person_keypoints_val2017.json").write_text((PHOTOS / "truth.json").read_text())
    (root / photos).parent.mkdir(parents=True, exist_ok=True)
    (root / photos).symlink_to(PHOTOS)
    return root


@pytest.mark.parametrize("annotations", ["annotations", "."])
@pytest.mark.parametrize("photos", ["val2017", "images/val2017"])
def test_coco(annotations: str, photos: str, tmp_path: Path) -> None:
    root = coco(tmp_path / "with:colon", annotations, photos)
    expected = Source(root / annotations / "person_keypoints_val2017.json", str(root / photos))
    assert find_layout("coco", root) == (expected, None)
    assert len(read_photos(find_layout("coco", root).evaluation, COCO)) == 8
    train = root / annotations / "person_keypoints_train2017.json"
    train.touch()
    assert find_layout("coco", root).train is None  # without its photos
    folder = (root / photos).with_name("train2017")
    folder.mkdir()
    assert find_layout("coco", root) == (expected, Source(train, str(folder)))


@pytest.mark.parametrize(
    "name", ["json/crowdpose", "annotations/mmpose_crowdpose", "annotations/crowdpose", "crowdpose"]
)
def test_crowdpose(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / "images").mkdir()
    for part in ("test", "train"):
        (tmp_path / f"{name}_{part}.json").touch()
    test, train = (Source(tmp_path / f"{name}_{part}.json", str(tmp_path / "images")) for part in ("test", "train"))
    assert find_layout("crowdpose", tmp_path) == (test, train)


def test_another_folder(tmp_path: Path) -> None:
    expected = (
        f"^{tmp_path}: expected the root folder of coco, with annotations/person_keypoints_val2017.json and val2017/$"
    )
    with pytest.raises(DataError, match=expected):
        find_layout("coco", tmp_path)


def test_all_tables_that_the_roots_allow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Request] = []
    monkeypatch.setattr(table_runs, "reproduce", lambda request: asked.append(request) or "")
    root = coco(tmp_path)
    start = ["--start", "dla34-coco=a.pth", "--start", "hrnet-w48-crowdpose=b.pth", "--start", "c.pth"]
    assert main(["tables", "--coco", str(root), "--output", str(tmp_path / "out"), *start]) == 0
    assert [request.table.name for request in asked] == ["table1", "table2", "suppression"]
    assert asked[0].start == ["dla34-coco=a.pth", "c.pth"] and asked[1].start == ["c.pth"]
    assert {request.data.path.name for request in asked} == {"person_keypoints_val2017.json"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["table1"], "table1 needs --data, --coco or --crowdpose, and only one of them"),
        (["table1", "--data", "x", "--coco", "y"], "table1 needs --data, --coco or --crowdpose, and only one of them"),
        (["tables"], "tables needs --coco, --crowdpose or both"),
        (["table3", "--crowdpose", "no"], "no: expected the root folder of crowdpose, with annotations/crowdpose_test"),
    ],
)
def test_what_a_user_reads(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--output", "x"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"posedet: error: {expected}")


class Second:
    """The second of two processes, the first of which found nobody."""

    rank, world = 1, 2

    def gathered(self, items: list[Any]) -> list[Any]:
        return items


def test_a_process_predicts_its_share_and_writes_no_report(tmp_path: Path) -> None:
    photos = read_photos(f"{PHOTOS}/truth.json:{PHOTOS}", COCO)
    seen: list[Any] = []

    def predict(photo: Any) -> Poses:
        seen.append(photo)
        return Poses.empty(COCO)

    evaluate(predict, photos, COCO_PROTOCOL, output=tmp_path, processes=Second())
    assert seen == [photo.path for photo in photos[1::2]]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_processes_find_what_one_does(tmp_path: Path) -> None:
    root = coco(tmp_path)
    found = []
    for count in (1, 2):
        output = tmp_path / f"out{count}"
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        arguments = ["table1", "--coco", str(root), "--output", str(output)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, *launch, "-m", "lab.paper", *arguments],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.count("posedet-s (ours)") == 1
        (results,) = output.glob("evaluations/*/results.json")
        table = json.loads((output / "table1.json").read_text())["results"]
        found.append((results.read_text(), table["rows"][-1]["ours"], sorted(p.name for p in results.parent.iterdir())))
        assert len(table["rows"][-1]["fps"]) == 1
    assert found[0] == found[1] and found[0][2] == ["asked.json", "report.json", "results.json"]
