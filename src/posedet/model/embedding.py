"""The keypoint-aware pose embedding (paper sec. 3.2): features at the K keypoints of a pose, mixed into one vector.

The paper describes a deformable convolution with a 1 x K kernel. K bilinear samples and one linear map are equivalent
and work for any K, odd or even. As in the official layer, corners outside the map are zero.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TapTable(NamedTuple):
    """The feature maps of all levels as one table of rows, and for every location the position of its map in it."""

    rows: Tensor  # (B, R, C) float32
    geometry: Tensor  # (M, 4) int64: first row, height and width of the map, stride of its cells in pixels
    origin: float  # the centre of the first cell, as a fraction of (stride - 1)

    @classmethod
    def of(cls, maps: list[Tensor], levels: list[Tensor], strides: tuple[int, ...], origin: float) -> "TapTable":
        """maps: (B, C, h, w) to sample from, with cells of `strides` pixels; levels: (B, _, h, w) of the locations."""
        # In float32 even under autocast: bilinear weights in bfloat16 move keypoints by half a pixel (measured).
        rows = torch.cat([x.float().flatten(2).transpose(1, 2) for x in maps], dim=1)
        geometry, start = [], 0
        for x, level, stride in zip(maps, levels, strides, strict=True):
            height, width = x.shape[2:]
            each = torch.ones_like(level[0, 0], dtype=torch.int64).flatten()
            geometry.append(torch.stack((each * start, each * height, each * width, each * stride), -1))
            start = start + height * width
        return cls(rows, torch.cat(geometry), origin)


class _Axis(NamedTuple):
    """Positions along x or y, in cells of the sampled maps."""

    before: Tensor  # (B, S, K) int64: the cell before each position
    share: Tensor  # (B, S, K): fraction of the distance to the next cell; carries the gradient of the position
    size: Tensor  # (B, S, 1): number of cells of the map

    def cell(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the cell `before` + `step`, clamped to the map, and whether it lies inside: (B, S, K) each."""
        cell = self.before + step
        return torch.minimum(cell.clamp(min=0), self.size - 1), (cell >= 0) & (cell < self.size)


def _axes(table: TapTable, positions: Tensor, index: Tensor | None) -> tuple[Tensor, _Axis, _Axis]:
    """Return the first row of each pose's map in the flattened table (B * R, C), (B, S, 1) int64, and both axes."""
    geometry = table.geometry[None] if index is None else table.geometry[index]
    start, height, width, stride = geometry[:, :, None].unbind(-1)
    stride = stride[..., None].float()
    cells = (positions - table.origin * (stride - 1)) / stride
    before = cells.detach().floor()
    share_x, share_y = (cells - before).unbind(-1)
    # Clamp before the conversion, because a distant position would overflow. Its neighbour cells stay outside the map.
    column, row = before.clamp(-3, 100_000).long().unbind(-1)
    images = torch.arange(positions.shape[0], device=positions.device)[:, None, None]
    start = start + images * table.rows.shape[1]
    return start, _Axis(column, share_x, width), _Axis(row, share_y, height)


def _corners(table: TapTable, positions: Tensor, index: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
    """Compute `corners` as separate tensors, one per corner."""
    start, x, y = _axes(table, positions, index)
    (left, in_left), (right, in_right) = x.cell(0), x.cell(1)
    (above, in_above), (below, in_below) = y.cell(0), y.cell(1)
    to_left, to_right = (1 - x.share) * in_left, x.share * in_right
    up, down = (1 - y.share) * in_above, y.share * in_below
    above, below = start + above * x.size, start + below * x.size
    rows = [above + left, above + right, below + left, below + right]
    return rows, [up * to_left, up * to_right, down * to_left, down * to_right]


def corners(table: TapTable, positions: Tensor, index: Tensor | None) -> tuple[Tensor, Tensor]:
    """Find the four rows around each position and their bilinear weights.

    Args:
        table: The maps to sample from.
        positions: (B, S, K, 2) pixels of the network input.
        index: (B, S), the location of each pose. None: all locations in order.

    Returns:
        Rows (B, S, K, 4) int64 of the flattened table (B * R, C), and weights (B, S, K, 4), which carry the gradient of
        the positions. The weight of a corner outside the map is zero.
    """
    rows, weights = _corners(table, positions, index)
    return torch.stack(rows, -1), torch.stack(weights, -1)


def sample(table: TapTable, positions: Tensor, index: Tensor | None) -> Tensor:
    """Sample the map of each location at `positions` (B, S, K, 2) bilinearly: (B, S, K, C); see `corners`."""
    flat = table.rows.flatten(0, 1)
    shape = (*positions.shape[:3], flat.shape[1])
    if torch.compiler.is_exporting():
        # An exported embedding_bag is a loop, which is a hundred times slower than four gathers.
        pairs = zip(*_corners(table, positions, index), strict=True)
        parts = [flat.index_select(0, rows.flatten()).view(shape) * weights[..., None] for rows, weights in pairs]
        return parts[0] + parts[1] + parts[2] + parts[3]
    rows, weights = corners(table, positions, index)
    mixed = F.embedding_bag(rows.view(-1, 4), flat, per_sample_weights=weights.view(-1, 4), mode="sum")
    return mixed.view(shape)


def sample_around(table: TapTable, positions: Tensor, index: Tensor | None) -> Tensor:
    """Sample as `sample` at 3 x 3 places a cell apart, row by row, centred at `positions`: (B, S, K, 9, C)."""
    if torch.compiler.is_exporting():
        return _sample_shared(table, positions, index)
    strides = table.geometry[None, :, 3] if index is None else table.geometry[index][..., 3]
    beside = torch.arange(-1, 2, device=positions.device)
    steps = torch.stack((beside.repeat(3), beside.repeat_interleave(3)), -1)
    places = positions[..., None, :] + steps * strides[..., None, None, None]
    samples = sample(table, places.flatten(2, 3), index)
    return samples.view(*places.shape[:4], samples.shape[3])


def _sample_shared(table: TapTable, positions: Tensor, index: Tensor | None) -> Tensor:
    """Do the work of `sample_around` in an exported graph: the nine places share corners, 16 rows instead of 36."""
    start, x, y = _axes(table, positions, index)
    (columns, in_columns), (rows, in_rows) = (
        (torch.stack(each, -1) for each in zip(*map(axis.cell, (-1, 0, 1, 2)), strict=True)) for axis in (x, y)
    )
    lines = start[..., None] + rows * x.size[..., None]
    numbers = lines[..., None] + columns[..., None, :]
    flat = table.rows.flatten(0, 1)
    cells = flat.index_select(0, numbers.flatten()).view(*numbers.shape, flat.shape[1])
    cells = cells * (in_rows[..., None] & in_columns[..., None, :])[..., None]
    left, right = cells[..., :3, :], cells[..., 1:, :]
    across = left + x.share[..., None, None, None] * (right - left)
    above, below = across[..., :3, :, :], across[..., 1:, :, :]
    return (above + y.share[..., None, None, None] * (below - above)).flatten(3, 4)


class PoseEmbedding(nn.Module):
    """A linear map of the features f at the K keypoints x_k, without bias: sum_k W_k f(x_k) (paper sec. 3.2)."""

    def __init__(self, num_keypoints: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_keypoints, inputs, outputs))

    def forward(self, samples: Tensor) -> Tensor:
        """samples: (B, S, K, inputs) -> (B, S, outputs)."""
        return samples.flatten(2) @ self.weight.flatten(0, 1)
