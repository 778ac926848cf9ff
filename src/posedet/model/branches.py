"""The branches that compute scores and refinements from pose embeddings (paper sec. 3.3), and the heatmap branch."""

import torch
from torch import Tensor, nn

from posedet.model.embedding import PoseEmbedding
from posedet.model.layers import Norm, output_conv, tower


class EmbeddingBranch(nn.Module):
    """Samples at the keypoints -> pose embedding -> ReLU -> outputs, as in the paper if `mixing_depth` is 1.

    Each further mixing layer is a linear map with ReLU. The paper has neither these layers nor their bias.
    """

    def __init__(self, num_keypoints: int, inputs: int, width: int, outputs: int, *, mixing_depth: int) -> None:
        super().__init__()
        self.embedding = PoseEmbedding(num_keypoints, inputs, width)
        # The paper's N(0, 0.01) is too small for an embedding with few channels, which gets the usual scale.
        nn.init.normal_(self.embedding.weight, std=0.01 if mixing_depth == 1 else (2 / (num_keypoints * inputs)) ** 0.5)
        self.mixing = nn.Sequential(
            *(layer for _ in range(mixing_depth - 1) for layer in (nn.Linear(width, width), nn.ReLU()))
        )
        self.output = nn.Linear(width, outputs)
        nn.init.normal_(self.output.weight, std=0.01)
        nn.init.zeros_(self.output.bias)

    def forward(self, samples: Tensor) -> Tensor:
        """samples: (B, S, K, inputs) -> (B, S, outputs)."""
        embedding: Tensor = torch.relu(self.embedding(samples))
        output: Tensor = self.output(self.mixing(embedding))
        return output


class LocalRefinement(nn.Module):
    """Correct each keypoint by the features at 3 x 3 positions around it and the embedding of the whole pose.

    This is not in the paper: a single vector for all keypoints describes the pose, but hardly their exact positions.
    """

    def __init__(self, num_keypoints: int, inputs: int, width: int) -> None:
        super().__init__()
        self.embedding = PoseEmbedding(num_keypoints, inputs, width)
        self.context = nn.Linear(width, num_keypoints * width)
        self.look = nn.Parameter(torch.empty(num_keypoints, NUM_PLACES * inputs, width))
        self.output = nn.Parameter(torch.empty(num_keypoints, width, 2))
        nn.init.normal_(self.embedding.weight, std=(2 / (num_keypoints * inputs)) ** 0.5)
        nn.init.normal_(self.look, std=(1 / (NUM_PLACES * inputs)) ** 0.5)
        nn.init.normal_(self.output, std=0.01)

    def forward(self, samples: Tensor) -> Tensor:
        """samples: (B, K, S, 9, inputs), the middle one at the keypoint -> corrections (B, S, K, 2) in cells, x, y.

        K precedes S because each keypoint has its own weights; this order avoids transposing the large tensor.
        """
        batch, keypoints, poses = samples.shape[:3]
        context = self.context(torch.relu(self.embedding(samples[:, :, :, NUM_PLACES // 2].transpose(1, 2))))
        context = context.view(batch, poses, keypoints, -1).transpose(1, 2)
        hidden = torch.relu(samples.flatten(3) @ self.look + context)
        return (hidden @ self.output).transpose(1, 2)


# A local refinement samples at the keypoint and at the eight positions around it.
NUM_PLACES = 9


class HeatmapBranch(nn.Module):
    """Auxiliary supervision: keypoint heatmaps at every level, only for training (paper sec. 3.4)."""

    def __init__(self, channels: int, num_keypoints: int, *, num_levels: int, norm: Norm, output_bias: float) -> None:
        super().__init__()
        self.tower = tower(channels, channels, 1, num_levels=num_levels, norm=norm)
        self.output = output_conv(channels, num_keypoints, bias=output_bias)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """maps: (B, C, h, w) each -> logits (B, K, h, w) each."""
        return [self.output(x).float() for x in self.tower(maps)]
