"""MobileNetV2 1.0 (Sandler et al., 2018), batch normalisation folded: the small, fast backbone of the default model."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Expansion, output channels, repeats, first stride: the rows of the paper's table 2.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
# The last block of each stride 4, 8, 16, 32.
OUTPUT_BLOCKS = (2, 5, 12, 16)


def _conv3x3(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """3x3 convolution padded as TensorFlow's "same", where the start weights come from."""
    if conv.stride != (2, 2):
        return conv(F.pad(x, (1, 1, 1, 1)))  # type: ignore[no-any-return]
    x = F.pad(x, (0, 1, 0, 1))
    if conv.groups == 1:
        return conv(x)  # type: ignore[no-any-return]
    # The backward pass of a strided depthwise convolution in bfloat16 takes 3 to 14 times as long on CPUs.
    with torch.autocast(x.device.type, enabled=False):
        return conv(x.float())  # type: ignore[no-any-return]


class Block(nn.Module):
    """Inverted residual."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.expand = nn.Conv2d(inputs, hidden, 1) if expansion > 1 else None
        self.depthwise = nn.Conv2d(hidden, hidden, 3, stride, groups=hidden)
        self.project = nn.Conv2d(hidden, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.expand(x)) if self.expand is not None else x
        y = self.project(F.relu6(_conv3x3(self.depthwise, y)))
        return x + y if self.residual else y  # type: ignore[no-any-return]


class MobileNetV2(nn.Module):
    """Images -> maps at strides 4, 8, 16, 32.

    `frozen_blocks` first blocks, the stem with them, get no gradient and keep no activations: at the full
    resolution of the photo they take most of a training step.
    """

    channels = (24, 32, 96, 320)
    strides = (4, 8, 16, 32)

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
        outputs = []
        trained = torch.is_grad_enabled()
        with torch.set_grad_enabled(trained and self.frozen_blocks == 0):
            x = F.relu6(_conv3x3(self.stem, images))
        for i, block in enumerate(self.blocks):
            with torch.set_grad_enabled(trained and i >= self.frozen_blocks):
                x = block(x)
            if i in OUTPUT_BLOCKS:
                outputs.append(x)
        return tuple(outputs)
