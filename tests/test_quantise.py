"""The shipped model in INT8: what stays, what changes, and how far its poses move."""

import math
from importlib import resources
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from posedet import PoseDet
from posedet.commands.main import main
from posedet.errors import DataError, ModelError
from posedet.oks import oks, pose_areas
from posedet.weights.quantise import ask_input_for_sizes, quantise

# Without these instructions sums of two products of bytes saturate at 16 bits, so that poses move more.
HAS_VNNI = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_vnni", "avx_vnni"))
SHIPPED = Path(str(resources.files("posedet") / "released" / "posedet-s.onnx"))


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    output = tmp_path_factory.mktemp("int8") / "small.onnx"
    calibrated_with = [str(photos / f"{name}.jpg") for name in ("baseball", "street")]
    assert main(["quantise", "posedet-s", str(output), "--photos", *calibrated_with]) == 0
    return output


@pytest.mark.slow
def test_the_file_says_the_same_of_itself(int8: Path) -> None:
    before, after = PoseDet(SHIPPED, threads=1).about, PoseDet(int8, threads=1).about
    assert after == before
    shipped, quantised = (onnx.load(path).graph for path in (SHIPPED, int8))
    for ports in ("input", "output"):
        assert [port.name for port in getattr(quantised, ports)] == [port.name for port in getattr(shipped, ports)]
    # Smaller than the same weights in float16; the float file stores them in 8 bits, too.
    assert int8.stat().st_size < 2 * sum(math.prod(constant.dims) for constant in shipped.initializer)
    assert list(int8.parent.iterdir()) == [int8]


@pytest.mark.slow
def test_the_network_is_in_8_bits_and_the_coordinates_are_not(int8: Path) -> None:
    graph = onnx.load(int8).graph
    makers = {name: node for node in graph.node for name in node.output}
    readers = {name: node for node in graph.node for name in node.input}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    quantised = [node for node in convolutions if "DequantizeLinear" in node.input[1]]
    floating = [node for node in convolutions if node not in quantised]
    assert len(quantised) > 0.8 * len(convolutions)
    # Left in float: what gives coordinates and presence.
    assert {readers[node.output[0]].op_type for node in floating} <= {"Reshape", "Transpose"}
    assert len(floating) == 6
    # No map of a convolution is asked for its size: OpenVINO would add a wrong bias to it.
    asked = {
        makers[node.input[0]].op_type for node in graph.node if node.op_type == "Shape" and node.input[0] in makers
    }
    assert not asked & {"Conv", "Relu", "Clip", "Add", "DequantizeLinear"}
    assert not [node for node in graph.node if node.op_type == "MatMul" and "Quantize" in str(node.input)]
    first = makers[quantised[0].input[0]]
    # The photo's bytes themselves: nothing is computed before the first layer.
    assert makers[first.input[0]].op_type == "Transpose" and makers[first.input[0]].input[0] == "images"


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_its_poses_are_those_of_the_float_file(int8: Path, runtime: str, photos: Path) -> None:
    # Weaker ones are looked for among more: a score near the threshold may fall below it.
    float_detector = PoseDet(SHIPPED, threads=1, score_threshold=0.3)
    detector = PoseDet(int8, threads=1, score_threshold=0.2, runtime=runtime)
    similarities = []
    for name in ("skiers", "tennis", "group"):
        expected, found = float_detector(photos / f"{name}.jpg"), detector(photos / f"{name}.jpg")
        similarity = oks(found.keypoints, expected.keypoints, expected.skeleton.sigmas, pose_areas(expected.keypoints))
        similarities += similarity.max(axis=0, initial=0).tolist()
    assert len(similarities) >= 8
    assert np.mean(similarities) > (0.95 if HAS_VNNI else 0.88)


@pytest.mark.slow
def test_both_runtimes_score_alike(int8: Path, photos: Path) -> None:
    """A wrong bias in one of them shows here first: by a tenth."""
    detectors = [PoseDet(int8, threads=1, runtime=runtime) for runtime in ("onnxruntime", "openvino")]
    for name in ("skiers", "group"):
        scores = [np.sort(each.candidates(photos / f"{name}.jpg", long_side=576).scores) for each in detectors]
        assert np.abs(scores[0] - scores[1]).mean() < (0.01 if HAS_VNNI else 0.03)


def test_maps_of_odd_sizes_are_asked_themselves() -> None:
    """A level of stride 64 is rounded up where the input is not a multiple of it: no division tells its size."""
    make, kind = onnx.helper.make_node, onnx.TensorProto
    weights = {"a": np.ones((4, 3, 1, 1), np.float32), "b": np.ones((4, 4, 3, 3), np.float32)}
    nodes = [make("Transpose", ["images"], ["turned"], perm=[0, 3, 1, 2])]
    nodes += [
        make("Cast", ["turned"], ["pixels"], to=kind.FLOAT),
        make("Conv", ["pixels", "a"], ["fine"], strides=[32, 32]),
    ]
    nodes += [make("Conv", ["fine", "b"], ["coarse"], strides=[2, 2], pads=[1, 1, 1, 1])]
    nodes += [
        make("Shape", ["fine"], ["fine size"], start=2),
        make("Shape", ["coarse"], ["coarse size"], start=1, end=3),
    ]
    nodes += [make("Shape", ["fine"], ["fine shape"])]
    outputs = ["fine size", "coarse size", "fine shape"]
    graph = onnx.helper.make_graph(
        nodes,
        "sizes",
        [onnx.helper.make_tensor_value_info("images", kind.UINT8, ["b", "h", "w", 3])],
        [onnx.helper.make_tensor_value_info(name, kind.INT64, [None]) for name in outputs],
        [onnx.numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    ask_input_for_sizes(model)
    assert [node.input[0] for node in model.graph.node if node.op_type == "Shape"] == ["images", "coarse", "images"]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(outputs, {"images": np.zeros((3, 352, 96, 3), np.uint8)})
    assert [each.tolist() for each in found] == [[11, 3], [4, 6], [3, 4, 11, 3]]


def test_once_is_enough(int8: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r": is already in INT8; use the float file$"):
        quantise(int8, tmp_path / "x.onnx", [photos / "food.jpg"])


def test_a_photo_is_needed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^no calibration photos; use a folder with a few hundred photos$"):
        quantise(SHIPPED, tmp_path / "x.onnx", [])
