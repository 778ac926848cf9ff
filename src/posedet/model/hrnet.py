"""HRNet (Sun et al., 2019, "Deep High-Resolution Representation Learning"), the backbone of the paper's best results.

The modules have the names of the HRNetV2 release (`stage3.0.fuse_layers.2.0`, ...). Its public ImageNet weights and
official PoseDet checkpoints, which use the same names after `backbone.`, can therefore be loaded by name. The identity
modules in `transition2`, `transition3` and `fuse_layers` keep the numbers of the other modules.
"""

from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from posedet.model.dla import IMAGENET_MEAN, IMAGENET_STD, BasicBlock, conv_norm, initialise

BLOCKS_PER_BRANCH = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, and a shortcut with a projection if the number of channels changes."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = conv_norm(inputs, outputs, 1, relu=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, inputs, h, w) -> (B, outputs, h, w)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x))
        return F.relu(y, inplace=True)


def _path(channels: tuple[int, ...], source: int, target: int) -> nn.Module:
    """Build the module from the map of branch `source` to the size and channels of branch `target`."""
    inputs, outputs = channels[source], channels[target]
    if source == target:
        return nn.Identity()
    if source > target:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.Upsample(scale_factor=2 ** (source - target), mode="nearest"),
        )
    halvings = [conv_norm(inputs, inputs, 3, stride=2) for _ in range(target - source - 1)]
    return nn.Sequential(*halvings, conv_norm(inputs, outputs, 3, stride=2, relu=False))


class Fusion(nn.ModuleList):
    """The sum of one path from every branch. It is a list to have the same names as the release."""

    def forward(self, maps: list[Tensor]) -> Tensor:
        """maps: every branch's -> the new map of this branch."""
        arrived = (path(x) for path, x in zip(self, maps, strict=True))
        return F.relu(reduce(torch.add, arrived), inplace=True)


class FusionModule(nn.Module):
    """Parallel branches, each at half the resolution of the previous one, and a fusion from all branches to each."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        numbers = range(len(channels))
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width, width) for _ in range(BLOCKS_PER_BRANCH))) for width in channels
        )
        self.fuse_layers = nn.ModuleList(
            Fusion(_path(channels, source, target) for source in numbers) for target in numbers
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """maps: (B, channels[i], h / 2**i, w / 2**i) for every branch i -> the same shapes."""
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        return [fusion(maps) for fusion in self.fuse_layers]


class HRNet(nn.Module):
    """Images -> maps at strides 4, 8, 16, 32 with 1, 2, 4 and 8 times `width` channels (HRNet-W32: 32)."""

    strides: tuple[int, ...] = (4, 8, 16, 32)
    image_mean, image_std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels: tuple[int, ...] = (width, 2 * width, 4 * width, 8 * width)
        self.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(Bottleneck(64, 64, 256), *(Bottleneck(256, 64, 256) for _ in range(3)))
        self.transition1 = nn.ModuleList(
            [conv_norm(256, width, 3), nn.Sequential(conv_norm(256, 2 * width, 3, stride=2))]
        )
        self.stage2 = self._stage(num_branches=2, num_modules=1)
        self.transition2 = self._transition(2)
        self.stage3 = self._stage(num_branches=3, num_modules=4)
        self.transition3 = self._transition(3)
        self.stage4 = self._stage(num_branches=4, num_modules=3)
        initialise(self)

    def _transition(self, branch: int) -> nn.ModuleList:
        new = nn.Sequential(conv_norm(self.channels[branch - 1], self.channels[branch], 3, stride=2))
        return nn.ModuleList([*(nn.Identity() for _ in range(branch)), new])

    def _stage(self, *, num_branches: int, num_modules: int) -> nn.Sequential:
        return nn.Sequential(*(FusionModule(self.channels[:num_branches]) for _ in range(num_modules)))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """images: (B, 3, H, W) RGB, ImageNet mean 0 and deviation 1; H and W multiples of 32.

        Returns (B, w, H/4, W/4), (B, 2w, H/8, W/8), (B, 4w, H/16, W/16), (B, 8w, H/32, W/32), w the width.
        """
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        x = self.layer1(x)
        maps = self.stage2([transition(x) for transition in self.transition1])
        maps = self.stage3([*maps, self.transition2[-1](maps[-1])])
        maps = self.stage4([*maps, self.transition3[-1](maps[-1])])
        return tuple(maps)
