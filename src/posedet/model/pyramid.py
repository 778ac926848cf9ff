"""Feature pyramids: backbone maps -> maps of equal width at the strides of the levels, and maps to sample from."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from posedet.model.layers import GROUPS, Norm


class PyramidMaps(NamedTuple):
    """levels: (B, C, h, w) for every level; taps: the maps that pose embeddings are sampled from, one per level."""

    levels: list[Tensor]
    taps: list[Tensor]


def _conv_norm(inputs: int, outputs: int, kernel: int, norm: Norm, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.xavier_uniform_(conv.weight)
    return nn.Sequential(
        conv, nn.GroupNorm(GROUPS, outputs) if norm == "group" else nn.BatchNorm2d(outputs, momentum=0.03)
    )


class FeaturePyramid(nn.Module):
    """A top-down pyramid (Lin et al., 2017) with normalisation and without activations, which PoseDet uses with DLA-34.

    `extra_level` adds a level of twice the largest stride, computed from the last backbone map. With `fine_taps`, the
    maps to sample from are the merged maps one step further down, which are twice as fine as the levels.
    """

    def __init__(
        self, backbone_channels: tuple[int, ...], channels: int, *, norm: Norm, extra_level: bool, fine_taps: bool
    ) -> None:
        super().__init__()
        used = backbone_channels if fine_taps else backbone_channels[1:]
        self.fine_taps = fine_taps
        self.laterals = nn.ModuleList(_conv_norm(inputs, channels, 1, norm) for inputs in used)
        self.outputs = nn.ModuleList(_conv_norm(channels, channels, 3, norm) for _ in backbone_channels[1:])
        self.extra = _conv_norm(backbone_channels[-1], channels, 3, norm, stride=2) if extra_level else None

    def forward(self, features: tuple[Tensor, ...]) -> PyramidMaps:
        """features: backbone maps at strides 4, 8, 16, 32."""
        used = features if self.fine_taps else features[1:]
        merged = [lateral(x) for lateral, x in zip(self.laterals, used, strict=True)]
        for i in reversed(range(len(merged) - 1)):
            merged[i] = merged[i] + F.interpolate(merged[i + 1], size=merged[i].shape[2:], mode="nearest")
        coarse = merged[-len(self.outputs) :]
        levels = [output(x) for output, x in zip(self.outputs, coarse, strict=True)]
        if self.extra is not None:
            levels.append(self.extra(features[-1]))
        if not self.fine_taps:
            return PyramidMaps(levels, levels)
        return PyramidMaps(levels, merged[: len(levels)])


class HighResolutionPyramid(nn.Module):
    """HRFPN: HRNet's branches are concatenated at stride 4 and reduced to strides 8, 16, 32, without normalisation."""

    def __init__(self, backbone_channels: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(sum(backbone_channels), channels, 1)
        self.outputs = nn.ModuleList(nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(3))
        for conv in (self.reduction, *self.outputs):
            nn.init.kaiming_uniform_(conv.weight, nonlinearity="linear")
            nn.init.zeros_(conv.bias)

    def forward(self, features: tuple[Tensor, ...]) -> PyramidMaps:
        """features: HRNet's four branches at strides 4, 8, 16, 32."""
        size = features[0].shape[2:]
        joined = [features[0]] + [
            F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in features[1:]
        ]
        reduced = self.reduction(torch.cat(joined, dim=1))
        levels = [output(F.avg_pool2d(reduced, 2**i) if i else reduced) for i, output in enumerate(self.outputs)]
        return PyramidMaps(levels, levels)
