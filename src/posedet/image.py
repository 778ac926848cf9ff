"""Read photos safely, resize them to the network's input, and map points back.

Coordinates are pixels, x right and y down. Pixel *centres* lie at whole numbers: the centre of the first pixel is
(0, 0), so a photo of width W spans from -0.5 to W - 0.5. Sizes are (height, width).
"""

import io
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from posedet.errors import PhotoError
from posedet.files import one_line, write_atomically

Photo = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]

# Only what photos come in: every further decoder is one more way in for a hostile file.
PHOTO_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
# What lies beyond a photo, in training and at work: near the mean colour of photos, which is nothing to a network.
GREY = 114

MAX_FILE_BYTES = 500_000_000
# A little below the size that Pillow itself refuses, so that one limit holds for all photos.
MAX_PIXELS = 178_000_000
MAX_JPEG_SIDE = 65_500  # the library's, a little below the format's

# How the values of EXIF's orientation tag are undone; 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# A JPEG is decoded at a reduced size if at least this many times the pixels that are needed remain on each side.
# Measured on coco-dev: at 1.67 AP stays the same (15.7 with a long side of 192), at 1.1 it falls by 0.2.
REDUCED_GAP = 1.5

_WARNINGS_LOCK = threading.Lock()


def read_photo(photo: Photo) -> NDArray[np.uint8]:
    """Read a photo. Several threads may read at the same time.

    Args:
        photo: A path (the format is detected from the content), a PIL image of any mode that has colours, or an array
            (H, W, 3) uint8 RGB, which is used unchanged. Files and PIL images are rotated according to their EXIF data.
            The first frame of an animation is used, 16 bits are scaled to 8, and transparent areas become white.

    Returns:
        (H, W, 3) uint8 RGB, contiguous and upright.

    Raises:
        PhotoError: If the photo is missing, too large, damaged or of an unsupported type.
    """
    if isinstance(photo, np.ndarray):
        return _checked_array(photo)
    if isinstance(photo, Image.Image):
        return _pixels(photo, one_line(str(getattr(photo, "filename", ""))) or "photo")
    if not isinstance(photo, str | os.PathLike):
        raise PhotoError(f"photo: {type(photo).__name__}, expected a path, a PIL image or an array (H, W, 3) uint8 RGB")
    with _file(photo) as (file, name):
        return _pixels(_opened(file, name), name)


def network_input(photo: Photo, fit: Callable[[tuple[int, int]], "Letterbox"]) -> "_Input":
    """A photo as network input: the letterbox that `fit` chooses for its (height, width), and (h, w, 3) uint8.

    Equals `letterbox.apply(read_photo(photo))`, except that a large JPEG file is decoded no larger than needed:
    positions are the same, and brightness differs slightly. Raises PhotoError as `read_photo` does.
    """
    if isinstance(photo, str | os.PathLike):
        with _file(photo) as (file, name):
            image = _opened(file, name)
            if image.format in ("JPEG", "MPO") and image.mode == "RGB":
                return _reduced(image, name, fit)
            array = _pixels(image, name)
    else:
        array = read_photo(photo)
    height, width = array.shape[:2]
    letterbox = fit((height, width))
    return letterbox, letterbox.apply(array)


def size_of(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(height, width) of the upright photo in a file, from its header only. Raises PhotoError as `read_photo` does."""
    with _file(path) as (file, name):
        image = _opened(file, name)
        turned = _orientation(image) >= 5
        return (image.width, image.height) if turned else (image.height, image.width)


def write_photo(path: Path, photo: NDArray[np.uint8]) -> None:
    """Write a JPEG file atomically.

    Args:
        path: The file to write.
        photo: (H, W, 3) uint8 RGB. It is reduced if a side is longer than a JPEG file supports.
    """
    image = Image.fromarray(photo)
    if max(image.size) > MAX_JPEG_SIDE:
        image.thumbnail((MAX_JPEG_SIDE, MAX_JPEG_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92, subsampling=0)
    write_atomically(path, buffer.getvalue())


@dataclass(frozen=True)
class Letterbox:
    """The mapping from a photo to the network input: resized, then padded with grey on the right and at the bottom.

    Attributes:
        photo_size: (height, width) of the photo.
        resized_size: (height, width) after resizing.
        input_size: (height, width) after padding, multiples of what the network needs.
    """

    photo_size: tuple[int, int]  # (height, width)
    resized_size: tuple[int, int]
    input_size: tuple[int, int]  # multiples of what the network needs

    @classmethod
    def fit(
        cls,
        photo_size: tuple[int, int],
        *,
        long_side: int,
        short_side: int | None = None,
        multiple: int = 32,
        min_side: int = 128,
    ) -> Self:
        """Choose the largest size within the limits. Small photos are enlarged.

        Args:
            photo_size: (height, width) of the photo. The aspect ratio is kept to half a pixel.
            long_side: Maximum length of the long side in pixels.
            short_side: Maximum length of the short side in pixels. Default: no limit.
            multiple: The input is padded to a multiple of this.
            min_side: Minimum side of the input in pixels, because the network needs enough locations.
        """
        factor = long_side / max(photo_size)
        if short_side is not None:
            factor = min(factor, short_side / min(photo_size))
        height, width = (max(1, int(side * factor + 0.5)) for side in photo_size)
        padded_height, padded_width = (-(-max(side, min_side) // multiple) * multiple for side in (height, width))
        return cls(photo_size, (height, width), (padded_height, padded_width))

    def apply(self, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize and pad a photo.

        Args:
            photo: (H, W, 3) uint8 of `photo_size`.

        Returns:
            (h, w, 3) uint8 of `input_size`.

        Raises:
            PhotoError: If the photo has another size.
        """
        if photo.shape[:2] != self.photo_size:
            raise PhotoError(f"photo: {photo.shape[:2]} (height, width), but this letterbox is for {self.photo_size}")
        height, width = self.resized_size
        if self.resized_size != self.photo_size:
            # The gap lets Pillow average whole pixels first: a third of the time on a large photo.
            resized = Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
            photo = np.asarray(resized)
        return self.padded(photo)

    def padded(self, resized: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Pad a resized photo with grey on the right and at the bottom.

        Args:
            resized: (h, w, 3) uint8 of `resized_size`.

        Returns:
            (h, w, 3) uint8 of `input_size`.
        """
        image = np.full((*self.input_size, 3), GREY, np.uint8)
        image[: len(resized), : resized.shape[1]] = resized
        return image

    def to_input(self, points: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Map points from the photo to the network input.

        Args:
            points: (..., 2) x and y in pixels of the photo.

        Returns:
            (..., 2) x and y in pixels of the input.
        """
        return (points + 0.5) * self._factors - 0.5

    def to_photo(self, points: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Map points from the network input to the photo.

        Args:
            points: (..., 2) x and y in pixels of the input.

        Returns:
            (..., 2) x and y in pixels of the photo.
        """
        return (points + 0.5) / self._factors - 0.5

    @property
    def _factors(self) -> NDArray[np.float64]:
        # x and y apart: each side was rounded to whole pixels, which on a panorama is far from one factor.
        (height, width), (to_height, to_width) = self.photo_size, self.resized_size
        return np.array([to_width / width, to_height / height])


_Input = tuple[Letterbox, NDArray[np.uint8]]


def _checked_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype != np.uint8:
        raise PhotoError(f"photo: an array of {array.dtype}, expected uint8 RGB in 0..255")
    if array.ndim != 3 or array.shape[2] != 3:
        raise PhotoError(f"photo: an array of shape {array.shape}, expected (height, width, 3) RGB")
    if array.size == 0:
        raise PhotoError(f"photo: an array of shape {array.shape}, nothing to see")
    return np.ascontiguousarray(array)


@contextmanager
def _file(path: str | os.PathLike[str]) -> Iterator[tuple[io.BufferedReader, str]]:
    """The file, open, and its name for errors."""
    name = one_line(str(path))
    try:
        _check_file(path, name)
        with open(path, "rb") as file:
            yield file, name
    except FileNotFoundError:
        raise PhotoError(f"{name}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise PhotoError(f"{name}: cannot be read ({reason})") from None


def _check_file(path: str | os.PathLike[str], name: str) -> None:
    """Only a file of a sensible size is opened: a pipe or a device could be read for ever."""
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise PhotoError(f"{name}: a folder, not a photo")
    if not stat.S_ISREG(status.st_mode):
        raise PhotoError(f"{name}: neither a file nor a folder")
    if status.st_size == 0:
        raise PhotoError(f"{name}: an empty file")
    if status.st_size > MAX_FILE_BYTES:
        raise PhotoError(f"{name}: {status.st_size / 1e6:.0f} MB, at most {MAX_FILE_BYTES / 1e6:.0f} MB are read")


def _opened(file: io.BufferedReader, name: str) -> Image.Image:
    """The photo's header; nothing is decoded yet."""
    try:
        with _without_pillow_warnings():
            return Image.open(file, formats=PHOTO_FORMATS)
    except UnidentifiedImageError:
        raise PhotoError(f"{name}: not a photo, or damaged (read are {', '.join(PHOTO_FORMATS)})") from None
    except Image.DecompressionBombError:
        raise _too_many_pixels(name) from None
    except Exception as error:  # hostile bytes make Pillow raise nearly anything
        raise _damaged(name, error) from error


def _pixels(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB, upright, of an image that may not be decoded yet."""
    with _decoding(image, name):
        # Of all formats TIFF alone warns while it decodes; the others decode side by side.
        with _without_pillow_warnings() if image.format == "TIFF" else nullcontext():
            image.load()
        rgb = _rgb(image)
        turn = _UPRIGHT.get(_orientation(image))
        return np.array(rgb if turn is None else rgb.transpose(turn))


def _reduced(image: Image.Image, name: str, fit: Callable[[tuple[int, int]], "Letterbox"]) -> "_Input":
    """As `network_input`, of a JPEG in colour that is not decoded yet."""
    with _decoding(image, name):
        orientation = _orientation(image)
        sideways = orientation >= 5
        letterbox = fit(image.size if sideways else image.size[::-1])
        size = letterbox.resized_size if sideways else letterbox.resized_size[::-1]
        # Decoded at a half, a quarter or an eighth where that is enough. Each pixel then stands for a whole square,
        # from the first corner on; the box ends within the last one where the sides of the photo are no multiples.
        drafted = image.draft("RGB", (ceil(REDUCED_GAP * size[0]), ceil(REDUCED_GAP * size[1])))
        box = None if drafted is None else drafted[1]
        resized = image.resize(size, Image.Resampling.BILINEAR, box, reducing_gap=2.0)
        turn = _UPRIGHT.get(orientation)
        return letterbox, letterbox.padded(np.asarray(resized if turn is None else resized.transpose(turn)))


@contextmanager
def _decoding(image: Image.Image, name: str) -> Iterator[None]:
    """Check the size that the header tells; what goes wrong inside becomes a PhotoError."""
    if image.width * image.height > MAX_PIXELS:
        raise _too_many_pixels(name)
    if image.width * image.height == 0:
        raise PhotoError(f"{name}: {image.width} x {image.height} pixels, nothing to see")
    if image.mode in ("I", "F"):
        raise PhotoError(f"{name}: mode {image.mode!r} does not say which value is white; convert it to 'L' or 'RGB'")
    try:
        yield
    except Image.DecompressionBombError:
        raise _too_many_pixels(name) from None
    except MemoryError:
        raise PhotoError(f"{name}: {image.width} x {image.height} pixels need more memory than there is") from None
    except Exception as error:  # hostile bytes make Pillow raise nearly anything
        raise _damaged(name, error) from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255, which turns nearly all of the photo white.
        grey = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode == "La":  # premultiplied: Pillow converts it to its plain form only
        image = image.convert("LA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _orientation(image: Image.Image) -> int:
    try:
        with _without_pillow_warnings():
            return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF data: the photo itself is whole, and viewers show it as it lies
        return 1


@contextmanager
def _without_pillow_warnings() -> Iterator[None]:
    """Pillow's remarks on odd EXIF data and large photos help nobody: what matters becomes a PhotoError.

    Warning filters belong to the whole process, hence the lock: two threads that put them back out of turn would
    leave them changed for good.
    """
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _too_many_pixels(name: str) -> PhotoError:
    return PhotoError(f"{name}: more than {MAX_PIXELS // 10**6} million pixels; reduce it first")


def _damaged(name: str, error: Exception) -> PhotoError:
    return PhotoError(f"{name}: damaged or cut off ({one_line(str(error))[:200] or type(error).__name__})")
