"""Simplify an ONNX graph: fold normalisation, remove the exporter's notes, and store constants in 8 or 16 bits."""

from collections import defaultdict

import numpy as np
import onnx
from numpy.typing import NDArray

# Constants of fewer numbers are left as they are.
LARGE = 1000
# Its multiples are exact in float16.
SMALLEST_SCALE = 2.0**-20


def fold_norms(model: onnx.ModelProto) -> None:
    """Fold batch normalisation into the preceding convolutions, in place.

    The exporter does not fold convolutions whose outputs or weights are also used elsewhere. Weights and factor remain
    separate constants, which a runtime multiplies when it opens the file. Shared weights therefore remain shared, and
    float16 weights remain small.
    """
    graph = model.graph
    constants = {constant.name: constant for constant in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    readers = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    for norm in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        convolution = makers.get(norm.input[0])
        others = [node for node in readers[norm.input[0]] if node is not norm]
        if convolution is None or convolution.op_type != "Conv" or any(node.op_type != "Shape" for node in others):
            continue
        scale, shift, mean, variance = (
            onnx.numpy_helper.to_array(constants[name]).astype(np.float64) for name in norm.input[1:5]
        )
        epsilon = next((attribute.f for attribute in norm.attribute if attribute.name == "epsilon"), 1e-5)
        factor = scale / np.sqrt(variance + epsilon)
        bias = shift - mean * factor
        if len(convolution.input) == 3:
            bias += onnx.numpy_helper.to_array(constants[convolution.input[2]]) * factor
        weights, name = convolution.input[1], norm.output[0]
        for suffix, values in (("factor", factor[:, None, None, None]), ("bias", bias)):
            graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), f"{name}.{suffix}"))
        folded = onnx.helper.make_node("Mul", [weights, f"{name}.factor"], [f"{name}.weights"])
        convolution.input[:] = [convolution.input[0], f"{name}.weights", f"{name}.bias"]
        convolution.output[0] = name
        for node in others:
            node.input[0] = name
        graph.node.insert(list(graph.node).index(convolution), folded)
        graph.node.remove(norm)
    used = {name for node in graph.node for name in node.input}
    for constant in [constant for constant in graph.initializer if constant.name not in used]:
        graph.initializer.remove(constant)


def forget_sources(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes on every node, in place: a tenth of the file, including paths of the machine."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]


def round_to_8_bits(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round a weight to whole multiples, -127 to 127, of a scale that each slice along the first or last axis has.

    The axis with more slices is taken: of a convolution the first, the output channels. A scale has four significant
    bits, so the rounded weights are exact in float16, too. Rounded weights are not changed again.
    """
    if as_8_bits(values) is not None:
        return values
    axis = 0 if values.shape[0] >= values.shape[-1] else values.ndim - 1
    scale = _scales(_largest(values, axis))
    return np.asarray(np.rint(values / scale) * scale)


def store_compactly(model: onnx.ModelProto) -> None:
    """Store large constants as int8 or float16 if that is exact, in place; they are converted when the file is loaded.

    Not with DequantizeLinear, which ONNX Runtime would compute anew for each photo. And not from int8 to float in one
    step, which OpenVINO (2026.4) takes for compressed weights: with several streams, its results are then nonsense.
    """
    graph = model.graph
    nodes = []
    for constant in list(graph.initializer):
        if constant.data_type != onnx.TensorProto.FLOAT:
            continue
        values, name = onnx.numpy_helper.to_array(constant), constant.name
        if values.size < LARGE:
            continue
        with np.errstate(over="ignore"):
            halved = values.astype(np.float16)
        if found := as_8_bits(values):
            whole, scale = found
            constant.CopyFrom(onnx.numpy_helper.from_array(whole, f"{name}.int8"))
            graph.initializer.append(onnx.numpy_helper.from_array(scale, f"{name}.scale"))
            nodes += [
                onnx.helper.make_node("Cast", [f"{name}.int8"], [f"{name}.int32"], to=onnx.TensorProto.INT32),
                onnx.helper.make_node("Cast", [f"{name}.int32"], [f"{name}.whole"], to=onnx.TensorProto.FLOAT),
                onnx.helper.make_node("Mul", [f"{name}.whole", f"{name}.scale"], [name]),
            ]
        elif np.array_equal(halved.astype(np.float32), values):
            constant.CopyFrom(onnx.numpy_helper.from_array(halved, f"{name}.half"))
            nodes.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    for place, node in enumerate(nodes):
        graph.node.insert(place, node)


def as_8_bits(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]] | None:
    """Undo `round_to_8_bits`, whatever the axis, also if each slice was multiplied later; None for other values."""
    for axis in range(values.ndim):
        largest = _largest(values, axis)
        scale = np.zeros_like(largest)
        for most in range(112, 128):  # a scale of four bits is too large by an eighth at most
            tried = np.where(largest > 0, largest / np.float32(most), 1)
            steps = values / tried
            wrong = np.abs(steps - np.rint(steps)).max(_others(values, axis), keepdims=True) > 1e-3
            scale = np.where(wrong, scale, tried)
        if scale.all():
            return np.rint(values / scale).astype(np.int8), scale
    return None


def _scales(largest: NDArray[np.float32]) -> NDArray[np.float32]:
    """The smallest numbers of four significant bits of which 127 are at least `largest`; 1 for 0."""
    mantissa, exponent = np.frexp(np.where(largest > 0, np.maximum(largest / 127, SMALLEST_SCALE), 1))
    return np.asarray(np.ldexp(np.ceil(mantissa * 16) / 16, exponent), np.float32)


def _largest(values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    return np.asarray(np.abs(values).max(_others(values, axis), keepdims=True))


def _others(values: NDArray[np.float32], axis: int) -> tuple[int, ...]:
    return tuple(other for other in range(values.ndim) if other != axis)
