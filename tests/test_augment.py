"""Augmentation: labels go where the pixels go, in photos whose pixels say where in the photo they were."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from PIL import Image

from posedet.config import DataConfig, load_config
from posedet.data import augment
from posedet.data.annotations import AnnotatedPhoto, Person, PhotoSet
from posedet.data.augment import Patch, make_patch
from posedet.skeleton import COCO, Skeleton, find_skeleton
from posedet.training.batches import PhotoStream

HEIGHT, WIDTH = 200, 250
FIVE = Skeleton(
    "five", ("nose", "left_hand", "right_hand", "left_foot", "right_foot"), (), ((1, 2), (3, 4)), (0.1,) * 5
)
# Nothing is left to chance: a patch of 65 pixels about the middle of the person's box, which lies at (32, 32) there.
STILL = replace(
    load_config("posedet-s").data,
    patch=65,
    crop="person",
    zoom=(1.0, 1.0),
    flip=0.0,
    rotation_deg=0.0,
    colour=0.0,
    mosaic=0.0,
)


def person(points: Sequence[Sequence[float]] | NDArray[Any], number: int = 1, **changes: Any) -> Person:
    """Somebody all of whose keypoints are seen, in a box around them."""
    keypoints = np.array(points, np.float32)
    count = len(keypoints)
    plain = Person(
        keypoints=keypoints,
        visibility=np.full(count, 2, np.uint8),
        visible=np.ones(count, np.int8),
        keypoint_weights=np.ones(count, np.float32),
        box=np.concatenate([keypoints.min(0), keypoints.max(0)]),
        area=1000.0 * number,
        score=1.0,
        is_crowd=False,
        ignore=False,
        annotation_id=number,
    )
    return replace(plain, **changes)


def coded_photo(folder: Path, persons: Sequence[Person], number: int = 0, *, main_only: bool = False) -> AnnotatedPhoto:
    """A photo that has its x in red and its y in green; blue tells the photo from others, and from what lies beyond.

    Red and green are half a level more on average: so the mean of two by two pixels needs no rounding.
    """
    path = folder / f"{number}.png"
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([x + y % 2, y + x % 2, np.full_like(x, blue(number))], axis=-1)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return AnnotatedPhoto(number, path, (HEIGHT, WIDTH), tuple(persons), main_only, None)


def blue(number: int) -> int:
    return 255 - 20 * number


def patch_of(photo: AnnotatedPhoto, config: DataConfig, seed: int = 0, skeleton: Skeleton = FIVE) -> Patch:
    return make_patch(photo, [], skeleton, config, np.random.default_rng(seed))


class Way(NamedTuple):
    """Where the pixels of a photo went."""

    matrix: NDArray[np.float64]  # (2, 2)
    shift: NDArray[np.float64]

    def __call__(self, points: NDArray[Any]) -> NDArray[np.float64]:
        moved: NDArray[np.float64] = points.astype(np.float64) @ self.matrix.T + self.shift
        return moved

    @property
    def mirrored(self) -> bool:
        return bool(np.linalg.det(self.matrix) < 0)

    @property
    def zoom(self) -> float:
        return float(np.sqrt(abs(np.linalg.det(self.matrix))))

    @property
    def turn(self) -> float:
        """Degrees, clockwise; of the photo before it was mirrored."""
        x = -self.matrix[0, 0] if self.mirrored else self.matrix[0, 0]
        return float(np.degrees(np.arctan2(self.matrix[1, 0], x)))


def way_of(image: NDArray[np.uint8], number: int = 0) -> Way:
    """From what the pixels say: the map from photo `number` to the image."""
    rows, columns = np.nonzero(image[..., 2] == blue(number))
    places = np.column_stack([columns, rows, np.ones(len(rows))])
    seen = image[rows, columns, :2].astype(np.float64) - 0.5
    back = np.asarray(np.linalg.lstsq(places, seen, rcond=None)[0], np.float64)
    matrix = np.asarray(np.linalg.inv(back[:2].T), np.float64)
    return Way(matrix, -matrix @ back[2])


def some_people(number_of_keypoints: int, seed: int = 0) -> list[Person]:
    """Three people all over the photo, and partly beyond it."""
    generator = np.random.default_rng(seed)
    people = []
    for number in range(3):
        middle, reach = generator.uniform(0.2, 0.8, 2) * (WIDTH, HEIGHT), generator.uniform(15, 90, 2)
        points = middle + generator.uniform(-1, 1, (number_of_keypoints, 2)) * reach
        people.append(person(points, number + 1, annotation_id=number))
    return people


# --- blobs of colour -------------------------------------------------------------------------------------------------

# Far from each other and from the grey on which they are painted.
COLOURS = np.array([(r, g, b) for r in (0, 120, 255) for g in (0, 120, 255) for b in (0, 120, 255)], np.float64)
COLOURS = COLOURS[np.ptp(COLOURS, axis=1) > 0]
PAPER = 80.0


def painted_photo(folder: Path, skeleton: Skeleton) -> AnnotatedPhoto:
    """Somebody whose keypoints are soft blobs, each of its own colour."""
    count = skeleton.num_keypoints
    k = np.arange(count)
    points = np.stack([70 + 95 * (k % 5), 50 + 100 * (k // 5)], axis=1)
    points = points + np.random.default_rng(1).uniform(-9, 9, (count, 2))
    photo = np.full((400, 520, 3), PAPER)
    for (x, y), colour in zip(points, COLOURS, strict=False):
        rows, columns = (np.arange(int(middle) - 20, int(middle) + 21) for middle in (y, x))
        share = np.exp(-((columns - x) ** 2 + (rows[:, None] - y) ** 2) / (2 * 4**2))[..., None]
        photo[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] += share * (colour - PAPER)
    path = folder / "painted.png"
    Image.fromarray(photo.round().astype(np.uint8)).save(path)
    return AnnotatedPhoto(1, path, (400, 520), (person(points),), False, None)


def blob_at(image: NDArray[np.uint8], place: NDArray[Any]) -> tuple[NDArray[np.float64], int]:
    """Where the middle of the blob at about this place is, and the number of its colour."""
    radius = 20
    middle = place.astype(np.float64)
    for _ in range(4):
        column, row = np.round(middle).astype(int)
        part = image[row - radius : row + radius + 1, column - radius : column + radius + 1].astype(np.float64)
        light = np.clip(np.abs(part - PAPER).sum(axis=2) - 25, 0, None)
        rows, columns = np.indices(light.shape)
        middle = np.array([(columns * light).sum(), (rows * light).sum()]) / light.sum() + (column, row) - radius
    column, row = np.round(middle).astype(int)
    return middle, int(np.abs(COLOURS - image[row, column]).sum(axis=1).argmin())


PRESETS = ("posedet-s", "dla34-coco", "dla34-coco-improved", "hrnet-w32-crowdpose", "hrnet-w32-crowdpose-improved")


@pytest.mark.slow
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_label_lies_on_the_blob_of_its_keypoint(preset: str, mirrored: bool, tmp_path: Path) -> None:
    """Mirrored, on that of its partner. There the official labels lie one pixel too far to the right."""
    config = load_config(preset, ["data.colour=0.0", "data.mosaic=0.0", f"data.flip={float(mirrored)}"])
    skeleton = find_skeleton(config.model.skeleton)
    photo = painted_photo(tmp_path, skeleton)
    expected = skeleton.mirror if mirrored else np.arange(skeleton.num_keypoints)
    off = (1, 0) if mirrored and config.data.geometry == "official" else (0, 0)
    count = 0
    for seed in range(8):
        patch = patch_of(photo, config.data, seed, skeleton)
        for k, place in enumerate(patch.keypoints[0] if len(patch.keypoints) else ()):
            if (place > 21).all() and (place < config.data.patch - 22).all():
                middle, colour = blob_at(patch.image, place)
                assert_allclose(place, middle + off, atol=0.3)
                assert colour == expected[k]
                count += 1
    assert count > 40


# --- what the pixels say ---------------------------------------------------------------------------------------------

ALONE: dict[str, dict[str, Any]] = {
    "as it is": {},
    "mirrored": {"flip": 1.0},
    "mirrored or not": {"flip": 0.5},
    "turned": {"rotation_deg": 180.0},
    "zoomed in": {"zoom": (2.5, 6.0)},
    "zoomed out": {"zoom": (0.15, 0.45)},
    "mosaic": {"mosaic": 1.0},
    "by person": {"crop": "person", "zoom": (0.4, 1.5)},
    "by person, reduced": {"crop": "person", "zoom": (2.5, 9.0)},
    "all": {"flip": 0.5, "rotation_deg": 180.0, "zoom": (0.3, 4.0), "mosaic": 0.5},
}


def settings_of(name: str) -> tuple[DataConfig, Skeleton]:
    """Of a preset without colours, which would hide where a pixel was; or one kind of augmentation alone."""
    if name in PRESETS:
        config = load_config(name, ["data.colour=0.0"])
        return config.data, find_skeleton(config.model.skeleton)
    changes: dict[str, Any] = {"crop": "photo", "patch": 160, **ALONE[name]}
    return replace(STILL, **changes), FIVE


def hull(way: Way, box: NDArray[Any], off: tuple[float, float], last: float) -> NDArray[np.float64]:
    """A box gone that way and `off`, cut at 0 and `last`."""
    corners = way(np.asarray(box)[np.array([[0, 1], [2, 1], [2, 3], [0, 3]])]) + off
    return np.concatenate([corners.min(0), corners.max(0)]).clip(0, last)


CROWD_BOX = np.array([20, 30, 200, 180], np.float32)


QUICK = ("all", "by person, reduced")
EVERY = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in (*PRESETS, *ALONE)]


@pytest.mark.parametrize("name", EVERY)
def test_labels_go_where_the_pixels_go(name: str, tmp_path: Path) -> None:
    """Keypoints with their sides, areas and boxes of the people of every photo in the patch, and crowds."""
    config, skeleton = settings_of(name)
    num_keypoints = skeleton.num_keypoints
    official = config.geometry == "official"
    crowd = person(np.zeros((num_keypoints, 2)), is_crowd=True, ignore=True, box=CROWD_BOX)
    photos = [coded_photo(tmp_path, [*some_people(num_keypoints, n), crowd], n) for n in range(4)]
    count = 0
    ways: list[Way] = []
    zooms: list[float] = []
    for seed in range(12):
        patch = make_patch(photos[0], photos[1:], skeleton, config, np.random.default_rng(seed))
        num_photos = patch.source.count(" + ") + 1
        side = config.patch if num_photos == 1 else config.patch // 2
        last = side if official else side - 1
        for number in range(num_photos):
            x, y = number % 2 * side, number // 2 * side
            part = patch.image[y : y + side, x : x + side]
            if (part[..., 2] == blue(number)).sum() < 400:
                continue  # too little of the photo is there to tell where it went
            way = way_of(part, number)
            ways.append(way)
            zooms.append(way.zoom if config.crop == "person" else way.zoom * WIDTH / side)
            off = (1, 0) if way.mirrored and official else (0, 0)
            order = skeleton.mirror if way.mirrored else np.arange(num_keypoints)
            for each in photos[number].persons[:3]:
                places = (way(each.keypoints) + off)[order]
                # What is beyond the patch is measured less exactly.
                near = 0.3 * np.maximum(1, np.abs(places - side / 2) / (side / 2))
                close = (np.abs(patch.keypoints - (x, y) - places) < near).all((1, 2))
                if not close.any():
                    seen = places if config.keep == "keypoints" else (places.min(0) + places.max(0))[None] / 2
                    assert not ((seen > 1) & (seen < side - 2)).all(1).any()
                    continue
                (place,) = np.flatnonzero(close)
                assert_allclose(patch.areas[place], max(each.area * way.zoom**2, 1), rtol=0.02)
                assert_allclose(patch.boxes[place] - (x, y, x, y), hull(way, each.box, off, last), atol=0.3)
                count += 1
            region = hull(way, CROWD_BOX, off, last)
            if (region[2:] - region[:2] > 9).all():
                close = np.abs(patch.ignored - (x, y, x, y) - region).max(1) < 0.3
                assert 1 in patch.crowds[close]
    assert count > 12
    assert {way.mirrored for way in ways} == ({True, False} if 0 < config.flip < 1 else {config.flip == 1})
    turns = [way.turn for way in ways]
    assert config.rotation_deg / 4 < max(turns) + 0.1 and min(turns) - 0.1 < -config.rotation_deg / 4
    assert max(np.abs(turns)) < config.rotation_deg + 0.1
    # A photo's long side counts, in patches; by person it is the other way round.
    low, high = config.zoom if config.crop == "photo" else (1 / config.zoom[1], 1 / config.zoom[0])
    assert 0.98 * low < min(zooms) < 1.02 * (low * high) ** 0.5 < 1.04 * max(zooms) < 1.06 * high


# --- by hand ---------------------------------------------------------------------------------------------------------

AROUND = np.array([(110, 90), (130, 90), (100, 100), (140, 130), (104, 120)])  # a box of 40 x 40 about (120, 110)


def around(x: float, y: float) -> NDArray[np.float64]:
    """The same, so far to the right and below."""
    moved: NDArray[np.float64] = AROUND + np.array([x, y], np.float64)
    return moved


@pytest.mark.parametrize(("flip", "off"), [(0.0, 0), (1.0, 1)])
def test_official_patches_are_half_a_pixel_off_and_mirrored_labels_one(flip: float, off: int, tmp_path: Path) -> None:
    """Beside the middle of the patch, (32, 32) of 65 pixels, and beside the pixels of a mirrored one."""
    photo = coded_photo(tmp_path, [person(AROUND)])
    exact, official = replace(STILL, flip=flip), replace(STILL, flip=flip, geometry="official")
    for config, middle, shift in (exact, 32, (0, 0)), (official, 32.5, (off, 0)):
        patch = patch_of(photo, config)
        way = way_of(patch.image)
        assert way.mirrored == bool(flip) and way.zoom == pytest.approx(1, abs=1e-3)
        # Mirrored, pixels go about the middle of the patch: what lay half a pixel to the right lies as far to the left.
        assert_allclose(way(np.array([120, 110])), (64 - middle if flip else middle, middle), atol=0.02)
        order = FIVE.mirror if flip else np.arange(5)
        assert_allclose(patch.keypoints[0], way(AROUND)[order] + shift, atol=0.02)
        assert_allclose(patch.boxes[0], np.array([-20, -20, 20, 20]) + middle, atol=1e-4)


def test_a_keypoint_outside_is_neither_labelled_nor_seen(tmp_path: Path) -> None:
    """Half a pixel beyond the last centres the patch ends. Officially it stays labelled."""
    points = np.array([(88, 78), (87.4, 100), (152.6, 100), (100, 142.4), (120, 142.6)])
    weights, known = np.array([1, 0.5, 1, 0.5, 1], np.float32), np.array([1, 1, -1, 0, 1], np.int8)
    box = np.array([100, 90, 140, 130], np.float32)
    somebody = person(points, keypoint_weights=weights, visible=known, box=box, score=0.5)
    photo = coded_photo(tmp_path, [somebody])
    patch = patch_of(photo, STILL)
    assert_allclose(patch.keypoints[0], points - (88, 78), atol=1e-4)
    assert patch.weights.tolist() == [[0.5, 0, 0, 0.25, 0]]
    assert patch.visible.tolist() == [[1, 0, -1, 0, 0]]
    official = patch_of(photo, replace(STILL, keep="centre"))
    assert official.weights.tolist() == [[0.5, 0.25, 0.5, 0.25, 0.5]]
    assert_array_equal(official.visible, patch.visible)
    mirrored = patch_of(photo, replace(STILL, flip=1.0))
    assert mirrored.weights.tolist() == [[0.5, 0, 0, 0, 0.25]]
    assert mirrored.visible.tolist() == [[1, -1, 0, 0, 0]]
    assert_allclose(mirrored.keypoints[0], ((points - (88, 78)) * (-1, 1) + (64, 0))[FIVE.mirror], atol=1e-4)


def test_half_a_pixel_beyond_the_last_centres_is_inside(tmp_path: Path) -> None:
    """The patch shows x from 88 to 152 and y from 78 to 142."""
    points = np.array([(87.5, 77.5), (152.5, 142.5), (120, 110), (87, 110), (120, 143)])
    photo = coded_photo(tmp_path, [person(points, box=np.array([100.0, 90, 140, 130]))])
    assert patch_of(photo, STILL).weights.tolist() == [[1, 1, 1, 0, 0]]


@pytest.mark.parametrize(
    ("keep", "box", "weight", "lost"),
    [
        ("centre", (-9, 0, 9, 20), 1, True),  # its middle is on the border
        ("centre", (-9, 0, 9.5, 20), 0, False),
        ("centre", (0, -9, 20, 9), 1, True),
        ("centre", (56, 0, 74, 20), 1, True),
        ("centre", (55.5, 0, 74, 20), 0, False),
        ("centre", (0, 56, 20, 74), 1, True),
        ("keypoints", (63, 0, 80, 20), 0, False),  # a pixel of it is seen
        ("keypoints", (63.25, 0, 80, 20), 0, True),
        ("keypoints", (0, 63.25, 20, 80), 0, True),
        ("keypoints", (90, 90, 99, 99), 0.25, False),
    ],
)
def test_who_is_lost(keep: str, box: Any, weight: float, lost: bool) -> None:
    corners = np.array(box, np.float32)
    config = replace(STILL, keep=keep)
    assert augment._lost(corners, corners.clip(0, 64), np.array([0, weight], np.float32), 65, config) == lost


def test_a_quarter_turn_moves_each_pixel_and_mixes_none() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    turn = np.array([[0.0, -1, 8], [1, 0, 0]])  # x and y become 8 - y and x
    assert_array_equal(augment._warped(noise, turn, 9, (0, 0, 0)), np.rot90(noise, -1))


@pytest.mark.parametrize(("height", "light"), [(8, 50), (2, 25), (1, 0)])
def test_narrow_photos_are_averaged_too(height: int, light: int) -> None:
    """One column of four is bright. The first row of the patch lies on the border of two rows, and beyond one."""
    stripes = np.zeros((height, 400, 3), np.uint8)
    stripes[:, ::4] = 200
    quarter = np.array([[0.25, 0, -0.375], [0, 0.25, -0.375]])
    assert_allclose(augment._warped(stripes, quarter, 100, (0, 0, 0))[0, 1:99], light, atol=1)


def test_angles_are_on_both_sides(tmp_path: Path) -> None:
    photo, config = coded_photo(tmp_path, [person(AROUND)]), replace(STILL, rotation_deg=30.0)
    matrices = [augment._window(photo, photo.size, 65, config, np.random.default_rng(seed)) for seed in range(60)]
    angles = np.degrees([np.arctan2(matrix[1, 0], matrix[0, 0]) for matrix in matrices])
    assert -30 <= angles.min() < -25 and 25 < angles.max() <= 30


def test_what_is_not_labelled_stays_so(tmp_path: Path) -> None:
    photo = coded_photo(tmp_path, [person(AROUND, visibility=np.array([2, 0, 1, 2, 2], np.uint8))])
    for keep in ("keypoints", "centre"):
        config = replace(STILL, keep=keep)
        assert patch_of(photo, config).weights.tolist() == [[1, 0, 1, 1, 1]]
        assert patch_of(photo, replace(config, flip=1.0)).weights.tolist() == [[1, 1, 0, 1, 1]]


def test_who_is_learnt_ignored_and_left_out(tmp_path: Path) -> None:
    """The patch shows x from 88 to 152 and y from 78 to 142."""
    none = np.zeros(5, np.uint8)

    def boxed(box: Sequence[float], **changes: Any) -> Person:
        return person([(0, 0)] * 5, **{"visibility": none, "ignore": True, "box": np.array(box, np.float32), **changes})

    people = [
        person(around(45, 0)),  # its middle is outside, at x 165; two keypoints are inside
        person(np.array([(200, 100)] * 5), box=np.array([140, 90, 210, 120], np.float32)),  # seen without a keypoint
        person(AROUND),  # in the middle
        person(np.array([(200, 100)] * 5), box=np.array([155, 90, 210, 120], np.float32)),  # not seen
        boxed((60, 90, 100, 100)),  # without keypoints
        boxed((90, 130, 150, 190), is_crowd=True),
        boxed((90, 20, 150, 77), is_crowd=True),  # not seen
        boxed((100, 80, 120, 90), visibility=none + 2),  # labelled but to be ignored
    ]
    patch = patch_of(coded_photo(tmp_path, people), replace(STILL, zoom=(1.0, 1.0)))
    assert_allclose(patch.boxes, [(57, 12, 64, 52), (12, 12, 52, 52)], atol=1e-4)
    assert patch.weights.tolist() == [[0, 0, 1, 0, 1], [1] * 5]
    assert_allclose(patch.ignored, [(52, 12, 64, 42), (0, 12, 12, 22), (2, 52, 62, 64), (12, 2, 32, 12)], atol=1e-4)
    assert patch.crowds.tolist() == [0, 0, 1, 0]


def test_officially_the_middle_of_the_box_decides(tmp_path: Path) -> None:
    """Of who is learnt, and, of one of the better-labelled half, where the patch lies."""
    offsets = np.array([(-33, 0), (0, 0), (32, 0), (0, -33)])
    few = np.array([2, 2, 2, 0, 0], np.uint8)
    people = [person(AROUND + each) for each in offsets]
    people[0], people[2] = replace(people[0], visibility=few), replace(people[2], visibility=few)
    photo = coded_photo(tmp_path, people)
    config = replace(load_config("dla34-coco").data, patch=65, zoom=(1.0, 1.0), flip=0.0)
    middles = set()
    for seed in range(9):
        patch = patch_of(photo, config, seed)
        places = (way_of(patch.image)(np.array([(120, 110)])) + offsets).round(1)
        middles.add(tuple(places[1].tolist()))
        inside = ((places > 0) & (places < 65)).all(1)
        assert_allclose(patch.keypoints[:, 0], places[inside] - (10, 20), atol=0.05)
        # Cut at the size, not at the last pixel.
        boxes = np.concatenate([places - 20, places + 20], axis=1).clip(0, 65)[inside]
        assert_allclose(patch.boxes, boxes, atol=0.05)
    assert middles == {(32.5, 32.5), (32.5, 65.5)}


def test_officially_the_last_of_equals_are_centres(tmp_path: Path) -> None:
    """Of five people with equally many keypoints the code drops the first two of the file."""
    offsets = np.array([(-40, 0), (0, 0), (40, 0), (0, 40), (0, -40)])
    photo = coded_photo(tmp_path, [person(AROUND + each) for each in offsets])
    config = replace(load_config("dla34-coco").data, patch=65, zoom=(1.0, 1.0), flip=0.0)
    chosen = set()
    for seed in range(20):
        places = way_of(patch_of(photo, config, seed).image)(np.array([(120, 110)])) + offsets
        chosen.add(int(np.abs(places - 32.5).sum(1).argmin()))
    assert chosen == {2, 3, 4}


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_officially_keypoints_are_truncated_before_mirroring(flip: float, tmp_path: Path) -> None:
    """The code writes them into an array of whole numbers, towards zero: also those outside the patch."""
    shift = (120, 110)
    exact = np.array([(-7.75, 3.5), (3.25, 40.75), (32.0, 10.5), (64.75, 64.25), (72.5, 12.75)])
    # The box is about (120, 110), the middle of the patch (32.5, 32.5).
    photo = coded_photo(tmp_path, [person(exact - 32.5 + shift, box=np.array([100.0, 90, 140, 130]))])
    paper = replace(load_config("dla34-coco").data, patch=65, zoom=(1.0, 1.0), flip=flip)
    expected = np.array([(-7, 3), (3, 40), (32, 10), (64, 64), (72, 12)])
    for config, points in (paper, exact), (replace(paper, truncate=True), expected):
        patch = patch_of(photo, config)
        if flip:
            points = (np.array([65, 0]) + np.array([-1, 1]) * points)[FIVE.mirror]
        assert_allclose(patch.keypoints[0], points, atol=1e-4)
        assert_allclose(patch.boxes[0], (12.5, 12.5, 52.5, 52.5), atol=1e-4)  # boxes are exact in both


def test_around_the_only_labelled_person_nothing_is_known(tmp_path: Path) -> None:
    """Every place but the box is ignored, also where the patch shows nothing of the person."""
    y, x = np.mgrid[:65, :65]

    def unknown(patch: Patch) -> NDArray[np.bool_]:
        assert set(patch.crowds.tolist()) == {1}
        inside = [(x >= x1) & (x <= x2) & (y >= y1) & (y <= y2) for x1, y1, x2, y2 in patch.ignored]
        return np.asarray(np.any(inside, axis=0))

    photo = coded_photo(tmp_path, [person(AROUND)], main_only=True)
    off_centre = replace(STILL, crop="photo", zoom=(2.5, 2.5), flip=1.0)
    for config in (STILL, off_centre):
        patch = patch_of(photo, config)
        (x1, y1, x2, y2), unseen = patch.boxes[0], unknown(patch)
        strictly = (x > x1) & (x < x2) & (y > y1) & (y < y2)
        assert strictly.any() and not unseen[strictly].any()
        assert unseen[(x < x1) | (x > x2) | (y < y1) | (y > y2)].all()
    crowd = person(AROUND, is_crowd=True, ignore=True, visibility=np.zeros(5, np.uint8))
    assert len(patch_of(replace(photo, persons=(*photo.persons, crowd)), STILL).ignored) == 5
    far = person(around(400, 0), ignore=False)
    everywhere = patch_of(replace(photo, persons=(far,)), replace(STILL, crop="photo"))
    assert len(everywhere.boxes) == 0 and unknown(everywhere).all()


def test_a_mosaic_shows_four_photos_a_quarter_each(tmp_path: Path) -> None:
    """By hand: an even side, and the middle of each person's box in the middle of the quarter."""
    crowd = person(AROUND, is_crowd=True, ignore=True, visibility=np.zeros(5, np.uint8))
    photos = [coded_photo(tmp_path, [person(AROUND + n, n + 1), crowd], n) for n in range(4)]
    config = replace(STILL, patch=66, mosaic=1.0)
    patch = make_patch(photos[0], photos[1:], FIVE, config, np.random.default_rng(0))
    assert (patch.image.shape, patch.image.dtype) == ((66, 66, 3), np.uint8)
    assert {array.dtype for array in patch[1:-1]} == {np.dtype(np.float32)}
    assert [patch.image[y, x, 2] for y, x in ((0, 0), (32, 65), (65, 32), (33, 33))] == [blue(n) for n in range(4)]
    corners = np.array([(0, 0), (33, 0), (0, 33), (33, 33)])
    # The quarter ends at its last pixel, 32.
    assert_allclose(patch.boxes, np.concatenate([corners, corners + 32], axis=1), atol=1e-4)
    assert_allclose(patch.keypoints, around(-104, -94) + corners[:, None], atol=1e-4)
    assert patch.areas.tolist() == [1000, 2000, 3000, 4000]
    assert_allclose(patch.weights, [[0, 0, 0, 0, 1]] * 4)
    assert_allclose(patch.ignored, patch.boxes, atol=1e-4)
    assert patch.crowds.tolist() == [1] * 4
    assert patch.source == " + ".join(str(photo.path) for photo in photos)


@pytest.mark.parametrize("zoom", [0.7, 0.45, 0.3, 0.19, 0.07])
def test_strong_reductions_average_pixels_without_moving_them(zoom: float, tmp_path: Path) -> None:
    """The middle of what is bright stays where it was, and noise gets weaker."""
    photo = coded_photo(tmp_path, [person(around(5.3, -8.6))])
    config = replace(STILL, crop="person", zoom=(1 / zoom, 1 / zoom))
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    middle = np.array([125.3, 101.4])
    blob = 250 * np.exp(-((x - middle[0]) ** 2 + (y - middle[1]) ** 2) / (2 * 20**2))
    Image.fromarray(np.repeat(blob.round().astype(np.uint8)[..., None], 3, axis=2)).save(photo.path)
    light = patch_of(photo, config).image[..., 0].astype(np.float64)
    rows, columns = np.indices(light.shape)
    assert_allclose([(columns * light).sum() / light.sum(), (rows * light).sum() / light.sum()], (32, 32), atol=0.03)
    if zoom < 0.5:
        noise = np.random.default_rng(0).choice([0, 255], (HEIGHT, WIDTH))
        Image.fromarray(np.repeat(noise.astype(np.uint8)[..., None], 3, axis=2)).save(photo.path)
        half = int(60 * zoom)
        part = patch_of(photo, config).image[32 - half : 33 + half, 32 - half : 33 + half, 0]
        # The mean of n x n pixels, at the least: 127.5 / n.
        assert part.std() < 1.15 * 127.5 / 2 ** np.floor(np.log2(1 / zoom))


def test_beyond_the_photo_it_is_grey_and_officially_black(tmp_path: Path) -> None:
    photo = coded_photo(tmp_path, [person(around(-90, -80))])
    assert patch_of(photo, STILL).image[0, 0].tolist() == [0, 0, 0]
    assert patch_of(photo, replace(STILL, crop="photo", zoom=(0.5, 0.5))).image[0, 0].tolist() == [114, 114, 114]


@pytest.mark.parametrize("persons", [(), (AROUND,), (around(100, 70),), (around(-90, -80), AROUND)])
def test_a_window_shows_people_and_little_of_the_border(persons: Sequence[NDArray[Any]], tmp_path: Path) -> None:
    """A tenth of the window may lie beyond each side; a person's middle is within 0.3 of it from the window's."""
    photo = coded_photo(tmp_path, [person(each) for each in persons])
    config = replace(STILL, crop="photo", zoom=(2.0, 2.0), patch=100)  # a window of 125 pixels of the photo
    places = set()
    for seed in range(20):
        way = way_of(patch_of(photo, config, seed).image)
        back = np.linalg.inv(way.matrix)
        low, high = back @ (np.array([-0.5, -0.5]) - way.shift), back @ (np.array([99.5, 99.5]) - way.shift)
        assert (low > -13.6).all() and (high < np.array([WIDTH, HEIGHT]) + 12.6).all()
        middle = np.array([(125 * 0.5 - 12.5, WIDTH - 125 * 0.5 + 12.5), (125 * 0.5 - 12.5, HEIGHT - 125 * 0.5 + 12.5)])
        wanted = [(points.min(0) + points.max(0)) / 2 for points in persons]
        reached = [np.clip(each, middle[:, 0], middle[:, 1]) for each in wanted]
        if persons:
            assert min(np.abs((low + high) / 2 - each).max() for each in reached) < 0.3 * 125 + 1
        places.add(tuple(((low + high) / 2).round(-1).astype(int).tolist()))
    assert len(places) > 3


def test_a_photo_smaller_than_the_window_is_seen_whole(tmp_path: Path) -> None:
    """At least a tenth of the window from each of its sides."""
    photo = coded_photo(tmp_path, [person(around(100, 70))])
    config = replace(STILL, crop="photo", zoom=(0.5, 0.5), patch=100)
    corners = set()
    for seed in range(8):
        way = way_of(patch_of(photo, config, seed).image)
        low, high = way(np.array([(0, 0), (WIDTH - 1, HEIGHT - 1)]))
        assert (low > 9.5).all() and (high < 89.5).all()
        corners.add(tuple(low.round().tolist()))
    assert len(corners) > 5


def test_colours_change_and_labels_do_not(tmp_path: Path) -> None:
    """A pixel's new colour follows from its old one alone, and the order of the channels stays."""
    photo = coded_photo(tmp_path, some_people(5))
    plain = replace(STILL, flip=0.5, rotation_deg=30.0, crop="photo", zoom=(0.5, 2.0))
    grey = 0
    for seed in range(60):
        before, after = patch_of(photo, plain, seed), patch_of(photo, replace(plain, colour=0.01), seed)
        for name in Patch._fields[1:-1]:
            assert_array_equal(getattr(after, name), getattr(before, name))
        if (np.ptp(after.image, axis=2) == 0).all():
            grey += 1
            expected = before.image @ np.array([0.299, 0.587, 0.114])
            assert np.abs(after.image[..., 0] - expected).max() < 7
        else:
            assert np.abs(after.image.astype(int) - before.image).max() < 10
    assert 0 < grey < 12


class Draws:
    """A generator whose next numbers are known: gains of the channels; contrast, brightness and saturation; chance."""

    def __init__(self, gains: Sequence[float], others: Sequence[float], chance: float) -> None:
        self.uniforms, self.chance = iter([gains, others]), chance

    def uniform(self, low: float, high: float, count: int) -> NDArray[np.float64]:
        assert (-low, count) == (high, 3)
        return high * np.array(next(self.uniforms))

    def random(self) -> float:
        return self.chance


@pytest.mark.parametrize(
    ("gains", "others", "chance", "expected"),
    [
        ((0, 0, 0), (0, 0, 0), 0.05, (200, 100, 50)),
        ((1, 0, -1), (0, 0, 0), 0.9, (250, 100, 37)),  # 1.25, 1 and 0.75 times
        ((0, 0, 0), (-1, 0, 0), 0.9, (164, 114, 89)),  # half the way to 128
        ((0, 0, 0), (0, 1, 0), 0.9, (255, 150, 75)),
        ((0, 0, 0), (1, -1, 0), 0.9, (86, 11, 0)),  # darker before the contrast: 100, 50 and 25
        ((0, 0, 0), (0, 0, -1), 0.9, (162, 112, 87)),  # half of it grey, which is 124
        ((0, 0, 0), (0, 0, 0), 0.04, (124, 124, 124)),
    ],
)
def test_colours_by_hand(gains: Any, others: Any, chance: float, expected: Any) -> None:
    image = np.full((2, 3, 3), (200, 100, 50), np.uint8)
    recoloured = augment._recoloured(image, 0.5, Draws(gains, others, chance))
    assert_array_equal(recoloured, np.broadcast_to(np.array(expected, np.uint8), image.shape), strict=True)


def test_colours_get_brighter_and_darker_and_each_channel_for_itself(tmp_path: Path) -> None:
    photo = coded_photo(tmp_path, [person(AROUND)])
    Image.new("RGB", (WIDTH, HEIGHT), (120, 120, 120)).save(photo.path)
    seen = np.array([patch_of(photo, replace(STILL, colour=0.5), seed).image[32, 32] for seed in range(20)], float)
    assert seen.min() < 80 and seen.max() > 160
    assert np.ptp(seen, axis=1).max() > 15


def test_a_tiny_person_keeps_an_area(tmp_path: Path) -> None:
    photo = coded_photo(tmp_path, [person(AROUND, area=40.0)])
    assert patch_of(photo, STILL).areas.tolist() == [40]
    assert patch_of(photo, replace(STILL, zoom=(2.0, 2.0))).areas.tolist() == [10]
    assert patch_of(photo, replace(STILL, zoom=(8.0, 8.0))).areas.tolist() == [1]


def test_officially_a_photo_without_people_is_shown_about_its_middle(tmp_path: Path) -> None:
    crowd = person(AROUND, is_crowd=True, ignore=True)
    for persons in ([], [crowd]):
        way = way_of(patch_of(coded_photo(tmp_path, persons), STILL).image)
        assert_allclose(way(np.array([WIDTH / 2, HEIGHT / 2])), (32, 32), atol=0.02)


def test_early_patches_are_smaller_and_show_people_at_the_same_scale(tmp_path: Path) -> None:
    """A square of 40 x 40 pixels in a photo of 256 x 256, in patches whose side is the photo's."""
    pixels = np.zeros((256, 256, 3), np.uint8)
    pixels[108:148, 108:148] = 255
    Image.fromarray(pixels).save(tmp_path / "square.png")
    square = person([(108, 108)] + [(147, 147)] * (COCO.num_keypoints - 1))
    photo = AnnotatedPhoto(1, tmp_path / "square.png", (256, 256), (square,))
    settings = ["patch=256", "early_patch=128", "zoom=[1.0, 1.0]", "rotation_deg=0.0", "colour=0.0", "mosaic=0.0"]
    config = load_config("posedet-s", [f"data.{each}" for each in settings]).data
    stream = PhotoStream(PhotoSet((photo,)), COCO, config, 5, early_samples=3)
    patches = [stream[number] for number in range(6)]
    assert [len(patch.image) for patch in patches] == [128] * 3 + [256] * 3
    for patch in patches:
        width = np.abs(patch.keypoints[0, 1] - patch.keypoints[0, 0])
        np.testing.assert_allclose(width, 39, atol=0.01)
        assert patch.image[..., 0].max() > 200
