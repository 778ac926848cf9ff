"""Poses onto a photo, in colours that also the colour-blind tell apart: left blue, right orange, middle light."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from posedet.errors import PhotoError
from posedet.poses import Poses
from posedet.skeleton import Skeleton

LEFT, RIGHT, MIDDLE, OUTLINE = (64, 160, 255), (255, 140, 26), (245, 245, 235), (16, 16, 24)

# Below this score a keypoint is most likely hidden: its dot is hollow and its limbs are faint.
SEEN = 0.5
HIDDEN_OPACITY = 0.45
# Drawn larger and reduced: Pillow does not smooth edges itself.
SMOOTHING = 3


def draw(photo: NDArray[np.uint8], poses: Poses, *, scores: bool = False) -> NDArray[np.uint8]:
    """A copy of `photo` (H, W, 3) uint8 RGB with `poses` drawn on it, the best on top; `scores` writes their scores.

    Lines grow with the person, so that crowds stay readable. Raises PhotoError for another kind of array.
    """
    if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8:
        raise PhotoError(f"photo: {photo.dtype} of shape {photo.shape}, expected uint8 of (height, width, 3)")
    picture = Image.fromarray(photo)
    for pose in reversed(list(poses)):
        _draw_pose(picture, pose, scores)
    return np.array(picture)


def _draw_pose(picture: Image.Image, pose: Poses, scores: bool) -> None:
    """One person, smoothed in its own small layer: the cost follows the person's size, not the photo's."""
    x1, y1, x2, y2 = pose.boxes[0]
    size = max(x2 - x1, y2 - y1)
    width = float(np.clip(size / 60, 1.2, max(picture.size) / 150 + 2))
    margin = 3 * width + 2
    left, top = int(max(0, x1 - margin)), int(max(0, y1 - margin))
    right, bottom = int(min(picture.width, x2 + margin + 1)), int(min(picture.height, y2 + margin + 1))
    if left >= right or top >= bottom:
        return
    layer = Image.new("RGBA", ((right - left) * SMOOTHING, (bottom - top) * SMOOTHING))
    # Pixel centres are at integers, corners of the layer at halves.
    points = (pose.keypoints[0] + 0.5 - (left, top)) * SMOOTHING
    _draw_limbs(layer, points, pose, width * SMOOTHING)
    _draw_keypoints(layer, points, pose, width * SMOOTHING)
    small = layer.reduce(SMOOTHING)
    picture.paste(small, (left, top), small)
    if scores:
        font = ImageFont.load_default(float(np.clip(size / 12, 10, 32)))
        ImageDraw.Draw(picture).text(
            (max(0, x1), max(0, y1 - margin)),
            f"{pose.scores[0]:.2f}",
            (255, 255, 255),
            font,
            anchor="ls",
            stroke_width=2,
            stroke_fill=OUTLINE,
        )


def _draw_limbs(layer: Image.Image, points: NDArray[np.float32], pose: Poses, width: float) -> None:
    brush = ImageDraw.Draw(layer)
    sides = _sides(pose.skeleton)
    seen = pose.keypoint_scores[0] >= SEEN
    # Hidden limbs first: what is seen lies on top.
    limbs = sorted(pose.skeleton.limbs, key=lambda limb: bool(seen[limb[0]] and seen[limb[1]]))
    for outline in (True, False):
        for a, b in limbs:
            opacity = 255 if seen[a] and seen[b] else int(255 * HIDDEN_OPACITY)
            side = sides[a] if sides[a] == sides[b] else MIDDLE
            colour = OUTLINE if outline else side
            thickness = width * (1.7 if outline else 1.0)
            ends = [tuple(points[a]), tuple(points[b])]
            brush.line(ends, (*colour, int(opacity * (0.7 if outline else 1))), max(1, round(thickness)))


def _draw_keypoints(layer: Image.Image, points: NDArray[np.float32], pose: Poses, width: float) -> None:
    brush = ImageDraw.Draw(layer)
    sides = _sides(pose.skeleton)
    for (x, y), colour, score in zip(points, sides, pose.keypoint_scores[0], strict=True):
        radius = width * 1.15
        seen = score >= SEEN
        outline = (*OUTLINE, 200 if seen else int(255 * HIDDEN_OPACITY))
        brush.ellipse((x - radius * 1.35, y - radius * 1.35, x + radius * 1.35, y + radius * 1.35), outline)
        brush.ellipse((x - radius, y - radius, x + radius, y + radius), (*colour, 255 if seen else 110))


def _sides(skeleton: Skeleton) -> list[tuple[int, int, int]]:
    """The colour of each keypoint."""
    colours = [MIDDLE] * len(skeleton.keypoints)
    for left, right in skeleton.pairs:
        colours[left], colours[right] = LEFT, RIGHT
    return colours
