"""The benchmark: its arithmetic on numbers known beforehand, its stages against the detector, its words when wrong."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from posedet import PoseDet
from posedet.benchmark import peers
from posedet.benchmark.comparison import comparison_dict, comparison_table, conditions
from posedet.benchmark.stages import MODEL_STAGES, STAGES, TOTAL, Ours, Timed, totals
from posedet.benchmark.timing import Clock, Spread, interleaved, ratio
from posedet.benchmark.workers import Alternative, Worker, available_engines
from posedet.commands.benchmark import with_peers
from posedet.commands.main import main
from posedet.data.sources import read_photos
from posedet.errors import ConfigError, ModelError, PhotoError, PoseDetError
from posedet.evaluation.keypoint_ap import evaluate_keypoints
from posedet.evaluation.protocols import COCO_PROTOCOL
from posedet.image import Letterbox, read_photo
from posedet.runtime.model_files import model_file
from posedet.runtime.session import open_session
from timings import comparison

SHIPPED = str(model_file("posedet-s"))


# --- times ------------------------------------------------------------------------------------------------------------


def test_spread_is_median_and_quartiles():
    assert Spread.of([5, 1, 4, 2, 3]) == (3, 2, 4)
    assert Spread.of([7.0]) == (7, 7, 7)


@pytest.mark.parametrize(
    ("value", "shown"), [(0.1234, "0.12 (0.12-0.12)"), (12.34, "12.3 (12.3-12.3)"), (1234.4, "1234 (1234-1234)")]
)
def test_spread_as_text(value, shown):
    assert str(Spread(value, value, value)) == shown


def test_ratio_is_of_the_same_turn():
    """Twice as long at every moment, though the machine slows down tenfold: not the ratio of the medians of others."""
    reference = [1.0, 10.0, 100.0]
    assert ratio([2.0, 20.0, 200.0], reference) == (2, 2, 2)
    assert ratio([2.0, 10.0, 50.0], reference) == (1, 0.75, 1.5)


def test_alternatives_take_turns():
    said: list[str] = []

    def voice(name: str):
        return lambda case: said.append(f"{name}{case}") or f"{name}{case}"

    found = interleaved({name: voice(name) for name in "abc"}, [1, 2], rounds=2)
    assert said == ["a1", "b1", "c1", "b2", "c2", "a2", "c1", "a1", "b1", "a2", "b2", "c2"]
    assert found == {name: [f"{name}1", f"{name}2"] * 2 for name in "abc"}


def test_clock(monkeypatch):
    moments = iter([10.0, 10.5, 11.5, 11.75])
    monkeypatch.setattr("time.perf_counter", lambda: next(moments))
    clock = Clock()
    clock.lap("first")
    clock.skip()
    clock.lap("second")
    assert clock.ms == {"first": 500, "second": 250}


def test_totals():
    samples = [Timed({"network": 5, "nms": 1}, 2, None), Timed({"network": 7}, 2, None)]
    assert totals(samples, MODEL_STAGES) == [6, 7]
    assert totals(samples, ["decode"]) is None
    assert totals([], ["network"]) is None


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_peak_memory_is_of_this_process_alone():
    code = "{}from posedet.benchmark.stages import peak_memory_mb; print(peak_memory_mb())"
    small, large = (
        float(subprocess.run([sys.executable, "-c", code.format(first)], capture_output=True, check=True).stdout)
        for first in ("", "b'1' * 300_000_000; ")
    )
    assert small < 150 < 286 < large < 400


# --- stages -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def session():
    return open_session(Path(SHIPPED), threads=1)


@pytest.fixture
def ours(session):
    return Ours(session, "float32")


@pytest.mark.slow
def test_stages_do_what_the_detector_does(ours, detector: PoseDet, photos: Path, monkeypatch):
    """The poses at the end are the detector's: nothing is left out of the stages, or done in another way."""
    seen = []
    real = PoseDet.__call__
    monkeypatch.setattr(PoseDet, "__call__", lambda self, photo: seen.append(photo) or real(self, photo))
    for photo in ("group.jpg", "street.jpg"):
        path = str(photos / photo)
        timed = ours.measure(path)
        assert timed.num_people == len(real(detector, path)) > 0
        assert set(timed.ms) == {*STAGES, TOTAL}
        assert all(ms >= 0 for ms in timed.ms.values())
        assert timed.ms["network"] > max(timed.ms["nms"], timed.ms["poses"])
    assert len(seen) == 4, "one untimed and one timed call for each photo"


def test_stages_of_pixels_in_memory(ours, photos: Path):
    timed = ours.measure(read_photo(photos / "group.jpg"), long_side=320)
    assert timed.ms["decode"] == 0 < timed.ms["preprocess"]


def test_long_side_and_batch_reach_the_network(session, photos: Path):
    shapes = []

    class Spy:
        about = session.about

        def run(self, images):
            shapes.append(images.shape)
            return session.run(images)

    spied = Ours(Spy(), "float32")
    spied.measure(str(photos / "group.jpg"), 320)
    assert set(shapes) == {(1, 256, 320, 3)}
    shapes.clear()
    timed = spied.measure(str(photos / "group.jpg"), 256, batch=3)
    assert set(shapes) == {(3, 192, 256, 3)} and set(timed.ms) == {"network"}


# --- processes --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def worker():
    with Worker(Alternative(SHIPPED, "onnxruntime", 1)) as opened:
        yield opened


def test_a_worker_measures_in_its_own_process(worker, photos: Path):
    assert worker.precision == "float32"
    timed = worker.measure(str(photos / "skiers.jpg"), 320)
    assert set(timed.ms) == {*STAGES, TOTAL}
    if sys.platform == "linux":
        assert 50 < timed.peak_memory_mb < 1000


def test_a_worker_says_what_its_subject_says(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"broken\.onnx: not a readable ONNX file"):
        Worker(Alternative(str(broken), "onnxruntime", 1))
    with (
        Worker(Alternative(SHIPPED, "onnxruntime", 1)) as opened,
        pytest.raises(PhotoError, match=r"missing\.jpg: no such file"),
    ):
        opened.measure(str(tmp_path / "missing.jpg"))


def test_a_worker_that_dies_is_one_line():
    with Worker(Alternative(SHIPPED, "onnxruntime", 1)) as opened:
        opened._process.kill()
        opened._process.join()
        with pytest.raises(PoseDetError, match=r"posedet-s\.onnx in ONNX Runtime: its process ended"):
            opened.measure("photo.jpg")


def test_engines(tmp_path):
    assert available_engines(Path(SHIPPED), None) == ["onnxruntime", "openvino", "pytorch"]
    assert available_engines(tmp_path / "other.onnx", None) == []
    assert available_engines(tmp_path / "other.onnx", ["openvino"]) == ["openvino"]
    with pytest.raises(
        ConfigError, match=r"^unknown engine 'tflite'; available engines: onnxruntime, openvino, pytorch$"
    ):
        available_engines(Path(SHIPPED), ["tflite"])


# --- other models -----------------------------------------------------------------------------------------------------


def foreign(path: Path, shape: list[int | str], output: np.ndarray) -> Path:
    """A model that answers the same to every picture, plus the brightest of its input times nothing."""
    helper = onnx.helper
    nodes = [
        helper.make_node("ReduceMax", ["picture"], ["brightest"], keepdims=0),
        helper.make_node("Mul", ["brightest", "nothing"], ["zero"]),
        helper.make_node("Add", ["answer", "zero"], ["output"]),
    ]
    constants = {"answer": output.astype(np.float32), "nothing": np.zeros((), np.float32)}
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("picture", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, output.shape)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def best_poses() -> np.ndarray:
    """(1, 300, 57): two people at known places of a 640 x 640 input, and nobody else."""
    rows = np.zeros((1, 300, 57), np.float32)
    for place, (score, x) in enumerate([(0.9, 100.5), (0.3, 300.5)]):
        rows[0, place, 4] = score
        rows[0, place, 6:] = np.tile([x, 200.5, 0.5], 17)
    return rows


def test_best_poses_of_another_model_lie_in_the_photo():
    letterbox = Letterbox((240, 320), (480, 640), (640, 640))
    poses = peers.poses_from_output(best_poses(), letterbox)
    assert poses.scores.tolist() == pytest.approx([0.9, 0.3])
    # Their pixel centres are at halves: 100.5 is our 100, and half as large in the photo (100 + 0.5) / 2 - 0.5.
    np.testing.assert_allclose(poses.keypoints[:, 3], [[49.75, 99.75], [149.75, 99.75]], atol=1e-4)
    shares = best_poses()
    shares[..., 6::3] /= 640
    shares[..., 7::3] /= 640
    np.testing.assert_allclose(peers.poses_from_output(shares, letterbox).keypoints, poses.keypoints, atol=1e-4)


def test_every_location_of_another_model_is_suppressed_by_its_box():
    columns = np.zeros((1, 56, 8400), np.float32)
    for place, (x, score) in {7: (100, 0.5), 8: (110, 0.8), 9: (400, 0.6), 10: (400, 0.2)}.items():
        columns[0, :5, place] = x, 100, 200, 100, score
        columns[0, 5:, place] = np.tile([x, 100, 0.9], 17)
    poses = peers.poses_from_output(columns, Letterbox((640, 640), (640, 640), (640, 640)))
    assert poses.scores.tolist() == pytest.approx([0.8, 0.6])
    np.testing.assert_allclose(poses.keypoints[:, 0, 0], [109.5, 399.5])


@pytest.mark.parametrize("shape", [(1, 38, 32, 57), (2, 300, 57), (1, 84, 100)])
def test_other_outputs_are_not_understood(shape):
    assert peers.poses_from_output(np.ones(shape, np.float32), Letterbox((64, 64), (64, 64), (64, 64))) is None


@pytest.mark.parametrize("shape", [[1, 3, 640, 640], [1, 640, 640, 3], [1, 3, "height", "width"]])
def test_another_model_is_timed_from_file_to_poses(tmp_path, photos: Path, shape):
    peer = peers.open_peer(foreign(tmp_path / "other.onnx", shape, best_poses()), 1)
    timed = peer.measure(str(photos / "group.jpg"))
    assert timed.num_people == 2
    assert timed.ms[TOTAL] == pytest.approx(sum(timed.ms[stage] for stage in STAGES if stage in timed.ms))


def test_of_other_outputs_the_network_alone_is_timed(tmp_path, photos: Path):
    peer = peers.open_peer(foreign(tmp_path / "other.onnx", [1, 3, 64, 64], np.zeros((1, 19, 8, 8))), 1)
    timed = peer.measure(str(photos / "group.jpg"))
    assert timed.num_people is None and set(timed.ms) == {"decode", "preprocess", "network"}


@pytest.mark.slow
def test_a_file_of_ours_is_run_as_ours():
    assert isinstance(peers.open_peer(Path(SHIPPED), 1), Ours)


def test_arithmetic_in_bytes_is_told(tmp_path):
    """Of a model that rounds between its layers; OpenVINO computes these in bytes, whatever is asked for."""
    path = foreign(tmp_path / "other.onnx", [1, 3, 64, 64], best_poses())
    assert peers.open_peer(path, 1).precision == "float32"
    model = onnx.load(path)
    for name, inputs, output in (("QuantizeLinear", "output.whole", "bytes"), ("DequantizeLinear", "bytes", "output")):
        model.graph.node.append(onnx.helper.make_node(name, [inputs, "scale", "zero_point"], [output]))
    model.graph.node[2].output[0] = "output.whole"
    for constant, name in ((np.float32(0.1), "scale"), (np.uint8(0), "zero_point")):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(constant), name))
    onnx.save(model, path)
    assert peers.open_peer(path, 1).precision == "int8 + float32"


def test_models_that_cannot_be_timed(tmp_path):
    with pytest.raises(ModelError, match=r"none\.onnx: no such model file"):
        peers.open_peer(tmp_path / "none.onnx", 1)
    (tmp_path / "bad.onnx").write_bytes(b"bad")
    with pytest.raises(
        ModelError, match=r"bad\.onnx: not a readable ONNX file \(damaged, cut off, or of another format\)$"
    ):
        peers.open_peer(tmp_path / "bad.onnx", 1)
    (tmp_path / "bad.xml").write_bytes(b"bad")
    with pytest.raises(ModelError, match=r"bad\.xml: not a model that OpenVINO can read \(Unable to read the model"):
        peers.open_peer(tmp_path / "bad.xml", 1)
    with pytest.raises(ModelError, match=r"sound\.onnx: takes \[1,16000\], expected one image with 3 channels"):
        peers.open_peer(foreign(tmp_path / "sound.onnx", [1, 16000], np.zeros((1, 2))), 1)


# --- reports ----------------------------------------------------------------------------------------------------------


def test_table():
    rows = {line[: line.find("  ")]: line.split("  ") for line in comparison_table(comparison()).splitlines()[1:]}
    cells = {name: [cell.strip() for cell in cells[1:] if cell.strip()] for name, cells in rows.items()}
    assert cells["network"] == ["20.0 (15.0-35.0)", "40.0 (30.0-70.0)", "60.0 (45.0-105.0)"]
    assert cells["NMS"] == ["20.0 (15.0-35.0)", "-", "-"]
    assert cells["model (network + poses + NMS), as papers measure speed"][:2] == [
        "60.0 (45.0-105.0)",
        "80.0 (60.0-140.0)",
    ]
    assert cells["file to poses, as users experience it"] == ["20.0 (15.0-35.0)", "40.0 (30.0-70.0)", "-"]
    assert cells["network: times that of ours"] == ["1", "2.00 (2.00-2.00)", "3.00 (3.00-3.00)"]
    assert cells["file to poses: times that of ours"] == ["1", "2.00 (2.00-2.00)", "-"]
    assert cells["network, batch of 4, per photo"] == ["10.0 (7.5-17.5)", "-", "-"]
    assert cells["precision"] == ["float32"] * 3
    assert cells["peak memory of the process, MB"] == ["100", "200", "300"]


def test_conditions_are_stated():
    assert "Photos: 3, rounds: 1" in conditions(comparison()) and "threads: 2" in conditions(comparison())
    assert "busy" not in conditions(comparison())
    assert "The machine was busy (load 2.0)" in conditions(comparison(load=2.0))


def test_every_sample_is_in_the_report():
    report = json.loads(json.dumps(comparison_dict(comparison())))
    network = report["alternatives"]["peer"]["ms"]["network"]
    assert network == {"median": 40, "low": 30, "high": 70, "samples": [20, 40, 100]}
    assert report["alternatives"]["ours"]["network_ms_in_batches"]["4"]["samples"] == [5, 10, 25]


# --- the command ------------------------------------------------------------------------------------------------------


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main(["benchmark", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.slow
def test_command(capsys, photos: Path, tmp_path):
    other = foreign(tmp_path / "other.onnx", [1, 3, 64, 64], best_poses())
    code, out, _ = run(
        capsys,
        photos / "skiers.jpg",
        "--threads",
        1,
        "--rounds",
        1,
        "--batch",
        2,
        "--against",
        other,
        "--output",
        tmp_path,
    )
    assert code == 0
    assert out.splitlines()[0].split() == ["posedet-s,", "OpenVINO", "other"]
    report = json.loads((tmp_path / "benchmark.json").read_text())["results"]
    assert report["alternatives"]["other"]["num_people"] == [2]
    assert list(report["alternatives"]["posedet-s, OpenVINO"]["network_ms_in_batches"]) == ["2"]
    assert read_photo(tmp_path / "benchmark.png").shape[1] > 500


def test_another_model_of_ours_runs_in_the_same_engines(tmp_path):
    """By path or by name; any other file in OpenVINO."""
    (tmp_path / "mine.onnx").write_bytes(Path(SHIPPED).read_bytes())
    other = foreign(tmp_path / "other.onnx", [1, 3, 64, 64], best_poses())
    options = argparse.Namespace(
        model=str(tmp_path / "mine.onnx"), engines="onnxruntime,openvino", threads=1, against=["posedet-s", str(other)]
    )
    alternatives = with_peers(options)
    assert {name: (Path(each.model).stem, each.engine, each.foreign) for name, each in alternatives.items()} == {
        "mine, ONNX Runtime": ("mine", "onnxruntime", False),
        "mine, OpenVINO": ("mine", "openvino", False),
        "posedet-s, ONNX Runtime": ("posedet-s", "onnxruntime", False),
        "posedet-s, OpenVINO": ("posedet-s", "openvino", False),
        "other": ("other", "openvino", True),
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rounds", "0"], "--rounds 0: expected at least 1"),
        (["--threads", "0"], "--threads 0: expected at least 1"),
        (["--batch", "many"], "--batch many: expected whole numbers separated by commas, such as 4,8"),
        (["--batch", "0"], "--batch 0: expected whole numbers"),
        (["--engines", "gpu"], "--engines gpu: unknown engine 'gpu'; available engines: onnxruntime"),
        (
            ["--against", "a/x.onnx", "--against", "b/x.onnx"],
            "--against b/x.onnx: another model has the same file name; rename one",
        ),
    ],
)
def test_mistakes(capsys, photos: Path, arguments, said):
    code, _, err = run(capsys, photos / "skiers.jpg", *arguments)
    assert code == 2 and f"posedet: error: {said}" in err


def test_no_photos(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "--rounds", "1")
    assert code == 2 and "no photos: name some photos, or a folder of photos" in err


def test_no_matplotlib_costs_the_picture_only(capsys, photos: Path, tmp_path, monkeypatch):
    monkeypatch.setattr("posedet.commands.benchmark.find_spec", lambda _: None)
    code, _, err = run(
        capsys, photos / "skiers.jpg", "--engines", "onnxruntime", "--rounds", 1, "--batch", 1, "--output", tmp_path
    )
    assert code == 0 and "no chart: matplotlib is not installed" in err
    assert os.listdir(tmp_path) == ["benchmark.json"]


# --- results of other programs ----------------------------------------------------------------------------------------


def evaluate(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main(["evaluate", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_results_of_any_program_are_scored(capsys, detector: PoseDet, photos: Path, tmp_path):
    """As if the model had been run: the same poses in a file have the same AP."""
    truth = json.loads((photos / "truth.json").read_text())
    found = [
        result for image in truth["images"] for result in detector(photos / image["file_name"]).to_coco(image["id"])
    ]
    results = tmp_path / "results.json"
    results.write_text(json.dumps(found))
    code, out, _ = evaluate(capsys, photos / "truth.json", "--results", results, "--output", tmp_path / "report")
    wanted = evaluate_keypoints(
        read_photos(f"{photos}/truth.json:{photos}", COCO_PROTOCOL.skeleton), found, COCO_PROTOCOL
    )
    assert code == 0 and out.splitlines()[-1].split(" | ")[1] == f"{100 * wanted.ap:.1f}"
    report = json.loads((tmp_path / "report" / "report.json").read_text())["results"]
    assert report["ap"] == wanted.ap > 0.2 and report["results"] == str(results)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "x.onnx"], "--model does not go with --results, which runs no model"),
        (["--long-side", "640"], "--long-side does not go with --results"),
        (["--protocol", "cropped"], "--protocol cropped does not go with --results"),
        ([], "results.json: results[0].image_id: 1 is not an image of the annotations"),
    ],
)
def test_results_that_do_not_fit(capsys, photos: Path, tmp_path, arguments, said):
    results = tmp_path / "results.json"
    results.write_text(json.dumps([{"image_id": 1, "category_id": 1, "keypoints": [0] * 51, "score": 1}]))
    code, _, err = evaluate(capsys, photos / "truth.json", "--results", results, *arguments)
    assert code == 2 and said in err
