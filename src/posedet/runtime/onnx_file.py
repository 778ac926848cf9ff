"""Look into an ONNX file before a runtime does: return its metadata, and refuse what only a hostile file contains.

An ONNX file is a protocol buffer: a message is a list of fields, each with a number, a wire type and a value, which may
be a message again. The numbers are those of `onnx.proto`. Nothing is copied or computed, and no call is recursive.
"""

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from posedet.errors import ModelError
from posedet.files import one_line

MAX_FIELDS = 500_000  # of the whole file, besides the values of tensors: a second; HRNet-W48 has 47,000
MAX_METADATA_BYTES = 1_000_000
MAX_ELEMENTS = 1 << 28  # of a declared shape, and of a size that a constant gives: 1 GB of float32
MAX_RANK = 16
MAX_DEPTH = 8  # of graphs in graphs

_DOMAINS = ("", "ai.onnx")  # ONNX's own operators
# Bits of an element by `TensorProto.DataType`, without strings (8).
_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16}
_BITS |= {17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2}
_STRING = 8
# Operators whose output is as large as the value of an input says, and the place of that input.
_SIZES = {"ConstantOfShape": (0,), "Expand": (1,), "OneHot": (1,), "Range": (0, 1), "Resize": (2, 3), "Tile": (1,)}
_SIZE_OF_KIND = {1: 8, 5: 4}  # bytes of a number of fixed length by wire type
_SIZE_TYPES = {1: "<f4", 6: "<i4", 7: "<i8"}

_Message = dict[int, list[Any]]  # fields by number; numbers of variable length are int, everything else is a memoryview


def onnx_metadata(model: Path | bytes, name: str, *, foreign: bool = False) -> dict[str, str]:
    """Read the metadata of an ONNX file, and check the file.

    Args:
        model: The file, or its content.
        name: The name of the file in messages.
        foreign: Whether another program made it. Graphs in graphs and operators of other domains are then allowed.

    Raises:
        ModelError: If the file is not ONNX; if it has external data, functions of its own, sparse tensors, operators of
            other domains or graphs in graphs; if a tensor has more elements than values; or if something is beyond the
            limits of this module.
    """
    content = model if isinstance(model, bytes) else model.read_bytes()
    try:
        return _Walk(foreign).model(memoryview(content))
    except _Refused as reason:
        raise ModelError(
            f"{name}: refused: {reason}; export the model anew, or use one from people you trust"
        ) from None
    except (LookupError, TypeError, ValueError):  # fields that end too early, occur twice, or have another type
        raise ModelError(f"{name}: not a readable ONNX file (damaged, cut off, or of another format)") from None


class _Refused(Exception):
    """What is wrong with a file that is well formed."""


class _Walk:
    """One walk through a file, with the constants that were met on the way."""

    def __init__(self, foreign: bool) -> None:
        self._foreign = foreign
        self._left = MAX_FIELDS
        self._constants: dict[bytes, list[float]] = {}

    def model(self, content: memoryview) -> dict[str, str]:
        """Check a `ModelProto`, and return its metadata."""
        model = self._message(content)
        if model[25] or model[20]:
            raise _Refused("it has functions or training steps of its own")
        texts = [_octets(text) for number in (2, 3, 4, 6) for text in model[number]]
        pairs = [(_octets(_one(pair[1], b"")), _octets(_one(pair[2], b""))) for pair in map(self._message, model[14])]
        if (size := sum(map(len, [*texts, *(text for pair in pairs for text in pair)]))) > MAX_METADATA_BYTES:
            raise _Refused(f"{size} bytes of metadata are more than {MAX_METADATA_BYTES}")
        graphs = [(_one(model[7]), 1)]
        while graphs:
            graph, depth = graphs.pop()
            inner = self._graph(self._message(graph))
            if inner and not self._foreign:
                raise _Refused("it has graphs in a graph, such as a loop")
            if inner and depth == MAX_DEPTH:
                raise _Refused(f"graphs are nested more than {MAX_DEPTH} deep")
            graphs += [(each, depth + 1) for each in inner]
        return {key.decode(): text.decode() for key, text in pairs}

    def _graph(self, graph: _Message) -> list[memoryview]:
        """Check a `GraphProto`, and return the graphs in it."""
        if graph[15]:
            raise _Refused("it has sparse tensors")
        self._constants.update(map(self._tensor, graph[5]))
        for value in (*graph[11], *graph[12], *graph[13]):
            self._shape(self._message(value))
        return [inner for node in graph[1] for inner in self._node(self._message(node))]

    def _node(self, node: _Message) -> list[memoryview]:
        """Check a `NodeProto`, and return the graphs in its attributes."""
        kind, domain = _text(_one(node[4])), _text(_one(node[7], b""))
        if domain not in _DOMAINS and not self._foreign:
            raise _Refused(f"operator {kind!r:.80} is not ONNX's own, but of domain {domain!r:.80}")
        inputs = [_octets(each) for each in node[1]]
        for place in _SIZES.get(kind, ()):
            sizes = self._constants.get(inputs[place], ()) if place < len(inputs) else ()
            if math.prod(max(1.0, abs(size)) for size in sizes) > MAX_ELEMENTS:
                raise _Refused(f"{kind} makes a tensor of {_sides(sizes)}, more than {MAX_ELEMENTS} elements")
        graphs = []
        for attribute in map(self._message, node[5]):
            if attribute[22] or attribute[23]:
                raise _Refused("it has sparse tensors")
            graphs += [*attribute[6], *attribute[11]]
            for tensor in (*attribute[5], *attribute[10]):
                _, sizes = self._tensor(tensor)  # its name is seen by nobody
                if kind == "Constant":
                    self._constants[_octets(node[2][0])] = sizes
            floats, integers = [*attribute[2], *attribute[7]], [*attribute[3], *attribute[8]]
            if kind == "Constant" and (floats or integers):
                self._constants[_octets(node[2][0])] = _numbers(floats, integers)
        return graphs

    def _tensor(self, content: memoryview) -> tuple[bytes, list[float]]:
        """Check a `TensorProto`, and return its name, and its values if they could be a size."""
        tensor = self._message(content)
        name = repr(_text(_one(tensor[8], b"")))[:80]
        if tensor[13] or _one(tensor[14], 0) != 0:
            raise _Refused(f"the values of tensor {name} are in another file")
        dims = _whole(tensor[1])
        elements = _elements(dims, f"tensor {name}")
        kind, raw = _one(tensor[2], 0), tensor[9]
        values = [each for number in (4, 5, 6, 7, 10, 11) for each in tensor[number]]
        if kind == _STRING:
            fits = elements == len(tensor[6])
        elif raw:
            fits = kind in _BITS and -(-elements * _BITS[kind] // 8) == len(_one(raw)) and not values
        else:  # an element takes at least a byte there, or its own bits
            num_bytes = sum(1 if isinstance(each, int) else len(each) for each in values)
            fits = kind in _BITS and elements * min(_BITS[kind], 8) <= 8 * num_bytes
        if not fits:
            raise _Refused(f"tensor {name} of {_sides(dims)} does not have as many values")
        sizes: list[float] = []
        if kind in _SIZE_TYPES and elements <= MAX_RANK:
            integers = tensor[7] or tensor[5]
            sizes = np.frombuffer(raw[0], _SIZE_TYPES[kind]).tolist() if raw else _numbers(tensor[4], integers)
        return _octets(_one(tensor[8], b"")), sizes

    def _shape(self, value: _Message) -> None:
        """Check the shape that a `ValueInfoProto` declares, if it declares one."""
        message = value
        for number in (2, 1, 2):  # type, tensor_type, shape
            if not message[number]:
                return
            message = self._message(_one(message[number]))
        dims = [_signed(_one(dim[1], 1)) for dim in map(self._message, message[1])]
        _elements(dims, f"{_text(_one(value[1], b''))!r:.80}")

    def _message(self, content: memoryview) -> _Message:
        """Split a message into its fields. Raises IndexError or ValueError if it is damaged."""
        fields: _Message = defaultdict(list)
        place, end = 0, len(content)
        while place < end:
            key, place = _varint(content, place)
            kind = key & 7
            value: int | memoryview
            if kind == 0:
                value, place = _varint(content, place)
            else:
                size, place = _varint(content, place) if kind == 2 else (_SIZE_OF_KIND[kind], place)
                value = content[place : place + size]
                place += size
            if place > end:
                raise ValueError
            self._left -= 1
            if self._left < 0:
                raise _Refused(f"it has more than {MAX_FIELDS} fields")
            fields[key >> 3].append(value)
        return fields


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    """Read a number of 1 to 10 bytes, the lowest 7 bits first; return it and the place behind it."""
    number = content[place]
    place += 1
    if number < 128:
        return number, place
    number &= 127
    for shift in range(7, 70, 7):
        byte = content[place]
        place += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number & (1 << 64) - 1, place
    raise ValueError


def _whole(values: list[Any]) -> list[int]:
    """Return the first numbers, one more than a shape may have, of a repeated int64: a field for each, or packed."""
    numbers: list[int] = []
    for value in values:
        if isinstance(value, int):
            numbers.append(_signed(value))
            continue
        place = 0
        while place < len(value) and len(numbers) <= MAX_RANK:
            number, place = _varint(value, place)
            numbers.append(_signed(number))
    return numbers[: MAX_RANK + 1]


def _numbers(floats: list[Any], integers: list[Any]) -> list[float]:
    """Return the first numbers of repeated float32 and int64, as `_whole` does."""
    return [*np.frombuffer(b"".join(floats), "<f4")[: MAX_RANK + 1].tolist(), *map(float, _whole(integers))]


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


def _one(values: list[Any], default: Any = None) -> Any:
    """Return the value of a field that occurs once. Parsers differ in what they make of a second one."""
    if len(values) > 1 or not (values or default is not None):
        raise ValueError
    value = values[0] if values else default
    if default is not None and isinstance(value, int) != isinstance(default, int):
        raise ValueError
    return value


def _octets(value: Any) -> bytes:
    """Return the bytes of a field that is no number: `bytes` of a number would be as many zeros."""
    if isinstance(value, int):
        raise ValueError
    return bytes(value)


def _text(content: memoryview | bytes) -> str:
    return one_line(_octets(content).decode(errors="replace"))


def _elements(dims: list[int], what: str) -> int:
    """Return the number of elements of a shape."""
    elements = math.prod(dims)
    if len(dims) > MAX_RANK or min(dims, default=0) < 0 or math.prod(max(1, dim) for dim in dims) > MAX_ELEMENTS:
        raise _Refused(f"{what} has shape {_sides(dims)}, expected at most {MAX_RANK} sides, {MAX_ELEMENTS} elements")
    return elements


def _sides(dims: Any) -> str:
    return f"{' x '.join(f'{dim:.15g}' for dim in dims)}"[:80] or "1"
