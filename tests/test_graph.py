"""The exported file holds what it computes, and nothing else."""

from importlib import resources
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.torch import load_file, save_file

import posedet
from posedet.errors import ModelError
from posedet.weights.checkpoint import load_tensors
from posedet.weights.graph import fold_norms, round_to_8_bits, store_compactly

SHIPPED = Path(str(resources.files("posedet") / "released" / "posedet-s.onnx"))

RELEASED_WEIGHTS = SHIPPED.with_suffix(".safetensors")


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, feeds)


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.fixture
def two_levels() -> onnx.ModelProto:
    """One convolution for two maps, each with a normalisation of its own; the first one's shape is read before it."""
    generator = np.random.default_rng(0)
    constants = {"weights": generator.normal(size=(4, 3, 3, 3)), "own bias": generator.normal(size=4)}
    for level in "ab":
        for name in ("scale", "shift", "mean", "variance"):
            constants[f"{name} {level}"] = generator.uniform(0.5, 2, 4)
    make = onnx.helper.make_node
    nodes = [
        make("Conv", ["a", "weights", "own bias"], ["raw a"], pads=[1, 1, 1, 1]),
        make("Conv", ["b", "weights"], ["raw b"]),
        make("Shape", ["raw a"], ["shape"]),
    ]
    for level in "ab":
        norm = [f"raw {level}", *(f"{name} {level}" for name in ("scale", "shift", "mean", "variance"))]
        nodes.append(make("BatchNormalization", norm, [f"norm {level}"], name=level, epsilon=0.1))
        nodes.append(make("Relu", [f"norm {level}"], [f"out {level}"]))
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "levels",
        [onnx.helper.make_tensor_value_info(name, kind, [1, 3, "h", "w"]) for name in "ab"],
        [onnx.helper.make_tensor_value_info(f"out {name}", kind, [1, 4, None, None]) for name in "ab"]
        + [onnx.helper.make_tensor_value_info("shape", onnx.TensorProto.INT64, [4])],
        [onnx.numpy_helper.from_array(values.astype(np.float32), name) for name, values in constants.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)


def test_folded_norms_compute_the_same(two_levels: onnx.ModelProto) -> None:
    generator = np.random.default_rng(1)
    feeds = {name: generator.normal(size=(1, 3, 9, 7)).astype(np.float32) for name in "ab"}
    expected = run(two_levels, feeds)
    fold_norms(two_levels)
    assert "BatchNormalization" not in kinds(two_levels)
    onnx.checker.check_model(two_levels)
    for got, wanted in zip(run(two_levels, feeds), expected, strict=True):
        assert_allclose(got, wanted, atol=1e-5)
    assert sum(constant.name == "weights" for constant in two_levels.graph.initializer) == 1  # still shared


def test_a_norm_of_something_else_stays(two_levels: onnx.ModelProto) -> None:
    """Where the map before it is read, too."""
    graph = two_levels.graph
    graph.node.append(onnx.helper.make_node("Relu", ["raw b"], ["read"]))
    graph.output.append(onnx.helper.make_tensor_value_info("read", onnx.TensorProto.FLOAT, [1, 4, None, None]))
    fold_norms(two_levels)
    assert kinds(two_levels).count("BatchNormalization") == 1


def test_nothing_in_the_shipped_file_is_dead() -> None:
    model = onnx.load(SHIPPED)
    fold_norms(model)
    assert "BatchNormalization" not in kinds(model)
    read = {name for node in model.graph.node for name in node.input} | {port.name for port in model.graph.output}
    assert all(read.intersection(node.output) for node in model.graph.node)
    parameters = {constant.name for constant in model.graph.initializer}
    assert not [name for name in parameters if "heatmap" in name]
    assert [port.type.tensor_type.elem_type for port in model.graph.input] == [onnx.TensorProto.UINT8]
    images = np.random.default_rng(0).integers(0, 256, (1, 160, 224, 3), np.uint8)
    for got, wanted in zip(run(model, {"images": images}), run(onnx.load(SHIPPED), {"images": images}), strict=True):
        assert_allclose(got, wanted, atol=2e-3)


def test_the_shipped_file_names_no_path_of_a_machine() -> None:
    content = (Path(posedet.__file__).parent / "released" / "posedet-s.onnx").read_bytes()
    assert b"/src/posedet/" not in content


@pytest.mark.parametrize(("shape", "stored"), [((40, 30), (40, 30)), ((30, 4, 3, 3), (30, 36)), ((5, 6, 40), (30, 40))])
def test_rounded_weights_are_stored_in_8_bits(shape: tuple[int, ...], stored: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    sizes = generator.uniform(1e-5, 3, (shape[0], *(1,) * (len(shape) - 2), shape[-1]))
    weights = (generator.normal(size=shape) * sizes).astype(np.float32)
    if len(shape) == 2:
        weights[7] = weights[:, 3] = 0
    rounded = round_to_8_bits(weights)
    axis = tuple(range(1, len(shape))) if shape[0] >= shape[-1] else tuple(range(len(shape) - 1))
    assert (np.abs(rounded - weights) <= np.abs(weights).max(axis, keepdims=True) / 127 * 9 / 8 / 2 + 1e-6).all()
    assert_array_equal(rounded.astype(np.float16).astype(np.float32), rounded)
    assert_array_equal(round_to_8_bits(rounded), rounded)

    model = constant_model(rounded.reshape(stored))
    store_compactly(model)
    kept = {constant.name: onnx.numpy_helper.to_array(constant) for constant in model.graph.initializer}
    assert {name: values.dtype for name, values in kept.items()} == {"w.int8": np.int8, "w.scale": np.float32}
    assert kept["w.scale"].size == (stored[0] if shape[0] >= shape[-1] else stored[-1])
    (found,) = run(model, {"x": np.zeros(1, np.float32)})
    assert_array_equal(found, rounded.reshape(stored))

    multiplied = rounded * generator.uniform(0.5, 2, (len(rounded), *(1,) * (len(shape) - 1))).astype(np.float32)
    model = constant_model(multiplied)
    store_compactly(model)
    stored_as = {onnx.numpy_helper.to_array(constant).dtype for constant in model.graph.initializer}
    assert stored_as == ({np.dtype(np.int8), np.dtype(np.float32)} if shape[0] >= shape[-1] else {np.dtype(np.float32)})
    (found,) = run(model, {"x": np.zeros(1, np.float32)})
    assert_allclose(found, multiplied, rtol=1e-6)


def test_other_constants_are_stored_exactly() -> None:
    generator = np.random.default_rng(0)
    for values, kinds_stored in (
        (generator.normal(size=(40, 30)).astype(np.float32), {np.dtype(np.float32)}),
        (generator.normal(size=(40, 30)).astype(np.float16).astype(np.float32), {np.dtype(np.float16)}),
        (round_to_8_bits(generator.normal(size=(10, 30)).astype(np.float32)), {np.dtype(np.float32)}),  # small
    ):
        model = constant_model(values)
        store_compactly(model)
        assert {onnx.numpy_helper.to_array(each).dtype for each in model.graph.initializer} == kinds_stored
        (found,) = run(model, {"x": np.zeros(1, np.float32)})
        assert_array_equal(found, values)


def test_weights_files_in_8_bits(tmp_path: Path) -> None:
    """Whole numbers and scales of the released weights, read as what they were rounded to."""
    stored, rounded = load_file(RELEASED_WEIGHTS), load_tensors(RELEASED_WEIGHTS)[0]
    whole = [name for name in stored if name.endswith(".int8")]
    assert len(whole) > 50 and not any(name.endswith((".int8", ".scale")) for name in rounded)
    for name in whole:
        values = rounded[name.removesuffix(".int8")]
        assert_array_equal(values, stored[name].numpy() * stored[name.replace(".int8", ".scale")].numpy())
        assert_array_equal(values, round_to_8_bits(values.numpy()))

    path = tmp_path / "w.safetensors"
    for scale in ({}, {"a.scale": torch.ones(3)}, {"a.scale": torch.ones(2, 2)}, {"a.scale": torch.ones(2, 1, 3)}):
        save_file({"a.int8": torch.ones(2, 3, dtype=torch.int8), **scale}, path)
        with pytest.raises(ModelError, match=r"w\.safetensors: tensor 'a\.int8' has no '\.scale' that fits; use an "):
            load_tensors(path)


def constant_model(values: np.ndarray) -> onnx.ModelProto:
    """A model that adds a constant to its input."""
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "w"], ["y"])],
        "constant",
        [onnx.helper.make_tensor_value_info("x", kind, [1])],
        [onnx.helper.make_tensor_value_info("y", kind, list(values.shape))],
        [onnx.numpy_helper.from_array(values, "w")],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
