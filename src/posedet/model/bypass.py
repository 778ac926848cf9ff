"""The bypass (paper sec. 3.2): a coarse pose at every location, as K displacements in cells."""

from torch import Tensor, nn

from posedet.model.layers import Norm, as_rows, output_conv, tower


class Bypass(nn.Module):
    """A tower of shared convolutions, then a 1x1 convolution to 2K displacements with x and y alternating.

    With `presence`, another output predicts whether a person is at a location, so that embeddings are computed only at
    the best locations.
    """

    def __init__(
        self, channels: int, num_keypoints: int, *, depth: int, presence: bool, num_levels: int, norm: Norm
    ) -> None:
        super().__init__()
        self.tower = tower(channels, channels, depth, num_levels=num_levels, norm=norm)
        self.offsets = output_conv(channels, 2 * num_keypoints, bias=0.0)
        self.presence = output_conv(channels, 1, bias=PRIOR_LOGIT) if presence else None

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """levels: (B, C, h, w) each -> offsets (B, M, K, 2) in cells, and presence logits (B, M) or None."""
        maps = self.tower(levels)
        offsets = as_rows([self.offsets(x) for x in maps]).float()
        offsets = offsets.view(*offsets.shape[:2], -1, 2)
        if self.presence is None:
            return offsets, None
        return offsets, as_rows([self.presence(x) for x in maps]).float()[..., 0]


# ln(0.01 / 0.99): at the start, every location is background with a probability of 99 % (official code).
PRIOR_LOGIT = -4.59511985013459
