"""The uncertainty of a found pose: a covariance for each keypoint, and a score for the whole.

A small network reads what is known about a pose: the features at its keypoints, their visibility, the score, the size
of the person, and how far each refinement moved each keypoint. `training/uncertainty.py` trains it on a finished
network.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from posedet.model.embedding import TapTable, sample

LEAST_SIZE = 8.0  # pixels of the network input
# Logarithms of the shortest and the longest semi-axis in sizes of the person: beyond, nothing was ever observed.
SHORTEST, LONGEST = -6.0, 1.5
MOST_CORRELATED = 0.95
LOGIT_SCALE = 4.0  # brings logarithms to the scale of features


def seen_features(num_keypoints: int) -> slice:
    """Return where the logits of the visibility of the K keypoints, divided by `LOGIT_SCALE`, are in the features."""
    return slice(-3 - num_keypoints, -3)


class Uncertainty(nn.Module):
    """Found poses -> the covariances of their keypoints, and better scores.

    Args:
        num_keypoints: K.
        inputs: Channels of the sampled maps.
        moves: How often a pose is refined.
        width: Channels of the hidden layer.
    """

    log_scale: Tensor

    def __init__(self, num_keypoints: int, inputs: int, moves: int, width: int) -> None:
        super().__init__()
        self.look = nn.Linear(num_keypoints * (inputs + 1 + moves) + 3, width)
        self.shapes = nn.Linear(width, 3 * num_keypoints)
        nn.init.normal_(self.shapes.weight, std=0.01)
        with torch.no_grad():
            self.shapes.bias.view(-1, 3).copy_(torch.tensor([-3.0, -3.0, 0.0]))
        # Untrained, it keeps the scores as they are.
        self.correction = nn.Linear(width, 1)
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)
        # The calibration: the logarithm of a factor for all deviations.
        self.register_buffer("log_scale", torch.zeros(1))

    def forward(self, features: Tensor) -> Tensor:
        """features: (..., F) as `read` returns -> (..., K, 2, 2) pixels of the network input squared."""
        along_x, along_y, correlation = self.shape_of(features)
        scale = features[..., -1:] + self.log_scale
        x, y = (along_x + scale).exp(), (along_y + scale).exp()
        xy = correlation * x * y
        return torch.stack((x * x, xy, xy, y * y), dim=-1).view(*x.shape, 2, 2)

    def shape_of(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logarithms of the deviations along x and y in sizes of the person, and their correlation: (..., K)
        each, before calibration."""
        shapes: Tensor = self.shapes(torch.relu(self.look(features)))
        along_x, along_y, correlation = shapes.view(*shapes.shape[:-1], -1, 3).unbind(-1)
        return (
            along_x.clamp(SHORTEST, LONGEST),
            along_y.clamp(SHORTEST, LONGEST),
            MOST_CORRELATED * torch.tanh(correlation),
        )

    def score_logit(self, features: Tensor) -> Tensor:
        """Return the logits (...) of the expected OKS of the poses: those of the scores that were read, corrected."""
        correction: Tensor = self.correction(torch.relu(self.look(features)))
        return LOGIT_SCALE * features[..., -3] + correction[..., 0]

    def read(
        self, table: TapTable, stages: list[Tensor], seen: Tensor, scores: Tensor, strides: Tensor, index: Tensor
    ) -> Tensor:
        """Read the features of poses.

        Args:
            table: The maps of the network.
            stages: (B, S, K, 2) each: the coarse poses, then those after each refinement, pixels of the network input.
            seen: (B, S, K) visibility of the keypoints, 0 to 1.
            scores: (B, S) scores of the poses, 0 to 1.
            strides: (B, S) strides of their levels.
            index: (B, S) the location of each pose.

        Returns:
            (B, S, F); the last one is the logarithm of the person's size in pixels, the third last the score's logit.
        """
        poses = stages[-1]
        sides = (poses.amax(2) - poses.amin(2)).clamp(min=1)
        log_size = sides.prod(-1).sqrt().clamp(min=LEAST_SIZE).log()
        moves = [
            ((after - before).norm(dim=-1) / log_size.exp()[..., None] + 1e-3).log()
            for before, after in pairwise(stages)
        ]
        logits = [torch.logit(each, 1e-4) for each in (seen, scores[..., None])]
        whole = [logits[1] / LOGIT_SCALE, (log_size - strides.log())[..., None], log_size[..., None]]
        samples = sample(table, poses, index).flatten(2)
        return torch.cat((samples, *(each / LOGIT_SCALE for each in moves), logits[0] / LOGIT_SCALE, *whole), dim=2)
