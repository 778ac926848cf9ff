"""The paper's tables: what they say, what is trained for them and what is not trained again."""

import json
import shutil
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from lab.paper import evaluations, table_runs
from lab.paper.__main__ import main
from lab.paper.measured import Measured, effect_by_seed, paper_effect, spread, write_table
from lab.paper.tables import BASE, SUPPRESSION, TABLE1, TABLE4, TABLE5, TABLES, Table, TableRow
from posedet import PoseDet
from posedet.config import config_from_dict, load_config
from posedet.data.sources import read_photos
from posedet.evaluation.keypoint_ap import KeypointAP
from posedet.evaluation.protocols import COCO_PROTOCOL, CROWDPOSE_PROTOCOL
from posedet.evaluation.run import EVALUATED_SCORE, evaluate
from posedet.skeleton import COCO as COCO_SKELETON
from posedet.weights.torch_session import open_weights
from sets import changed, made_up_set

WEIGHTS = Path(str(resources.files("posedet") / "released" / "posedet-s.safetensors"))
REFINEMENTS = load_config("posedet-s").model.refinements
SHIPPED = WEIGHTS.with_suffix(".onnx")
TOY = ["train.steps=2", "train.batch_size=2", "train.ema=0.0", "data.patch=64", "assign.selected=8"]
TOY += ["decode.long_side=128"]


def changed_settings(table: Table, row: TableRow) -> dict[str, object]:
    """What distinguishes a row: its decode settings, and every setting of its run."""
    assert row.run is not None
    config = load_config(table.preset or row.run, [*BASE, *table.runs[row.run]])
    return {
        f"{section}.{key}": value
        for section, keys in {**config.to_dict(), "decode": {**config.to_dict()["decode"], **row.decode}}.items()
        for key, value in keys.items()
    }


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_tables_are_whole(table: Table) -> None:
    assert all(len(row.paper) in (0, len(table.columns)) for row in table.rows)
    assert all(0 < points < 100 for row in table.rows for points in row.paper)
    assert {row.run for row in table.rows} - {None} == set(table.runs)
    assert len({row.label for row in table.rows}) == len(table.rows)


@pytest.mark.parametrize("table", [table for table in TABLES.values() if table.effects], ids=lambda table: table.name)
def test_an_effect_is_of_one_setting(table: Table) -> None:
    for effect in table.effects:
        changes = set()
        for a, b in effect.pairs:
            one, other = changed_settings(table, table.rows[a]), changed_settings(table, table.rows[b])
            (change,) = [(key, other[key], one[key]) for key in one if one[key] != other[key]]
            changes.add(change)
        assert len(changes) == 1, effect.label


def test_a_run_is_the_same_in_every_table_with_its_preset() -> None:
    seen: dict[tuple[str, str], tuple[str, ...]] = {}
    for table in TABLES.values():
        for run, settings in table.runs.items():
            assert seen.setdefault((table.preset or run, run), settings) == settings


def test_effects_of_the_paper() -> None:
    """As its text has them: 21.2 points of AP75 by refinement; 1.4 of AP hard by OKS-NMS, from 1.3, 1.4, 1.6, 1.2."""
    assert paper_effect(TABLE4, TABLE4.effects[0], "AP75") == pytest.approx(21.2)
    assert paper_effect(TABLE5, TABLE5.effects[0], "AP hard") == pytest.approx(1.375)


def scores(ap: float, *, ap_hard: float | None = None) -> KeypointAP:
    fields = dict.fromkeys(KeypointAP.__dataclass_fields__, 0.0)
    return KeypointAP(**{**fields, "protocol": "crowdpose", "ap": ap, "ap_hard": ap_hard})


def test_effects_by_seed_and_their_spread(tmp_path: Path) -> None:
    """Two pairs, seeds 0 and 1 (seed 2 is not whole): differences 10, 20 and 4, 8 points -> 15 and 6."""
    effect = replace(TABLE4.effects[0], pairs=((0, 1), (2, 3)))
    by_seed = [{0: 0.3, 1: 0.24, 2: 0.5}, {0: 0.2, 1: 0.2}, {0: 0.5, 1: 0.3}, {0: 0.3, 1: 0.22, 2: 0.1}]
    measured = [
        Measured(row, [(seed, scores(ap, ap_hard=-1.0)) for seed, ap in found.items()], "")
        for row, found in zip(TABLE5.rows, by_seed, strict=False)
    ]
    assert effect_by_seed(measured, effect, "AP", "crowdpose") == pytest.approx({0: 15, 1: 6})
    assert effect_by_seed(measured, effect, "AP hard", "crowdpose") == {}
    assert spread([15.0, 6.0], "+") == "+10.5 ± 6.4"  # sqrt(2 x 4.5^2)
    assert (spread([]), spread([6.25]), spread([-6.25], "+")) == ("-", "6.2", "-6.2")

    table = replace(TABLE4, effects=(replace(effect, pairs=((1, 0),)),))
    measured = [
        Measured(TABLE4.rows[0], [(0, scores(0.2)), (1, scores(0.3))], ""),
        Measured(TABLE4.rows[1], [(0, scores(0.4)), (1, scores(0.6))], ""),
    ]
    text = write_table(table, measured, tmp_path, {"protocol": "crowdpose", "data": "val.json"})
    without, with_, effect_line = (line.split(" | ") for line in text.splitlines() if line.startswith(("| wi", "| re")))
    assert without[:3] == ["| without refinement", "51.7", "85.2"] and without[7] == "25.0 ± 7.1"
    assert with_[1] == "65.9" and with_[7] == "50.0 ± 14.1"
    assert effect_line[1] == "+14.2" and effect_line[7] == "+25.0 ± 7.1"
    assert (tmp_path / "table4.md").read_text() == f"<!-- generator: lab.paper -->\n{text}"


@pytest.fixture
def toy(tmp_path: Path) -> list[str]:
    """Arguments of a table on three photos of noise."""
    data = made_up_set(tmp_path / "noise.json", COCO_SKELETON.keypoints)
    changed(data, lambda content: [person.update(area=3000) for person in content["annotations"]])
    arguments = ["--preset", "posedet-s", "--protocol", "coco", "--data", str(data), "--train-data", str(data)]
    arguments += ["--output", str(tmp_path / "out"), "--workers", "0"]
    return [*arguments, *(word for setting in TOY for word in ("--set", setting))]


@pytest.mark.slow
def test_trains_each_run_once(
    toy: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    train = table_runs.train

    def counted(config, photos, run: Path, **rest):
        trained.append(f"{run.parent.name}/{run.name}")
        return train(config, photos, run, **rest)

    monkeypatch.setattr(table_runs, "train", counted)
    assert main(["table4", *toy, "--seeds", "2"]) == 0
    table4 = capsys.readouterr().out
    assert sorted(trained) == ["base/seed0", "base/seed1", "no-refinement/seed0", "no-refinement/seed1"]
    out = tmp_path / "out"
    configs = {
        name: config_from_dict(json.loads((out / "runs" / name / "config.json").read_text())["config"], name)
        for name in trained
    }
    base, other = configs["base/seed0"], configs["no-refinement/seed0"]
    assert base.model.refinements == REFINEMENTS and other.model.refinements == 0
    assert replace(base, model=replace(base.model, refinements=0)) == other
    assert configs["base/seed1"] == replace(base, train=replace(base.train, seed=1))
    report = json.loads((out / "table4.json").read_text())
    assert report["command"] and report["hardware"]["processor"]
    assert report["results"]["rows"][1]["paper"]["AP"] == 65.9
    assert list(report["results"]["rows"][1]["ours"]) == ["0", "1"]
    assert report["results"]["runs"]["base/seed1"]["config"]["train"]["seed"] == 1

    # Each run is validated on the way, and keeps those weights. Of a thousand steps there would be 21.
    log = [json.loads(line) for line in (out / "runs/base/seed0/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if "ap" in line.get("validation", {})] == [0, 1]
    kept = sorted(path.name for path in (out / "runs/base/seed0").glob("weights*"))
    assert kept == ["weights-1.safetensors", "weights-2.safetensors", "weights.safetensors"]

    # Another table in the same folder needs one more run; what is not asked for says so, what is there is shown.
    trained.clear()
    assert main(["table5", *toy, "--only", "no-heatmaps"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert trained == ["no-heatmaps/seed0"]
    assert [line for line in lines if "centre of box" in line and "not run: no --weights box-centre" in line]
    assert len([line for line in lines if "centre of keypoints" in line and line.endswith("| 1 |")]) == 4

    # A run that was cut short is finished; what is whole is neither trained nor evaluated again.
    trained.clear()
    monkeypatch.setattr(evaluations, "evaluate", lambda *_, **__: pytest.fail("evaluated again"))
    for name in ("weights", "state"):
        (out / f"runs/base/seed1/{name}.safetensors").unlink()
    assert main(["table4", *toy, "--seeds", "2"]) == 0
    assert trained == ["base/seed1"] and capsys.readouterr().out == table4

    # A run may be older than a setting: then it has what was done before there was a choice.
    plan = json.loads((out / "runs/base/seed0/plan.json").read_text())
    del plan["config"]["assign"]["least_side"]
    (out / "runs/base/seed0/plan.json").write_text(json.dumps(plan))
    assert main(["table4", *toy, "--seeds", "2"]) == 2
    expected = f"{out}/runs/base/seed0: was trained with assign.least_side = 0.0, now 0.3; choose another --output"
    assert capsys.readouterr().err.splitlines()[-1] == f"posedet: error: {expected}"

    assert main(["table4", *toy, "--seeds", "2", "--set", "train.clip=5.0"]) == 2
    expected = f"{out}/runs/no-refinement/seed0: was trained with train.clip = 10.0, now 5.0; choose another --output"
    assert capsys.readouterr().err.splitlines()[-1] == f"posedet: error: {expected}"


def test_truth_is_checked_before_training(
    toy: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_runs, "train", lambda *_, **__: pytest.fail("trained"))
    place = toy.index("--data") + 1
    data = Path(toy[place]).with_name("val.json")  # training has others
    shutil.copy(toy[place], data)
    data.with_suffix("").symlink_to(Path(toy[place]).with_suffix(""))
    toy[place] = str(data)
    changed(data, lambda content: content["annotations"][1].update(area=-1))
    assert main(["table4", *toy]) == 2
    expected = f"{data}: annotations[1].area: -1, expected a number from 0 to 1e+18"
    assert capsys.readouterr().err == f"posedet: error: {expected}\n"


def test_other_photos_are_evaluated_anew(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = []
    monkeypatch.setattr(evaluations, "evaluate", lambda *_, output, **__: folders.append(output))
    for folder in (photos, tmp_path):
        session = evaluations.open_model(SHIPPED)
        seen = read_photos(f"{photos}/truth.json:{folder}", COCO_PROTOCOL.skeleton, check_files=False)
        evaluations.evaluated(session, SHIPPED, seen, COCO_PROTOCOL, tmp_path)
    assert len(set(folders)) == 2


@pytest.mark.slow
def test_given_weights_are_evaluated_as_by_evaluate(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row is what `evaluate` finds with the row's suppression."""
    chosen = [row for row in SUPPRESSION.rows if row.decode["nms_threshold"] == 0.1]
    monkeypatch.setitem(TABLES, "suppression", replace(SUPPRESSION, rows=tuple(chosen)))
    truth = photos / "truth.json"
    command = ["suppression", "--data", str(truth), "--photos", str(photos), "--output", str(tmp_path)]
    assert main([*command, "--set", "decode.long_side=192", "--weights", f"posedet-s={WEIGHTS}"]) == 0
    rows = json.loads((tmp_path / "suppression.json").read_text())["results"]["rows"]
    found = {row["decode"]["nms"]: row["ours"]["0"]["ap"] for row in rows}
    assert found["oks"] != found["iou"]
    for nms, ap in found.items():
        session = open_weights(WEIGHTS)
        decode = replace(session.about.decode, long_side=192, nms=nms, nms_threshold=0.1)
        session.about = replace(session.about, decode=decode)
        detector = PoseDet(session, skeleton=COCO_PROTOCOL.skeleton, score_threshold=EVALUATED_SCORE)
        assert evaluate(detector, read_photos(f"{truth}:{photos}", COCO_PROTOCOL.skeleton), COCO_PROTOCOL).ap == ap


def test_tables_of_presets_show_the_shipped_model(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Table 2 asks for test-time augmentation as in the paper, Table 1 for none; the large networks are not there."""
    asked: list[object] = []
    augmented = []

    def seen(predict, photos, protocol, **_: object) -> KeypointAP:
        asked.append(predict)
        return scores(0.304)

    monkeypatch.setattr(evaluations, "evaluate", seen)
    monkeypatch.setattr(evaluations, "Augmented", lambda detector, merge: augmented.append(merge))
    for table in ("table1", "table2"):
        command = [table, "--data", str(photos / "truth.json"), "--photos", str(photos)]
        assert main([*command, "--output", str(tmp_path / table)]) == 0
        lines = capsys.readouterr().out.splitlines()
        (shipped,) = [line for line in lines if line.startswith("| posedet-s (ours)")]
        assert shipped.split(" | ")[-7:-4] == ["-", "30.4", "0.0"]
        (large,) = [line for line in lines if line.startswith("| PoseDet, HRNet-W48")]
        assert large.endswith("| - | not run: no --weights hrnet-w48-coco=FILE, no --train-data |")
        if table == "table1":
            paper, ours = large.split(" | ")[1], shipped.split(" | ")[2]
            assert paper == "10.0" and float(ours) > 1  # photos per second
    assert isinstance(asked[0], PoseDet) and augmented == ["paper"] and asked[1] is None


def test_on_a_gpu_the_weights_beside_an_onnx_file_run(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[Path, object]] = []
    monkeypatch.setattr(evaluations, "open_model", lambda file, device: opened.append((file, device)))
    for device in ("cpu", "cuda"):
        evaluations.open_for(SHIPPED, device)
    assert opened == [(SHIPPED, "cpu"), (WEIGHTS, "cuda")]


def test_crowd_columns_follow_crowdpose() -> None:
    measured = Measured(TABLE4.rows[0], [(0, scores(0.5, ap_hard=0.25))], "")
    assert measured.points("AP hard", CROWDPOSE_PROTOCOL.name) == {0: 25.0}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["table4", "--only", "bas"], "--only bas: no such run; the runs of this table are no-refinement, base"),
        (
            ["table4", "--weights", "bas=x"],
            "--weights bas=x: no such run; the runs of this table are no-refinement, base",
        ),
        (["table4", "--weights", "x.onnx"], "--weights x.onnx: expected RUN=FILE, RUN one of no-refinement, base"),
        (["table4", "--weights", "base=no.onnx"], "no.onnx: no such model file"),
        (["table4", "--start", "bas=x"], "--start bas=x: no such run; the runs of this table are no-refinement, base"),
        (["table4"], "val.json: no such file"),
        (
            ["representations", "--preset", "posedet-s", "--weights", "centre-point=posedet-s"],
            f"{SHIPPED}: was trained with model.representation = 'pose', but the run 'centre-point' has 'centre'",
        ),
        (
            ["table4", "--weights", f"base={WEIGHTS}"],
            f"{WEIGHTS}: was trained with model.backbone = 'mobilenetv2', but the run 'base' has 'hrnet-w48'",
        ),
        (["table4", "--seeds", "0"], "--seeds 0: expected at least 1"),
        (
            ["table1", "--preset", "posedet-s"],
            "--preset posedet-s does not go with table1, whose rows are presets",
        ),
    ],
)
def test_what_a_user_reads_when_it_cannot_be(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--data", "val.json", "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"posedet: error: {expected}"


def test_start_weights_of_one_run_or_of_all() -> None:
    names = list(TABLE1.runs)
    url = "https://example.org/dla34.pth#sha256=ba72cf86"
    texts = [url, f"dla34-coco={url}", "hrnet-w32-coco=b.pth", "./odd=name.pth"]
    assert table_runs._by_run(texts, names, "--start") == {
        "": [url, "./odd=name.pth"],
        "dla34-coco": [url],
        "hrnet-w32-coco": ["b.pth"],
    }
