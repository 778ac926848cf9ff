"""The keypoint-aware pose embedding (paper sec. 3.2): features read at the K places of a pose, mixed into one vector.

The paper writes it as a deformable convolution with a 1 x K kernel; K bilinear samples and one linear map say the
same, for any K, odd or even (facts of the official layer: corners outside the map count as zero).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TapTable(NamedTuple):
    """Feature maps of all levels as one table of rows, and for every location where the map of its level lies in it."""

    rows: Tensor  # (B, R, C) float32
    geometry: Tensor  # (M, 4) int64: first row, height and width of the map, stride of its cells in pixels
    origin: float  # where the first cell's centre lies, as a share of (stride - 1)

    @classmethod
    def of(cls, maps: list[Tensor], levels: list[Tensor], strides: tuple[int, ...], origin: float) -> "TapTable":
        """maps: (B, C, h, w) to sample from, of cells of `strides` pixels; levels: (B, _, h, w) with the locations."""
        # In float32 even under autocast: bilinear weights in bfloat16 move keypoints by half a pixel (measured).
        rows = torch.cat([x.float().flatten(2).transpose(1, 2) for x in maps], dim=1)
        geometry, start = [], 0
        for x, level, stride in zip(maps, levels, strides, strict=True):
            height, width = x.shape[2:]
            each = torch.ones_like(level[0, 0], dtype=torch.int64).flatten()
            geometry.append(torch.stack((each * start, each * height, each * width, each * stride), -1))
            start = start + height * width
        return cls(rows, torch.cat(geometry), origin)


def corners(table: TapTable, positions: Tensor, index: Tensor | None) -> tuple[Tensor, Tensor]:
    """The four rows around each position and their bilinear weights.

    positions: (B, S, K, 2) pixels of the network input; index: (B, S) the location that each pose belongs to, None =
    all in order. Returns rows (B, S, K, 4) int64 into the flattened table (B * R, C), and weights (B, S, K, 4) that
    carry the gradient of the positions; the weight of a corner outside the map is zero.
    """
    geometry = table.geometry[None] if index is None else table.geometry[index]
    start, height, width, stride = geometry[:, :, None].unbind(-1)
    stride = stride[..., None].float()
    cells = (positions - table.origin * (stride - 1)) / stride
    first = cells.detach().floor()
    fraction_x, fraction_y = (cells - first).unbind(-1)
    # Clamped before the conversion: a far position would overflow the integer.
    left, top = first.clamp(-2, 100_000).long().unbind(-1)
    num_rows = table.rows.shape[1]
    batch = torch.arange(positions.shape[0], device=positions.device).view(-1, 1, 1) * num_rows
    indices, weights = [], []
    for right, below in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = left + right, top + below
        inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
        weight = (fraction_x if right else 1 - fraction_x) * (fraction_y if below else 1 - fraction_y)
        row = torch.minimum(y.clamp(min=0), height - 1) * width + torch.minimum(x.clamp(min=0), width - 1)
        indices.append(batch + start + row)
        weights.append(weight * inside)
    return torch.stack(indices, -1), torch.stack(weights, -1)


def sample(table: TapTable, positions: Tensor, index: Tensor | None) -> Tensor:
    """Bilinear samples (B, S, K, C) at `positions` (B, S, K, 2), each in the map of its location; see `corners`."""
    indices, weights = corners(table, positions, index)
    flat = table.rows.flatten(0, 1)
    shape = (*positions.shape[:3], table.rows.shape[2])
    if torch.compiler.is_exporting():
        # An exported embedding_bag is a loop, a hundred times slower; four gathers are what runtimes do well.
        parts = [
            flat.index_select(0, indices[..., c].reshape(-1)).view(shape) * weights[..., c, None] for c in range(4)
        ]
        return parts[0] + parts[1] + parts[2] + parts[3]
    mixed = F.embedding_bag(indices.view(-1, 4), flat, per_sample_weights=weights.view(-1, 4), mode="sum")
    return mixed.view(shape)


class PoseEmbedding(nn.Module):
    """One linear map of the features at the K joints: embedding = sum_k W_k f(joint_k), no bias (paper sec. 3.2)."""

    def __init__(self, num_keypoints: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_keypoints, inputs, outputs))

    def forward(self, samples: Tensor) -> Tensor:
        """samples: (B, S, K, inputs) -> (B, S, outputs)."""
        return samples.flatten(2) @ self.weight.flatten(0, 1)
