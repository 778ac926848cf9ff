"""DLA-34 (Yu et al., 2018, "Deep Layer Aggregation"), the backbone of PoseDet's fastest network (paper table 1).

The modules have the names of the original DLA release (`level3.tree1.root.conv`, ...). Its public ImageNet weights and
official PoseDet checkpoints, which use the same names after `backbone.`, can therefore be loaded by name.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Mean and deviation of ImageNet's photos on the scale 0..255, for the public start weights of DLA and HRNet.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, *, relu: bool = True) -> nn.Sequential:
    """Build a padded convolution without bias, batch normalisation and, if `relu`, ReLU."""
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


def initialise(backbone: nn.Module) -> None:
    """Initialise convolutions with variance 2 / fan-out (He et al., 2015)."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; HRNet uses this block, too."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """x: (B, inputs, h, w) -> (B, outputs, h / stride, w / stride), as the shortcut, which is x by default."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y)) + (x if shortcut is None else shortcut)
        return F.relu(y, inplace=True)


class Root(nn.Module):
    """A 1x1 convolution that joins the leaves of a tree, without the shortcut of larger DLA networks."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, *leaves: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(torch.cat(leaves, dim=1))), inplace=True)


class Tree(nn.Module):
    """One level of aggregation: two blocks, and a root that joins them with `extra_inputs` further channels."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, extra_inputs: int = 0) -> None:
        super().__init__()
        self.tree1 = BasicBlock(inputs, outputs, stride)
        self.tree2 = BasicBlock(outputs, outputs)
        self.root = Root(2 * outputs + extra_inputs, outputs)
        self.project = conv_norm(inputs, outputs, 1, relu=False) if inputs != outputs else None

    def forward(self, x: Tensor, pooled: Tensor, *extra: Tensor) -> Tensor:
        """x: (B, inputs, h, w); pooled: x at the output's size; extra: earlier maps of that size for the root."""
        first = self.tree1(x, pooled if self.project is None else self.project(pooled))
        second = self.tree2(first)
        joined: Tensor = self.root(second, first, *extra)
        return joined


class TwoLevelTree(nn.Module):
    """Two successive trees; the root of the second one also joins the first tree and the level's pooled input."""

    def __init__(self, inputs: int, outputs: int, *, dead_projection: bool) -> None:
        super().__init__()
        self.tree1 = Tree(inputs, outputs, stride=2)
        self.tree2 = Tree(outputs, outputs, stride=1, extra_inputs=inputs + outputs)
        if dead_projection:
            # Never called. Without a gradient, distributed training does not wait for it and optimisers ignore it.
            self.project = conv_norm(inputs, outputs, 1, relu=False).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, inputs, h, w) -> (B, outputs, h / 2, w / 2)."""
        pooled = F.max_pool2d(x, 2)
        first = self.tree1(x, pooled)
        joined: Tensor = self.tree2(first, first, pooled, first)
        return joined


class DLA34(nn.Module):
    """Images -> maps at strides 4, 8, 16, 32.

    The original release has projections in level3 and level4 whose results are not used. With `dead_projections`,
    their 41,728 values are kept, so that every tensor of an official checkpoint can be loaded and the network has
    15,270,832 parameters like the published one. They are never evaluated and get no gradient; outputs do not change.
    """

    channels: tuple[int, ...] = (64, 128, 256, 512)
    image_mean, image_std = IMAGENET_MEAN, IMAGENET_STD
    strides: tuple[int, ...] = (4, 8, 16, 32)

    def __init__(self, *, dead_projections: bool) -> None:
        super().__init__()
        self.base_layer = conv_norm(3, 16, 7)
        self.level0 = conv_norm(16, 16, 3)
        self.level1 = conv_norm(16, 32, 3, stride=2)
        self.level2 = Tree(32, 64, stride=2)
        self.level3 = TwoLevelTree(64, 128, dead_projection=dead_projections)
        self.level4 = TwoLevelTree(128, 256, dead_projection=dead_projections)
        self.level5 = Tree(256, 512, stride=2, extra_inputs=256)
        initialise(self)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """images: (B, 3, H, W) RGB, ImageNet mean 0 and deviation 1; H and W multiples of 32.

        Returns (B, 64, H/4, W/4), (B, 128, H/8, W/8), (B, 256, H/16, W/16), (B, 512, H/32, W/32).
        """
        x = self.level1(self.level0(self.base_layer(images)))
        level2 = self.level2(x, F.max_pool2d(x, 2))
        level3 = self.level3(level2)
        level4 = self.level4(level3)
        pooled = F.max_pool2d(level4, 2)
        level5 = self.level5(level4, pooled, pooled)
        return level2, level3, level4, level5
