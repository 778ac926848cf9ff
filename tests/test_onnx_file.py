"""Model files of strangers: what is refused before a runtime sees the file, and what a runtime may answer."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from posedet import PoseDet
from posedet.errors import ModelError
from posedet.runtime import model_files, onnx_file, session
from posedet.runtime.onnx_file import MAX_ELEMENTS, MAX_FIELDS, MAX_METADATA_BYTES, MAX_RANK, onnx_metadata
from posedet.runtime.session import open_session
from test_session import METADATA, RUNTIMES, SHIPPED, small_model

Change = Callable[[onnx.ModelProto], object]
REMEDY = "; export the model anew, or use one from people you trust"


def changed(path: Path, change: Change) -> Path:
    """A small model that was changed before it was written."""
    model = onnx.load(small_model(path))
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def node(*inputs: str, kind: str, **attributes: Any) -> Change:
    """Add a node that nobody needs."""
    return lambda model: model.graph.node.append(helper.make_node(kind, inputs, ["unused"], **attributes))


def constant(name: str, values: Any) -> Change:
    return lambda model: model.graph.initializer.append(numpy_helper.from_array(np.array(values), name))


def both(*changes: Change) -> Change:
    return lambda model: [change(model) for change in changes]


def external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[1]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def external_in_an_attribute(model: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "inner")
    tensor.external_data.add(key="location", value="other.bin")
    node(kind="Constant", value=tensor)(model)


def function(model: onnx.ModelProto) -> None:
    inner = [helper.make_node("Add", ["a", "a"], ["b"])]
    model.functions.append(helper.make_function("own", "Twice", ["a"], ["b"], inner, [helper.make_opsetid("", 18)]))


def loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph([helper.make_node("Identity", ["go"], ["on"])], "body", [], [])
    node("", "", kind="Loop", body=body)(model)


def hollow(model: onnx.ModelProto) -> None:
    """A tensor of 100 GB without values: a runtime makes room for it before it looks."""
    model.graph.initializer.append(TensorProto(name="hollow", data_type=TensorProto.FLOAT, dims=[16384, 16384]))


def wide_input(model: onnx.ModelProto) -> None:
    for side in model.graph.input[0].type.tensor_type.shape.dim[1:3]:
        side.ClearField("dim_param")
        side.dim_value = 160_000


def negative_side(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = -7


def sparse(model: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "sparse")
    places = numpy_helper.from_array(np.zeros(1, np.int64), "places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [10**9]))


def many_keypoints(model: onnx.ModelProto) -> None:
    skeleton = {"name": "many", "keypoints": [f"point_{number}" for number in range(10_000)]}
    model.metadata_props[0].value = json.dumps(METADATA | {"skeleton": skeleton})


HOSTILE: dict[str, tuple[Change, str]] = {
    "another domain": (
        node("images", kind="Shell", domain="com.example"),
        "operator 'Shell' is not ONNX's own, but of domain 'com.example'",
    ),
    "a runtime's own operators": (
        node("images", kind="FusedConv", domain="com.microsoft"),
        "operator 'FusedConv' is not ONNX's own, but of domain 'com.microsoft'",
    ),
    "external data": (external, "the values of tensor 'scores.constant' are in another file"),
    "external data in an attribute": (external_in_an_attribute, "the values of tensor 'inner' are in another file"),
    "functions": (function, "it has functions or training steps of its own"),
    "training": (lambda model: model.training_info.add(), "it has functions or training steps of its own"),
    "a loop": (loop, "it has graphs in a graph, such as a loop"),
    "a sparse tensor": (sparse, "it has sparse tensors"),
    "a hollow tensor": (hollow, "tensor 'hollow' of 16384 x 16384 does not have as many values"),
    "a huge tensor": (
        lambda model: model.graph.initializer[1].dims.append(10**12),
        "tensor 'scores.constant' has shape 1 x 1 x 1000000000000, expected at most 16 sides, 268435456 elements",
    ),
    "a huge input": (
        wide_input,
        "'images' has shape 1 x 160000 x 160000 x 3, expected at most 16 sides, 268435456 elements",
    ),
    "a negative side": (negative_side, "'scores' has shape -7 x 1, expected at most 16 sides, 268435456 elements"),
    "100 GB from a shape": (
        both(constant("size", [100_000, 250_000]), node("size", kind="ConstantOfShape")),
        "ConstantOfShape makes a tensor of 100000 x 250000, more than 268435456 elements",
    ),
    "100 GB from a node's constant": (
        lambda model: [
            model.graph.node.append(helper.make_node("Constant", [], ["size"], value_ints=[500_000, 500_000])),
            model.graph.node.append(helper.make_node("Expand", ["zero", "size"], ["unused"])),
        ],
        "Expand makes a tensor of 500000 x 500000, more than 268435456 elements",
    ),
    "100 GB by enlarging": (
        both(constant("by", np.array([1, 1, 1e5, 1e5], np.float32)), node("images", "", "by", kind="Resize")),
        "Resize makes a tensor of 1 x 1 x 100000 x 100000, more than 268435456 elements",
    ),
    "100 GB by repeating": (
        both(constant("by", [10**12]), node("images", "by", kind="Tile")),
        "Tile makes a tensor of 1000000000000, more than 268435456 elements",
    ),
    "metadata of megabytes": (
        lambda model: model.metadata_props.add(key="more", value="x" * 3_000_000),
        "more than 1000000",
    ),
    "a description of megabytes": (
        lambda model: setattr(model, "doc_string", "x" * 3_000_000),
        "more than 1000000",
    ),
}


def refused(path: Path, runtime: str = "onnxruntime") -> str:
    with pytest.raises(ModelError) as caught:
        open_session(path, runtime=runtime, threads=1)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and len(text) < 600
    return text.removeprefix(f"{path}: ")


@pytest.fixture
def no_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal comes before a runtime sees the file."""

    def reached(*_: object, **__: object) -> None:
        raise AssertionError("a runtime was called")

    monkeypatch.setattr("onnxruntime.InferenceSession", reached)
    monkeypatch.setattr("openvino.Core", reached)


@pytest.mark.usefixtures("no_runtime")
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_model_is_refused_before_a_runtime_sees_it(name: str, runtime: str, tmp_path: Path) -> None:
    change, reason = HOSTILE[name]
    text = refused(changed(tmp_path / "bad.onnx", change), runtime)
    assert text.startswith("refused: ") and text.endswith(f"{reason}{REMEDY}")


@pytest.mark.usefixtures("no_runtime")
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_skeleton_of_ten_thousand_keypoints_is_refused(runtime: str, tmp_path: Path) -> None:
    text = refused(changed(tmp_path / "bad.onnx", many_keypoints), runtime)
    assert text == "metadata 'posedet' is invalid (skeleton 'many': keypoints: 10000 names, expected at most 1000)"


@pytest.mark.usefixtures("no_runtime")
def test_a_file_of_endless_small_fields_is_refused_soon(tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"\x08\x01" * (MAX_FIELDS + 1))  # the version of the format, again and again
    assert refused(path) == f"refused: it has more than {MAX_FIELDS} fields{REMEDY}"


@pytest.mark.usefixtures("no_runtime")
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"Dear diary,\ntoday",
        SHIPPED.read_bytes()[:100_000],
        SHIPPED.read_bytes() + b"\x3a\x00",  # a second graph, which some parsers merge and others take instead
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a graph of 2^64 - 1 bytes
        b"\x38\x01",  # a number for a graph
        b"\x10" + b"\xff" * 8 + b"\x7f",  # a large number for a text, which must not become as many zeros
        b"\x3b\x3c",  # a group, as older protocol buffers have
        b"\xff" * 20,
        b"\x3a\x7e" + b"\x0a\x02" * 63,
    ],
    ids=[
        "empty",
        "text",
        "cut",
        "two graphs",
        "endless",
        "a number",
        "a large number",
        "a group",
        "no end",
        "nodes of numbers",
    ],
)
def test_what_is_no_onnx_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    assert refused(path) == "not a readable ONNX file (damaged, cut off, or of another format)"


def nested(depth: int) -> Change:
    """Branches in branches."""

    def change(model: onnx.ModelProto) -> None:
        graph = helper.make_graph([helper.make_node("Identity", ["zero"], ["out"])], "inner", [], [])
        for _ in range(depth - 2):
            inner = helper.make_node("If", ["yes"], ["out"], then_branch=graph, else_branch=graph)
            graph = helper.make_graph([inner], "inner", [], [])
        model.graph.node.append(helper.make_node("If", ["yes"], ["out"], then_branch=graph, else_branch=graph))

    return change


def test_a_foreign_model_may_have_more(tmp_path: Path) -> None:
    """Models that `posedet benchmark --against` compares with."""
    path = tmp_path / "other.onnx"
    for change in (HOSTILE["a loop"][0], HOSTILE["another domain"][0], nested(onnx_file.MAX_DEPTH)):
        assert "posedet" in onnx_metadata(changed(path, change), "other", foreign=True)
    with pytest.raises(ModelError, match=r"^other: refused: graphs are nested more than 8 deep; "):
        onnx_metadata(changed(path, nested(onnx_file.MAX_DEPTH + 1)), "other", foreign=True)
    for name in ("external data", "functions", "a hollow tensor", "100 GB from a shape"):
        with pytest.raises(ModelError, match=r"^other: refused: "):
            onnx_metadata(changed(path, HOSTILE[name][0]), "other", foreign=True)


def test_tensors_are_hidden_nowhere(tmp_path: Path) -> None:
    """In a branch of a branch, and in a list of tensors."""

    def hidden(model: onnx.ModelProto) -> None:
        nested(4)(model)
        inner = model.graph.node[-1]
        while inner.op_type == "If":
            graph = inner.attribute[1].g
            inner = graph.node[0]
        graph.initializer.add(name="deep", data_type=1, dims=[1 << 20])

    with pytest.raises(ModelError, match="tensor 'deep' of 1048576 does not have as many values"):
        onnx_metadata(changed(tmp_path / "bad.onnx", hidden), "bad", foreign=True)

    def in_the_first_branch(model: onnx.ModelProto) -> None:
        nested(3)(model)
        model.graph.node[-1].attribute[0].g.initializer.add(name="first", data_type=1, dims=[9])

    with pytest.raises(ModelError, match="tensor 'first' of 9 does not have as many values"):
        onnx_metadata(changed(tmp_path / "bad.onnx", in_the_first_branch), "bad", foreign=True)

    def listed(model: onnx.ModelProto) -> None:
        tensors = [TensorProto(name="second", data_type=TensorProto.INT64, dims=[9], int64_data=[1] * 8)]
        attribute = onnx.AttributeProto(name="all", type=onnx.AttributeProto.TENSORS, tensors=tensors)
        model.graph.node[0].attribute.append(attribute)

    with pytest.raises(ModelError, match="tensor 'second' of 9 does not have as many values"):
        onnx_metadata(changed(tmp_path / "bad.onnx", listed), "bad")


def test_values_may_be_stored_in_every_way(tmp_path: Path) -> None:
    def stored(model: onnx.ModelProto) -> None:
        for kind, values in {
            TensorProto.FLOAT: [0.5] * 6,
            TensorProto.DOUBLE: [0.5] * 6,
            TensorProto.INT64: [-1, 300, 2**40, 0, 0, 0],
            TensorProto.UINT64: [2**63] * 6,
            TensorProto.FLOAT16: [1.0] * 6,
            TensorProto.BOOL: [True] * 6,
            TensorProto.INT4: [1] * 6,
            TensorProto.COMPLEX64: [1 + 1j] * 6,
            TensorProto.STRING: [b"word"] * 6,
        }.items():
            model.graph.initializer.append(helper.make_tensor(f"as {kind}", kind, [2, 3], values))
        model.graph.initializer.append(helper.make_tensor("none", TensorProto.FLOAT, [0, 7], []))

    assert "posedet" in onnx_metadata(changed(tmp_path / "good.onnx", stored), "good")


def test_sizes_that_look_large_and_are_not(tmp_path: Path) -> None:
    """The end of a slice is often the largest number that there is."""
    fine = both(constant("end", [2**63 - 1]), node("images", "end", "end", kind="Slice"))
    assert "posedet" in onnx_metadata(changed(tmp_path / "good.onnx", fine), "good")
    most = both(constant("size", [MAX_ELEMENTS]), node("size", kind="ConstantOfShape"))
    assert "posedet" in onnx_metadata(changed(tmp_path / "good.onnx", most), "good")


# --- one thing at a time, in a model that has nothing else -----------------------------------------------------------


def verdict(*changes: Change) -> str:
    """Why a model is refused; an empty string if it is not."""
    model = helper.make_model(helper.make_graph([], "nothing", [], []))
    both(*changes)(model)
    try:
        onnx_metadata(model.SerializeToString(), "m")
    except ModelError as refused:
        return str(refused).removeprefix("m: refused: ").removesuffix(REMEDY)
    return ""


def tensor(dims: list[int], kind: int = TensorProto.FLOAT, **values: Any) -> Change:
    return lambda model: model.graph.initializer.append(TensorProto(name="t", dims=dims, data_type=kind, **values))


integers = st.integers(-(2**63), 2**63 - 1)


@settings(max_examples=25)
@given(st.dictionaries(st.text(), st.text()), integers, st.lists(integers, max_size=5))
def test_what_protocol_buffers_write_is_read(texts: dict[str, str], version: int, values: list[int]) -> None:
    model = helper.make_model(helper.make_graph([], "nothing", [], []), ir_version=version)
    model.graph.initializer.append(TensorProto(dims=[len(values)], data_type=TensorProto.INT64, int64_data=values))
    helper.set_model_props(model, texts)
    assert onnx_metadata(model.SerializeToString(), "m") == texts


@settings(max_examples=50)
@given(
    st.lists(st.integers(-(2**18), 2**18) | integers, min_size=1, max_size=3),
    st.sampled_from(["raw", "packed", "node"]),
)
def test_a_size_is_read_however_it_is_stored(sizes: list[int], how: str) -> None:
    array = np.array(sizes, np.int64)
    stored: dict[str, Change] = {
        "raw": lambda model: model.graph.initializer.append(numpy_helper.from_array(array, "t")),
        "packed": tensor([len(sizes)], TensorProto.INT64, int64_data=sizes),
        "node": lambda model: model.graph.node.append(helper.make_node("Constant", [], ["t"], value_ints=sizes)),
    }
    product = int(np.prod([max(1, abs(size)) for size in sizes], dtype=object))
    assert bool(verdict(stored[how], node("t", kind="ConstantOfShape"))) == (product > MAX_ELEMENTS)


MANY, MANY_FLOATS = [1 << 15, 1 << 14], [2.0**15, 2.0**14]  # twice as many as there may be, as one number 2^29
GIVEN: dict[str, Change] = {
    "int32": tensor([2], TensorProto.INT32, int32_data=MANY),
    "int64": tensor([2], TensorProto.INT64, int64_data=MANY),
    "float": tensor([2], TensorProto.FLOAT, float_data=MANY_FLOATS),
    "raw int32": constant("t", np.array(MANY, np.int32)),
    "raw float": constant("t", np.array(MANY_FLOATS, np.float32)),
    **{
        f"a node's {name}": lambda model, name=name, value=value: model.graph.node.append(
            helper.make_node("Constant", [], ["t"], **{name: value})
        )
        for name, value in {
            "value_int": 1 << 29,
            "value_float": 2.0**29,
            "value_ints": MANY,
            "value_floats": MANY_FLOATS,
            "value": numpy_helper.from_array(np.array(MANY)),
        }.items()
    },
}


@pytest.mark.parametrize("given", GIVEN)
def test_a_size_of_every_type_is_found_at_every_place(given: str) -> None:
    sides = "536870912" if given in ("a node's value_int", "a node's value_float") else "32768 x 16384"
    for kind, names in (
        ("ConstantOfShape", ["t"]),
        ("Expand", ["x", "t"]),
        ("OneHot", ["x", "t"]),
        ("Range", ["t"]),
        ("Range", ["x", "t"]),
        ("Resize", ["x", "", "t"]),
        ("Resize", ["x", "", "", "t"]),
        ("Tile", ["x", "t"]),
    ):
        said = f"{kind} makes a tensor of {sides}, more than 268435456 elements"
        assert verdict(GIVEN[given], node(*names, kind=kind)) == said
        assert verdict(GIVEN[given], node(*names, kind="Concat")) == ""
        assert verdict(GIVEN[given], node(*names[:-1], kind=kind)) == ""


def test_sides_of_one_and_none_do_not_count() -> None:
    sizes = tensor([4], TensorProto.INT64, int64_data=[1, 0, MAX_ELEMENTS, -1])
    assert verdict(sizes, node("t", kind="ConstantOfShape")) == ""


def test_a_tensor_in_an_attribute_is_no_constant_of_its_name() -> None:
    """Neither a small one in place of a large one, nor an unnamed one in place of an input that is left out."""
    small, large = numpy_helper.from_array(np.array([1]), "size"), numpy_helper.from_array(np.array(MANY))
    shape = node("size", kind="ConstantOfShape")
    assert verdict(constant("size", MANY), node(kind="Constant", value=small), shape) != ""
    assert verdict(node(kind="Constant", value=large), node("x", "", "", "sizes", kind="Resize")) == ""


# How many values of a field are enough for six elements. A packed number counts with its bytes, a text for itself.
ENOUGH: dict[int, tuple[str, Any, int]] = {
    TensorProto.FLOAT: ("float_data", 0.5, 2),
    TensorProto.DOUBLE: ("double_data", 0.5, 1),
    TensorProto.INT64: ("int64_data", 5, 6),
    TensorProto.UINT64: ("uint64_data", 5, 6),
    TensorProto.BOOL: ("int32_data", 1, 6),
    TensorProto.INT4: ("int32_data", 1, 3),
    TensorProto.STRING: ("string_data", b"", 6),
}


@pytest.mark.parametrize("kind", ENOUGH)
def test_a_tensor_has_values_for_its_elements(kind: int) -> None:
    field, value, enough = ENOUGH[kind]
    assert verdict(tensor([2, 3], kind, **{field: [value] * enough})) == ""
    said = "tensor 't' of 2 x 3 does not have as many values"
    assert verdict(tensor([2, 3], kind, **{field: [value] * (enough - 1)})) == said
    assert verdict(tensor([], kind, **{field: [value]})) == verdict(tensor([2, 0], kind)) == ""
    assert verdict(tensor([], kind)) == said.replace("2 x 3", "1")


@pytest.mark.parametrize(
    ("kind", "dims", "num_bytes"),
    [
        (TensorProto.FLOAT, [2, 3], 24),
        (TensorProto.DOUBLE, [3], 24),
        (TensorProto.FLOAT16, [5], 10),
        (TensorProto.BOOL, [5], 5),
        (TensorProto.INT4, [5], 3),  # two in a byte
        (TensorProto.UINT4, [4], 2),
        (TensorProto.COMPLEX128, [1], 16),
    ],
)
def test_raw_values_take_their_bytes(kind: int, dims: list[int], num_bytes: int) -> None:
    said = f"tensor 't' of {' x '.join(map(str, dims))} does not have as many values"
    for more in (-1, 0, 1):
        assert verdict(tensor(dims, kind, raw_data=bytes(num_bytes + more))) == (said if more else "")
    assert verdict(tensor(dims, kind, raw_data=bytes(num_bytes), int32_data=[1])) == said
    for unknown in (0, 8, 99):  # 8 are texts, which are never raw
        assert verdict(tensor(dims, unknown, raw_data=bytes(num_bytes))) == said


@pytest.mark.parametrize("place", ["input", "output", "value_info"])
def test_declared_shapes_have_limits(place: str) -> None:
    def declared(shape: list[int | str] | None) -> Change:
        info = helper.make_tensor_value_info("v", TensorProto.FLOAT, shape)
        return lambda model: getattr(model.graph, place).append(info)

    assert verdict(declared(None)) == verdict(declared([])) == verdict(declared(["n", 1 << 14, 1 << 14, 0])) == ""
    assert verdict(declared([1] * 16)) == verdict(declared([MAX_ELEMENTS])) == ""
    said = "'v' has shape {}, expected at most 16 sides, 268435456 elements"
    assert verdict(declared([0, MAX_ELEMENTS + 1])) == said.format("0 x 268435457")
    assert verdict(declared(["n", -1])) == said.format("1 x -1")
    assert verdict(declared([1] * 17)) == said.format(" x ".join(["1"] * 17))
    assert verdict(declared([12345] * 16)) == said.format(" x ".join(["12345"] * 16)[:80])
    unnamed = helper.make_tensor_value_info("", TensorProto.FLOAT, [-1])
    assert verdict(lambda model: getattr(model.graph, place).append(unnamed)) == said.format("-1").replace("'v'", "''")
    untyped = onnx.ValueInfoProto(name="v")
    assert verdict(lambda model: getattr(model.graph, place).append(untyped)) == ""


def test_tensors_have_limits_however_their_sides_are_stored() -> None:
    assert verdict(tensor([1] * MAX_RANK, raw_data=bytes(4))) == ""
    said = f"tensor 't' has shape {' x '.join(['1'] * 17)}, expected at most 16 sides, 268435456 elements"
    assert verdict(tensor([1] * 17, raw_data=bytes(4))) == verdict(tensor([1] * 40, raw_data=bytes(4))) == said
    raw = TensorProto(name="t", data_type=TensorProto.FLOAT, raw_data=bytes(4)).SerializeToString()
    packed = [raw + b"\x0a" + bytes([count]) + b"\x01" * count for count in (16, 17)]  # as other programs write them
    assert onnx_metadata(model_of(packed[0]), "m") == {}
    with pytest.raises(ModelError, match="expected at most 16 sides"):
        onnx_metadata(model_of(packed[1]), "m")


def model_of(tensor: bytes) -> bytes:
    """A model of nothing but a tensor, as Python's protocol buffers do not write it."""
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    return b"\x3a" + bytes([len(graph)]) + graph


INT64 = b"\x10\x07"


def test_numbers_in_fields_of_their_own() -> None:
    assert onnx_metadata(model_of(b"\x08\x02" + INT64 + b"\x38\x05\x38\x05"), "m") == {}
    with pytest.raises(ModelError, match="tensor '' of 3 does not have as many values"):
        onnx_metadata(model_of(b"\x08\x03" + INT64 + b"\x38\x05\x38\x05"), "m")


def test_only_64_bits_of_a_number_count() -> None:
    """Of 2^64 + 2 sides, two are left, as in other parsers. A number of eleven bytes is none."""
    assert onnx_metadata(model_of(b"\x08\x82" + b"\x80" * 8 + b"\x02" + INT64 + b"\x3a\x02\x05\x05"), "m") == {}
    for content in (b"\x08" + b"\x80" * 10 + b"\x01\x3a\x00", model_of(b"\x08\x01\x12\x01\x07\x38\x05")):
        with pytest.raises(ModelError, match=r"^m: not a readable ONNX file"):
            onnx_metadata(content, "m")


def test_a_tensor_says_its_type_and_where_it_is() -> None:
    assert verdict(tensor([1], 0, raw_data=bytes(4))) == "tensor 't' of 1 does not have as many values"
    untyped = TensorProto(name="t", dims=[1], raw_data=bytes(4))
    assert verdict(lambda model: model.graph.initializer.append(untyped)).startswith("tensor 't' of 1 does not")
    elsewhere = tensor([1], raw_data=bytes(4), data_location=TensorProto.EXTERNAL)
    assert verdict(elsewhere) == "the values of tensor 't' are in another file"


def test_sixteen_sizes_are_looked_at_and_other_types_are_none() -> None:
    for last in (
        tensor([16], TensorProto.INT64, int64_data=[4] * 16),
        tensor([16], float_data=[1.0] * 15 + [2.0**29]),
    ):
        assert "makes a tensor of" in verdict(last, node("t", kind="ConstantOfShape"))
    assert verdict(constant("t", np.full(2, 1e9)), node("t", kind="ConstantOfShape")) == ""


@pytest.mark.parametrize("field", ["producer_name", "producer_version", "domain", "doc_string", "key", "value"])
def test_the_texts_of_a_model_count_together(field: str) -> None:
    def texts(size: int) -> Change:
        def change(model: onnx.ModelProto) -> None:
            model.producer_name = "me"
            if field in ("key", "value"):
                model.metadata_props.add(**{field: "x" * (size - 2)})
            else:
                setattr(model, field, "x" * (size if field == "producer_name" else size - 2))

        return change

    assert verdict(texts(MAX_METADATA_BYTES)) == ""
    said = f"{MAX_METADATA_BYTES + 1} bytes of metadata are more than {MAX_METADATA_BYTES}"
    assert verdict(texts(MAX_METADATA_BYTES + 1)) == said


def test_fields_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "MAX_FIELDS", 4)
    assert onnx_metadata(b"\x08\x01" * 3 + b"\x3a\x00", "m") == {}
    with pytest.raises(ModelError, match=r"^m: refused: it has more than 4 fields; "):
        onnx_metadata(b"\x08\x01" * 4 + b"\x3a\x00", "m")


@pytest.mark.parametrize("field", ["sparse_tensor", "sparse_tensors"])
def test_sparse_tensors_in_attributes_are_refused(field: str) -> None:
    values, places = numpy_helper.from_array(np.ones(1, np.float32), "t"), numpy_helper.from_array(np.zeros(1, int))
    sparse = helper.make_sparse_tensor(values, places, [9])
    value = onnx.AttributeProto(name="v", **{field: sparse if field == "sparse_tensor" else [sparse]})
    odd = onnx.NodeProto(op_type="Constant", output=["c"], attribute=[value])
    assert verdict(lambda model: model.graph.node.append(odd)) == "it has sparse tensors"


@pytest.mark.parametrize("field", ["g", "graphs"])
def test_graphs_in_attributes_are_refused(field: str) -> None:
    graph = helper.make_graph([], "inner", [], [])
    value = onnx.AttributeProto(name="v", **{field: graph if field == "g" else [graph]})
    odd = onnx.NodeProto(op_type="If", output=["c"], attribute=[value])
    assert verdict(lambda model: model.graph.node.append(odd)) == "it has graphs in a graph, such as a loop"


def test_names_in_messages_are_short_and_on_one_line() -> None:
    said = verdict(lambda model: model.graph.initializer.add(name="x" * 200, data_type=1, dims=[2]))
    assert said == f"tensor '{'x' * 79} of 2 does not have as many values"
    model = helper.make_model(helper.make_graph([helper.make_node("A", [], [], domain="two\nlines")], "g", [], []))
    content = model.SerializeToString().replace(b"two\nlines", b"two\n\xffines")  # no UTF-8
    with pytest.raises(ModelError) as caught:
        onnx_metadata(content, "m")
    assert "\n" not in str(caught.value) and "operator 'A' is not ONNX's own" in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted as Linux does")
def test_a_large_constant_is_not_computed_when_the_file_is_opened(tmp_path: Path) -> None:
    def summed(model: onnx.ModelProto) -> None:
        constant("size", [MAX_ELEMENTS])(model)
        model.graph.node.insert(0, helper.make_node("ReduceSum", ["ones"], ["sum"], keepdims=0))
        model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["size"], ["ones"]))
        model.graph.node[4].input[1] = "sum"

    path = changed(tmp_path / "large.onnx", summed)
    code = f"from pathlib import Path; from posedet.runtime.session import open_session; {PEAK}"
    small, large = (
        int(subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=True).stdout)
        for file in (small_model(tmp_path / "small.onnx"), path)
    )
    assert large - small < 50_000  # kB


# Not ru_maxrss: that of a new process begins with its parent's.
PEAK = (
    "import re, sys; open_session(Path(sys.argv[1]), threads=1); "
    "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
)


# --- what a network answers ------------------------------------------------------------------------------------------


def outputs(change: Callable[[dict[str, np.ndarray]], object], path: Path) -> PoseDet:
    """A detector whose network answers something else than it declares."""
    model = onnx.load(small_model(path))
    arrays = {
        tensor.name: numpy_helper.to_array(tensor).copy()
        for tensor in model.graph.initializer
        if tensor.name != "nothing"
    }
    change(arrays)
    for tensor in model.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    path.write_bytes(model.SerializeToString())
    return PoseDet(path, threads=1)


@pytest.mark.parametrize("name", ["scores", "keypoints", "keypoint_scores"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_no_numbers_are_no_poses(name: str, value: float, tmp_path: Path) -> None:
    photo = np.zeros((96, 128, 3), np.uint8)
    detector = outputs(lambda arrays: arrays[f"{name}.constant"].fill(value), tmp_path / "bad.onnx")
    assert len(detector(photo)) == 0
    assert len(outputs(lambda arrays: None, tmp_path / "good.onnx")(photo)) == 1


@pytest.mark.parametrize(
    ("name", "array", "found"),
    [
        ("keypoints", np.zeros((1, 2, 17, 2), np.float32), "(1, 2, 17, 2), expected numbers of shape (1, 1, 17, 2)"),
        ("keypoints", np.zeros((), np.float32), "(), expected numbers of shape (1, 1, 17, 2)"),
        ("keypoint_scores", np.zeros((17,), np.float32), "(17,), expected numbers of shape (1, 1, 17)"),
        ("scores", np.zeros((3, 1), np.float32), "(3, 1), expected numbers of shape (1, 1)"),
        ("scores", np.zeros((1,), np.float32), "(1,), expected numbers of shape (1, 1)"),
    ],
)
def test_outputs_of_other_shapes_are_one_line(name: str, array: np.ndarray, found: str, tmp_path: Path) -> None:
    detector = outputs(lambda arrays: arrays.update({f"{name}.constant": array}), tmp_path / "bad.onnx")
    with pytest.raises(ModelError) as caught:
        detector(np.zeros((96, 128, 3), np.uint8))
    assert str(caught.value) == f"{tmp_path / 'bad.onnx'}: output {name} is float32 of shape {found}"


def test_a_network_that_finds_endless_poses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MAX_POSES", 0)
    with pytest.raises(ModelError, match=r"small\.onnx: finds 1 poses in an image, expected at most 0$"):
        PoseDet(small_model(tmp_path / "small.onnx"), threads=1)(np.zeros((96, 128, 3), np.uint8))


# --- checksums -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_runtime")
def test_a_checksum_of_a_path_is_compared_before_anything_else_reads_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = changed(tmp_path / "bad.onnx", external)
    digest = model_files.RELEASES["posedet-s"].sha256
    with pytest.raises(ModelError) as caught:
        PoseDet(f"{path}#sha256={digest}")
    assert str(caught.value).startswith(f"{path}: checksum mismatch: the file has SHA-256 ")
    assert str(caught.value).endswith(f", expected {digest}")
    with pytest.raises(ModelError, match=r"none\.onnx: no such model file$"):
        PoseDet(f"{tmp_path / 'none.onnx'}#sha256={digest}")


def test_a_path_with_its_checksum_is_opened() -> None:
    digest = model_files.RELEASES["posedet-s"].sha256
    for text in (digest, digest[:8], digest.upper()):
        assert PoseDet(f"{SHIPPED}#sha256={text}", threads=1).about.name == "posedet-s"
