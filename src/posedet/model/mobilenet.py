"""MobileNetV2 1.0 (Sandler et al., 2018) with folded batch normalisation: the small, fast default backbone."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from posedet.errors import ConfigError

# Expansion, output channels, repeats and first stride, from table 2 of its paper.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
# The last block of each stride 4, 8, 16, 32.
OUTPUT_BLOCKS = (2, 5, 12, 16)


def _strided(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a 3x3 convolution of stride 2 with TensorFlow's "same" padding, which the start weights require."""
    x = F.pad(x, (0, 1, 0, 1))
    if conv.groups == 1 or not torch.is_grad_enabled():
        return conv(x)  # type: ignore[no-any-return]
    # On CPUs, the backward pass of a strided depthwise convolution takes 3 to 14 times as long in bfloat16.
    with torch.autocast(x.device.type, enabled=False):
        return conv(x.float())  # type: ignore[no-any-return]


class Block(nn.Module):
    """An inverted residual block."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.expand = nn.Conv2d(inputs, hidden, 1) if expansion > 1 else None
        self.strided = stride == 2
        self.depthwise = nn.Conv2d(hidden, hidden, 3, stride, padding=0 if self.strided else 1, groups=hidden)
        self.project = nn.Conv2d(hidden, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, inputs, h, w) -> (B, outputs, h / stride, w / stride)."""
        y = F.relu6(self.expand(x)) if self.expand is not None else x
        y = _strided(self.depthwise, y) if self.strided else self.depthwise(y)
        y = self.project(F.relu6(y))
        return x + y if self.residual else y  # type: ignore[no-any-return]


class MobileNetV2(nn.Module):
    """Images -> maps at strides 4, 8, 16, 32.

    The stem and the first `frozen_blocks` blocks get no gradient and store no activations, because they take most of
    a training step at their high resolution.
    """

    channels: tuple[int, ...] = (24, 32, 96, 320)
    strides = (4, 8, 16, 32)
    image_mean = (127.5, 127.5, 127.5)
    image_std = (127.5, 127.5, 127.5)

    def __init__(self) -> None:
        super().__init__()
        self.frozen_blocks = 0
        self.stem = nn.Conv2d(3, 32, 3, 2)
        self.blocks = nn.ModuleList()
        channels = 32
        for expansion, outputs, repeats, stride in STAGES:
            for repeat in range(repeats):
                self.blocks.append(Block(channels, outputs, expansion, stride if repeat == 0 else 1))
                channels = outputs

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """images: (B, 3, H, W), x / 127.5 - 1 -> (B, 24, H/4, W/4), (B, 32, H/8, ...), (B, 96, ...), (B, 320, ...)."""
        if not (self.frozen_blocks and torch.is_grad_enabled()):
            return tuple(self._run(F.relu6(_strided(self.stem, images)), 0, len(self.blocks))[:-1])
        with torch.no_grad():
            # Photo by photo, the maps fit the processor's cache, which takes a fifth of the time of the whole batch.
            each = [
                self._run(F.relu6(_strided(self.stem, x)), 0, self.frozen_blocks) for x in images.chunk(len(images))
            ]
        *outputs, x = (torch.cat(maps) for maps in zip(*each, strict=True))
        return tuple(outputs + self._run(x, self.frozen_blocks, len(self.blocks))[:-1])

    def freeze(self, blocks: int) -> None:
        """Freeze the stem and the first `blocks` blocks. Raises ConfigError if there are fewer."""
        if blocks > len(self.blocks):
            raise ConfigError(f"train.frozen_blocks is {blocks}, expected at most {len(self.blocks)}")
        self.frozen_blocks = blocks
        for part in (self.stem, *list(self.blocks)[:blocks]):
            part.requires_grad_(False)

    def _run(self, x: Tensor, first: int, end: int) -> list[Tensor]:
        """Return the outputs among the blocks `first` to `end`, and then what comes out of the last of them."""
        outputs = []
        for i in range(first, end):
            x = self.blocks[i](x)
            if i in OUTPUT_BLOCKS:
                outputs.append(x)
        return [*outputs, x]
