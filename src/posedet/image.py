"""Reading photos, and the way from a photo to the network input and back.

Coordinates are in pixels with pixel centres at integers: resizing by f moves x to (x + 0.5) * f - 0.5.
"""

import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from posedet.errors import PhotoError
from posedet.files import write_atomically

Photo = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]

# Only what photos come in: every further decoder is one more way in for a hostile file.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
MAX_FILE_BYTES = 500_000_000
MAX_PIXELS = 200_000_000


def read_photo(photo: Photo) -> NDArray[np.uint8]:
    """A photo as (H, W, 3) uint8 RGB, contiguous; of an animation the first frame, on white where it is transparent.

    photo: path (turned as its EXIF data say), PIL image (likewise), or array (H, W, 3) uint8 RGB, taken as it is.
    Raises PhotoError, one line that names the file or the argument and what is wrong.
    """
    if isinstance(photo, np.ndarray):
        return _checked_array(photo)
    if isinstance(photo, Image.Image):
        return _converted(photo, "photo")
    path = Path(photo)
    try:
        if path.is_dir():
            raise PhotoError(f"{path}: a folder, not a photo")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise PhotoError(f"{path}: {size / 1e6:.0f} MB, at most {MAX_FILE_BYTES / 1e6:.0f} MB are read")
        with path.open("rb") as file:
            return _decoded(file, str(path))
    except FileNotFoundError:
        raise PhotoError(f"{path}: no such file") from None
    except OSError as error:
        raise PhotoError(f"{path}: cannot be read ({error.strerror or error})") from None


def _decoded(file: io.BufferedReader, name: str) -> NDArray[np.uint8]:
    try:
        with warnings.catch_warnings():
            # Our own limit is checked before anything is decoded.
            warnings.simplefilter("ignore")
            with Image.open(file, formats=FORMATS) as image:
                return _converted(image, name)
    except UnidentifiedImageError:
        raise PhotoError(f"{name}: not a photo, or damaged (read are {', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise PhotoError(f"{name}: more than {MAX_PIXELS / 1e6:.0f} million pixels; reduce it first") from None
    except PhotoError:
        raise
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        MemoryError,
        OverflowError,
        Image.DecompressionBombWarning,
    ) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise PhotoError(f"{name}: damaged or cut off ({reason})") from None


def _converted(image: Image.Image, name: str) -> NDArray[np.uint8]:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise PhotoError(
            f"{name}: {width} x {height} pixels, more than {MAX_PIXELS / 1e6:.0f} million; reduce it first"
        )
    if width * height == 0:
        raise PhotoError(f"{name}: {width} x {height} pixels, nothing to see")
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        # Pillow would clip 16 bits at 255; the upper eight are the picture.
        values = np.asarray(image).astype(np.float64)
        full = 65535 if values.max(initial=0) > 255 else 255
        grey = np.clip(values / full * 255, 0, 255).round().astype(np.uint8)
        return np.ascontiguousarray(np.broadcast_to(grey[..., None], (*grey.shape, 3)))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def _checked_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype != np.uint8:
        raise PhotoError(f"photo: an array of {array.dtype}, expected uint8 RGB in 0..255")
    if array.ndim != 3 or array.shape[2] != 3:
        raise PhotoError(f"photo: an array of shape {array.shape}, expected (height, width, 3) RGB")
    if array.size == 0:
        raise PhotoError(f"photo: an array of shape {array.shape}, nothing to see")
    return np.ascontiguousarray(array)


def write_photo(path: Path, photo: NDArray[np.uint8]) -> None:
    """Write (H, W, 3) uint8 RGB as JPEG, atomically."""
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "JPEG", quality=92, subsampling=0)
    write_atomically(path, buffer.getvalue())


@dataclass(frozen=True)
class Letterbox:
    """How one photo is brought to the network input: resized, then padded on the right and at the bottom."""

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
    ) -> "Letterbox":
        """The largest size with a long side of at most `long_side` (and a short one of at most `short_side`).

        The input is padded to multiples of `multiple`, at least `min_side` (the network needs enough locations).
        """
        factor = long_side / max(photo_size)
        if short_side is not None:
            factor = min(factor, short_side / min(photo_size))
        height, width = (max(1, int(side * factor + 0.5)) for side in photo_size)
        padded = tuple(max(min_side, -(-side // multiple) * multiple) for side in (height, width))
        return cls(photo_size, (height, width), (padded[0], padded[1]))

    def apply(self, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """photo: (H, W, 3) uint8 of `photo_size` -> (h, w, 3) uint8 of `input_size`."""
        height, width = self.resized_size
        if self.resized_size != self.photo_size:
            resized = Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
            photo = np.asarray(resized)
        image = np.zeros((*self.input_size, 3), np.uint8)
        image[:height, :width] = photo
        return image

    @property
    def _factors(self) -> NDArray[np.float64]:
        (height, width), (to_height, to_width) = self.photo_size, self.resized_size
        return np.array([to_width / width, to_height / height])

    def to_input(self, points: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """points: (..., 2) pixels of the photo -> pixels of the network input."""
        return (points + 0.5) * self._factors - 0.5

    def to_photo(self, points: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """points: (..., 2) pixels of the network input -> pixels of the photo."""
        return (points + 0.5) / self._factors - 0.5
