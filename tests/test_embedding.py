"""Sampling at the joints and the pose embedding, against one sum over corners for every point in float64."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from posedet.model import network
from posedet.model.embedding import PoseEmbedding, TapTable, sample, sample_around
from slow_bilinear import slow_bilinear

NUM_IMAGES, CHANNELS, WIDTH = 2, 3, 5


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def slow_sample(
    maps: list[Tensor], strides: tuple[int, ...], origin: float, levels: list[int], positions: Tensor
) -> Tensor:
    """(B, S, K, C): location s reads the map `levels[s]`, whose first cell has its centre at origin * (stride - 1)."""
    images = []
    for b in range(len(positions)):
        for s, level in enumerate(levels):
            shift = origin * (strides[level] - 1)
            for x, y in positions[b, s]:
                cell_x, cell_y = (x - shift) / strides[level], (y - shift) / strides[level]
                images.append(slow_bilinear(maps[level][b], cell_x, cell_y))
    return torch.stack(images).view(*positions.shape[:3], -1)


def places(num_locations: int, num_keypoints: int, stride: int, shift: float, width: int, height: int) -> Tensor:
    """(B, S, K, 2) pixels: at random in and about the map, and some at every kind of special place."""
    size = torch.tensor([width, height])
    cells = torch.rand(NUM_IMAGES, num_locations, num_keypoints, 2) * (size + 4) - 2.5
    special = torch.tensor(
        [
            [0, 0],  # cell centres: the derivative is that to the right and below
            [width - 1, height - 1],
            [1, 0.5],
            [-0.25, 1],  # half outside
            [width - 0.5, height - 0.75],
            [-1, -1],  # just outside
            [width, 0],
            [1e6, 0.5],  # far outside
            [-1e6, -1e6],
            [0.5, -3e7],
            [2e19, 2e19],
            [-1e30, 1e30],  # overflows 64-bit integers
        ]
    )
    flat = cells.view(-1, 2)
    flat[torch.randperm(len(flat))[: len(special)]] = special[: len(flat)]
    return cells * stride + shift


CASES = [
    # K, (h, w) of the two levels
    (1, ((4, 5), (2, 3))),
    (4, ((4, 5), (2, 3))),
    (5, ((3, 4), (1, 2))),
    (17, ((3, 2), (1, 1))),  # maps narrower than K
]


@pytest.fixture(params=CASES, ids=lambda case: f"K{case[0]}")
def case(request):
    return request.param


@pytest.mark.slow
@pytest.mark.parametrize("origin", [0.0, 0.5])
@pytest.mark.parametrize("exporting", [False, True], ids=["bag", "gather"])
def test_values_and_gradients(case, origin, exporting, monkeypatch):
    num_keypoints, sizes = case
    strides = (8, 16)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: exporting)
    maps = [torch.randn(NUM_IMAGES, CHANNELS, *size, requires_grad=True) for size in sizes]
    positions = torch.cat(
        [
            places(height * width, num_keypoints, stride, origin * (stride - 1), width, height)
            for (height, width), stride in zip(sizes, strides, strict=True)
        ],
        dim=1,
    ).requires_grad_()
    embedding = PoseEmbedding(num_keypoints, CHANNELS, WIDTH)
    torch.nn.init.normal_(embedding.weight)
    table = TapTable.of(maps, maps, strides, origin)
    samples = sample(table, positions, None)
    out = embedding(samples)
    goal = torch.randn_like(out)
    gradients = torch.autograd.grad((out * goal).sum(), [*maps, positions, embedding.weight])

    wide = [x.detach().double().requires_grad_() for x in (*maps, positions, embedding.weight)]
    levels = [level for level, (height, width) in enumerate(sizes) for _ in range(height * width)]
    expected_samples = slow_sample(wide[:2], strides, origin, levels, wide[2])
    expected = torch.zeros(*expected_samples.shape[:2], WIDTH, dtype=torch.float64)
    for k in range(num_keypoints):
        expected = expected + expected_samples[:, :, k] @ wide[3][k]
    expected_gradients = torch.autograd.grad((expected * goal).sum(), wide)

    torch.testing.assert_close(samples.double(), expected_samples, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.double(), expected, atol=1e-4, rtol=1e-5)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient.double(), wanted, atol=1e-4, rtol=1e-5)


def test_both_forms_agree(monkeypatch):
    maps = [torch.randn(NUM_IMAGES, 32, 9, 7), torch.randn(NUM_IMAGES, 32, 5, 4)]
    table = TapTable.of(maps, maps, (8, 16), 0.5)
    positions = torch.cat([places(63, 6, 8, 3.5, 7, 9), places(20, 6, 16, 7.5, 4, 5)], dim=1)
    index = torch.randint(83, (NUM_IMAGES, 83))
    results = []
    for exporting in (False, True):
        monkeypatch.setattr(torch.compiler, "is_exporting", lambda exporting=exporting: exporting)
        results.append(sample(table, positions, index))
    torch.testing.assert_close(*results, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("exporting", [False, True], ids=["bag", "gather"])
def test_samples_around_are_nine_samples(exporting, monkeypatch):
    """A cell of the own map apart, row by row, from positions inside, outside, half outside and far away."""
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: exporting)
    maps = [torch.randn(NUM_IMAGES, CHANNELS, 4, 5), torch.randn(NUM_IMAGES, CHANNELS, 2, 3)]
    table = TapTable.of(maps, maps, (8, 16), 0.5)
    positions = torch.cat([places(20, 3, 8, 3.5, 5, 4), places(6, 3, 16, 7.5, 3, 2)], dim=1)
    samples = sample_around(table, positions, None)
    assert samples.shape == (NUM_IMAGES, 26, 3, 9, CHANNELS)
    wide = [x.double() for x in maps]
    cell = torch.tensor([8.0] * 20 + [16.0] * 6, dtype=torch.float64)[:, None, None]
    for place, (y, x) in enumerate((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)):
        beside = positions.double() + cell * torch.tensor([x, y])
        expected = slow_sample(wide, (8, 16), 0.5, [0] * 20 + [1] * 6, beside)
        torch.testing.assert_close(samples[:, :, :, place].double(), expected, atol=1e-5, rtol=1e-5)
    index = torch.randint(26, (NUM_IMAGES, 26))
    whole = positions.gather(1, index[..., None, None].expand_as(positions))
    torch.testing.assert_close(
        sample_around(table, whole, index),
        samples.gather(1, index[..., None, None, None].expand_as(samples)),
        atol=1e-6,
        rtol=1e-6,
    )


@pytest.mark.parametrize("exporting", [False, True], ids=["bag", "gather"])
def test_chosen_locations_read_their_own_level(exporting, monkeypatch):
    """`index` in any order, with repetitions, another one for each image."""
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: exporting)
    maps = [torch.randn(NUM_IMAGES, CHANNELS, 4, 5), torch.randn(NUM_IMAGES, CHANNELS, 2, 3)]
    table = TapTable.of(maps, maps, (8, 16), 0.5)
    index = torch.tensor([[25, 0, 7, 7], [3, 20, 21, 19]])
    positions = places(4, 3, 8, 3.5, 5, 4)
    samples = sample(table, positions, index)
    for b in range(NUM_IMAGES):
        levels = [int(location >= 20) for location in index[b]]
        own = [x[b : b + 1].double() for x in maps]
        expected = slow_sample(own, (8, 16), 0.5, levels, positions[b : b + 1].double())
        torch.testing.assert_close(samples[b : b + 1].double(), expected, atol=1e-5, rtol=1e-5)


def test_maps_finer_than_the_locations():
    """A location of stride 8 may read a map of stride 4; both origins are those of the map's own cells."""
    levels = [torch.empty(NUM_IMAGES, 1, 2, 3), torch.empty(NUM_IMAGES, 1, 1, 2)]
    maps = [torch.randn(NUM_IMAGES, CHANNELS, 4, 6), torch.randn(NUM_IMAGES, CHANNELS, 2, 3)]
    positions = places(8, 3, 4, 1.5, 6, 4)
    samples = sample(TapTable.of(maps, levels, (4, 8), 0.5), positions, None)
    wide = [x.double() for x in maps]
    expected = slow_sample(wide, (4, 8), 0.5, [0] * 6 + [1] * 2, positions.double())
    torch.testing.assert_close(samples.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_keypoints", [3, 17])
def test_taps_in_a_row_are_a_plain_convolution(num_keypoints):
    """At the regular places of a 1 x K kernel the layer is the convolution that the paper deforms, zero padding too."""
    field = torch.randn(NUM_IMAGES, CHANNELS, 4, 6)
    table = TapTable.of([field], [field], (8,), 0.0)
    reach = (num_keypoints - 1) // 2
    rows, columns, taps = torch.meshgrid(
        torch.arange(4), torch.arange(6), torch.arange(num_keypoints) - reach, indexing="ij"
    )
    cells = torch.stack((columns + taps, rows), -1).flatten(0, 1).float()
    embedding = PoseEmbedding(num_keypoints, CHANNELS, WIDTH)
    torch.nn.init.normal_(embedding.weight)
    out = embedding(sample(table, (8 * cells).expand(NUM_IMAGES, -1, -1, -1), None))
    kernel = embedding.weight.permute(2, 1, 0)[:, :, None]
    expected = F.conv2d(field, kernel, padding=(0, reach))
    torch.testing.assert_close(out.transpose(1, 2).view_as(expected), expected, atol=1e-5, rtol=1e-5)


def test_nothing_chosen():
    maps = [torch.randn(NUM_IMAGES, CHANNELS, 4, 5)]
    index = torch.zeros(NUM_IMAGES, 0, dtype=torch.int64)
    samples = sample(TapTable.of(maps, maps, (8,), 0.0), torch.empty(NUM_IMAGES, 0, 3, 2), index)
    assert samples.shape == (NUM_IMAGES, 0, 3, CHANNELS)


# The map of the facts' vectors: 4 rows, 5 columns, f(y, x) = 10 y + x + 1.
STRIDE = 16


@pytest.fixture
def ramp() -> TapTable:
    field = (10 * torch.arange(4.0)[:, None] + torch.arange(5.0) + 1).view(1, 1, 4, 5)
    return TapTable.of([field], [field], (STRIDE,), 0.0)


@pytest.mark.parametrize(
    ("y", "x", "value"),
    [
        (1, 2, 13),
        (1.5, 2.5, 18.5),
        (0.5, 0.5, 6.5),
        (2.25, 3.75, 27.25),
        (-0.5, 1, 1),
        (3.5, 4, 17.5),
        (3.5, 4.5, 8.75),
        (2, -0.25, 15.75),
        (-1, 2, 0),
        (4, 2, 0),
    ],
)
def test_official_values(ramp, y, x, value):
    place = STRIDE * torch.tensor([x, y], dtype=torch.float32).view(1, 1, 1, 2)
    assert sample(ramp, place, torch.zeros(1, 1, dtype=torch.int64)).item() == value


@pytest.mark.parametrize(
    ("y", "x", "by_y", "by_x"), [(1, 2, 10, 1), (1.5, 2.5, 10, 1), (3, 3, -34, 1), (3.5, 4, -35, -17.5)]
)
def test_official_derivatives(ramp, y, x, by_y, by_x):
    """By cells; what reaches the bypass through the softened positions is a tenth, at unchanged positions."""
    cell = torch.tensor([x, y], dtype=torch.float32, requires_grad=True)
    index = torch.zeros(1, 1, dtype=torch.int64)
    value = sample(ramp, STRIDE * cell.view(1, 1, 1, 2), index)
    torch.testing.assert_close(torch.autograd.grad(value.sum(), cell)[0], torch.tensor([by_x, by_y], dtype=torch.float))
    softened = sample(ramp, network._soften(STRIDE * cell.view(1, 1, 1, 2)), index)
    assert softened.item() == value.item()
    torch.testing.assert_close(
        torch.autograd.grad(softened.sum(), cell)[0], torch.tensor([by_x / 10, by_y / 10], dtype=torch.float)
    )


def test_official_layer(ramp):
    embedding = PoseEmbedding(3, 1, 1)
    with torch.no_grad():
        embedding.weight.copy_(torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1))
    cells = torch.tensor([[1.0, 1.0], [2.0, 2.0], [0.5, 1.5]])  # cell (1, 1) + (dx, dy) of (0, 0), (1, 1), (-0.5, 0.5)
    samples = sample(ramp, STRIDE * cells.view(1, 1, 3, 2), torch.tensor([[6]]))
    assert samples.flatten().tolist() == [12, 23, 16.5]
    assert embedding(samples).item() == 1892
