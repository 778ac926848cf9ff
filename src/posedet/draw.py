"""Draw poses on a photo, in colours that colour-blind people can tell apart: blue left, orange right, white middle.

Every shape is a line with round ends; a dot is a line of length zero. The distance of a pixel's centre determines how
much of it is covered, so edges are smooth and positions are exact to a fraction of a pixel. The cost depends on the
length of the lines, not on the size of the photo.
"""

from collections.abc import Iterator
from itertools import pairwise
from math import ceil, floor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from posedet.errors import PhotoError
from posedet.poses import Poses

Colour = tuple[int, int, int]
Tile = tuple[int, int, int, int]  # left, top, right, bottom; the last two are outside

LEFT, RIGHT, MIDDLE, OUTLINE = (56, 152, 255), (255, 146, 30), (250, 248, 240), (14, 16, 26)
OUTLINE_OPACITY = 0.75

# The colours of ids, in turn: neighbours in the list differ also for colour-blind people (after Okabe and Ito, 2008).
ID_COLOURS: tuple[Colour, ...] = (
    (86, 180, 233),
    (230, 159, 0),
    (0, 158, 115),
    (240, 228, 66),
    (204, 121, 167),
    (213, 94, 0),
    (120, 150, 255),
    (150, 220, 120),
)

# A keypoint with a lower score is probably hidden or outside the photo: its dot is hollow and its limbs are pale.
SEEN = 0.4
HIDDEN_OPACITY = 0.4

# The width of a line as a fraction of the person's long side, and its limits as fractions of the photo's long side.
LINE_PER_PERSON = 1 / 55
FINEST_PER_PHOTO, COARSEST_PER_PHOTO = 1 / 900, 1 / 130
FINEST_LINE = 1.3  # pixels
# Fractions of the width of a line.
DOT_RADIUS, OUTLINE_WIDTH = 1.05, 0.3
CORE_RADIUS = 0.5  # fraction of the dot's radius; the core is pale for a visible keypoint and dark for a hidden one

# The squared radius of the ellipse that has 90 % of a normal distribution, in deviations: -2 log(1 - 0.9).
ELLIPSE_RADIUS = 4.605
ELLIPSE_OPACITY = 0.25
PIXELS_AT_ONCE = 1_000_000  # of an ellipse, which limits the memory

# The sigma of a shoulder. Keypoints with a smaller sigma, such as eyes, get smaller dots, so that faces stay visible.
BROAD_SIGMA = 0.079


def draw(photo: NDArray[np.uint8], poses: Poses, *, scores: bool = False, ellipses: bool = False) -> NDArray[np.uint8]:
    """Draw poses on a copy of a photo, the pose with the highest score on top.

    Left is blue, right is orange, and the middle is nearly white. Lines scale with the person, so crowds stay
    readable. A keypoint with a score of 0 is missing and not drawn. A keypoint with a score below 0.4 is probably
    hidden: its dot is hollow and its limbs are pale. Poses with ids have one colour each, that of the id, which is
    written above.

    Args:
        photo: (H, W, 3) uint8 RGB. It is not changed.
        poses: Poses in pixels of `photo`. Keypoints may lie outside the photo.
        scores: Write the score of each pose above it.
        ellipses: Draw the ellipse in which each keypoint lies with a probability of 90 %, if the poses have
            covariances.

    Returns:
        (H, W, 3) uint8 RGB, a new array.

    Raises:
        PhotoError: If `photo` is not a uint8 array of shape (H, W, 3).
        DataError: If the covariances to draw are not valid.
    """
    if not isinstance(photo, np.ndarray):
        raise PhotoError(f"photo: {type(photo).__name__}, expected a uint8 array of shape (height, width, 3)")
    if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8:
        raise PhotoError(f"photo: {photo.dtype} of shape {photo.shape}, expected uint8 of shape (height, width, 3)")
    picture = Image.fromarray(np.ascontiguousarray(photo))
    draw_on(picture, poses, scores=scores, ellipses=ellipses)
    return np.array(picture)


def draw_on(picture: Image.Image, poses: Poses, *, scores: bool = False, ellipses: bool = False) -> None:
    """Draw poses into an RGB image, as `draw` does on a copy."""
    weakest_first = [poses[int(place)] for place in np.argsort(-poses.scores, kind="stable")[::-1]]
    for pose in weakest_first:
        if ellipses:
            _draw_ellipses(picture, pose)
        _draw_pose(picture, pose)
    for pose in weakest_first:
        if text := _label(pose, scores):
            _write(picture, pose, text)


def draw_trail(picture: Image.Image, points: NDArray[np.floating[Any]], number: int) -> None:
    """Draw the way (n, 2) of the person with the id `number` into an RGB image, paler where it is older."""
    width = max(FINEST_LINE, max(picture.size) / 400)
    for place, (start, end) in enumerate(pairwise(np.clip(points.astype(np.float64), -1e5, 1e5)), 1):
        _Stroke(picture, start, end, width + 1).paint(width, id_colour(number), 0.8 * place / len(points))


def id_colour(number: int) -> Colour:
    """The colour of a person with this id."""
    return ID_COLOURS[number % len(ID_COLOURS)]


def _label(pose: Poses, scores: bool) -> str:
    parts = [str(pose.ids[0])] if "id" in pose.extra else []
    return "  ".join([*parts, *([f"{pose.scores[0]:.2f}"] if scores else [])])


class _Stroke:
    """The distances of the pixels around a line with round ends, which can be painted with any thickness."""

    def __init__(self, picture: Image.Image, start: NDArray[np.float64], end: NDArray[np.float64], reach: float):
        (x1, y1), (along_x, along_y) = start.tolist(), (end - start).tolist()
        length_squared = along_x**2 + along_y**2
        self.picture = picture
        self.tiles: list[tuple[Tile, NDArray[np.float32]]] = []
        for left, top, right, bottom in _tiles(picture.size, start, end, reach):
            # Subtract in float64: the small differences then fit float32.
            x = (np.arange(left, right) - x1).astype(np.float32)
            y = (np.arange(top, bottom) - y1).astype(np.float32)[:, None]
            if length_squared > 1e-6:  # a shorter line is a dot; dividing by its length would overflow
                share = x * (along_x / length_squared) + y * (along_y / length_squared)
                np.maximum(share, 0, out=share)
                np.minimum(share, 1, out=share)
                x, y = x - share * along_x, y - share * along_y
            self.tiles.append(((left, top, right, bottom), np.sqrt(x * x + y * y)))

    def paint(self, radius: float, colour: Colour, opacity: float = 1.0) -> None:
        """Paint the line, 2 `radius` pixels thick."""
        for tile, distance in self.tiles:
            _paste(self.picture, colour, tile, _covered(distance, radius, opacity))


class _Dots:
    """Dots that are painted one after another, but whose masks are computed together."""

    def __init__(self, picture: Image.Image, centres: NDArray[np.float64], reach: float):
        self.picture = picture
        side = 2 * ceil(reach) + 2
        corners = np.floor(centres) - ceil(reach)
        self.tiles = [(x, y, x + side, y + side) for x, y in corners.astype(int).tolist()]
        x, y = ((corners - centres).astype(np.float32)[:, :, None] + np.arange(side, dtype=np.float32)).swapaxes(0, 1)
        self.distances = np.sqrt((x * x)[:, None, :] + (y * y)[:, :, None])  # (n, side, side)

    def masks(self, radii: NDArray[np.float64], opacity: float = 1.0) -> NDArray[np.uint8]:
        return _covered(self.distances, radii[:, None, None].astype(np.float32), opacity)

    def paint(self, place: int, mask: NDArray[np.uint8], colour: Colour) -> None:
        _paste(self.picture, colour, self.tiles[place], mask)


def _paste(picture: Image.Image, colour: Colour, tile: Tile, mask: NDArray[np.uint8]) -> None:
    # Without a copy, which makes it twice as fast as `Image.fromarray`.
    picture.paste(colour, tile, Image.frombuffer("L", mask.shape[::-1], mask, "raw", "L", 0, 1))


def _covered(distance: NDArray[np.float32], radius: Any, opacity: float) -> NDArray[np.uint8]:
    """How much of each pixel a shape covers, 0 to 255. distance: (..., h, w) from its middle line."""
    full = np.float32(255 * opacity)
    covered: NDArray[np.float32] = distance * -full
    covered += (radius + 0.5) * full + 0.5  # half a level, because conversion to uint8 truncates
    np.maximum(covered, 0, out=covered)
    np.minimum(covered, full + np.float32(0.5), out=covered)
    return covered.astype(np.uint8)


def _draw_pose(picture: Image.Image, pose: Poses) -> None:
    points, present, seen = _points(pose), pose.keypoint_scores[0] > 0, pose.keypoint_scores[0] >= SEEN
    if not present.any():
        return
    line = _line_width(picture, points[present])
    outline = max(0.6, OUTLINE_WIDTH * line)
    widths = line * np.sqrt(np.clip(np.array(pose.skeleton.sigmas) / BROAD_SIGMA, 0.2, 1.0))
    sides = _colours(pose)

    limbs = [(a, b) for a, b in pose.skeleton.limbs if present[a] and present[b]]
    # Hidden limbs first, so that visible ones are on top.
    limbs.sort(key=lambda limb: bool(seen[limb[0]] and seen[limb[1]]))
    lines = []
    for a, b in limbs:
        radius = float(widths[a] + widths[b]) / 4
        opacity = 1.0 if seen[a] and seen[b] else HIDDEN_OPACITY
        stroke = _Stroke(picture, points[a], points[b], radius + outline + 1)
        lines.append((stroke, radius, _limb_colour(sides[a], sides[b]), opacity))
    shown = np.flatnonzero(present)
    radii = DOT_RADIUS * widths[shown]
    dots = _Dots(picture, points[shown], float(radii.max()) + outline + 1)

    # All outlines before all colours, so that the person has a single outline.
    for shape, radius, _, opacity in lines:
        shape.paint(radius + outline, OUTLINE, OUTLINE_OPACITY * opacity)
    for place, mask in enumerate(dots.masks(radii + outline, OUTLINE_OPACITY)):
        dots.paint(place, mask, OUTLINE)
    for shape, radius, colour, opacity in lines:
        shape.paint(radius, colour, opacity)
    for place, (mask, core) in enumerate(zip(dots.masks(radii), dots.masks(CORE_RADIUS * radii), strict=True)):
        dots.paint(place, mask, sides[shown[place]])
        dots.paint(place, core, MIDDLE if seen[shown[place]] else OUTLINE)


def _draw_ellipses(picture: Image.Image, pose: Poses) -> None:
    """Fill the 90 % ellipse of each keypoint with a pale colour, with a line around it."""
    covariances = pose.covariances
    shown = np.flatnonzero(pose.keypoint_scores[0] > 0)
    if covariances is None or not len(shown):
        return
    points, colours = _points(pose), _colours(pose)
    thickness = _line_width(picture, points[shown]) / 4
    for place in shown.tolist():
        shape = ELLIPSE_RADIUS * covariances[0, place].astype(np.float64)
        # Slim ellipses get a pixel of width; beyond the limit, they are larger than any picture.
        shape = shape / max(1.0, np.trace(shape) / 1e10) + np.eye(2)
        reach_x, reach_y = np.sqrt(np.diag(shape)) + thickness + 1
        (x, y), (width, height) = points[place], picture.size
        left, right = max(0, floor(x - reach_x)), min(width, ceil(x + reach_x) + 1)
        last = min(height, ceil(y + reach_y) + 1)
        rows = max(1, PIXELS_AT_ONCE // max(1, right - left))
        for top in range(max(0, floor(y - reach_y)), last if left < right else 0, rows):
            tile = (left, top, right, min(top + rows, last))
            offsets = np.stack(np.meshgrid(np.arange(left, right) - x, np.arange(top, tile[3]) - y), axis=-1)
            slopes = offsets @ np.linalg.inv(shape)
            radius = np.sqrt(np.maximum((slopes * offsets).sum(axis=-1), 1e-12))
            # To first order, the distance from the line on which the radius is 1.
            distance = ((radius - 1) * radius / np.maximum(np.linalg.norm(slopes, axis=-1), 1e-12)).astype(np.float32)
            _paste(picture, colours[place], tile, _covered(distance, 0.0, ELLIPSE_OPACITY))
            _paste(picture, colours[place], tile, _covered(np.abs(distance), thickness, 1.0))


def _points(pose: Poses) -> NDArray[np.float64]:
    """Return (K, 2) keypoints, clipped so that very distant ones do not overflow."""
    points: NDArray[np.float64] = np.clip(pose.keypoints[0].astype(np.float64), -1e5, 1e5)
    return points


def _line_width(picture: Image.Image, points: NDArray[np.float64]) -> float:
    long_side = max(picture.size)
    finest = max(FINEST_LINE, FINEST_PER_PHOTO * long_side)
    coarsest = max(finest, COARSEST_PER_PHOTO * long_side)
    return float(np.clip(LINE_PER_PERSON * np.ptp(points, axis=0).max(), finest, coarsest))


def _colours(pose: Poses) -> list[Colour]:
    """The colour of each keypoint: that of its side, or of the pose's id."""
    if "id" in pose.extra:
        return [id_colour(int(pose.ids[0]))] * pose.skeleton.num_keypoints
    colours = [MIDDLE] * pose.skeleton.num_keypoints
    for left, right in pose.skeleton.pairs:
        colours[left], colours[right] = LEFT, RIGHT
    return colours


def _limb_colour(first: Colour, second: Colour) -> Colour:
    """Return the side's colour for a limb with a side and the middle, and the middle's for a limb between sides."""
    if first == second or second == MIDDLE:
        return first
    return second if first == MIDDLE else MIDDLE


def _tiles(size: tuple[int, int], start: NDArray[np.float64], end: NDArray[np.float64], reach: float) -> Iterator[Tile]:
    """Cover the picture within `reach` of a line by tiles, because the box around a slanted line is mostly empty."""
    (x1, y1), (x2, y2) = start.tolist(), end.tolist()
    width, height = size
    steep = abs(y2 - y1) > abs(x2 - x1)
    if steep:  # exchange x and y, so that the tiles follow one another along x
        x1, y1, x2, y2, height, width = y1, x1, y2, x2, width, height
    if x1 > x2:
        x1, y1, x2, y2 = x2, y2, x1, y1
    slope = (y2 - y1) / (x2 - x1) if x2 > x1 else 0.0
    last = min(width, ceil(x2 + reach) + 1)
    step = int(8 * reach) + 24
    for left in range(max(0, floor(x1 - reach)), last, step):
        right = min(left + step, last)
        ends = [y1 + slope * (min(max(x, x1), x2) - x1) for x in (left - reach, right + reach)]
        top, bottom = max(0, floor(min(ends) - reach)), min(height, ceil(max(ends) + reach) + 1)
        if top < bottom:
            yield (top, left, bottom, right) if steep else (left, top, right, bottom)


def _write(picture: Image.Image, pose: Poses, text: str) -> None:
    """Write a text above the highest keypoint of a pose, inside the photo."""
    present = pose.keypoint_scores[0] > 0
    if not present.any():
        return
    points = _points(pose)[present]
    width, height = picture.size
    line = _line_width(picture, points)
    font = ImageFont.load_default(min(max(4.5 * line, 11), max(11, width / 25)))
    edge = max(1, round(line / 2))
    left, top, right, bottom = (int(side) for side in font.getbbox(text, stroke_width=edge))
    x, y = points[points[:, 1].argmin()]
    x = int(np.clip(x - (right - left) / 2, 0, max(0, width - (right - left))))
    y = int(np.clip(y - (bottom - top) - 4 * line, 0, max(0, height - (bottom - top))))
    for stroke_width, colour in ((edge, OUTLINE), (0, MIDDLE)):
        layer = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(layer).text((-left, -top), text, 255, font, stroke_width=stroke_width)
        picture.paste(colour, (x, y), layer)
