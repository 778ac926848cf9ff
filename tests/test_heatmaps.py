"""Targets of the heatmap branch: the official numbers, and a loop over persons and cells beside the tensors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from people import Labelled, Region, batch_of, persons_of
from posedet.config import load_config
from posedet.training.assignment import person_levels
from posedet.training.batches import Batch
from posedet.training.heatmaps import KNOWN, all_level_targets, own_level_targets

# Sizes by the keypoints alone, as the loop beside it has them; `least_side` is in test_assignment.
OURS = load_config("posedet-s", ["assign.min_keypoints=3", "assign.least_side=0.0"])

laws = settings(max_examples=25, deadline=None, derandomize=True)

# --- officially: every person on every level (facts 15.9) ---


def official(*image: Labelled | Region, stride: int, side: int, sigma: float = 2.0) -> tuple[Tensor, Tensor]:
    """Target (K, h, w) and weights (h, w) of one image on one level."""
    num_keypoints = next((len(each.keypoints) for each in image if isinstance(each, Labelled)), 1)
    batch = batch_of(image, num_keypoints=num_keypoints, side=side)
    targets, weights = all_level_targets(batch, [(side // stride,) * 2], (stride,), sigma)
    return targets[0][0], weights[0][0, 0]


def test_official_target():
    target, weights = official(Labelled([(100.7, 37.2)]), stride=8, side=512)
    for column, row, value in [
        (12, 4, 1),
        (13, 4, 0.882497),
        (11, 4, 0.882497),
        (13, 5, 0.778801),
        (14, 6, 0.367879),
        (19, 4, 0.002187),
        (20, 4, 0),
        (4, 4, 0),
        (12, 11, 0.002187),
        (12, 12, 0),
    ]:
        assert target[0, row, column].item() == pytest.approx(value, abs=1e-6)
    assert (target == 1).sum() == 1
    # 15 columns, and rows -3 to 11 of which 12 are on the map.
    assert (target > 0).sum() == 15 * 12
    assert (weights == 1).all()


def test_official_target_on_the_next_level():
    target, _ = official(Labelled([(100.7, 37.2)]), stride=16, side=512)
    assert (target[0] == 1).nonzero().tolist() == [[2, 6]]
    assert target[0, 2, 7].item() == pytest.approx(0.882497, abs=1e-6)  # two cells here too


@pytest.mark.parametrize(
    ("place", "cell"),
    [
        ((-3, 40), (5, 0)),  # truncated towards the first column
        ((-7.99, -7.99), (0, 0)),
        ((-8, 40), None),
        ((63.99, 0), (0, 7)),
        ((64, 0), None),
        ((0, 64), None),
    ],
)
def test_official_target_at_the_border(place, cell):
    target, _ = official(Labelled([place]), stride=8, side=64)
    assert (target[0] == 1).nonzero().tolist() == ([] if cell is None else [list(cell)])
    assert bool(target.any()) is (cell is not None)


def test_unlabelled_keypoints_have_no_target():
    target, weights = official(Labelled([(20, 20), (30, 30)], weights=(0, 1)), stride=8, side=64)
    assert not target[0].any() and target[1].any()
    assert (weights == 1).all()


def test_unlabelled_persons_have_no_weight():
    _, weights = official(Region((10, 20, 40, 50), crowd=False), stride=8, side=64)
    expected = torch.ones(8, 8)
    expected[2:6, 1:5] = 0
    assert torch.equal(weights, expected)


def test_crowds_keep_their_weight():
    _, weights = official(Region((10, 20, 40, 50), crowd=True), stride=8, side=64)
    assert (weights == 1).all()


def slow_official(batch: Batch, size: tuple[int, int], stride: int, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    num_images, num_persons, num_keypoints = batch.weights.shape
    targets, weights = np.zeros((num_images, num_keypoints, *size)), np.ones((num_images, 1, *size))
    for b in range(num_images):
        for p in range(num_persons):
            for k in range(num_keypoints):
                x, y = (int(float(c) / stride) for c in batch.keypoints[b, p, k])
                if batch.weights[b, p, k] == 0 or not (0 <= x < size[1] and 0 <= y < size[0]):
                    continue
                for row in range(max(0, y - 7), min(size[0], y + 8)):
                    for column in range(max(0, x - 7), min(size[1], x + 8)):
                        value = math.exp(-((column - x) ** 2 + (row - y) ** 2) / (2 * sigma**2))
                        targets[b, k, row, column] = max(value, targets[b, k, row, column])
        for (x1, y1, x2, y2), crowd in zip(batch.ignored[b].tolist(), batch.crowds[b].tolist(), strict=True):
            if not crowd:
                rows, columns = slice(int(y1 / stride), int(y2 / stride)), slice(int(x1 / stride), int(x2 / stride))
                weights[b, 0, rows, columns] = 0
    return targets, weights


def scene(seed: int, *, side: int, num_keypoints: int) -> Batch:
    """Two images of persons of all sizes, their joints partly outside and partly unlabelled, and ignored regions."""
    generator = np.random.default_rng(seed)
    images = []
    for _ in range(2):
        image: list[Labelled | Region] = []
        for _ in range(generator.integers(0, 4)):
            size = np.exp(generator.uniform(np.log(8), np.log(200), 2))
            centre = generator.uniform(0, side, 2)
            points = centre + generator.uniform(-0.5, 0.5, (num_keypoints, 2)) * size
            box = np.clip([*(centre - size / 2), *(centre + size / 2)], 0, side)
            image.append(Labelled(points, (generator.random(num_keypoints) < 0.8).astype(float), box))
        for _ in range(generator.integers(0, 3)):
            corner = generator.uniform(0, side * 0.8, 2)
            box = [*corner, *np.minimum(corner + generator.uniform(0, side / 2, 2), side)]
            image.append(Region(box, crowd=bool(generator.integers(2))))
        images.append(image)
    return batch_of(*images, num_keypoints=num_keypoints, side=side)


@laws
@given(seed=st.integers(0, 2**32 - 1), sigma=st.sampled_from([1.0, 2.0]))
def test_official_as_in_the_loop(seed, sigma):
    batch = scene(seed, side=128, num_keypoints=3)
    strides, sizes = (8, 16, 32, 64), [(16, 16), (8, 8), (4, 4), (2, 2)]
    targets, weights = all_level_targets(batch, sizes, strides, sigma)
    for target, weight, size, stride in zip(targets, weights, sizes, strides, strict=True):
        slow_target, slow_weight = slow_official(batch, size, stride, sigma)
        np.testing.assert_allclose(target, slow_target, atol=1e-6)
        np.testing.assert_array_equal(weight, slow_weight)
        # The loss knows peaks by their exact value.
        np.testing.assert_array_equal(target == 1, slow_target == 1)


def test_official_on_an_oblong_map():
    batch = batch_of([Labelled([(100, 20)])], num_keypoints=1)
    targets, weights = all_level_targets(batch, [(4, 16)], (8,), 2.0)
    assert targets[0].shape == weights[0].shape == (1, 1, 4, 16)
    assert (targets[0][0, 0] == 1).nonzero().tolist() == [[2, 12]]


# --- ours: each person on its own level ---

LEVEL_STRIDES, STRIDES = (8, 16, 32), (4, 8, 16)


def ours(batch: Batch, *, side: int, origin: float = 0.5, sigma: float = 1.0) -> tuple[list[Tensor], list[Tensor]]:
    return own_level_targets(
        batch,
        persons_of(batch, OURS),
        [(side // stride,) * 2 for stride in STRIDES],
        STRIDES,
        level_strides=LEVEL_STRIDES,
        origin=origin,
        sigma=sigma,
    )


def slow_ours(batch: Batch, number: int, *, side: int, origin: float, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    persons, stride = persons_of(batch, OURS), STRIDES[number]
    levels = person_levels(persons.sizes, LEVEL_STRIDES)
    num_images, num_persons, num_keypoints = batch.weights.shape
    cells = side // stride
    centres = [i * stride + origin * (stride - 1) for i in range(cells)]
    targets, weights = np.zeros((num_images, num_keypoints, cells, cells)), np.ones((num_images, 1, cells, cells))
    for b in range(num_images):
        boxes = batch.ignored[b].tolist()
        for p in range(num_persons):
            num_labelled = int((batch.weights[b, p] > 0).sum())
            if 0 < num_labelled < 3 or (num_labelled >= 3 and levels[b, p] != number):
                boxes.append(batch.boxes[b, p].tolist())
            if num_labelled < 3 or levels[b, p] != number:
                continue
            for k in range(num_keypoints):
                if batch.weights[b, p, k] == 0:
                    continue
                x, y = batch.keypoints[b, p, k].tolist()
                for row, cell_y in enumerate(centres):
                    for column, cell_x in enumerate(centres):
                        away_x, away_y = (cell_x - x) / stride, (cell_y - y) / stride
                        value = 0.99 * math.exp(-(away_x**2 + away_y**2) / (2 * sigma**2))
                        if abs(away_x) <= 0.5 and abs(away_y) <= 0.5:
                            value = 1.0
                        targets[b, k, row, column] = max(value, targets[b, k, row, column])
        for x1, y1, x2, y2 in boxes:
            for row, cell_y in enumerate(centres):
                for column, cell_x in enumerate(centres):
                    if x1 <= cell_x <= x2 and y1 <= cell_y <= y2:
                        weights[b, 0, row, column] = 0
        weights[b, 0][targets[b].max(0) > KNOWN] = 1
    return targets, weights


@laws
@given(seed=st.integers(0, 2**32 - 1), origin=st.sampled_from([0.0, 0.5]), sigma=st.sampled_from([1.0, 2.0]))
def test_ours_as_in_the_loop(seed, origin, sigma):
    batch = scene(seed, side=96, num_keypoints=4)
    targets, weights = ours(batch, side=96, origin=origin, sigma=sigma)
    for number in range(3):
        target, weight = slow_ours(batch, number, side=96, origin=origin, sigma=sigma)
        np.testing.assert_allclose(targets[number], target, atol=1e-5)
        np.testing.assert_array_equal(targets[number] == 1, target == 1)
        np.testing.assert_array_equal(weights[number], weight)


def test_one_person_on_one_level():
    """58 pixels: level of stride 8, whose map has stride 4 and cell centres at 1.5, 5.5, ..."""
    person = Labelled([(1.5, 1.5), (61.5, 1.5), (30.5, 57.5)])
    targets, weights = ours(batch_of([person], num_keypoints=3, side=64), side=64)
    assert [int((target == 1).sum()) for target in targets] == [3, 0, 0]
    assert targets[0][0, 0, 0, 0] == targets[0][0, 1, 0, 15] == targets[0][0, 2, 14, 7] == 1
    assert targets[0][0, 0, 0, 1].item() == pytest.approx(0.99 * math.exp(-0.5))  # one cell away
    assert targets[0][0, 2, 14, 8].item() == pytest.approx(0.99 * math.exp(-0.5 * 0.75**2))  # where the keypoint is
    assert (weights[0] == 1).all()
    # On the other levels nothing is learnt inside its box, which ends above the last row of stride 8.
    expected = torch.zeros(8, 8)
    expected[7] = 1
    assert torch.equal(weights[1][0, 0], expected)
    assert not weights[2].any()


def test_keypoints_are_known_even_in_crowds():
    """On a cell's centre: 13 cells are within two, where the Gaussian of one cell is above a tenth."""
    person = Labelled([(9.5, 9.5), (49.5, 9.5), (29.5, 49.5)])
    targets, weights = ours(batch_of([person, Region((0, 0, 64, 64), crowd=True)], num_keypoints=3, side=64), side=64)
    assert weights[0].sum() == 3 * 13
    assert torch.equal(weights[0], (targets[0].amax(1, keepdim=True) > KNOWN).float())
    assert not weights[1].any() and not weights[2].any()


def test_borders_of_ignored_regions_are_inside():
    """Cells of 4 pixels have their centres at 1.5, 5.5, 9.5, ..."""
    _, weights = ours(batch_of([Region((1.5, 5.5, 9.5, 13.5), crowd=True)], num_keypoints=3, side=64), side=64)
    expected = torch.ones(16, 16)
    expected[1:4, 0:3] = 0
    assert torch.equal(weights[0][0, 0], expected)


def test_keypoints_beside_the_patch_have_no_peak():
    targets, _ = ours(batch_of([Labelled([(-30, 10), (20, 10), (10, 90)])], num_keypoints=3, side=64), side=64)
    assert [int((targets[0][0, k] == 1).sum()) for k in range(3)] == [0, 1, 0]


@pytest.mark.parametrize("num_images", [1, 3])
def test_nobody(num_images):
    batch = batch_of(*[[]] * num_images, num_keypoints=3, side=64)
    for targets, weights in (ours(batch, side=64), all_level_targets(batch, [(8, 8)], (8,), 2.0)):
        assert all(not target.any() for target in targets)
        assert all((weight == 1).all() for weight in weights)
