"""Turn annotated photos into square training patches: crop, zoom, rotate, mirror, recolour and mosaic."""

import math
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from posedet.config import DataConfig
from posedet.data.annotations import AnnotatedPhoto, Person
from posedet.image import GREY, read_photo
from posedet.skeleton import Skeleton

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Matrix = NDArray[np.float64]  # (2, 3), photo -> patch


class Patch(NamedTuple):
    """A training example. Coordinates are pixels of the patch, with pixel centres at whole numbers."""

    image: Pixels  # (S, S, 3) RGB
    keypoints: Floats  # (P, K, 2)
    weights: Floats  # (P, K): 0 = not labelled, below 1 = a teacher's confidence
    visible: Floats  # (P, K): 1 seen, 0 hidden or absent, -1 unknown
    areas: Floats  # (P,) labelled area, not clipped to the patch
    boxes: Floats  # (P, 4) x1 y1 x2 y2, clipped to the patch
    places: Floats  # (P,) which person of the photo each is
    ignored: Floats  # (Q, 4) x1 y1 x2 y2: crowds, people without keypoints, places where nothing is labelled
    crowds: Floats  # (Q,): 1 for an ignored region that is not one person
    source: str


def make_patch(
    photo: AnnotatedPhoto,
    others: list[AnnotatedPhoto],
    skeleton: Skeleton,
    config: DataConfig,
    generator: np.random.Generator,
) -> Patch:
    """Return a random patch of `photo`; with probability `config.mosaic` a mosaic of it and three other photos."""
    if others and generator.random() < config.mosaic:
        half = config.patch // 2
        patch = _joined([_crop(each, half, skeleton, config, generator) for each in (photo, *others)], half)
    else:
        patch = _crop(photo, config.patch, skeleton, config, generator)
    if config.colour > 0:
        patch = patch._replace(image=_recoloured(patch.image, config.colour, generator))
    return patch


def _crop(
    photo: AnnotatedPhoto, side: int, skeleton: Skeleton, config: DataConfig, generator: np.random.Generator
) -> Patch:
    image = read_photo(photo.path)
    matrix = _window(photo, image.shape[:2], side, config, generator)
    zoom = math.hypot(matrix[0, 0], matrix[1, 0])
    pixels, mirror = matrix.copy(), None
    if generator.random() < config.flip:
        pixels[0] = [0, 0, side - 1] - matrix[0]
        # The official code mirrors keypoints about another axis than pixels.
        mirror = side if config.geometry == "official" else side - 1
    # The official code fills with black; grey does not look like a dark room.
    warped = _warped(image, pixels, side, (0, 0, 0) if config.crop == "person" else (GREY,) * 3)
    return _labelled(warped, photo, matrix, mirror, zoom, skeleton, config)


def _window(
    photo: AnnotatedPhoto, size: tuple[int, ...], side: int, config: DataConfig, generator: np.random.Generator
) -> Matrix:
    """Return the matrix from the photo to the patch, not mirrored."""
    angle = math.radians(generator.uniform(-1, 1) * config.rotation_deg)
    if config.crop == "person":
        zoom = 1 / generator.uniform(*config.zoom)
        centre = _centre_of_a_person(photo, size, generator)
    else:
        # The zoom is relative to that at which the whole photo fits, because photos differ in size.
        zoom = side / max(size) * math.exp(generator.uniform(*np.log(config.zoom)))
        centre = _centre_near_people(photo, size, side / zoom, generator)
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    matrix = np.array([[cos, -sin, 0.0], [sin, cos, 0.0]])
    middle = side / 2 if config.geometry == "official" else (side - 1) / 2
    matrix[:, 2] = middle - matrix[:, :2] @ centre
    return matrix


def _centre_of_a_person(photo: AnnotatedPhoto, size: tuple[int, ...], generator: np.random.Generator) -> Matrix:
    """Return the box centre of one of the better-labelled half of the people (official code), or the photo's."""
    people = [person for person in photo.persons if not person.is_crowd]
    if not people:
        return np.array([size[1], size[0]]) / 2
    people.sort(key=lambda person: int(person.labelled.sum()))
    # Among equally labelled people, the official code prefers those that come last in the file.
    box = people[generator.integers(len(people) // 2, len(people))].region
    return np.array([box[0] + box[2], box[1] + box[3]], np.float64) / 2


def _centre_near_people(
    photo: AnnotatedPhoto, size: tuple[int, ...], window: float, generator: np.random.Generator
) -> Matrix:
    """Return a centre near a random person, if any, as far inside the photo as the window allows."""
    height, width = size
    people = [person for person in photo.persons if not person.ignore]
    if people:
        box = people[generator.integers(len(people))].region
        centre = np.array([box[0] + box[2], box[1] + box[3]]) / 2 + generator.uniform(-0.3, 0.3, 2) * window
    else:
        centre = generator.random(2) * (width, height)
    # A little of the border may be visible, as at test time.
    slack = 0.1 * window
    for axis, length in enumerate((width, height)):
        low, high = window / 2 - slack, length - window / 2 + slack
        if low < high:
            centre[axis] = np.clip(centre[axis], low, high)
        else:
            centre[axis] = length / 2 + generator.uniform(-0.5, 0.5) * (low - high)
    return centre


def _warped(image: Pixels, matrix: Matrix, side: int, border: tuple[int, ...]) -> Pixels:
    """Warp by linear interpolation; strong reductions average pixels first to avoid aliasing."""
    while math.hypot(matrix[0, 0], matrix[1, 0]) < 0.5 and min(image.shape[:2]) > 1:
        height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
        small = cv2.resize(image[:height, :width], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        image = cast(Pixels, small)
        matrix = matrix @ np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]])  # x = 2 x' + 0.5
    patch = cv2.warpAffine(
        image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=border
    )
    return cast(Pixels, patch)


def _labelled(
    image: Pixels,
    photo: AnnotatedPhoto,
    matrix: Matrix,
    mirror: int | None,
    zoom: float,
    skeleton: Skeleton,
    config: DataConfig,
) -> Patch:
    """mirror: what x and its mirrored value add up to; None if the patch is not mirrored."""
    side = image.shape[0]
    persons: list[tuple[Any, ...]] = []
    ignored: list[tuple[Any, float]] = []
    for place, person in enumerate(photo.persons):
        box = _moved_box(person.region, matrix, mirror)
        # The official code clips to the size, not to the last pixel.
        clipped = np.clip(box, 0, side if config.geometry == "official" else side - 1)
        keypoints, weights, visible = _moved_keypoints(person, matrix, mirror, side, config)
        if _lost(box, clipped, weights, side, config):
            continue
        if person.ignore or not (weights > 0).any():
            ignored.append((clipped, float(person.is_crowd)))
            continue
        if mirror is not None:
            keypoints, weights, visible = (x[skeleton.mirror] for x in (keypoints, weights, visible))
        persons.append((keypoints, weights, visible, max(person.area * zoom**2, 1.0), clipped, place))
    if photo.only_main_person:
        # Other people are not labelled, so everything around the labelled person is unknown.
        ignored += [(part, 1.0) for part in _frame(persons[0][4] if persons else np.zeros(4, np.float32), side)]
    columns = list(zip(*persons, strict=True)) if persons else [()] * 6
    num_keypoints = len(skeleton.keypoints)
    shapes = ((num_keypoints, 2), (num_keypoints,), (num_keypoints,), (), (4,), ())
    arrays = [np.array(column, np.float32).reshape(-1, *shape) for column, shape in zip(columns, shapes, strict=True)]
    regions = np.array([region for region, _ in ignored], np.float32).reshape(-1, 4)
    crowds = np.array([crowd for _, crowd in ignored], np.float32)
    keypoints, weights, visible, areas, boxes, places = arrays
    return Patch(image, keypoints, weights, visible, areas, boxes, places, regions, crowds, str(photo.path))


def _lost(box: Floats, clipped: Floats, weights: Floats, side: int, config: DataConfig) -> bool:
    """Whether the patch shows too little of a person to keep it."""
    if config.keep == "centre":
        centre = (box[:2] + box[2:]) / 2
        return bool((centre <= 0).any() or (centre >= side).any())
    return bool((clipped[2:] - clipped[:2] < 1).any()) and not (weights > 0).any()


def _moved_keypoints(
    person: Person, matrix: Matrix, mirror: int | None, side: int, config: DataConfig
) -> tuple[Floats, Floats, Floats]:
    """Return keypoints, weights and visibility in the patch; a keypoint outside is not visible.

    With `keep` "keypoints" it is also not labelled; the official code still trains on it.
    """
    moved = _moved(person.keypoints, matrix)
    if config.truncate:
        moved = np.trunc(moved)
    keypoints = _mirrored(moved, mirror).astype(np.float32)
    inside = ((keypoints >= -0.5) & (keypoints <= side - 0.5)).all(1)
    labelled = person.labelled
    if config.keep == "keypoints":
        labelled = labelled & inside
    weights = np.where(labelled, person.keypoint_weights * person.score, 0)
    visible = np.where(inside, person.visible, np.minimum(person.visible, 0))
    return keypoints, weights.astype(np.float32), visible.astype(np.float32)


def _moved_box(box: Matrix, matrix: Matrix, mirror: int | None) -> Floats:
    x1, y1, x2, y2 = box
    corners = _mirrored(_moved(np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]), matrix), mirror)
    return np.concatenate([corners.min(0), corners.max(0)]).astype(np.float32)


def _moved(points: Matrix, matrix: Matrix) -> Matrix:
    return points @ matrix[:, :2].T + matrix[:, 2]


def _mirrored(points: Matrix, mirror: int | None) -> Matrix:
    return points if mirror is None else np.stack([mirror - points[:, 0], points[:, 1]], axis=1)


def _frame(box: Floats, side: int) -> list[Floats]:
    """Return four boxes that cover the patch around `box`."""
    x1, y1, x2, y2 = box
    parts = ((0, 0, x1, side), (x2, 0, side, side), (x1, 0, x2, y1), (x1, y2, x2, side))
    return [np.array(part, np.float32) for part in parts]


def _joined(quarters: list[Patch], half: int) -> Patch:
    image = np.empty((2 * half, 2 * half, 3), np.uint8)
    moved = []
    for number, quarter in enumerate(quarters):
        x, y = number % 2 * half, number // 2 * half
        image[y : y + half, x : x + half] = quarter.image
        shift = np.array([x, y], np.float32)
        moved.append(
            quarter._replace(
                keypoints=quarter.keypoints + shift,
                boxes=quarter.boxes + np.tile(shift, 2),
                ignored=quarter.ignored + np.tile(shift, 2),
            )
        )
    columns = {name: np.concatenate([getattr(patch, name) for patch in moved]) for name in Patch._fields[1:-1]}
    return Patch(image=image, source=" + ".join(patch.source for patch in quarters), **columns)


def _recoloured(image: Pixels, strength: float, generator: np.random.Generator) -> Pixels:
    """Change brightness, contrast, colour cast and saturation by up to `strength`; 5 % of the patches become grey."""
    gains = 1 + generator.uniform(-0.5, 0.5, 3) * strength
    contrast, brightness, saturation = 1 + generator.uniform(-1, 1, 3) * strength
    values = np.arange(256)[:, None] * gains * brightness
    table = np.clip((values - 128) * contrast + 128, 0, 255).astype(np.uint8)
    recoloured = cv2.LUT(image, table.reshape(1, 256, 3))
    grey = cast(Pixels, cv2.cvtColor(recoloured, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, 2))
    if generator.random() < 0.05:
        return grey
    return cast(Pixels, cv2.addWeighted(recoloured, saturation, grey, 1 - saturation, 0))
