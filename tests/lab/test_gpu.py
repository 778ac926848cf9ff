"""The benchmark of the paper's models on a GPU, as far as a CPU can tell: its arithmetic, and that it runs through."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from lab.gpu import parts
from lab.gpu.__main__ import main
from lab.gpu.accuracy import distances
from lab.gpu.baseline import Official, waiting_nms
from lab.gpu.isolation import Task, isolated, task_rows
from lab.gpu.limits import H200, Ceilings, Layer, counts, layers_of
from lab.gpu.parts import PARTS, draw_rates, measure_parts, summary, tasks
from lab.gpu.rows import Measurement, Plan, attempt
from lab.gpu.sampling import DENSE, SPARSE, SamplingCase, deform_inputs
from lab.gpu.subjects import MODELS, LoadedModel, fixed_letterbox
from lab.gpu.training_speed import estimates
from posedet.config import load_config
from posedet.errors import ConfigError
from posedet.image import Letterbox, read_photo
from posedet.model.build import build_network
from posedet.oks import oks_nms
from posedet.poses import Poses
from posedet.runtime.decode import decode
from posedet.runtime.session import Outputs
from posedet.skeleton import COCO

DLA, SMALL = MODELS[2], MODELS[3]

# --- the ways to sample -----------------------------------------------------------------------------------------------


def slow_embeddings(case: SamplingCase, levels: list[int]) -> torch.Tensor:
    """(B, S, O) in float64, one corner of one keypoint after the other; location s reads the map levels[s]."""
    rows = []
    for b in range(len(case.positions)):
        for s, level in enumerate(levels):
            field, stride = case.maps[level][b], case.strides[level]
            total = torch.zeros(case.weight.shape[2], dtype=torch.float64)
            for (x, y), weight in zip(case.positions[b, s] / stride, case.weight, strict=True):
                left, top = int(x.detach().floor()), int(y.detach().floor())
                for column in (left, left + 1):
                    for row in (top, top + 1):
                        if 0 <= row < field.shape[1] and 0 <= column < field.shape[2]:
                            share = (1 - (x - column).abs()) * (1 - (y - row).abs())
                            total = total + share * field[:, row, column] @ weight
            rows.append(total)
    return torch.stack(rows).view(len(case.positions), len(levels), -1)


def case_of(*, sparse: bool) -> tuple[SamplingCase, list[int]]:
    """Two images, two levels, three keypoints; positions inside, half outside and far outside."""
    generator = torch.Generator().manual_seed(3)
    sizes, strides = ((4, 5), (2, 3)), (8, 16)
    maps = [torch.randn(2, 4, *size, generator=generator) for size in sizes]
    levels = [level for level, (height, width) in enumerate(sizes) for _ in range(height * width)]
    positions = torch.rand(2, len(levels), 3, 2, generator=generator) * 60 - 12
    positions[0, 3, 1] = 4000.0
    weight = torch.randn(3, 4, 6, generator=generator)
    if not sparse:
        return SamplingCase(maps, positions, weight, strides, None), levels
    chosen = torch.tensor([[1, 22, 7], [1, 22, 7]])
    return SamplingCase(maps, positions[:, chosen[0]], weight, strides, chosen), [levels[s] for s in chosen[0]]


def gradients(output: torch.Tensor, learnt: list[torch.Tensor]) -> list[torch.Tensor]:
    return list(torch.autograd.grad(output.square().sum(), learnt))


@pytest.mark.parametrize(
    ("way", "sparse"), [(name, False) for name in DENSE] + [(name, True) for name in SPARSE], ids=str
)
def test_every_way_to_sample_forward_and_backward(way, sparse):
    if way == "deform_conv2d":
        pytest.importorskip("torchvision", reason="it has no build for processors alone; on a GPU it is compared with")
    case, levels = case_of(sparse=sparse)
    learnt = [x.requires_grad_() for x in (*case.maps, case.positions, case.weight)]
    found = DENSE[way](case)
    wide = [x.detach().double().requires_grad_() for x in learnt]
    expected = slow_embeddings(case._replace(maps=wide[:2], positions=wide[2], weight=wide[3]), levels)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)
    for mine, slow in zip(gradients(found, learnt), gradients(expected, wide), strict=True):
        torch.testing.assert_close(mine.double(), slow, atol=2e-3, rtol=1e-3)


def test_the_deformable_convolution_is_given_the_right_places():
    """torchvision's arguments, in ONNX's operator of the same layout."""
    case, levels = case_of(sparse=False)
    parts = []
    for x, offsets, weight in deform_inputs(case):
        names = ["x", "weight", "offsets"]
        node = onnx.helper.make_node("DeformConv", names, ["y"], kernel_shape=weight.shape[2:])
        values = [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, tensor.shape)
            for name, tensor in zip(names, (x, weight, offsets), strict=True)
        ]
        output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
        graph = onnx.helper.make_graph([node], "deform", values, [output])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        feed = {name: tensor.contiguous().numpy() for name, tensor in zip(names, (x, weight, offsets), strict=True)}
        parts.append(torch.from_numpy(session.run(None, feed)[0]).flatten(2).transpose(1, 2))
    wide = case._replace(maps=[x.double() for x in case.maps], positions=case.positions.double())
    expected = slow_embeddings(wide._replace(weight=case.weight.double()), levels)
    torch.testing.assert_close(torch.cat(parts, 1).double(), expected, atol=1e-4, rtol=1e-4)


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_arithmetic_of_a_photo():
    """The published count at 512 x 512, less dead projections and refinements of most locations, plus the samples."""
    layers = layers_of("dla34-coco", (512, 512))
    locations, k, c = 5440, 17, 128
    dead = 512 * 512 * (64 * 128 // 8**2 + 128 * 256 // 16**2)
    unrefined = (locations - 500) * (k * c * c + c * 2 * k)
    samples = 4 * (locations + 500) * k * c
    assert sum(layer.operations for layer in layers) == 2 * (25_693_069_312 - dead - unrefined + samples)
    assert not layers[-1].lowered and layers[0].lowered
    assert layers[0].weights == 16 * 3 * 7 * 7 and layers[0].values == 512 * 512 * (3 + 16)


def test_floors():
    """Two layers: one bound by arithmetic, one, which stays in float32, by traffic."""
    ceilings = Ceilings(100.0, {"fp32": 1.0, "tf32": 10.0, "bf16": 50.0})
    layers = [Layer(1000, 5, 5, True), Layer(10, 0, 100, False)]
    found = counts(layers, 2, "bf16", ceilings)
    assert found["GFLOP"] == 2020e-9
    assert found["MB"] == pytest.approx((2 * (5 + 10) + 4 * 200) / 1e6)
    assert found["arithmetic ms"] == pytest.approx(1e3 * (2000 / 50 + 20 / 10))
    assert found["traffic ms"] == pytest.approx(1e3 * (0.3 + 8))
    assert found["limit ms"] == pytest.approx(1e3 * (40 + 8))
    assert counts(layers, 2, "fp32", ceilings)["arithmetic ms"] == pytest.approx(1e3 * 2020)
    assert H200.rates["bf16"] / H200.bandwidth == pytest.approx(206, abs=1)


# --- the baseline -----------------------------------------------------------------------------------------------------


def test_waiting_suppression_is_oks_nms():
    generator = np.random.default_rng(1)
    poses = generator.uniform(0, 60, (1, 17, 2)) + generator.uniform(0, 40, (40, 1, 2))
    scores = np.linspace(1, 0, 40, dtype=np.float32)
    expected = oks_nms(poses.astype(np.float32), scores, COCO.sigmas, oks_threshold=0.2, min_area=1024)
    found = waiting_nms(torch.from_numpy(poses).float(), torch.tensor(COCO.sigmas), 0.2, 1024.0)
    assert found.tolist() == expected.tolist() and 1 < len(found) < 40
    assert waiting_nms(torch.zeros(0, 17, 2), torch.tensor(COCO.sigmas), 0.2, 1024.0).tolist() == []


@pytest.mark.slow
def test_the_official_style_finds_what_the_network_finds(photos):
    """All candidates of small maps go on, so it is the dense network and NumPy's decoding; the heatmaps are made."""
    torch.manual_seed(0)
    config = load_config("dla34-coco", ["model.channels=32", "model.tap_channels=32", "decode.score_threshold=0.01"])
    network = build_network(config.model, COCO).eval()
    for parameter in (network.score.embedding.weight, network.score.output.weight):
        nn.init.normal_(parameter, std=0.1)
    letterbox = fixed_letterbox((480, 640), (128, 160))
    assert letterbox == Letterbox((480, 640), (120, 160), (128, 160))
    image = letterbox.apply(read_photo(photos / "group.jpg"))
    made = []
    network.heatmap.register_forward_hook(lambda *_: made.append(1))
    with torch.no_grad():
        [(poses, scores)] = Official(LoadedModel(network, config, COCO), "cpu")(image[None], [letterbox])
        output = network(torch.from_numpy(image)[None].permute(0, 3, 1, 2).float())
    found = output.logits[0].sigmoid().numpy(), output.poses[-1][0].numpy()
    outputs = Outputs(*found, np.ones(found[1].shape[:2], np.float32))
    expected = decode(outputs, letterbox, COCO, replace(config.decode, score_threshold=0.01))
    # The official floor is in pixels of any photo; at 640 pixels both are the same.
    np.testing.assert_allclose(poses.numpy(), expected.keypoints, atol=0.01)
    np.testing.assert_allclose(scores.numpy(), expected.scores, atol=1e-5)
    assert len(made) == 1 and len(poses) > 3


# --- accuracy and estimates -------------------------------------------------------------------------------------------


def people(*places: tuple[float, float], score: float = 0.9) -> Poses:
    shape = np.random.default_rng(0).uniform(0, 100, (17, 2))
    keypoints = np.array([shape + place for place in places], np.float32).reshape(-1, 17, 2)
    scores = np.full(len(places), score, np.float32)
    return Poses(keypoints, scores, np.ones((len(places), 17), np.float32), COCO)


def test_distances_between_precisions():
    reference = [people((0, 0), (300, 0)), people((0, 0)), people()]
    found = [people((303, 4), (0, 1)), people((0, 0), score=0.1), people((0, 0))]
    values = distances(reference, found, 0.5)
    assert (values["people"], values["vanished"], values["appeared"]) == (3, 1, 1)
    assert values["largest px"] == pytest.approx(5) and values["median px"] == pytest.approx(3)


def test_estimates():
    rows = [Measurement("training", DLA.name, "a", values={"images/s": rate}) for rate in (500.0, 1000.0)]
    rows.append(Measurement("loader", DLA.name, "b", values={"images/s": 4000.0}))
    [line] = estimates(rows)
    hours = 210 * 64_115 / 3600
    assert f"{hours / 1000:.1f} h on one GPU; at least {hours / 4000:.1f} h (the loader's) on eight" in line


# --- parts ------------------------------------------------------------------------------------------------------------


def two_rows_and_a_fault(fault: str) -> Iterator[Measurement]:
    yield Measurement("part", "", "first")
    if fault == "raises":
        raise ValueError("cannot go on\nfor long")
    if fault == "dies":
        os._exit(7)
    yield Measurement("part", "", "second")


@pytest.mark.slow
def test_a_fault_costs_a_part_its_rest():
    """Also one that ends the process, as a fault of the device does."""
    first = Measurement("part", "", "first")
    assert list(task_rows(Task("part", two_rows_and_a_fault, ("",)))) == [first, Measurement("part", "", "second")]
    raised = Measurement("part", "model", "", failed="failed: ValueError: cannot go on")
    assert list(task_rows(Task("part", two_rows_and_a_fault, ("raises",), "model"))) == [first, raised]
    died = Measurement("part", "model", "", failed="its process ended (exit code 7)")
    assert list(isolated(Task("part", two_rows_and_a_fault, ("dies",), "model"), 600)) == [first, died]


def test_a_part_that_takes_too_long_is_given_up():
    rows = list(isolated(Task("part", two_rows_and_a_fault, ("",), "model"), 0.01))
    assert rows[-1] == Measurement("part", "model", "", failed="stopped after 0 s")


def test_a_variant_that_fails_is_told_in_its_row():
    row = attempt(Measurement("part", "model", "variant"), lambda: {}["missing"])
    assert row.failed == "failed: KeyError: 'missing'" and "failed: KeyError" in str(row)


def test_order_of_the_parts():
    plan = Plan("cuda", False, (), "", 1)
    found = [(task.name, task.model) for task in tasks(plan, PARTS)]
    assert found[0] == ("limits", "") and len(found) == 1 + 4 + 3 + 1 + 1 + 3 + 1 + 4 + 3
    assert found[-7:-3] == [("inference", model.name) for model in MODELS[::-1]]


@pytest.fixture(scope="module")
def toy_rows(photos, tmp_path_factory) -> tuple[list[Measurement], dict]:
    folder = tmp_path_factory.mktemp("gpu")
    plan = Plan("cpu", True, (str(photos / "group.jpg"),), f"{photos}/truth.json:{photos}", 1)
    said: list[str] = []
    parts = [part for part in PARTS if part not in ("limits", "accuracy")]
    rows = measure_parts(plan, parts=parts, seconds=600, output=folder, tell=said.append, models=(DLA,))
    assert said == [str(row) for row in rows]
    return rows, json.loads((folder / "benchmark.json").read_text())["results"]


@pytest.mark.slow
def test_every_part_runs_to_its_end(toy_rows):
    rows, report = toy_rows
    assert report["rows"] == [row.to_dict() for row in rows]
    failed = {(row.part, row.variant) for row in rows if row.failed}
    only_cuda = {("inference", "graph"), ("inference", "graph, channels first"), ("sync", "eager")}
    assert only_cuda <= failed <= only_cuda | {("sampling", f"deform_conv2d, {kind}") for kind in ("dense", "training")}
    measured = {row.part for row in rows if row.values}
    assert measured == {"inference", "stages", "file", "baseline", "sampling", "training", "loader"}
    for row in rows:
        if row.part == "sampling" and row.values:
            assert row.values["relative error"] < 1e-4
        if row.values and "images/s" in row.values:
            assert row.values["images/s"] > 0


@pytest.mark.slow
def test_summary_and_picture(toy_rows, tmp_path):
    rows, _ = toy_rows
    lines = summary(rows).splitlines()
    assert lines[0].split()[0] == "images/s" and lines[1].startswith("DLA-34@512, one photo")
    draw_rates(rows, tmp_path / "picture.png")
    assert read_photo(tmp_path / "picture.png").shape[1] > 500


def test_summary_on_numbers_known_beforehand():
    rows = [
        Measurement(part, DLA.name, variant, precision, batch, values)
        for part, variant, precision, batch, values in (
            ("inference", "graph", "bf16", 1, {"images/s": 600.0}),
            ("inference", "eager", "fp32", 1, {"images/s": 100.0}),
            ("baseline", "official style", "fp32", 1, {"images/s": 50.0}),
            ("baseline", "official style", "tf32", 1, {"images/s": 80.0}),
            ("limits", "measured", "bf16", 1, {"limit ms": 0.5}),
            ("inference", "graph", "bf16", 64, {"images/s": 900.0}),
            ("baseline", "official style", "fp32", 64, {"images/s": 100.0}),
        )
    ]
    one, many = (line.split() for line in summary(rows).splitlines()[1:3])
    assert one[3:] == ["50.0", "600.0", "bf16", "graph", "12.0", "x", "5", "x:", "yes", "2000,", "30", "%", "42"]
    assert many[2:] == ["100.0", "900.0", "bf16", "graph", "9.0", "x", "10", "x:", "NO", "-", "-"]


def test_no_time_left(photos):
    plan = Plan("cpu", True, (str(photos / "group.jpg"),), "", 1)
    [row] = measure_parts(plan, parts=["loader"], seconds=1, tell=lambda _: None)
    assert row.failed == "no time left"


def test_no_gpu(monkeypatch):
    monkeypatch.setattr(parts.torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="--device cuda: PyTorch finds no GPU"):
        measure_parts(Plan("cuda", False, (), "", 1), seconds=10, tell=lambda _: None)


@pytest.mark.slow
def test_command(capsys, photos, tmp_path):
    arguments = ["--device", "cpu", "--parts", "loader", "--annotations", f"{photos}/truth.json:{photos}"]
    code = main([*map(str, arguments), str(photos / "group.jpg"), "--output", str(tmp_path)])
    out = capsys.readouterr().out
    assert code == 0 and out.startswith("loader    HRNet-W48@640") and "tiny inputs" in out
    assert sorted(os.listdir(tmp_path)) == ["benchmark.json", "benchmark.png"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--parts", "speed"], "--parts speed: expected some of limits"),
        (["--minutes", "0"], "--minutes 0: expected more"),
    ],
)
def test_mistakes(capsys, photos, arguments, said):
    assert main([str(photos / "group.jpg"), "--device", "cpu", *arguments]) == 2
    assert said in capsys.readouterr().err
