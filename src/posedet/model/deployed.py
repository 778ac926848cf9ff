"""The network for inference: from uint8 pixels to the best poses, best first."""

import torch
from torch import Tensor, nn

from posedet.model.network import NetworkOutput, PoseDetNet, Proposals, rows_at

# Further outputs of a model file, and the part of the network that computes each from found poses.
HEADS = {"embedding": "identity", "keypoint_covariances": "uncertainty"}


def further_outputs(network: PoseDetNet) -> tuple[str, ...]:
    """Return the names of the outputs that this network can have besides those of every model."""
    return tuple(name for name, head in HEADS.items() if getattr(network, head) is not None)


class DeployedNet(nn.Module):
    """The exported network, which validation runs, too: it returns the `num_candidates` best poses of every image.

    `output_names` are the names of the outputs in a model file; see `runtime.session.Outputs`. further: those of
    `further_outputs` to compute.
    """

    output_names: tuple[str, ...] = ("scores", "keypoints", "keypoint_scores")

    def __init__(self, network: PoseDetNet, num_candidates: int, further: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.network = network
        self.num_candidates = num_candidates
        self.further = further
        self.output_names = (*self.output_names, *further)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """images: (B, H, W, 3) uint8 RGB, H and W multiples of 32, at least 128.

        Returns scores (B, N) in 0..1, best first; keypoints (B, N, K, 2) in pixels of the input; keypoint scores
        (B, N, K) in 0..1: the visibility of each keypoint, or the pose's score if the network does not predict it. The
        further outputs are `embedding` (B, N, D), L2-normalised, and `keypoint_covariances` (B, N, K, 2, 2) in pixels
        squared.
        """
        output, scores, order = self.ranked(images)
        found = self.selected(output, scores, order)
        return *found, *(
            getattr(self.network, HEADS[name])(self._features(name, images, output, order, found))
            for name in self.further
        )

    def read(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs as in `forward`, but instead of each further one the features that it is made of."""
        output, scores, order = self.ranked(images)
        found = self.selected(output, scores, order)
        return *found, *(self._features(name, images, output, order, found) for name in self.further)

    def selected(self, output: NetworkOutput, scores: Tensor, order: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of every model as in `forward` from what `ranked` returns."""
        num_keypoints = output.poses[-1].shape[2]
        keypoints = rows_at(output.poses[-1], order)
        if output.keypoint_logits is None:
            keypoint_scores = scores[..., None].expand(-1, -1, num_keypoints)
        else:
            keypoint_scores = rows_at(output.keypoint_logits.sigmoid(), order)
        return scores, keypoints, keypoint_scores

    def ranked(self, images: Tensor) -> tuple[NetworkOutput, Tensor, Tensor]:
        """Return the network's output for images as in `forward`, its scores (B, N), best first, and their indices."""

        def best(proposals: Proposals, logits: Tensor) -> Tensor:
            # The smallest inputs have fewer locations.
            count = torch.sym_min(self.num_candidates, logits.shape[1])  # type: ignore[no-untyped-call]
            return logits.topk(count, dim=1).indices

        output = self.network(images.permute(0, 3, 1, 2).float(), best)
        if self.network.uncertainty is None:
            scores = _scores(output)
        else:
            scores = self.network.uncertainty.score_logit(self._certainty_features(output)).sigmoid()
        scores, order = scores.sort(dim=1, descending=True)
        return output, scores, order

    def _features(
        self, name: str, images: Tensor, output: NetworkOutput, order: Tensor, found: tuple[Tensor, ...]
    ) -> Tensor:
        """Read the features of the found poses for one of the further outputs."""
        if name == "keypoint_covariances":
            return rows_at(self._certainty_features(output), order)
        assert self.network.identity is not None and output.chosen is not None
        _, keypoints, keypoint_scores = found
        pixels, strides = images.permute(0, 3, 1, 2).float(), self.network.geometry.tap_strides
        locations = output.chosen.gather(1, order)
        return self.network.identity.read(pixels, output.table, strides, keypoints, keypoint_scores, locations)

    def _certainty_features(self, output: NetworkOutput) -> Tensor:
        """Read the features (B, S, F) of all chosen poses for covariances and better scores."""
        assert self.network.uncertainty is not None
        assert output.chosen is not None and output.keypoint_logits is not None
        seen, levels = output.keypoint_logits.sigmoid(), output.proposals.strides[output.chosen]
        return self.network.uncertainty.read(
            output.table, list(output.poses), seen, _scores(output), levels, output.chosen
        )


def _scores(output: NetworkOutput) -> Tensor:
    """Return the scores (B, S) of the chosen poses as the network learns them, 0 to 1."""
    scores = output.logits.sigmoid()
    if output.proposals.presence is None:
        return scores
    assert output.chosen is not None
    # The presence of a person times the correctness of the refined pose.
    return (scores * output.proposals.presence.gather(1, output.chosen).sigmoid()).sqrt()
