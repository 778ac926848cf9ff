"""The identity embedding: what a person looks like, as a unit vector, from the features at a found pose.

The paper names re-identification as future work. Here, one more pose embedding reads the maps that score and refinement
use, and the colours of the photo beside them, at the keypoints and in the middle of the limbs, where clothes are.
`training/identity.py` trains it on a finished network.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from posedet.model.embedding import TapTable, sample

COLOURS = 3  # channels of the photo


class Identity(nn.Module):
    """Found poses -> unit vectors, similar for the same person and different for others.

    Args:
        limbs: Pairs of keypoint indices; their middles are read too.
        num_keypoints: K.
        inputs: Channels of the sampled maps.
        outputs: Length of the vectors.
    """

    limbs: Tensor

    def __init__(self, limbs: tuple[tuple[int, int], ...], num_keypoints: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("limbs", torch.tensor(limbs, dtype=torch.int64).view(-1, 2), persistent=False)
        self.num_places, width = num_keypoints + len(limbs), 4 * outputs
        self.look = nn.Linear(self.num_places * (inputs + COLOURS + 1), width)
        self.output = nn.Linear(width, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """features: (..., F) as `read` returns -> (..., outputs), L2-normalised."""
        return F.normalize(self.output(torch.relu(self.look(features))), dim=-1)

    def read(
        self, images: Tensor, table: TapTable, strides: tuple[int, ...], poses: Tensor, seen: Tensor, index: Tensor
    ) -> Tensor:
        """Read the features of poses.

        Args:
            images: (B, 3, H, W) RGB 0..255.
            table: The maps of the network for these images.
            strides: The strides of these maps.
            poses: (B, S, K, 2) pixels of the network input.
            seen: (B, S, K) visibility of the keypoints, 0 to 1: what is hidden shows somebody else.
            index: (B, S) the location of each pose.

        Returns:
            (B, S, F)
        """
        pixels = images / 127.5 - 1
        colours = [F.avg_pool2d(pixels, stride, ceil_mode=True).flatten(2).transpose(1, 2) for stride in strides]
        table = table._replace(rows=torch.cat((table.rows, torch.cat(colours, dim=1)), dim=2))
        first, second = self.limbs.unbind(1)
        middles = (poses[:, :, first] + poses[:, :, second]) / 2
        both_seen = torch.minimum(seen[:, :, first], seen[:, :, second])
        weights = torch.cat((seen, both_seen), dim=2)[..., None]
        samples = sample(table, torch.cat((poses, middles), dim=2), index) * weights
        return torch.cat((samples, weights), dim=3).flatten(2)
