"""Convolutions with normalisation, and towers of them that all levels share."""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Literal["batch", "group"]

GROUPS = 32  # the paper's group normalisation


class SharedConv(nn.Module):
    """A 3x3 convolution that all levels share, normalisation, ReLU.

    The paper's group normalisation is shared, too. Batch normalisation has separate statistics for each level, because
    levels differ in contrast; it can be folded into the convolution on export.
    """

    def __init__(self, inputs: int, outputs: int, *, num_levels: int, norm: Norm) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        if norm == "group":
            self.norms = nn.ModuleList([nn.GroupNorm(GROUPS, outputs)])
        else:
            self.norms = nn.ModuleList(nn.BatchNorm2d(outputs, momentum=0.03) for _ in range(num_levels))
        nn.init.normal_(self.conv.weight, std=0.01 if norm == "group" else (2 / (9 * inputs)) ** 0.5)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """maps: (B, inputs, h, w) for every level -> (B, outputs, h, w) for every level."""
        norms = self.norms if len(self.norms) > 1 else list(self.norms) * len(maps)
        return [F.relu(norm(self.conv(x))) for norm, x in zip(norms, maps, strict=True)]


def tower(inputs: int, outputs: int, depth: int, *, num_levels: int, norm: Norm) -> nn.Sequential:
    """Build `depth` shared convolutions from `inputs` to `outputs` channels, which map a list of levels to a list."""
    widths = [inputs] + [outputs] * depth
    return nn.Sequential(*(SharedConv(a, b, num_levels=num_levels, norm=norm) for a, b in pairwise(widths)))


def output_conv(inputs: int, outputs: int, *, bias: float) -> nn.Conv2d:
    """Build the last 1x1 convolution of a branch, whose biases start at `bias`."""
    conv = nn.Conv2d(inputs, outputs, 1)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.constant_(conv.get_parameter("bias"), bias)
    return conv


def as_rows(maps: list[Tensor]) -> Tensor:
    """Concatenate maps (B, C, h, w) of all levels to one table (B, M, C), level after level, row by row."""
    return torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)
