"""Simplify an ONNX graph: fold normalisation, remove the exporter's notes, and store exact constants as float16."""

from collections import defaultdict

import numpy as np
import onnx


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


def store_as_half(model: onnx.ModelProto) -> None:
    """Store large constants as float16 if that is exact, in place; they are cast when the file is loaded."""
    graph = model.graph
    casts = []
    for constant in list(graph.initializer):
        if constant.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(constant)
        with np.errstate(over="ignore"):
            halved = values.astype(np.float16)
        if values.size < 1000 or not np.array_equal(halved.astype(np.float32), values):
            continue
        name = constant.name
        constant.CopyFrom(onnx.numpy_helper.from_array(halved, f"{name}.half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    for place, cast in enumerate(casts):
        graph.node.insert(place, cast)
