"""The network for inference: from uint8 pixels to the best poses, best first."""

import torch
from torch import Tensor, nn

from posedet.model.network import NetworkOutput, PoseDetNet, Proposals


class DeployedNet(nn.Module):
    """The exported network, which validation runs, too: it returns the `num_candidates` best poses of every image.

    `output_names` are the names of the outputs in a model file; see `runtime.session.Outputs`.
    """

    output_names: tuple[str, ...] = ("scores", "keypoints", "keypoint_scores")

    def __init__(self, network: PoseDetNet, num_candidates: int) -> None:
        super().__init__()
        self.network = network
        self.num_candidates = num_candidates

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """images: (B, H, W, 3) uint8 RGB, H and W multiples of 32, at least 128.

        Returns scores (B, N) in 0..1, best first; keypoints (B, N, K, 2) in pixels of the input; keypoint scores
        (B, N, K) in 0..1: the visibility of each keypoint, or the pose's score if the network does not predict it.
        """
        return self.selected(*self.ranked(images))

    def selected(self, output: NetworkOutput, scores: Tensor, order: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs as in `forward` from what `ranked` returns."""
        num_keypoints = output.poses[-1].shape[2]
        each = order[..., None].expand(-1, -1, num_keypoints)
        keypoints = output.poses[-1].gather(1, each[..., None].expand(-1, -1, -1, 2))
        if output.keypoint_logits is None:
            keypoint_scores = scores[..., None].expand(-1, -1, num_keypoints)
        else:
            keypoint_scores = output.keypoint_logits.sigmoid().gather(1, each)
        return scores, keypoints, keypoint_scores

    def ranked(self, images: Tensor) -> tuple[NetworkOutput, Tensor, Tensor]:
        """Return the network's output for images as in `forward`, its scores (B, N), best first, and their indices."""

        def best(proposals: Proposals, logits: Tensor) -> Tensor:
            # The smallest inputs have fewer locations.
            count = torch.sym_min(self.num_candidates, logits.shape[1])  # type: ignore[no-untyped-call]
            return logits.topk(count, dim=1).indices

        output = self.network(images.permute(0, 3, 1, 2).float(), best)
        scores = output.logits.sigmoid()
        if output.proposals.presence is not None:
            assert output.chosen is not None
            # The presence of a person times the correctness of the refined pose.
            scores = (scores * output.proposals.presence.gather(1, output.chosen).sigmoid()).sqrt()
        scores, order = scores.sort(dim=1, descending=True)
        return output, scores, order


class IdentifiedNet(DeployedNet):
    """The deployed network with one more output: the identity embedding (B, N, D) of every pose, L2-normalised."""

    output_names = (*DeployedNet.output_names, "embedding")

    def __init__(self, network: PoseDetNet, num_candidates: int) -> None:
        super().__init__(network, num_candidates)
        assert network.identity is not None
        self.identity = network.identity

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        *outputs, features = self.read(images)
        return *outputs, self.identity(features)

    def read(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs as in `forward`, but instead of the embedding the features that it is made of."""
        output, scores, order = self.ranked(images)
        scores, keypoints, keypoint_scores = self.selected(output, scores, order)
        locations = order if output.chosen is None else output.chosen.gather(1, order)
        pixels, strides = images.permute(0, 3, 1, 2).float(), self.network.geometry.tap_strides
        features = self.identity.read(pixels, output.table, strides, keypoints, keypoint_scores, locations)
        return scores, keypoints, keypoint_scores, features
