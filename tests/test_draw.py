"""Drawing, held against a slow painter that looks at every pixel for every shape."""

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from posedet.draw import (
    CORE_RADIUS,
    DOT_RADIUS,
    FINEST_LINE,
    HIDDEN_OPACITY,
    LEFT,
    MIDDLE,
    OUTLINE,
    OUTLINE_OPACITY,
    OUTLINE_WIDTH,
    RIGHT,
    SEEN,
    draw,
)
from posedet.errors import PhotoError
from posedet.poses import Poses
from posedet.skeleton import COCO, CROWDPOSE, Skeleton

POINT = Skeleton("point", ("tip",), (), (), (0.079,))
ROD = Skeleton("rod", ("left_end", "right_end"), ((0, 1),), ((0, 1),), (0.079, 0.079))
# A middle, a pair, and limbs of all three kinds.
CROSS = Skeleton(
    "cross",
    ("head", "tail", "left_hand", "right_hand", "left_foot"),
    ((0, 1), (0, 2), (3, 0), (2, 3), (2, 4)),
    ((2, 3),),
    (0.079, 0.026, 0.079, 0.079, 0.05),
)


def grey(height: int = 120, width: int = 160, value: int = 128) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def one(skeleton: Skeleton, *points: tuple[float, float], score: float = 0.9, seen: object = 1.0) -> Poses:
    keypoint_scores = np.broadcast_to(np.array(seen, np.float32), (1, len(points)))
    return Poses(np.array([points]), np.array([score]), keypoint_scores, skeleton)


def joined(*poses: Poses) -> Poses:
    return Poses.joined(poses)


def slow_draw(photo: np.ndarray, poses: Poses) -> np.ndarray:
    """What `draw` promises, without its short cuts: whole-picture distances, unrounded colours."""
    height, width = photo.shape[:2]
    picture = photo.astype(float)
    y, x = np.mgrid[:height, :width].astype(float)

    def paint(a: np.ndarray, b: np.ndarray, radius: float, colour: object, opacity: float = 1.0) -> None:
        nonlocal picture
        along = b - a
        share = ((x - a[0]) * along[0] + (y - a[1]) * along[1]) / max(along @ along, 1e-12)
        share = np.clip(share, 0, 1)
        distance = np.hypot(x - a[0] - share * along[0], y - a[1] - share * along[1])
        covered = np.clip(radius + 0.5 - distance, 0, 1)[..., None] * opacity
        picture = picture * (1 - covered) + np.array(colour, float) * covered

    for place in sorted(range(len(poses)), key=lambda place: (poses.scores[place], -place)):
        points, scores = poses.keypoints[place].astype(float), poses.keypoint_scores[place]
        skeleton = poses.skeleton
        there = scores > 0
        size = np.ptp(points[there], axis=0).max()
        finest = max(FINEST_LINE, max(height, width) / 900)
        line = min(max(size / 55, finest), max(finest, max(height, width) / 130))
        outline = max(0.6, OUTLINE_WIDTH * line)
        widths = [line * np.sqrt(np.clip(sigma / 0.079, 0.2, 1)) for sigma in skeleton.sigmas]
        sides = ["middle"] * skeleton.num_keypoints
        for left, right in skeleton.pairs:
            sides[left], sides[right] = "left", "right"
        colours = {"left": LEFT, "right": RIGHT, "middle": MIDDLE}
        limbs = [(a, b) for a, b in skeleton.limbs if there[a] and there[b]]
        limbs = [limb for limb in limbs if min(scores[list(limb)]) < SEEN] + [
            limb for limb in limbs if min(scores[list(limb)]) >= SEEN
        ]
        opacity = {limb: 1.0 if min(scores[list(limb)]) >= SEEN else HIDDEN_OPACITY for limb in limbs}
        dots = np.flatnonzero(there)
        for a, b in limbs:
            radius = (widths[a] + widths[b]) / 4 + outline
            paint(points[a], points[b], radius, OUTLINE, OUTLINE_OPACITY * opacity[a, b])
        for k in dots:
            paint(points[k], points[k], DOT_RADIUS * widths[k] + outline, OUTLINE, OUTLINE_OPACITY)
        for a, b in limbs:
            ends = {sides[a], sides[b]}
            side = "middle" if {"left", "right"} <= ends else next(iter(ends - {"middle"}), "middle")
            paint(points[a], points[b], (widths[a] + widths[b]) / 4, colours[side], opacity[a, b])
        for k in dots:
            radius = DOT_RADIUS * widths[k]
            paint(points[k], points[k], radius, colours[sides[k]])
            paint(points[k], points[k], CORE_RADIUS * radius, MIDDLE if scores[k] >= SEEN else OUTLINE)
    return picture


def random_poses(skeleton: Skeleton, count: int, reach: float, seed: int) -> Poses:
    generator = np.random.default_rng(seed)
    size = skeleton.num_keypoints
    keypoints = generator.uniform(-0.3 * reach, 1.3 * reach, (count, size, 2))
    scores = generator.choice([0.0, 0.2, 0.8], (count, size))
    scores[:, 0] = 0.8
    return Poses(keypoints, generator.uniform(0.1, 0.9, count), scores, skeleton)


@pytest.mark.slow
@pytest.mark.parametrize("skeleton", [COCO, CROWDPOSE, CROSS, ROD, POINT], ids=lambda skeleton: skeleton.name)
@pytest.mark.parametrize(("height", "width"), [(90, 140), (400, 300), (1, 1), (3, 200)])
def test_the_slow_painter_agrees(skeleton: Skeleton, height: int, width: int) -> None:
    photo = noise(height, width)
    for seed in range(2):
        poses = random_poses(skeleton, 3, max(height, width), seed)
        # Each of up to a hundred layers is rounded to whole numbers, which all but cancels out.
        difference = np.abs(draw(photo, poses) - slow_draw(photo, poses))
        assert difference.max() < 3
        assert difference.mean() < 0.5


@settings(max_examples=40)
@given(
    points=st.lists(st.tuples(st.floats(-300, 300), st.floats(-300, 300)), min_size=5, max_size=5),
    seen=st.lists(st.sampled_from([0.0, 0.3, 0.9]), min_size=5, max_size=5),
)
def test_a_mirrored_photo_gives_the_mirrored_picture(points: list[tuple[float, float]], seen: list[float]) -> None:
    photo = noise(70, 110)
    pose = one(CROSS, *points, seen=seen)
    mirrored = Poses(pose.keypoints * [-1, 1] + [109, 0], pose.scores, pose.keypoint_scores, CROSS)
    turned = Poses(pose.keypoints[..., ::-1], pose.scores, pose.keypoint_scores, CROSS)
    picture = draw(photo, pose).astype(int)
    assert np.abs(draw(photo[:, ::-1], mirrored)[:, ::-1] - picture).max() <= 3
    assert np.abs(draw(photo.transpose(1, 0, 2), turned).transpose(1, 0, 2) - picture).max() <= 3


@pytest.mark.parametrize("place", [(40.0, 30.0), (40.5, 30.5), (41.27, 33.81), (7.9, 110.02)])
def test_a_dot_lies_at_its_keypoint(place: tuple[float, float]) -> None:
    light = draw(grey(value=0), one(POINT, place)).astype(float).sum(axis=2)
    y, x = np.mgrid[:120, :160]
    assert_allclose([(x * light).sum() / light.sum(), (y * light).sum() / light.sum()], place, atol=0.05)


def test_a_line_of_next_to_no_length_is_a_dot() -> None:
    for length in (0, 5e-324, 1e-30, 1e-4):
        assert_array_equal(draw(grey(), one(ROD, (0, 40), (length, 40))), draw(grey(), one(ROD, (0, 40), (0, 40))))


def test_nobody_gives_an_equal_copy() -> None:
    photo = noise(20, 30)
    picture = draw(photo, Poses.empty(COCO), scores=True)
    assert_array_equal(picture, photo)
    assert not np.shares_memory(picture, photo)
    assert picture.dtype == np.uint8 and picture.flags.c_contiguous and picture.flags.writeable


def test_the_photo_and_the_poses_stay_as_they_are() -> None:
    photo = noise(200, 200)
    photo.setflags(write=False)
    poses = random_poses(COCO, 4, 200, 0)
    for array in (poses.keypoints, poses.scores, poses.keypoint_scores):
        array.setflags(write=False)
    picture = draw(photo, poses, scores=True)
    assert (picture != photo).any()
    assert_array_equal(draw(photo[:, ::-1], poses), draw(photo[:, ::-1].copy(), poses))


@pytest.mark.parametrize("photo", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 4), np.uint8), np.zeros((5, 5, 3))])
def test_another_kind_of_array_is_refused(photo: np.ndarray) -> None:
    with pytest.raises(PhotoError) as caught:
        draw(photo, Poses.empty(COCO))
    assert (
        str(caught.value) == f"photo: {photo.dtype} of shape {photo.shape}, expected uint8 of shape (height, width, 3)"
    )


def test_a_picture_that_is_no_array_is_refused() -> None:
    for photo in ("photo.jpg", None):
        with pytest.raises(PhotoError) as caught:
            draw(photo, Poses.empty(COCO))
        assert str(caught.value) == f"photo: {type(photo).__name__}, expected a uint8 array of shape (height, width, 3)"


def people(count: int, size: float, width: int, height: int) -> Poses:
    """Standing people of about this height, spread over a photo."""
    generator = np.random.default_rng(0)
    side = np.array([(2, 3), (4, 5), (12, 20), (18, 36), (16, 52), (8, 55), (8, 76), (9, 98)], float)
    standing = np.concatenate([[(0, 5)], *(((-x, y), (x, y)) for x, y in side)])
    places = generator.uniform(0, 1, (count, 1, 2)) * (width - size / 2, height - size)
    keypoints = places + standing * size / 100 + generator.normal(0, size / 50, (count, 17, 2))
    return Poses(keypoints, generator.uniform(0.3, 1, count), generator.uniform(0.2, 1, (count, 17)), COCO)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "size", "width", "height", "limit"),
    [(5, 300, 640, 480, 1), (50, 120, 640, 480, 7), (8, 2500, 4000, 3000, 10), (100, 400, 4000, 3000, 20)],
)
def test_drawing_is_quick(count: int, size: float, width: int, height: int, limit: float) -> None:
    """Limits are multiples of the time to halve 3 megapixels, measured in turns: they hold on any machine."""
    photo, poses = noise(height, width), people(count, size, width, height)
    yardstick = Image.fromarray(noise(1500, 2000))
    ratios = []
    for _ in range(4):
        start = time.thread_time()
        yardstick.resize((1000, 750), Image.Resampling.LANCZOS)
        middle = time.thread_time()
        draw(photo, poses, scores=True)
        ratios.append((time.thread_time() - middle) / (middle - start))
    assert min(ratios) < limit


# --- colours ---------------------------------------------------------------------------------------------------------


def test_left_right_and_middle_have_their_colours() -> None:
    points = [(300, 100), (300, 500), (500, 300), (100, 300), (500, 500)]
    picture = draw(grey(600, 600), one(CROSS, *points))
    middles = {
        (300, 400): MIDDLE,  # head to tail, below where the hands' limb crosses
        (400, 200): LEFT,  # head to left hand
        (200, 200): RIGHT,  # right hand to head
        (200, 300): MIDDLE,  # hand to hand
        (500, 400): LEFT,  # left hand to a foot that has no partner
    }
    for (x, y), colour in middles.items():
        assert_array_equal(picture[y, x], colour, err_msg=f"{x}, {y}")


def test_without_pairs_all_is_neutral() -> None:
    chain = Skeleton("chain", ("a", "b", "c"), ((0, 1), (1, 2)), (), (0.1, 0.1, 0.1))
    picture = draw(grey(300, 300), one(chain, (50, 50), (250, 50), (250, 250)))
    colours = np.unique(picture.reshape(-1, 3), axis=0).astype(int)
    # From OUTLINE to MIDDLE by way of grey: nothing strongly blue or orange.
    assert np.ptp(colours, axis=1).max() <= 12


# How the three kinds of dichromats see linear light (Machado, Oliveira and Fernandes 2009, severity 1).
DICHROMATS = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("kind", DICHROMATS)
def test_the_colour_blind_tell_left_from_right(kind: str) -> None:
    def seen_by(colour: tuple[int, int, int]) -> np.ndarray:
        linear = (np.array(colour) / 255) ** 2.2
        return 255 * np.clip(DICHROMATS[kind] @ linear, 0, 1) ** (1 / 2.2)

    colours = [seen_by(colour) for colour in (LEFT, RIGHT, MIDDLE, OUTLINE)]
    for i, first in enumerate(colours):
        for second in colours[:i]:
            assert np.linalg.norm(first - second) > 100


# --- what is hidden, missing, weak, small, outside -------------------------------------------------------------------


def test_a_hidden_keypoint_is_hollow_and_its_limb_faint() -> None:
    place = (300, 100)
    seen = draw(grey(600, 600), one(ROD, (300, 500), place, seen=[0.9, SEEN + 0.01]))
    hidden = draw(grey(600, 600), one(ROD, (300, 500), place, seen=[0.9, SEEN - 0.01]))
    assert_array_equal(seen[100, 300], MIDDLE)
    assert_array_equal(hidden[100, 300], OUTLINE)
    for picture in (seen, hidden):  # the ring around the core
        assert any((picture[100, x] == RIGHT).all() for x in range(300, 312))
    assert_array_equal(seen[300, 300], MIDDLE)
    between = hidden[300, 300].astype(int)
    assert (between > 100).all() and (between < np.array(MIDDLE) - 30).all()


def test_a_missing_keypoint_is_not_drawn() -> None:
    """Wherever it is said to be: its place does not change the picture, neither by a line nor by their width."""
    for missing in ((20, 20), (110, 90), (-5000, 1)):
        pose = one(CROSS, (60, 30), (60, 90), missing, (90, 60), (40, 80), seen=[0.9, 0.9, 0, 0.9, 0.9])
        picture = draw(grey(), pose)
        if missing == (20, 20):
            first = picture
        assert_array_equal(picture, first)
    assert (first[:25] == 128).all()
    nothing = one(ROD, (60, 30), (60, 90), seen=0.0)
    assert_array_equal(draw(grey(), nothing, scores=True), grey())


def test_the_best_lies_on_top_in_whatever_order() -> None:
    flat = one(ROD, (100, 300), (500, 300), score=0.9)
    steep = one(CROSS.subset(["left_hand", "left_foot"]), (300, 100), (300, 500), score=0.5)
    steep = Poses(steep.keypoints, steep.scores, steep.keypoint_scores, ROD)
    photo = grey(600, 600)
    picture = draw(photo, joined(flat, steep))
    assert_array_equal(draw(photo, joined(steep, flat)), picture)
    # At the crossing the better one is whole, with its outline across the other's line.
    assert_array_equal(picture[300, 290:310], np.broadcast_to(MIDDLE, (20, 3)))
    assert picture[303:306, 300].astype(int).sum(axis=1).min() < 250
    weaker = Poses(flat.keypoints, np.array([0.1]), flat.keypoint_scores, ROD)
    assert_array_equal(draw(photo, joined(weaker, steep))[290:310, 300], np.broadcast_to(MIDDLE, (20, 3)))


def thickness(picture: np.ndarray, column: int) -> float:
    """Of a light line on black: how much light a column through it holds."""
    return float(picture[:, column].astype(float).sum() / sum(MIDDLE))


def test_small_people_get_thinner_lines() -> None:
    def width(length: float, photo_width: int) -> float:
        photo = grey(100, photo_width, 0)
        return thickness(draw(photo, one(ROD, (10, 50), (10 + length, 50))), int(10 + length / 2))

    thin, middle, thick = width(30, 600), width(165, 600), width(550, 600)
    assert_allclose([thin, middle, thick], [FINEST_LINE, 165 / 55, 600 / 130], rtol=0.06)
    # On a large photo, which is looked at from further away, even small people keep a visible line.
    assert_allclose(width(30, 3600), 3600 / 900, rtol=0.06)


def test_exact_keypoints_have_small_dots() -> None:
    """Eyes are placed to a third of what a shoulder is; their dots must not hide them."""
    keypoints = np.full((1, 17, 2), 50.0)
    keypoints[0, [1, 5, 15]] = (100, 100), (300, 100), (300, 580)
    seen = np.zeros((1, 17))
    seen[0, [1, 5, 15]] = 1
    changed = (draw(grey(600, 600), Poses(keypoints, [0.9], seen, COCO)) != 128).any(axis=2)
    eye, shoulder = changed[80:120, 80:120].sum(), changed[80:120, 280:320].sum()
    assert 0.2 < eye / shoulder < 0.5


def test_outside_the_photo() -> None:
    photo = noise(80, 80)
    assert_array_equal(draw(photo, one(ROD, (-500, -20), (900, -30))), photo)
    across = draw(photo, one(ROD, (-4000, 40), (4000, 40)))
    assert_array_equal(across[40], np.broadcast_to(MIDDLE, (80, 3)))
    for far in (1e5, 1e20, 3e38):  # never slow, never an overflow
        picture = draw(photo, one(ROD, (-far, 40), (far, 40)), scores=True)
        assert (picture[40, 5:75] == MIDDLE).all(axis=1).mean() > 0.5
        draw(photo, one(COCO, *([(far, -far)] * 17)), scores=True)


# --- scores ----------------------------------------------------------------------------------------------------------


def test_scores_only_when_asked_and_above_the_person() -> None:
    pose = one(ROD, (150, 200), (150, 300), score=0.87)
    plain, written = draw(grey(400, 300), pose), draw(grey(400, 300), pose, scores=True)
    rows, columns = np.nonzero((plain != written).any(axis=2))
    assert rows.min() > 160 and rows.max() < 200
    assert abs(columns.mean() - 150) < 4
    other = Poses(pose.keypoints, np.array([0.31]), pose.keypoint_scores, ROD)
    assert (draw(grey(400, 300), other, scores=True) != written).any()


@pytest.mark.parametrize("corner", [(0, 0), (299, 0), (0, 399), (299, 399), (-80, -80), (400, 500)])
def test_scores_stay_inside_the_photo(corner: tuple[float, float]) -> None:
    """All of the text, for a person at or beyond a corner."""

    def light_added(pose: Poses) -> int:
        return int((draw(grey(400, 300), pose, scores=True) != draw(grey(400, 300), pose)).sum())

    inside = light_added(one(POINT, (150, 200)))
    assert light_added(one(POINT, corner)) >= 0.9 * inside > 0


def test_scores_on_tiny_photos() -> None:
    for size in ((1, 1), (3, 500), (12, 12)):
        assert draw(grey(*size), one(COCO, *([(0, 0)] * 17)), scores=True).shape == (*size, 3)


# --- ellipses --------------------------------------------------------------------------------------------------------


def test_an_ellipse_is_where_the_covariance_says() -> None:
    """A pixel is tinted where its squared distance in deviations is below 4.605, and nowhere else but for the line."""
    covariance = np.array([[240.0, 100.0], [100.0, 120.0]])
    pose = one(POINT, (80.3, 60.7))
    sure = replace(pose, extra={"keypoint_covariances": covariance.reshape(1, 1, 2, 2)})
    assert_array_equal(draw(grey(), sure), draw(grey(), pose))
    assert_array_equal(draw(grey(), pose, ellipses=True), draw(grey(), pose))
    picture = draw(grey(), sure, ellipses=True).astype(int)
    y, x = np.mgrid[:120, :160]
    offsets = np.stack([x - 80.3, y - 60.7], -1)
    radius = np.sqrt((offsets @ np.linalg.inv(covariance) * offsets).sum(-1) / 4.605)
    tinted = (picture != 128).any(axis=-1)
    assert tinted[radius < 0.95].all() and not tinted[radius > 1.1].any()
    dot = np.hypot(*np.moveaxis(offsets, -1, 0)) < 5
    inside, line = picture[(radius < 0.85) & ~dot], picture[(abs(radius - 1) < 0.01) & ~dot]
    assert len(np.unique(inside, axis=0)) == 1
    expected = 0.75 * 128 + 0.25 * np.array(MIDDLE)
    assert_allclose(inside[0], expected, atol=1.5)
    assert (line.mean(axis=0) > inside[0] + 20).all()


def test_an_ellipse_has_the_colour_of_its_side_and_any_size() -> None:
    for covariance in (1e-9, 1e30):
        poses = one(ROD, (40, 60), (120, 60))
        poses = replace(poses, extra={"keypoint_covariances": np.tile(covariance * np.eye(2), (1, 2, 1, 1))})
        picture = draw(grey(), poses, ellipses=True).astype(int)
        assert (picture[5, 5] != 128).any() == (covariance > 1)
    poses = replace(poses, extra={"keypoint_covariances": np.tile(90 * np.eye(2), (1, 2, 1, 1))})
    picture = draw(grey(), poses, ellipses=True).astype(int)
    for x, colour in ((30, LEFT), (130, RIGHT)):
        assert_allclose(picture[60, x], 0.75 * 128 + 0.25 * np.array(colour), atol=1.5)
    hidden = draw(grey(), replace(poses, keypoint_scores=np.array([[0.0, 0.9]])), ellipses=True)
    assert (hidden[60, 30] == 128).all()
    far = replace(poses, keypoints=poses.keypoints + 1e6)
    assert_array_equal(draw(grey(), far, ellipses=True), grey())
