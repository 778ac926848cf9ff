"""Reading photos of every kind, good and bad, and the letterbox's way there and back."""

import base64
import io
import json
import os
import re
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from posedet.errors import PhotoError, PhotoFormatError, PhotoSizeError, PoseDetError
from posedet.image import (
    GREY,
    MAX_FILE_BYTES,
    PHOTO_FORMATS,
    Letterbox,
    in_memory,
    network_input,
    read_image,
    read_photo,
    size_of,
    stored_size_of,
    write_photo,
)

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def smooth_photo(height: int = 60, width: int = 90) -> np.ndarray:
    """(H, W, 3) uint8 without symmetry: red grows to the right, green downwards, a blue patch at the top left."""
    photo = np.zeros((height, width, 3), np.uint8)
    photo[..., 0] = np.linspace(0, 255, width)
    photo[..., 1] = np.linspace(0, 255, height)[:, None]
    photo[: height // 3, : width // 3, 2] = 200
    return photo


def encoded(photo: np.ndarray | Image.Image, form: str, **options: object) -> bytes:
    image = photo if isinstance(photo, Image.Image) else Image.fromarray(photo)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def refusal(photo: object) -> str:
    """The one line that a user reads."""
    with pytest.raises(PhotoError) as caught:
        read_photo(photo)
    text = str(caught.value)
    assert "\n" not in text
    return text


# --- what can be read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", PHOTO_FORMATS)
def test_every_format_is_read_whatever_its_name(form: str, tmp_path: Path) -> None:
    options = {"quality": 95} if form in ("JPEG", "WEBP", "AVIF") else {}
    path = written(tmp_path, "photo.dat", encoded(smooth_photo(), form, **options))
    photo = read_photo(path)
    assert photo.dtype == np.uint8
    assert photo.flags.c_contiguous
    assert photo.flags.writeable
    # GIF has 256 colours; the others are exact or nearly so, except where the patch's edge is chroma-subsampled.
    assert np.median(np.abs(photo.astype(int) - smooth_photo())) <= (16 if form == "GIF" else 3)
    assert_array_equal(read_photo(str(path)), photo)


def test_the_first_read_of_a_process_may_be_a_png(tmp_path: Path) -> None:
    """Pillow loads its decoders when first needed: a fresh interpreter, as other tests have loaded them all."""
    path = written(tmp_path, "photo.png", encoded(smooth_photo(), "PNG"))
    code = f"from posedet.image import read_photo; print(read_photo({str(path)!r}).shape)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "(60, 90, 3)\n"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_all_eight_orientations_give_the_same_photo(form: str, orientation: int, tmp_path: Path) -> None:
    upright = smooth_photo()
    # The stored rows and columns for each tag value, after the EXIF standard's "0th row is ..." table.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": "4:4:4"} if form in ("JPEG", "AVIF") else {}
    options |= {"lossless": True} if form == "WEBP" else {}
    content = encoded(np.ascontiguousarray(stored), form, exif=exif, **options)
    path = written(tmp_path, "photo", content)
    with Image.open(path) as image:
        photos = [read_photo(path), read_photo(image)]
    for photo in photos:
        assert photo.shape == upright.shape
        assert np.abs(photo.astype(int) - upright).mean() < 3
        assert photo.flags.c_contiguous


# Five entries promised, the first one cut off.
DAMAGED_EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03\0\0\0\x09"


def test_damaged_exif_turns_nothing_and_says_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, "photo.jpg", encoded(smooth_photo(), "JPEG", exif=DAMAGED_EXIF))
    with pytest.warns(UserWarning), Image.open(path) as image:  # what Pillow says
        image.getexif()
    photo = read_photo(path)
    assert photo.shape == (60, 90, 3)
    letterbox, pixels = network_input(path, lambda size: Letterbox(size, size, size))
    assert letterbox.photo_size == (60, 90)
    assert_array_equal(pixels, photo)


def test_an_orientation_that_is_no_number_turns_nothing(tmp_path: Path) -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x02x\0\0\0\0\0\0\0"
    path = written(tmp_path, "photo.jpg", encoded(smooth_photo(), "JPEG", exif=exif))
    with Image.open(path) as image:
        assert image.getexif()[0x0112] == "x"
    plain = written(tmp_path, "plain.jpg", encoded(smooth_photo(), "JPEG"))
    assert_array_equal(read_photo(path), read_photo(plain))


def test_grey_16_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 255, 257, 32768, 65407, 65535]], np.uint16)
    expected = [[0, 0, 1, 1, 1, 128, 255, 255]]  # round(value / 257), by hand
    for form in ("PNG", "TIFF"):
        photo = read_photo(written(tmp_path, "deep", encoded(values, form)))
        assert_array_equal(photo, np.repeat(np.array(expected, np.uint8)[..., None], 3, axis=2))


def test_colour_16_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    """Pillow cannot write 16-bit colour, so the PNG is put together here: one row of two pixels."""
    row = b"\0" + struct.pack(">6H", 65535, 32768, 0, 256, 40000, 65280)
    photo = read_photo(written(tmp_path, "deep.png", png(2, 1, depth=16, colour=2, rows=row)))
    assert_allclose(photo[0].astype(int), [[255, 128, 0], [1, 156, 254]], atol=1)


def test_cmyk_jpeg(tmp_path: Path) -> None:
    inks = Image.merge("CMYK", [Image.new("L", (16, 16), ink) for ink in (255, 0, 255, 0)])
    photo = read_photo(written(tmp_path, "print.jpg", encoded(inks, "JPEG", quality=95)))
    assert_allclose(photo.astype(int), np.broadcast_to(GREEN, (16, 16, 3)), atol=3)


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in (RED, GREEN, BLUE)]
    for form in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if form == "WEBP" else {}
        content = encoded(frames[0], form, save_all=True, append_images=frames[1:], duration=50, **options)
        assert_array_equal(
            read_photo(written(tmp_path, "moving", content)), np.full((10, 20, 3), RED, np.uint8), err_msg=form
        )


def test_a_camera_that_stores_two_photos_in_one_file(tmp_path: Path) -> None:
    """MPO: JPEGs one after the other, as many phones write them, named .jpg; Pillow opens it as its own kind."""
    content = encoded(smooth_photo(), "MPO", save_all=True, append_images=[Image.new("RGB", (90, 60), RED)], quality=95)
    path = written(tmp_path, "photo.jpg", content)
    with Image.open(path) as image:
        assert image.format == "MPO"
        photos = [read_photo(image), read_photo(path)]
    for photo in photos:
        assert np.abs(photo.astype(int) - smooth_photo()).mean() < 3


def test_what_is_transparent_becomes_white(tmp_path: Path) -> None:
    palette = Image.new("P", (3, 1))
    palette.putpalette([*RED, *GREEN, *BLUE])
    palette.putdata([0, 1, 2])
    content = encoded(palette, "PNG", transparency=bytes([255, 0, 51]))
    # Opaque red, hidden green, and blue at 51 / 255 = 0.2: 255 - 0.2 * 255 = 204.
    assert_array_equal(read_photo(written(tmp_path, "p.png", content))[0], [RED, WHITE, (204, 204, 255)])
    grey = Image.new("LA", (1, 1), (100, 0))
    assert_array_equal(read_photo(written(tmp_path, "la.png", encoded(grey, "PNG")))[0], [WHITE])
    keyed = encoded(Image.new("RGB", (1, 1), GREEN), "PNG", transparency=GREEN)
    assert_array_equal(read_photo(written(tmp_path, "key.png", keyed))[0], [WHITE])


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, WHITE),
        ("L", 90, (90, 90, 90)),
        ("LA", (90, 255), (90, 90, 90)),
        ("La", (90, 255), (90, 90, 90)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
        ("RGBX", (1, 2, 3, 0), (1, 2, 3)),
        ("RGBA", (10, 20, 30, 0), WHITE),
        ("RGBa", (10, 20, 30, 255), (10, 20, 30)),
        ("CMYK", (0, 255, 255, 0), RED),
        ("YCbCr", (128, 128, 128), (128, 128, 128)),
        ("HSV", (0, 255, 255), RED),
        ("I;16", 65535, WHITE),
        ("I;16B", 32896, (128, 128, 128)),
    ],
)
def test_pil_images_of_every_mode(mode: str, colour: object, expected: tuple[int, int, int]) -> None:
    image = Image.new(mode, (4, 3), colour)
    before = image.tobytes()
    assert_array_equal(read_photo(image), np.broadcast_to(np.array(expected, np.uint8), (3, 4, 3)))
    assert (image.mode, image.tobytes()) == (mode, before)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_modes_without_a_white_are_refused(mode: str) -> None:
    assert refusal(Image.new(mode, (4, 3))) == (
        f"photo: mode {mode!r} does not define which value is white; convert the photo to 'L' or 'RGB'"
    )


def test_one_pixel_and_a_panorama(tmp_path: Path) -> None:
    assert_array_equal(
        read_photo(written(tmp_path, "1.png", encoded(np.full((1, 1, 3), 7, np.uint8), "PNG"))), [[[7, 7, 7]]]
    )
    panorama = read_photo(written(tmp_path, "wide.jpg", encoded(Image.new("RGB", (12_000, 500), BLUE), "JPEG")))
    assert panorama.shape == (500, 12_000, 3)


def test_an_image_is_a_new_one(tmp_path: Path) -> None:
    """Without what its file says of it: it would be turned again."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = written(tmp_path, "photo.jpg", encoded(smooth_photo(), "JPEG", exif=exif, quality=95))
    upright = Image.fromarray(smooth_photo())
    upright.info["comment"] = "keep"
    for photo in (path, path.read_bytes(), upright, smooth_photo()):
        image = read_image(photo)
        assert (image.mode, image.info) == ("RGB", {}) and image is not photo
        assert_array_equal(np.asarray(image), read_photo(photo))
    assert upright.info == {"comment": "keep"}
    with pytest.raises(PhotoError, match="an array of float64"):
        read_image(np.zeros((4, 5, 3)))


def test_an_open_file_is_read_once_and_everything_else_stays(tmp_path: Path) -> None:
    path, photo = tmp_path / "photo.jpg", smooth_photo()
    assert in_memory(path) is path and in_memory(photo) is photo
    assert in_memory(io.BytesIO(b"content")) == b"content"


def test_the_size_of_arrays_and_images() -> None:
    image = Image.fromarray(smooth_photo())
    assert size_of(smooth_photo()) == size_of(image) == (60, 90)
    image.getexif()[0x0112] = 6
    assert size_of(image) == (90, 60)


def test_the_size_as_stored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = written(tmp_path, "photo.jpg", encoded(smooth_photo(), "JPEG", exif=exif))
    assert (stored_size_of(path), size_of(path)) == ((60, 90), (90, 60))
    path.write_bytes(b"words")
    with pytest.raises(PhotoError, match=r"photo\.jpg: not a photo"):
        stored_size_of(path)


# --- arrays ----------------------------------------------------------------------------------------------------------


def test_an_array_is_taken_as_it_is() -> None:
    photo = smooth_photo()
    assert read_photo(photo) is photo
    mirrored = read_photo(photo[:, ::-1])
    assert mirrored.flags.c_contiguous
    assert_array_equal(mirrored, photo[:, ::-1])


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros((4, 5, 3), np.float32), "photo: an array of float32, expected uint8 RGB in 0..255"),
        (np.zeros((4, 5, 3), bool), "photo: an array of bool, expected uint8 RGB in 0..255"),
        (np.zeros((4, 5), np.uint8), "photo: an array of shape (4, 5), expected (height, width, 3) RGB"),
        (np.zeros((4, 5, 4), np.uint8), "photo: an array of shape (4, 5, 4), expected (height, width, 3) RGB"),
        (np.zeros((1, 4, 5, 3), np.uint8), "photo: an array of shape (1, 4, 5, 3), expected (height, width, 3) RGB"),
        (np.zeros((0, 5, 3), np.uint8), "photo: an array of shape (0, 5, 3) has no pixels"),
        (np.zeros((4, 0, 3), np.uint8), "photo: an array of shape (4, 0, 3) has no pixels"),
    ],
)
def test_a_wrong_array_says_so(array: np.ndarray, text: str) -> None:
    assert refusal(array) == text


@pytest.mark.parametrize("thing", [None, 5, [[0, 0, 0]]])
def test_what_is_no_photo_at_all_is_named(thing: object) -> None:
    expected = "expected a path, bytes, a binary file, a PIL image or an array (H, W, 3) uint8 RGB"
    assert refusal(thing) == f"photo: {type(thing).__name__}, {expected}"


# --- what is refused -------------------------------------------------------------------------------------------------


def test_paths_without_a_photo(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.jpg") == f"{tmp_path}/none.jpg: no such file"
    assert refusal(tmp_path) == f"{tmp_path}: is a folder, expected a photo"
    assert refusal(written(tmp_path, "empty.jpg", b"")) == f"{tmp_path}/empty.jpg: the file is empty"
    assert refusal("/dev/null") == "/dev/null: is not a regular file"
    assert refusal("a\0b.jpg") == r"'a\x00b.jpg': cannot be read (embedded null byte)"
    inside = written(tmp_path, "file", b"x") / "photo.jpg"
    assert refusal(inside) == f"{inside}: cannot be read (Not a directory)"


def test_a_name_of_two_lines_stays_on_one(tmp_path: Path) -> None:
    assert refusal(f"{tmp_path}/two\nlines.jpg") == f"'{tmp_path}/two\\nlines.jpg': no such file"
    assert refusal("lone \udcff byte.jpg") == r"'lone \udcff byte.jpg': no such file"


@pytest.mark.parametrize("content", [b"Dear diary,\ntoday", b"\xff\xd8\xff", b"GIF89a", b"%PDF-1.7", b"\0" * 999])
def test_no_photo_inside(content: bytes, tmp_path: Path) -> None:
    path = written(tmp_path, "photo.jpg", content)
    assert re.fullmatch(rf"{path}: (not a photo, or damaged|damaged or truncated) \(.*\)", refusal(path))


@pytest.mark.parametrize("content", [b"0000ftypmp42", b"0000moovheic"])
def test_other_files_of_boxes_are_no_heic(content: bytes) -> None:
    assert refusal(content).startswith("photo: not a photo, or damaged (supported: ")


@pytest.mark.parametrize(
    ("error", "text"),
    [(ValueError("x" * 300), "x" * 200), (ValueError("two\nlines"), "'two\\nlines'"), (ValueError(), "ValueError")],
)
def test_what_a_decoder_says_is_quoted_on_one_line(
    error: Exception, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Image.Image) -> None:
        raise error

    monkeypatch.setattr(Image.Image, "load", fails)
    assert refusal(Image.new("RGB", (4, 3))) == f"photo: damaged or truncated ({text})"


def test_other_decoders_stay_closed(tmp_path: Path) -> None:
    """Pillow would open all of these; PPM stands for fifty formats that no camera writes."""
    for form in ("PPM", "TGA", "ICO", "PCX", "JPEG2000", "SGI"):
        path = written(tmp_path, f"photo.{form}", encoded(smooth_photo(), form))
        assert refusal(path) == f"{path}: not a photo, or damaged (supported: {', '.join(PHOTO_FORMATS)})"


@pytest.mark.parametrize("form", PHOTO_FORMATS)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_a_truncated_photo(form: str, share: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (80, 120, 3), np.uint8)
    content = encoded(noise, form)
    path = written(tmp_path, f"photo.{form.lower()}", content[: int(len(content) * share)])
    text = refusal(path)
    assert text.startswith(f"{path}: damaged or truncated (") or text.startswith(f"{path}: not a photo, or damaged (")
    # A PIL image that was opened and not yet decoded fails just as clearly, if Pillow opens it at all.
    with path.open("rb") as file:
        try:
            image = Image.open(file)
        except Exception:
            return
        assert refusal(image).startswith("photo: damaged or truncated (")


@pytest.mark.parametrize("form", PHOTO_FORMATS)
def test_flipped_bytes_read_or_refuse(form: str, tmp_path: Path) -> None:
    content = encoded(smooth_photo(), form)
    generator = np.random.default_rng(1)
    for _ in range(60):
        damaged = bytearray(content)
        for place in generator.integers(0, len(content), 4):
            damaged[place] = generator.integers(0, 256)
        path = written(tmp_path, "photo", bytes(damaged))
        try:
            photo = read_photo(path)
        except PhotoError as error:
            assert str(error).startswith(f"{path}: ")
        else:
            assert photo.dtype == np.uint8 and photo.ndim == 3


def png(width: int, height: int, *, depth: int, colour: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bomb(form: str, side: int) -> bytes:
    """A few KB that call themselves `side` x `side` pixels: small photos with another size in the header."""
    if form == "PNG":
        return png(side, side, depth=8, colour=2, rows=bytes(1_000_000))
    if form == "WEBP":
        size = (side - 1).to_bytes(3, "little")
        frame = encoded(Image.new("RGB", (16, 16)), "WEBP")[12:]
        body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + bytes(4) + size + size + frame
        return b"RIFF" + struct.pack("<I", len(body)) + body
    content = bytearray(encoded(Image.new("RGB", (48, 48)), form))
    if form == "JPEG":
        place = content.index(b"\xff\xc0") + 5
        content[place : place + 4] = struct.pack(">HH", side, side)
    elif form == "GIF":
        content[6:10] = struct.pack("<HH", side, side)
    elif form == "BMP":
        content[18:26] = struct.pack("<ii", side, side)
    elif form == "TIFF":
        for tag in (256, 257):  # width and height: 12 bytes each, tag, type LONG, count 1, value
            place = min(
                content.index(struct.pack("<HHI", tag, kind, 1))
                for kind in (3, 4)
                if struct.pack("<HHI", tag, kind, 1) in content
            )
            content[place : place + 12] = struct.pack("<HHII", tag, 4, 1, side)
    elif form == "AVIF":
        place = content.index(b"ispe") + 8
        content[place : place + 8] = struct.pack(">II", side, side)
    return bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("form", PHOTO_FORMATS)
def test_a_bomb_is_refused_quickly_and_in_little_memory(form: str, tmp_path: Path) -> None:
    """60,000 x 60,000 would be 10.8 GB. In a process of its own, whose peak memory is known."""
    path = written(tmp_path, f"bomb.{form.lower()}", bomb(form, 60_000))
    assert path.stat().st_size < 8000
    code = f"""
import re, time
from posedet.errors import PhotoError, PhotoFormatError, PhotoSizeError
from posedet.image import Image, read_photo
Image.init()
def peak_kb():  # not ru_maxrss: that of a new process begins with its parent's
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before, start = peak_kb(), time.perf_counter()
try:
    read_photo({str(path)!r})
except PhotoError as error:
    print(error)
print((peak_kb() - before) // 1024, time.perf_counter() - start)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    text, numbers = run.stdout.splitlines()
    megabytes, duration_s = map(float, numbers.split())
    assert run.stderr == ""
    # libavif refuses such sizes by itself, with its own words.
    assert text.endswith(": more than 178 million pixels; reduce its size first") or form == "AVIF"
    assert text.startswith(f"{path}: ")
    assert megabytes < 50
    assert duration_s < 2


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_between_pillows_warning_and_the_limit_nothing_is_warned(form: str, tmp_path: Path) -> None:
    """10,000 x 10,000: Pillow warns (an error in these tests), we allow the size; this one is only cut off."""
    text = refusal(written(tmp_path, "large", bomb(form, 10_000)))
    assert "damaged or truncated" in text
    assert "DecompressionBomb" not in text and "could be" not in text


def test_a_large_pil_image_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    path = written(tmp_path, "bomb.png", bomb("PNG", 60_000))
    with Image.open(path) as image:
        assert refusal(image) == f"{path}: more than 178 million pixels; reduce its size first"
    assert refusal(path) == f"{path}: more than 178 million pixels; reduce its size first"


def test_a_photo_beyond_memory_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "load", full)
    assert refusal(Image.new("RGB", (4, 3))) == "photo: not enough memory for 4 x 3 pixels"


@pytest.mark.parametrize(
    ("step", "read"),
    [
        (Image.Image.tobytes, read_photo),
        (Image.Image.resize, lambda path: network_input(path, partial(Letterbox.fit, long_side=64))),
    ],
)
def test_a_copy_beyond_memory_is_not_called_damaged(
    step: Any, read: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There was memory for the photo itself."""

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, step.__name__, full)
    with pytest.raises(PhotoError, match=r"a\.png: not enough memory for 4 x 3 pixels$"):
        read(tmp_path / "a.png")


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = written(tmp_path, "huge.jpg", encoded(smooth_photo(), "JPEG"))
    with path.open("r+b") as file:
        file.truncate(MAX_FILE_BYTES * 4)  # sparse: takes no room
    assert refusal(path) == f"{path}: 2000 MB, larger than the limit of 500 MB"


# --- threads ---------------------------------------------------------------------------------------------------------


def test_sixteen_threads_read_as_one_and_leave_the_warnings_alone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    paths = [
        written(
            tmp_path,
            form,
            encoded(smooth_photo(300 + i, 400), form, **({} if form in ("GIF", "BMP") else {"exif": exif})),
        )
        for i, form in enumerate(PHOTO_FORMATS)
    ]
    paths.append(written(tmp_path, "damaged.jpg", encoded(smooth_photo(), "JPEG", exif=DAMAGED_EXIF)))
    paths.append(written(tmp_path, "bomb.png", bomb("PNG", 60_000)))
    start = threading.Barrier(16)

    def read_all(_: int) -> list[object]:
        start.wait()
        results: list[object] = []
        for path in paths:
            try:
                results.append(read_photo(path).tobytes())
            except PhotoError as error:
                results.append(str(error))
        return results

    filters, limit = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(read_all, range(16)))
    assert all(result == results[0] for result in results)
    assert warnings.filters == filters
    assert limit == Image.MAX_IMAGE_PIXELS


# --- writing ---------------------------------------------------------------------------------------------------------


def test_a_written_photo_reads_back(tmp_path: Path) -> None:
    write_photo(tmp_path / "photo.jpg", smooth_photo())
    assert np.abs(read_photo(tmp_path / "photo.jpg").astype(int) - smooth_photo()).mean() < 2
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_a_written_photo_says_who_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    for options, comment in (
        ({}, "posedet write_photo\n"),
        ({"generator": "posedet draw", "comment": "more"}, "posedet draw\nmore"),
    ):
        for _ in range(2):  # its own file it may write again
            write_photo(path, Image.fromarray(smooth_photo()), **options)
        content = io.BytesIO(encoded(smooth_photo(), "JPEG", quality=92))
        with JpegImageFile(path) as image, JpegImageFile(content) as like:
            assert image.info["comment"] == comment.encode()
            assert image.quantization == like.quantization
        with pytest.raises(PoseDetError, match=r"photo\.jpg"):
            write_photo(path, smooth_photo(), generator="posedet other")
        path.unlink()


def test_a_picture_larger_than_a_jpeg_can_be_is_reduced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posedet.image.MAX_JPEG_SIDE", 50)
    given = Image.new("RGB", (100, 40), BLUE)
    write_photo(tmp_path / "photo.jpg", given)
    assert read_photo(tmp_path / "photo.jpg").shape == (20, 50, 3) and given.size == (100, 40)


def test_only_small_pictures_keep_all_colours(tmp_path: Path) -> None:
    """A file of a large picture has a quarter of the colours: brightness at 1 x 1 of every 2 x 2 pixels."""
    for side, sampled in ((1990, 0x11), (2000, 0x22)):
        write_photo(tmp_path / f"{side}.jpg", np.full((16, side, 3), BLUE, np.uint8))
        content = (tmp_path / f"{side}.jpg").read_bytes()
        assert content[content.index(b"\xff\xc0") + 11] == sampled


def test_a_picture_wider_than_a_jpeg_can_be_is_reduced(tmp_path: Path) -> None:
    write_photo(tmp_path / "wide.jpg", np.full((40, 131_000, 3), BLUE, np.uint8))
    photo = read_photo(tmp_path / "wide.jpg")
    assert photo.shape == (20, 65_500, 3)
    assert_allclose(photo.astype(int), np.broadcast_to(BLUE, photo.shape), atol=3)


# --- letterbox -------------------------------------------------------------------------------------------------------

SIDES = st.integers(1, 5000)


@pytest.mark.parametrize(
    ("photo_size", "limits", "resized", "padded"),
    [
        ((480, 640), {"long_side": 640}, (480, 640), (480, 640)),
        ((480, 640), {"long_side": 320}, (240, 320), (256, 320)),
        ((480, 640), {"long_side": 800, "short_side": 512}, (512, 683), (512, 704)),  # the paper's own example
        ((480, 640), {"long_side": 1000, "short_side": 640}, (640, 853), (640, 864)),
        ((3000, 4000), {"long_side": 1000, "short_side": 750}, (750, 1000), (768, 1024)),
        ((500, 12_000), {"long_side": 640}, (27, 640), (128, 640)),
        ((1, 12_000), {"long_side": 640}, (1, 640), (128, 640)),
        ((1, 1), {"long_side": 640}, (640, 640), (640, 640)),
        ((40, 30), {"long_side": 64}, (64, 48), (128, 128)),
        ((427, 640), {"long_side": 640, "multiple": 64, "min_side": 100}, (427, 640), (448, 640)),
        ((50, 50), {"long_side": 50, "multiple": 64, "min_side": 100}, (50, 50), (128, 128)),
    ],
)
def test_fit(photo_size: tuple[int, int], limits: dict[str, int], resized: object, padded: object) -> None:
    letterbox = Letterbox.fit(photo_size, **limits)
    assert (letterbox.photo_size, letterbox.resized_size, letterbox.input_size) == (photo_size, resized, padded)


@given(height=SIDES, width=SIDES, long_side=st.integers(1, 1500), short_side=st.none() | st.integers(1, 1500))
def test_fit_keeps_its_promises(height: int, width: int, long_side: int, short_side: int | None) -> None:
    letterbox = Letterbox.fit((height, width), long_side=long_side, short_side=short_side)
    resized, padded = letterbox.resized_size, letterbox.input_size
    assert 1 <= min(resized) <= max(resized) <= long_side
    assert short_side is None or min(resized) <= short_side
    # It cannot be larger: one of the limits is reached.
    assert max(resized) == long_side or min(resized) == short_side
    for inner, outer in zip(resized, padded, strict=True):
        assert outer % 32 == 0 and outer >= 128 and inner <= outer < max(inner + 32, 129)
    assert abs(resized[0] - height * max(resized) / max(height, width)) <= 1 or short_side is not None


@given(
    height=SIDES,
    width=SIDES,
    long_side=st.integers(32, 1500),
    points=st.lists(st.tuples(st.floats(-9000, 9000), st.floats(-9000, 9000)), max_size=5),
)
def test_there_and_back_is_the_same_place(
    height: int, width: int, long_side: int, points: list[tuple[float, float]]
) -> None:
    letterbox = Letterbox.fit((height, width), long_side=long_side)
    there = np.array(points, float).reshape(-1, 2)
    assert_allclose(letterbox.to_photo(letterbox.to_input(there)), there, atol=1e-6)
    assert_allclose(letterbox.to_input(letterbox.to_photo(there)), there, atol=1e-6)


def test_corners_meet_corners() -> None:
    """The photo's outer edge, half a pixel beyond the first and last centres, stays the edge; sides apart."""
    letterbox = Letterbox((333, 1000), (107, 320), (128, 320))
    edges = np.array([[-0.5, -0.5], [999.5, 332.5]])
    assert_allclose(letterbox.to_input(edges), [[-0.5, -0.5], [319.5, 106.5]])
    assert_allclose(letterbox.to_input(np.zeros((2, 5, 2))).shape, (2, 5, 2))


def centroid(photo: np.ndarray) -> np.ndarray:
    weights = photo[..., 1].astype(float) ** 2  # squared: far from the middle, rounding to whole numbers counts less
    y, x = np.mgrid[: weights.shape[0], : weights.shape[1]]
    return np.array([(x * weights).sum(), (y * weights).sum()]) / weights.sum()


@pytest.mark.parametrize("long_side", [96, 160, 333, 640, 777, 1200])
@pytest.mark.parametrize("photo_size", [(480, 640), (641, 427), (900, 1601)])
def test_a_dot_lands_where_its_coordinates_do(photo_size: tuple[int, int], long_side: int) -> None:
    height, width = photo_size
    letterbox = Letterbox.fit(photo_size, long_side=long_side)
    y, x = np.mgrid[:height, :width]
    for place in ((120.3, 77.8), (width - 90.25, height - 101.5)):
        blob = 250 * np.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / (2 * 16**2))
        photo = np.repeat(blob.round().astype(np.uint8)[..., None], 3, axis=2)
        resized_height, resized_width = letterbox.resized_size
        found = centroid(letterbox.apply(photo)[:resized_height, :resized_width])
        assert_allclose(found, letterbox.to_input(np.array(place)), atol=0.05)


def test_a_photo_is_enlarged_by_linear_interpolation() -> None:
    """Centres of the new pixels lie at -0.25, 0.25, 0.75 and 1.25 of the two old ones."""
    photo = np.array([[[0, 40, 200], [100, 40, 0]]], np.uint8)
    image = Letterbox.fit((1, 2), long_side=4).apply(photo)
    assert image[0, :4].tolist() == image[1, :4].tolist() == [[0, 40, 200], [25, 40, 150], [75, 40, 50], [100, 40, 0]]


def test_padding_is_grey_right_and_below() -> None:
    letterbox = Letterbox.fit((60, 90), long_side=100)
    image = letterbox.apply(np.full((60, 90, 3), 200, np.uint8))
    assert (image.shape, image.dtype) == ((128, 128, 3), np.uint8)
    assert (image[:67, :100] == 200).all()
    assert (image[67:] == GREY).all() and (image[:, 100:] == GREY).all()


def test_a_photo_of_the_right_size_is_not_resampled() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (128, 160, 3), np.uint8)
    before = photo.copy()
    image = Letterbox.fit((128, 160), long_side=160).apply(photo)
    assert_array_equal(image, photo)
    image[:] = 0
    assert_array_equal(photo, before)


def test_a_photo_of_another_size_is_refused() -> None:
    with pytest.raises(
        PhotoError, match=re.escape("photo: (61, 90) (height, width), but this letterbox is for (60, 90)")
    ):
        Letterbox.fit((60, 90), long_side=100).apply(np.zeros((61, 90, 3), np.uint8))


# --- the photos that come with the repository -------------------------------------------------------------------------


def test_shipped_photos_are_those_of_the_truth_and_of_the_credits() -> None:
    folder = Path(__file__).parent.parent / "photos"
    images = json.loads((folder / "truth.json").read_text())["images"]
    credits = (folder / "CREDITS.md").read_text()
    assert {image["file_name"] for image in images} == {path.name for path in folder.glob("*.jpg")}
    for image in images:
        assert read_photo(folder / image["file_name"]).shape == (image["height"], image["width"], 3)
        row = rf"\| `{image['file_name']}` \| {image['id']} \| \[CC BY(-SA)? 2\.0\]\(\S+\) \| <http\S+\.jpg> \|"
        assert re.search(row, credits), image["file_name"]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_200_000


# --- from a file to the network's input ------------------------------------------------------------------------------


def fitted(photo_size: tuple[int, int]) -> Letterbox:
    return Letterbox.fit(photo_size, long_side=160)


@pytest.mark.parametrize("form", PHOTO_FORMATS)
@pytest.mark.parametrize("size", [(60, 90), (160, 96), (231, 170)])
def test_the_input_is_the_letterboxed_photo(form: str, size: tuple[int, int], tmp_path: Path) -> None:
    path = written(tmp_path, "photo", encoded(smooth_photo(*size), form))
    photo = read_photo(path)
    for each in (path, str(path), photo, Image.fromarray(photo)):
        letterbox, image = network_input(each, fitted)
        assert letterbox == fitted(size)
        assert_array_equal(image, letterbox.apply(photo))


SIZES = [(1001, 1283), (960, 1280), (2003, 997), (480, 643)]
TURNED = [
    pytest.param(size, orientation, marks=() if size == SIZES[0] and orientation in (1, 5, 6) else pytest.mark.slow)
    for size in SIZES
    for orientation in range(1, 9)
]


@pytest.mark.parametrize(("size", "orientation"), TURNED)
def test_a_large_jpeg_is_decoded_smaller_without_moving_anything(
    size: tuple[int, int], orientation: int, tmp_path: Path
) -> None:
    """Spots near all corners stay where they are to a fiftieth of a pixel, however the photo is turned."""
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    spots = [(0.06 * width + 0.3, 0.1 * height), (0.95 * width, 0.08 * height)]
    spots += [(0.93 * width, 0.96 * height), (0.1 * width, 0.9 * height)]
    radius = max(size) / 50
    photo = sum(np.exp(-(np.square(x - a) + np.square(y - b)) / (2 * radius**2)) * 220 for a, b in spots)
    grey = np.repeat(np.clip(photo, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = written(tmp_path, "photo.jpg", encoded(grey, "JPEG", quality=95, exif=exif))
    upright = read_photo(path)
    letterbox, image = network_input(path, fitted)
    assert letterbox == fitted(upright.shape[:2])
    expected = letterbox.apply(upright)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() <= 6
    high, wide = letterbox.resized_size
    for rows in (slice(0, high // 2), slice(high // 2, high)):
        for columns in (slice(0, wide // 2), slice(wide // 2, wide)):
            assert_allclose(centroid(image[rows, columns]), centroid(expected[rows, columns]), atol=0.02)


def test_a_large_jpeg_is_decoded_in_a_fraction_of_the_time(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    path = written(tmp_path, "photo.jpg", encoded(noise, "JPEG"))

    def seconds(action: Callable[[], object]) -> float:
        start = time.thread_time()
        action()
        return time.thread_time() - start

    reduced = min(seconds(lambda: network_input(path, fitted)) for _ in range(3))
    assert reduced < 0.6 * min(seconds(lambda: fitted((2400, 3200)).apply(read_photo(path))) for _ in range(3))


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_a_large_truncated_jpeg_is_refused(share: float, tmp_path: Path) -> None:
    content = encoded(smooth_photo(1200, 1600), "JPEG")
    path = written(tmp_path, "photo.jpg", content[: int(len(content) * share)])
    with pytest.raises(PhotoError) as caught:
        network_input(path, fitted)
    assert str(caught.value) == refusal(path)


def test_any_other_photo_is_refused_alike(tmp_path: Path) -> None:
    half = encoded(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8), "PNG")[:9000]
    for content in (b"words", half):
        path = written(tmp_path, "photo.png", content)
        with pytest.raises(PhotoError) as caught:
            network_input(path, fitted)
        assert str(caught.value) == refusal(path)


def test_colours_stay_in_their_channels_at_any_size(tmp_path: Path) -> None:
    """Four quarters of one colour each, enlarged, reduced, as they are, and from a JPEG decoded smaller."""
    photo = np.empty((160, 240, 3), np.uint8)
    photo[:80, :120], photo[:80, 120:], photo[80:, :120], photo[80:, 120:] = RED, GREEN, BLUE, (250, 140, 20)
    large = np.ascontiguousarray(photo.repeat(8, axis=0).repeat(8, axis=1))
    path = written(tmp_path, "large.jpg", encoded(large, "JPEG", quality=95, subsampling="4:4:4"))
    images = [Letterbox.fit((160, 240), long_side=side).apply(photo) for side in (240, 480, 100)]
    images.append(network_input(path, fitted)[1])
    for image, (height, width) in zip(images, ((160, 240), (320, 480), (67, 100), (107, 160)), strict=True):
        seen = [image[int(y * height), int(x * width)].astype(int) for y in (0.25, 0.75) for x in (0.25, 0.75)]
        assert_allclose(seen, [RED, GREEN, BLUE, (250, 140, 20)], atol=4)


# 64 x 32 pixels, the left half blue and the right half red.
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWl4AAAAAG1pZjFoZWl4bWlhZgAAAX5tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAA"
    "ACJpbG9jAAAAAERAAAEAAQAAAAABogABAAAAAAAAAHEAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRt"
    "AAAAAAABAAAA/mlwcnAAAADeaXBjbwAAAHdodmNDAQQIAAAAnjgAAAAAHvAA/P/4+AAADwNgAAEAF0ABDAH//wQIAAADAJ44AAAD"
    "AAAeugJAYQABACpCAQEECAAAAwCeOAAAAwAAHpAEECCy3VyU1zcBDQYEAAADAGQAAAMABCBiAAEACEQBwXMYMAiQAAAAE2NvbHJu"
    "Y2x4AAEADQAGgAAAABRpc3BlAAAAAAAAAEAAAABAAAAAKGNsYXAAAABAAAAAAQAAACAAAAABAAAAAAAAAAL////gAAAAAgAAABBw"
    "aXhpAAAAAAMICAgAAAAYaXBtYQAAAAAAAAABAAEFgQIDBYQAAAB5bWRhdAAAAG0oAa8J4DkjJL///F3/3v9Pbv/8rE3BOP4PFv/+"
    "Ff43/s3vURjWLK9I+I+L8vyvs5xViMcxh2hSD3qaar4kMOFTcD+J7afasFYUXBXGLAKvy0Fydv/pjFLbkwUbPgd+AZsWzY3RYTKg"
    "mAS6s1I8"
)


def test_heic_photos_need_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    (tmp_path / "a.heic").write_bytes(HEIC)
    for read in (read_photo, size_of):
        with pytest.raises(PhotoError) as caught:
            read(tmp_path / "a.heic")
        assert str(caught.value) == (
            f"{tmp_path}/a.heic: a HEIC photo; reading it needs an optional package: "
            'pip install "posedet[heic]"; or convert it to JPEG'
        )


def test_heic_photos(tmp_path: Path) -> None:
    pytest.importorskip("pi_heif", reason='needs pip install "posedet[heic]"')
    path = tmp_path / "a.jpg"  # telephones and tools often name them so
    path.write_bytes(HEIC)
    photo = read_photo(path)
    assert size_of(path) == photo.shape[:2] == (32, 64)
    assert photo[16, 10].argmax() == 2 and photo[16, 50].argmax() == 0
    path.write_bytes(HEIC[:300])
    with pytest.raises(PhotoError, match=r"a\.jpg: damaged or truncated \((?!None)"):
        read_photo(path)


def test_photos_of_stereo_cameras_are_their_first_picture(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (60, 40), "red"), Image.new("RGB", (60, 40), "lime")
    first.save(tmp_path / "a.mpo", save_all=True, append_images=[second])
    photo = read_photo(tmp_path / "a.mpo")
    assert photo.shape == (40, 60, 3) and photo[20, 30].argmax() == 0


# --- bytes and open files --------------------------------------------------------------------------------------------


class Stream(io.RawIOBase):
    """A file as from a network: it cannot seek, and gives little at a time; for ever if it is `endless`."""

    def __init__(self, content: bytes, *, endless: bool = False) -> None:
        self.content, self.endless = io.BytesIO(content), endless

    def read(self, size: int = -1) -> bytes:
        return self.content.read(min(size, 1000)) or (b"0" * size if self.endless else b"")


def test_bytes_and_open_files_are_photos(photos: Path) -> None:
    path = photos / "food.jpg"
    expected = read_photo(path)
    written = io.BytesIO()
    written.write(path.read_bytes())  # whoever has just written it leaves it at its end
    with path.open("rb") as file:
        forms = [path.read_bytes(), bytearray(path.read_bytes()), memoryview(path.read_bytes()), file, written]
        for form in [*forms, Stream(path.read_bytes())]:
            assert_array_equal(read_photo(form), expected)
        for form in forms:
            assert size_of(form) == expected.shape[:2]
            letterbox, image = network_input(form, lambda size: Letterbox.fit(size, long_side=320))
            assert_array_equal(image, network_input(path, lambda _, letterbox=letterbox: letterbox)[1])


@pytest.mark.parametrize(
    ("photo", "text"),
    [
        (b"", "photo: the file is empty"),
        (b"photo.jpg", "photo: not a photo, or damaged (supported: "),
        (io.BytesIO(), "photo: the file is empty"),
        (io.StringIO("text"), "photo: is open in text mode, expected mode 'rb'"),
        (Stream(b"", endless=True), "photo: 1 MB, larger than the limit of 1 MB"),
        (bytes(2_000_000), "photo: 2 MB, larger than the limit of 1 MB"),
    ],
    ids=["no bytes", "noise", "empty", "text", "endless", "large"],
)
def test_bytes_and_open_files_that_are_no_photo(photo: Any, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posedet.image.MAX_FILE_BYTES", 1_000_000)
    assert refusal(photo).startswith(text)


def test_a_file_that_is_closed_or_read_otherwise_says_so(photos: Path) -> None:
    class Elsewhere(Stream):
        def read(self, size: int = -1) -> Any:
            return "text"

    path = photos / "food.jpg"
    with path.open("rb") as file:
        pass
    assert refusal(file) == f"{path}: cannot be read (I/O operation on closed file)"
    assert refusal(Elsewhere(b"")) == "photo: read() gives str, expected bytes"


def test_the_class_of_an_error_says_why_a_photo_is_refused(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = (photos / "food.jpg").read_bytes()
    with pytest.raises(PhotoFormatError):
        read_photo(b"words")
    with pytest.raises(PhotoError) as damaged:
        read_photo(photo[:20_000])
    assert damaged.type is PhotoError
    monkeypatch.setattr("posedet.image.MAX_PIXELS", 1000)
    with pytest.raises(PhotoSizeError):
        read_photo(photo)
    monkeypatch.setattr("posedet.image.MAX_FILE_BYTES", 1000)
    with pytest.raises(PhotoSizeError):
        read_photo(photo)


PEAK = """
from functools import partial
from pathlib import Path
from PIL import Image
from posedet.image import Letterbox, network_input

Image.new("RGB", (4900, 4900)).save("large.png")
def memory(name):
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) / 1024
before = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
network_input("large.png", partial(Letterbox.fit, long_side=576))
print(memory("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux")
def test_a_large_png_is_decoded_once(tmp_path: Path) -> None:
    """Pillow has 4 bytes for a pixel: 96 MB here. Copies in other forms would come on top."""
    done = subprocess.run([sys.executable, "-c", PEAK], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 130


def test_covariances_grow_with_the_square_of_the_scale() -> None:
    letterbox = Letterbox((100, 400), (50, 100), (64, 128))
    covariances = np.array([[[2, 3], [3, 5]], [[1, 0], [0, 0]]])
    expected = [[[32, 24], [24, 20]], [[16, 0], [0, 0]]]  # the photo is 4 times as wide and twice as high
    assert_array_equal(letterbox.covariances_to_photo(covariances), expected)
