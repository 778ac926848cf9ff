"""Convert a posedet ONNX file to INT8 with calibration photos: only the convolutions, not the coordinates."""

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from posedet.errors import DataError, ModelError
from posedet.files import one_line
from posedet.outputs import make_folder, replace
from posedet.runtime.detector import PoseDet
from posedet.runtime.session import INPUT
from posedet.weights.graph import fold_norms, forget_sources, store_compactly

GENERATOR = "posedet quantise"
ACTIVATIONS = ("Relu", "Clip")
QUANTISED = ("Conv", *ACTIVATIONS)
# Inserted maps: the photo's bytes with channels first, and the same values centred at zero, in float.
BYTES, PIXELS = "pixels.bytes", "pixels"
# (height, width) of inputs that identify the strides of maps: no side is a multiple of 64.
EXAMPLE_SIZES = ((160, 224), (224, 288))


def quantise(model: Path, output: Path, photos: Sequence[Path]) -> None:
    """Quantise the convolutions of a model to 8 bits: signed weights with a scale per channel, and unsigned maps.

    The last convolutions and everything after them (locations, sampling, embeddings, refinement, scores) stay float32.

    Args:
        model: The ONNX file to convert.
        output: The ONNX file to write.
        photos: Calibration photos; the range of each map is the mean of its minima and maxima. A few hundred photos
            are enough. Do not use photos on which accuracy is measured.

    Raises:
        ModelError: If the model cannot be read or is already in INT8.
        PhotoError: If a photo cannot be read.
        DataError: If there are no photos.
        ForeignFileError: If a file is there that `quantise` did not write.
    """
    if not photos:
        raise DataError("no calibration photos; use a folder with a few hundred photos")
    detector = PoseDet(model)
    original = onnx.load(model)
    if any(node.op_type == "QuantizeLinear" for node in original.graph.node):
        raise ModelError(f"{one_line(model)}: is already in INT8; use the float file")
    make_folder(output.parent)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        plain, partial = Path(folder) / "plain.onnx", Path(folder) / output.name
        prepared = _optimised(original, plain)
        ask_input_for_sizes(prepared)
        zero = _centre_pixels(prepared.graph)
        add_pre_process_metadata(prepared)
        exact = {"scale": np.array(1, np.float32), "zero_point": np.array(zero or 0, np.uint8)}
        with _quiet():
            quantize_static(
                prepared,
                partial,
                _Inputs(detector, photos),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTISED),
                nodes_to_exclude=_kept_in_float(prepared.graph),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={
                    "CalibMovingAverage": True,
                    "TensorQuantOverrides": {} if zero is None else {PIXELS: [exact]},
                },
            )
        quantised = onnx.load(partial)
        if zero is not None:
            _read_bytes(quantised.graph)
        forget_sources(quantised)
        store_compactly(quantised)
        properties = {entry.key: entry.value for entry in original.metadata_props}
        about = {"generator": GENERATOR} | json.loads(properties["posedet"]) | {"generator": GENERATOR}
        onnx.helper.set_model_props(quantised, properties | {"posedet": json.dumps(about)})
        onnx.save(quantised, partial)
        replace(partial, output, GENERATOR)


class _Inputs(CalibrationDataReader):  # type: ignore[misc]
    """Supply calibration photos as network inputs."""

    def __init__(self, detector: PoseDet, photos: Sequence[Path]) -> None:
        self._inputs = (detector.prepared(photo)[1][None] for photo in photos)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        image = next(self._inputs, None)
        return None if image is None else {INPUT: image}


def _optimised(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Fold constants and normalisation, as the quantiser requires; `path` is a temporary file."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    fold_norms(copy)
    onnx.save(copy, path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(path)


def ask_input_for_sizes(model: onnx.ModelProto) -> None:
    """Compute the sizes of maps from the size of the input instead of querying the maps, in place.

    With a dynamic input size, OpenVINO (2026.4) adds the first channel's bias to all channels of an 8-bit convolution
    whose size is queried, which costs 3 AP.
    """
    graph = model.graph
    questions = [node for node in graph.node if node.op_type == "Shape" and node.input[0] != INPUT]
    names = sorted({node.input[0] for node in questions})
    shapes = [_shapes(model, names, size) for size in EXAMPLE_SIZES]
    for node in questions:
        found = [each[node.input[0]] for each in shapes]
        if len(found[0]) != 4:
            continue
        channels, stride = found[0][1], EXAMPLE_SIZES[0][0] // found[0][2]
        expected = [(1, channels, height / stride, width / stride) for height, width in EXAMPLE_SIZES]
        if found == expected:
            _answer_from_input(graph, node, channels, stride)


def _shapes(model: onnx.ModelProto, names: list[str], size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of intermediate results by name, for an input of (height, width)."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = session.run(names, {INPUT: np.zeros((1, *size, 3), np.uint8)})
    return {name: output.shape for name, output in zip(names, outputs, strict=True)}


def _answer_from_input(graph: onnx.GraphProto, question: onnx.NodeProto, channels: int, stride: int) -> None:
    """Replace the `Shape` of a map (B, C, h, w), or a slice of it, by arithmetic with the input's shape."""
    name = question.output[0]
    part = {attribute.name: attribute.i for attribute in question.attribute}
    # The input's shape (B, H, W, 3) is reordered, and the 3 colours are replaced by the number of channels.
    constants = {"order": [0, 3, 1, 2], "times": [1, channels, 1, 1], "over": [1, 3, stride, stride]}
    constants |= {"start": [part.get("start", 0)], "end": [part.get("end", 4)]}
    for key, value in constants.items():
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.int64), f"{name}.{key}"))
    steps = [
        ("Shape", [INPUT]),
        ("Gather", ["order"]),
        ("Mul", ["times"]),
        ("Div", ["over"]),
        ("Slice", ["start", "end"]),
    ]
    place, last = list(graph.node).index(question), ""
    graph.node.remove(question)
    for number, (kind, keys) in enumerate(steps):
        inputs = [last, *(f"{name}.{key}" for key in keys)] if number else keys
        last = name if kind == "Slice" else f"{name}.{kind}"
        graph.node.insert(place + number, onnx.helper.make_node(kind, inputs, [last]))


def _kept_in_float(graph: onnx.GraphProto) -> list[str]:
    """Return the names of last layers, which stay in float: neither they nor their activations feed a convolution."""
    makers = {name: node for node in graph.node for name in node.output}
    waiting, leading = [node.input[0] for node in graph.node if node.op_type == "Conv"], set()
    while waiting:
        maker = makers.get(waiting.pop())
        if maker is not None and maker.name not in leading:
            leading.add(maker.name)
            waiting += maker.input
    for node in graph.node:
        before = [makers[name] for name in node.input if name in makers]
        if node.op_type in ACTIVATIONS and {maker.op_type for maker in before} == {"Conv"}:
            leading |= {node.name, before[0].name}
    return [node.name for node in graph.node if node.op_type in QUANTISED and node.name not in leading]


def _centre_pixels(graph: onnx.GraphProto) -> int | None:
    """Feed the first convolution with pixels minus an integer zero point, so that its 8-bit input needs no arithmetic.

    The convolution's weights and bias absorb the rest of the normalisation. At the zero-padded border, this is exact to
    half a level of the photo. Returns the zero point, or None without any change if the colours' means differ by more.
    """
    constants = {constant.name: onnx.numpy_helper.to_array(constant) for constant in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    for convolution in [node for node in graph.node if node.op_type == "Conv"]:
        divide = makers.get(convolution.input[0])
        subtract = None if divide is None else makers.get(divide.input[0])
        if divide is None or subtract is None or (divide.op_type, subtract.op_type) != ("Div", "Sub"):
            continue
        mean, deviation = (constants[node.input[1]].reshape(-1, 1, 1) for node in (subtract, divide))
        zero = round(float(mean[0, 0, 0]))
        if np.abs(mean - zero).max() > 0.5:
            return None
        weights = constants[convolution.input[1]] / deviation
        bias = (weights * (zero - mean)).sum(axis=(1, 2, 3))
        if len(convolution.input) == 3:
            bias += constants[convolution.input[2]]
        added = {"weights": weights, "bias": bias, "zero": np.array(zero)}
        for name, values in added.items():
            graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), f"{PIXELS}.{name}"))
        convolution.input[:] = [PIXELS, f"{PIXELS}.weights", f"{PIXELS}.bias"]
        make = onnx.helper.make_node
        first = [
            make("Transpose", [INPUT], [BYTES], perm=[0, 3, 1, 2]),
            make("Cast", [BYTES], [f"{PIXELS}.float"], to=onnx.TensorProto.FLOAT),
            make("Sub", [f"{PIXELS}.float", f"{PIXELS}.zero"], [PIXELS]),
        ]
        for place, node in enumerate(first):
            graph.node.insert(place, node)
        _drop_unread(graph)
        return zero
    return None


def _read_bytes(graph: onnx.GraphProto) -> None:
    """Replace the quantised `PIXELS` by the photo's bytes, which are the same numbers."""
    quantised = next(node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == PIXELS)
    for node in graph.node:
        if quantised.output[0] in node.input:
            node.input[0] = BYTES
    _drop_unread(graph)


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Remove unused nodes and constants."""
    needed = {output.name for output in graph.output}
    for node in reversed(list(graph.node)):
        if needed.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            needed.update(node.input)
    for constant in [constant for constant in graph.initializer if constant.name not in needed]:
        graph.initializer.remove(constant)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantiser's advice, which is for its authors."""
    log = logging.getLogger()
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
