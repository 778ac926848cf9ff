"""Change inputs a little, so that most of what is wrong with them is found late: bytes, lines, JSON, chunks, fields."""

import json
import re
import struct
import zlib
from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

Mutator = Callable[[Random, bytes, bytes], bytes]  # of an input, with another one to borrow from

MOST_BYTES = 1 << 17
_NUMBERS = (0, 1, 2, 3, 16, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 1 << 20, (1 << 31) - 1, 1 << 31)
_NUMBERS += ((1 << 32) - 1, (1 << 63) - 1, (1 << 64) - 1)
_WORDS = (
    *(
        "",
        "0",
        "-1",
        "1",
        "17",
        "1e9",
        "1e400",
        "-1e400",
        "nan",
        "inf",
        "9" * 5000,
        "0x10",
        "1_000",
        "true",
        "null",
        "~",
    ),
    *('"', "'", '"""', "[", "]", "{", "}", "=", ":", "#", ",", ".", "*", "&a", "*a", "!!python/object:os.system", "<<"),
    *(
        "\0",
        "\ufeff",
        "\u202e",
        "\ud7ff",
        "é" * 200,
        "x" * 3000,
        "../../etc/passwd",
        "/",
        "C:\\",
        "1979-05-27",
        "\r",
        "\t",
    ),
    *("[" * 3000, "{a=" * 500, "- " * 2000, "%00", "\x1b[31m"),
)
_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        0.5,
        -0.0,
        1e9,
        1e308,
        float("nan"),
        float("inf"),
        1 << 31,
        1 << 63,
        1 << 64,
        10**400,
    ),
    *("", "x", "nose", "x" * 3000, "\0", "\n", "\ud800", "../../../etc/passwd", "/etc/passwd", "é", "\u202e"),
    *([], {}, [[]], [{}], [None], [0, 1], {"": None}, [1] * 1000, {"id": 1}, [[0, 1]]),
)
_RAW = ("[" * 3000, "1e999", "-", "9" * 5000, "{" * 2000, '"\\ud800"', "\x00", "0" * 100, '{"a":1,"a":2}')


def change_bytes(rng: Random, content: bytes, other: bytes) -> bytes:
    """Change bits, bytes and numbers; delete, repeat and borrow parts."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        place = rng.randrange(len(changed) + 1)
        length = rng.choice((1, 2, 4, 8, 32, rng.randrange(1 + len(changed))))
        match rng.randrange(8):
            case 0 if place < len(changed):
                changed[place] ^= 1 << rng.randrange(8)
            case 1 | 2:
                size = rng.choice((1, 2, 4, 8))
                number = rng.choice((rng.choice(_NUMBERS), rng.getrandbits(64))) & (1 << 8 * size) - 1
                changed[place : place + size] = number.to_bytes(size, rng.choice(("big", "little")))
            case 3:
                del changed[place : place + length]
            case 4:
                changed[place:place] = changed[place : place + length]
            case 5:
                changed[place:place] = rng.randbytes(min(length, 64))
            case 6:
                start = rng.randrange(len(other) + 1)
                changed[place : place + length] = other[start : start + length]
            case 7 if rng.random() < 0.2:
                del changed[place:]
    return bytes(changed[:MOST_BYTES])


def change_lines(rng: Random, content: bytes, other: bytes) -> bytes:
    """Delete, repeat, move and borrow lines, and change words in them."""
    lines = content.decode(errors="surrogateescape").splitlines(keepends=True)
    borrowed = other.decode(errors="surrogateescape").splitlines(keepends=True)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if not lines:
            break
        place = rng.randrange(len(lines))
        match rng.randrange(6):
            case 0:
                del lines[place]
            case 1:
                lines.insert(rng.randrange(len(lines) + 1), lines[place])
            case 2 if borrowed:
                lines.insert(place, rng.choice(borrowed))
            case _:
                words = re.split(r"(\w+|[^\w\s])", lines[place])
                if len(words) > 1:
                    words[rng.randrange(0, len(words) // 2) * 2 + 1] = rng.choice((*_WORDS, rng.choice(words)))
                lines[place] = "".join(words)
    return "".join(lines).encode(errors="surrogatepass")[:MOST_BYTES]


def change_json(rng: Random, content: bytes, other: bytes) -> bytes:
    """Replace, delete, rename, repeat and nest values."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        return change_lines(rng, content, other)
    raw = ""
    for _ in range(rng.choice((1, 1, 2, 3))):
        inside = data
        while isinstance(inside, dict | list) and inside:
            key = rng.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
            if isinstance(inside[key], dict | list) and inside[key] and rng.random() < 0.85:
                inside = inside[key]
                continue
            match rng.randrange(7):
                case 0:
                    del inside[key]
                case 1 if isinstance(inside, dict):
                    inside[rng.choice(("", "id", "x" * 300, key + "s", key[:-1]))] = inside.pop(key)
                case 1 | 2 if isinstance(inside, list):
                    inside.insert(key, deepcopy(inside[key]))
                case 3:
                    inside[key] = [inside[key]]
                case 4:
                    inside[key] = raw = rng.choice(_RAW)
                case _:
                    inside[key] = deepcopy(rng.choice(_VALUES))
            break
    text = json.dumps(data)
    if raw:
        text = text.replace(json.dumps(raw), raw)
    return text.encode(errors="surrogatepass")[:MOST_BYTES]


def change_chunks(rng: Random, content: bytes, other: bytes) -> bytes:
    """Change the chunks of a PNG file, also below their compression, and make their checksums right again."""
    chunks, place = [], 8
    while place + 12 <= len(content):
        size, name = struct.unpack_from(">I4s", content, place)
        chunks.append((name, content[place + 8 : place + 8 + size]))
        place += 12 + size
    if not chunks:
        return change_bytes(rng, content, other)
    place = rng.randrange(len(chunks))
    name, inside = chunks[place]
    match rng.randrange(6):
        case 0:
            chunks.insert(rng.randrange(len(chunks)), chunks[place])
        case 1:
            del chunks[place]
        case 2 if name == b"IDAT":
            try:
                chunks[place] = name, zlib.compress(change_bytes(rng, zlib.decompress(inside), other))
            except zlib.error:
                chunks[place] = name, change_bytes(rng, inside, other)
        case _:
            chunks[place] = name, change_bytes(rng, inside, other)
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    return (content[:8] + b"".join(parts))[:MOST_BYTES]


def change_fields(rng: Random, content: bytes, other: bytes) -> bytes:
    """Change fields of a protocol buffer, at any depth, and make the lengths right again."""
    fields = _split(content)
    if not fields:
        return change_bytes(rng, content, other)
    place = rng.randrange(len(fields))
    number, kind, value = fields[place]
    if isinstance(value, bytes) and value.startswith(b"{") and rng.random() < 0.7:
        fields[place] = number, kind, change_json(rng, value, other)
    elif isinstance(value, bytes) and _split(value) and rng.random() < 0.85:
        fields[place] = number, kind, change_fields(rng, value, other)
    else:
        match rng.randrange(6):
            case 0:
                del fields[place]
            case 1:
                fields.insert(rng.randrange(len(fields)), fields[place])
            case 2:
                fields[place] = rng.choice((number + 1, number - 1, rng.randrange(30))), kind, value
            case 3:
                theirs = _split(other)
                fields.insert(place, rng.choice(theirs) if theirs else fields[place])
            case _ if isinstance(value, int):
                fields[place] = number, kind, rng.choice((*_NUMBERS, rng.getrandbits(64), value + 1))
            case _:
                fields[place] = number, kind, change_bytes(rng, value, other)
    return b"".join(_joined(*field) for field in fields)[:MOST_BYTES]


def change_safetensors(rng: Random, content: bytes, other: bytes) -> bytes:
    """Change the header, or the settings in it, and make its length right again."""
    size = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + size])
        inner = header["__metadata__"]["posedet"].encode(errors="surrogatepass")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return change_bytes(rng, content, other)
    if rng.random() < 0.6:
        header["__metadata__"]["posedet"] = change_json(rng, inner, b"").decode(errors="surrogatepass")
        changed = json.dumps(header).encode()
    else:
        changed = change_json(rng, json.dumps(header).encode(), other)
    return (len(changed).to_bytes(8, "little") + changed + content[8 + size :])[:MOST_BYTES]


def _split(content: bytes) -> list[tuple[int, int, Any]]:
    """The fields of a protocol buffer (number, wire type, value); none if it is not one."""
    fields, place = [], 0
    try:
        while place < len(content):
            key, place = _varint(content, place)
            kind = key & 7
            if kind == 0:
                value, place = _varint(content, place)
            else:
                size, place = _varint(content, place) if kind == 2 else ({1: 8, 5: 4}[kind], place)
                value = content[place : place + size]
                place += size
            if place > len(content) or not 0 < key >> 3 < 64:
                return []
            fields.append((key >> 3, kind, value))
    except (IndexError, KeyError):
        return []
    return fields


def _joined(number: int, kind: int, value: Any) -> bytes:
    key = _as_varint(max(number, 0) << 3 | kind)
    if isinstance(value, int):
        return key + _as_varint(value)
    return key + (_as_varint(len(value)) if kind == 2 else b"") + value


def _varint(content: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        number |= (content[place] & 127) << shift
        place, shift = place + 1, shift + 7
        if content[place - 1] < 128:
            return number, place


def _as_varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    packed = bytearray()
    while number > 127:
        packed.append(number & 127 | 128)
        number >>= 7
    return bytes([*packed, number])
