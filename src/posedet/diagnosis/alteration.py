"""Alterations of photos and of points in them: pixels, x right, y down, pixel centres at whole numbers."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from posedet.image import GREY, Letterbox

Pixels = NDArray[np.uint8]
Points = NDArray[np.float64]
Window = tuple[int, int, int, int]  # left, top, right, bottom in whole pixels, the last two outside

GAMMA = 2.2  # of photos


@dataclass(frozen=True)
class Change:
    """An alteration of a photo, and of points (N, 2) in it."""

    pixels: Callable[[Pixels], Pixels]
    points: Callable[[Points], Points] = lambda points: points
    mirrored: bool = False  # left and right change places


UNCHANGED = Change(lambda photo: photo)


def mirrored(width: int) -> Change:
    """Mirror a photo of `width` pixels left to right."""
    return Change(lambda photo: photo[:, ::-1], lambda points: points * (-1, 1) + (width - 1, 0), mirrored=True)


def rotated(size: tuple[int, int], degrees: float) -> Change:
    """Rotate a photo of `size` (height, width) anticlockwise, and enlarge the canvas to hold it, filled with grey."""
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn = np.array(((cosine, sine), (-sine, cosine)))  # y points down
    before = np.array(size[::-1], np.float64)
    # Round first, because the cosine of 90 degrees is not exactly 0.
    after = np.ceil(np.round(np.abs(turn) @ before, 6)).astype(int)
    if degrees % 90 == 0:
        return Change(lambda photo: np.rot90(photo, round(degrees / 90)), partial(_turned, turn, before, after))
    # Pillow wants the inverse transform, in coordinates that start at the first pixel's corner.
    start = before / 2 - turn.T @ (after / 2)
    (a, b), (d, e) = turn.T
    coefficients = (a, b, start[0], d, e, start[1])

    def pixels(photo: Pixels) -> Pixels:
        turned = Image.fromarray(photo).transform(
            (int(after[0]), int(after[1])),
            Image.Transform.AFFINE,
            coefficients,
            Image.Resampling.BILINEAR,
            fillcolor=(GREY, GREY, GREY),
        )
        return np.asarray(turned)

    return Change(pixels, partial(_turned, turn, before, after))


def _turned(turn: Points, before: Points, after: Points, points: Points) -> Points:
    turned: Points = (points - (before - 1) / 2) @ turn.T + (after - 1) / 2
    return turned


def shrunk(size: tuple[int, int], factor: float) -> Change:
    """Shrink a photo by `factor`, and place it in the corner of a grey photo of the old (height, width).

    The size is kept because a detector resizes every photo to the same size, which would undo the change.
    """
    letterbox = Letterbox(size, tuple(max(1, round(side * factor)) for side in size), size)  # type: ignore[arg-type]
    return Change(letterbox.apply, letterbox.to_input)


def cropped(window: Window) -> Change:
    """Crop to the window."""
    left, top, right, bottom = window
    return Change(lambda photo: photo[top:bottom, left:right], lambda points: points - (left, top))


def blurred(radius: float) -> Change:
    """Blur by a Gaussian with this standard deviation in pixels."""
    return Change(lambda photo: np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(radius))))


def darkened(stops: float) -> Change:
    """Darken as if the exposure were 2 ** `stops` times shorter, but without the noise of a real photo."""
    factor = 2 ** (-stops / GAMMA)
    return Change(lambda photo: np.round(photo * factor).astype(np.uint8))


def compressed(quality: int) -> Change:
    """Compress as JPEG of this quality."""

    def pixels(photo: Pixels) -> Pixels:
        buffer = io.BytesIO()
        Image.fromarray(photo).save(buffer, "JPEG", quality=quality)
        return np.asarray(Image.open(buffer))

    return Change(pixels)
