"""The bypass (paper sec. 3.2): at every location a coarse pose, K displacements in cells, supervised by the truth."""

from torch import Tensor, nn

from posedet.model.layers import Norm, output_conv, as_rows, tower


class Bypass(nn.Module):
    """Tower of shared convolutions, then a 1x1 convolution to 2K displacements, x and y by turns.

    With `presence` one more output tells cheaply whether a person is here, so that embeddings are made only at the
    best locations.
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


# ln(0.01 / 0.99): every location starts as background with 99 % (official code).
PRIOR_LOGIT = -4.59511985013459
