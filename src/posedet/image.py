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
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from posedet.errors import PhotoError, PhotoFormatError, PhotoSizeError
from posedet.files import content_of, one_line
from posedet.outputs import write_atomically

Photo = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[np.uint8]

# Only common photo formats: each further decoder adds attack surface for malicious files.
PHOTO_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
# The photos of Apple's telephones, which Pillow reads only with an optional package.
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1"}
# Padding colour in training and inference: close to the mean colour of photos, so that the network ignores it.
GREY = 114

MAX_FILE_BYTES = 500_000_000
# Slightly below Pillow's own limit, so that the same limit applies to all photos.
MAX_PIXELS = 178_000_000
LARGE_SIDE = 2000  # of a photo on which the finest lines are at least two pixels wide
MAX_JPEG_SIDE = 65_500  # the JPEG library's limit, slightly below the format's

# The operation that undoes each value of EXIF's orientation tag; 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# A JPEG file is decoded at a reduced size if each side keeps at least this many times the pixels that are needed.
# Measured on coco-dev: 1.67 does not change AP (15.7 with a long side of 192); 1.1 lowers it by 0.2.
REDUCED_GAP = 1.5

_WARNINGS_LOCK = threading.Lock()


def read_photo(photo: Photo) -> NDArray[np.uint8]:
    """Read a photo. Several threads may read at the same time.

    Args:
        photo: A path, the bytes of a file, a binary file (read from its start, or from where it stands if it cannot
            seek), a PIL image of any mode that has colours, or an array (H, W, 3) uint8 RGB, which is used unchanged.
            The format is detected from the content. Files and PIL images are rotated according to their EXIF data. The
            first frame of an animation is used, 16 bits are scaled to 8, and transparent areas become white.

    Returns:
        (H, W, 3) uint8 RGB, contiguous and upright.

    Raises:
        PhotoError: If the photo is missing, too large, damaged or of an unsupported type.
    """
    if isinstance(photo, np.ndarray):
        return _checked_array(photo)
    upright, name = _upright_image(photo)
    with _decoding(upright, name):  # there may be memory for the photo, and none for a copy
        return np.array(upright)


def read_image(photo: Photo) -> Image.Image:
    """Read a photo as `read_photo` does, as a new RGB image of Pillow. Raises PhotoError as `read_photo`."""
    if isinstance(photo, np.ndarray):
        return Image.fromarray(_checked_array(photo))
    image, _ = _upright_image(photo)
    if image is photo:
        image = image.copy()
    image.info = {}  # it would be turned again by its EXIF data, and written with them
    return image


def network_input(photo: Photo, fit: Callable[[tuple[int, int]], "Letterbox"]) -> "_Input":
    """Read a photo and resize it to the network's input.

    The result equals `letterbox.apply(read_photo(photo))`, except that a large JPEG file is decoded at a reduced size:
    positions are the same, but brightness differs slightly.

    Args:
        photo: As in `read_photo`.
        fit: A function from the photo's (height, width) to the letterbox.

    Returns:
        The letterbox, and the network input (h, w, 3) uint8 RGB.

    Raises:
        PhotoError: If the photo cannot be read.
    """
    if isinstance(photo, np.ndarray):
        array = read_photo(photo)
        height, width = array.shape[:2]
        letterbox = fit((height, width))
        return letterbox, letterbox.apply(array)
    if isinstance(photo, Image.Image):
        upright, name = _upright_image(photo)
    else:
        with _file(photo) as (file, name):
            image = _opened(file, name)
            if image.format in ("JPEG", "MPO") and image.mode == "RGB":
                return _reduced(image, name, fit)
            upright = _upright(image, name)
    letterbox = fit(upright.size[::-1])
    with _decoding(upright, name):
        return letterbox, letterbox.padded(letterbox.resized(upright))


def size_of(photo: Photo) -> tuple[int, int]:
    """Return the (height, width) of the upright photo, of a file from its header. Raises PhotoError as `read_photo`."""
    if isinstance(photo, np.ndarray):
        return _checked_array(photo).shape[:2]
    if isinstance(photo, Image.Image):
        return _upright_size(photo)
    with _file(photo) as (file, name):
        return _upright_size(_opened(file, name))


def in_memory(photo: Photo) -> Photo:
    """Return the content of an open file, which may be read only once, and any other photo unchanged.

    Raises PhotoError if the file cannot be read.
    """
    if not hasattr(photo, "read"):
        return photo
    with _file(photo) as (content, _):
        return content.read()


def stored_size_of(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Read the (height, width) as stored, before EXIF data turn the photo. Raises PhotoError as `read_photo` does."""
    with _file(path) as (file, name):
        image = _opened(file, name)
        return image.height, image.width


def write_photo(
    path: Path, photo: NDArray[np.uint8] | Image.Image, *, generator: str = "posedet write_photo", comment: str = ""
) -> None:
    """Write a JPEG file atomically.

    Args:
        path: The file to write.
        photo: (H, W, 3) uint8 RGB, or an RGB image. It is reduced if a side is longer than a JPEG file supports.
        generator: The command that writes it; the JPEG comment begins with it.
        comment: The rest of the JPEG comment.

    Raises:
        PoseDetError: If the file cannot be written, or is there already and was not written by `generator`.
    """
    image = Image.fromarray(photo) if isinstance(photo, np.ndarray) else photo
    if max(image.size) > MAX_JPEG_SIDE:
        image = image.copy()
        image.thumbnail((MAX_JPEG_SIDE, MAX_JPEG_SIDE))
    buffer = io.BytesIO()
    # Colours at half the resolution take two thirds of the time. Lines of few pixels would look washed out.
    subsampling = "4:2:0" if max(image.size) >= LARGE_SIDE else "4:4:4"
    image.save(buffer, "JPEG", quality=92, subsampling=subsampling, comment=f"{generator}\n{comment}")
    write_atomically(path, generator, buffer.getvalue())


@dataclass(frozen=True)
class Letterbox:
    """The mapping from a photo to the network input: resized, then padded with grey on the right and at the bottom.

    Attributes:
        photo_size: (height, width) of the photo.
        resized_size: (height, width) after resizing.
        input_size: (height, width) after padding, multiples of what the network needs.
    """

    photo_size: tuple[int, int]
    resized_size: tuple[int, int]
    input_size: tuple[int, int]

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
        resized = photo if self.resized_size == self.photo_size else self.resized(Image.fromarray(photo))
        return self.padded(resized)

    def resized(self, photo: Image.Image) -> NDArray[np.uint8]:
        """Resize a photo.

        Args:
            photo: An RGB image of `photo_size`.

        Returns:
            (h, w, 3) uint8 of `resized_size`.
        """
        height, width = self.resized_size
        # With the gap, Pillow first averages whole pixels, which takes a third of the time on a large photo.
        return np.asarray(photo.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0))

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

    def covariances_to_photo(self, covariances: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Map the covariances of points from the network input to the photo.

        Args:
            covariances: (..., 2, 2) in pixels of the input squared.

        Returns:
            (..., 2, 2) in pixels of the photo squared.
        """
        return covariances / np.outer(self._factors, self._factors)

    @property
    def _factors(self) -> NDArray[np.float64]:
        # Separate factors for x and y: rounding to whole pixels changes the aspect ratio of a panorama considerably.
        (height, width), (to_height, to_width) = self.photo_size, self.resized_size
        return np.array([to_width / width, to_height / height])


_Input = tuple[Letterbox, NDArray[np.uint8]]


def _checked_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype != np.uint8:
        raise PhotoError(f"photo: an array of {array.dtype}, expected uint8 RGB in 0..255")
    if array.ndim != 3 or array.shape[2] != 3:
        raise PhotoError(f"photo: an array of shape {array.shape}, expected (height, width, 3) RGB")
    if array.size == 0:
        raise PhotoError(f"photo: an array of shape {array.shape} has no pixels")
    return np.ascontiguousarray(array)


@contextmanager
def _file(photo: Photo) -> Iterator[tuple[BinaryIO, str]]:
    """Open a photo that is a path, or hold the content of bytes or an open file; also return a name for messages."""
    if isinstance(photo, str | os.PathLike):
        name = one_line(str(photo))
        with _readable(name):
            _check_file(photo, name)
            with open(photo, "rb") as file:
                yield file, name
    elif isinstance(photo, bytes | bytearray | memoryview):
        _check_size(memoryview(photo).nbytes, "photo")
        yield io.BytesIO(photo), "photo"
    elif hasattr(photo, "read"):
        name = one_line(getattr(photo, "name", None) or "photo")
        content = content_of(photo, name, MAX_FILE_BYTES, PhotoError)
        _check_size(len(content), name)
        yield io.BytesIO(content), name
    else:
        expected = "a path, bytes, a binary file, a PIL image or an array (H, W, 3) uint8 RGB"
        raise PhotoError(f"photo: {type(photo).__name__}, expected {expected}")


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Turn errors of the system into PhotoError."""
    try:
        yield
    except FileNotFoundError:
        raise PhotoError(f"{name}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise PhotoError(f"{name}: cannot be read ({reason})") from None


def _check_file(path: str | os.PathLike[str], name: str) -> None:
    """Refuse anything but a file of a sensible size: reading a pipe or a device might never end."""
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise PhotoError(f"{name}: is a folder, expected a photo")
    if not stat.S_ISREG(status.st_mode):
        raise PhotoError(f"{name}: is not a regular file")
    _check_size(status.st_size, name)


def _check_size(num_bytes: int, name: str) -> None:
    if num_bytes == 0:
        raise PhotoError(f"{name}: the file is empty")
    if num_bytes > MAX_FILE_BYTES:
        raise PhotoSizeError(
            f"{name}: {num_bytes / 1e6:.0f} MB, larger than the limit of {MAX_FILE_BYTES / 1e6:.0f} MB"
        )


def _opened(file: BinaryIO, name: str) -> Image.Image:
    """Read the photo's header without decoding any pixels."""
    try:
        with _without_pillow_warnings():
            return Image.open(file, formats=PHOTO_FORMATS)
    except UnidentifiedImageError:
        if _is_heic(file):
            return _opened_heic(file, name)
        raise PhotoFormatError(f"{name}: not a photo, or damaged (supported: {', '.join(PHOTO_FORMATS)})") from None
    except Image.DecompressionBombError:
        raise _too_many_pixels(name) from None
    except Exception as error:  # malicious files make Pillow raise almost any exception
        raise _damaged(name, error) from error


def _is_heic(file: BinaryIO) -> bool:
    file.seek(0)
    start = file.read(12)
    return start[4:8] == b"ftyp" and start[8:] in _HEIC_BRANDS


def _opened_heic(file: BinaryIO, name: str) -> Image.Image:
    try:
        from pi_heif import HeifImageFile
    except ImportError:
        needed = 'reading it needs an optional package: pip install "posedet[heic]"'
        raise PhotoFormatError(f"{name}: a HEIC photo; {needed}; or convert it to JPEG") from None
    try:
        file.seek(0)
        image: Image.Image = HeifImageFile(file)
        return image
    except Exception as error:  # as above
        raise _damaged(name, error) from error


def _upright_image(photo: Photo) -> tuple[Image.Image, str]:
    """Read any photo but an array, upright in RGB, and its name; an image that is so already is returned itself."""
    if isinstance(photo, Image.Image):
        name = one_line(str(getattr(photo, "filename", ""))) or "photo"
        return _upright(photo, name), name
    with _file(photo) as (file, name):
        return _upright(_opened(file, name), name), name


def _upright(image: Image.Image, name: str) -> Image.Image:
    """Decode an image if necessary, and return it upright in RGB."""
    with _decoding(image, name):
        # Only TIFF warns during decoding; the lock would otherwise keep threads from decoding in parallel.
        with _without_pillow_warnings() if image.format == "TIFF" else nullcontext():
            image.load()
        turn = _UPRIGHT.get(_orientation(image))
        rgb = _rgb(image)
        return rgb if turn is None else rgb.transpose(turn)


def _reduced(image: Image.Image, name: str, fit: Callable[[tuple[int, int]], "Letterbox"]) -> "_Input":
    """Do the work of `network_input` for a colour JPEG file that is not decoded yet."""
    with _decoding(image, name):
        orientation = _orientation(image)
        sideways = orientation >= 5
        letterbox = fit(image.size if sideways else image.size[::-1])
        size = letterbox.resized_size if sideways else letterbox.resized_size[::-1]
        # Decode at a half, a quarter or an eighth of the size if that is enough. Each pixel then covers a whole square;
        # if the photo's sides are not multiples of it, the box ends inside the last one.
        drafted = image.draft("RGB", (ceil(REDUCED_GAP * size[0]), ceil(REDUCED_GAP * size[1])))
        box = None if drafted is None else drafted[1]
        resized = image.resize(size, Image.Resampling.BILINEAR, box, reducing_gap=2.0)
        turn = _UPRIGHT.get(orientation)
        return letterbox, letterbox.padded(np.asarray(resized if turn is None else resized.transpose(turn)))


@contextmanager
def _decoding(image: Image.Image, name: str) -> Iterator[None]:
    """Check the size from the header, and turn decoding errors into PhotoError."""
    if image.width * image.height > MAX_PIXELS:
        raise _too_many_pixels(name)
    if image.width * image.height == 0:
        raise PhotoError(f"{name}: {image.width} x {image.height}, the photo has no pixels")
    if image.mode in ("I", "F"):
        raise PhotoError(
            f"{name}: mode {image.mode!r} does not define which value is white; convert the photo to 'L' or 'RGB'"
        )
    try:
        yield
    except Image.DecompressionBombError:
        raise _too_many_pixels(name) from None
    except MemoryError:
        raise PhotoError(f"{name}: not enough memory for {image.width} x {image.height} pixels") from None
    except Exception as error:  # malicious files make Pillow raise almost any exception
        raise _damaged(name, error) from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255, which makes almost the whole photo white.
        eight_bits = ((np.arange(65536) * 255 + 32767) // 65535).astype(np.uint8)
        return Image.fromarray(eight_bits[np.asarray(image)]).convert("RGB")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    if image.mode == "La":  # premultiplied alpha: Pillow converts it only to LA
        image = image.convert("LA")
    # Without names, so that what is not needed any more is freed: a photo may have gigabytes of pixels.
    composite = Image.alpha_composite(
        Image.new("RGBA", image.size, "white"), image if image.mode == "RGBA" else image.convert("RGBA")
    )
    return composite.convert("RGB")


def _upright_size(image: Image.Image) -> tuple[int, int]:
    return (image.width, image.height) if _orientation(image) >= 5 else (image.height, image.width)


def _orientation(image: Image.Image) -> int:
    try:
        with _without_pillow_warnings():
            return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF data: the pixels are intact, and viewers show them without rotation
        return 1


@contextmanager
def _without_pillow_warnings() -> Iterator[None]:
    """Suppress Pillow's warnings about odd EXIF data and large photos; real problems become a PhotoError.

    Warning filters are global. Without the lock, two threads that restore them out of order would change them for good.
    """
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _too_many_pixels(name: str) -> PhotoSizeError:
    return PhotoSizeError(f"{name}: more than {MAX_PIXELS // 10**6} million pixels; reduce its size first")


def _damaged(name: str, error: Exception) -> PhotoError:
    return PhotoError(f"{name}: damaged or truncated ({one_line(str(error))[:200] or type(error).__name__})")
