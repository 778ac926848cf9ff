"""From pixels to poses entirely on the device: the host reads no value, and no shape depends on the data.

A run can therefore be recorded as a CUDA graph, and the host waits only once, for the results. Candidates that
`decode.py` and `oks.py` would drop stay in place and are marked in `Found.kept`.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from posedet.config import DecodeConfig
from posedet.errors import ConfigError
from posedet.model.deployed import DeployedNet
from posedet.model.network import PoseDetNet
from posedet.runtime.decode import MAX_POSES

# Rounds of the suppression. 100 photos of coco-dev needed at most 16.
ROUNDS = 32


class Placement(NamedTuple):
    """The placement of each photo in the network input, which is padded to the right and below; float64."""

    factors: Tensor  # (B, 2) input pixels per photo pixel, x then y
    limits: Tensor  # (B, 2) the photo's last column and row
    min_areas: Tensor  # (B,) minimum area of a pose in the suppression, square pixels of the photo


class Found(NamedTuple):
    """All candidates of a batch, best first, in pixels of the photo."""

    scores: Tensor  # (B, N) in 0..1
    keypoints: Tensor  # (B, N, K, 2)
    keypoint_scores: Tensor  # (B, N, K) in 0..1
    kept: Tensor  # (B, N) bool: score above the threshold, and no duplicate of a better candidate
    settled: Tensor  # (B,) bool: the rounds were enough, so `kept` equals the result of `oks_nms`


class PoseFinder(nn.Module):
    """Network, selection, refinement, mapping to the photo, and OKS-NMS as one module.

    sigmas: OKS sigmas of the keypoints. Raises ConfigError for IoU-NMS.
    """

    sigmas: Tensor

    def __init__(
        self, network: PoseDetNet, sigmas: tuple[float, ...], config: DecodeConfig, score_threshold: float | None = None
    ) -> None:
        super().__init__()
        if config.nms != "oks":
            raise ConfigError(f"'decode.nms' is '{config.nms}', expected 'oks', the only NMS on the device")
        self.deployed = DeployedNet(network, config.candidates)
        self.config = config
        self.score_threshold = config.score_threshold if score_threshold is None else score_threshold
        self.register_buffer("sigmas", torch.tensor(sigmas, dtype=torch.float64), persistent=False)

    def forward(self, images: Tensor, placement: Placement) -> Found:
        """images: (B, H, W, 3) uint8 RGB, H and W multiples of 32, at least 128."""
        scores, keypoints, keypoint_scores = self.deployed(images)
        # In float64, as in `Letterbox.to_photo` and `oks_nms`, so that decisions near a threshold are the same.
        placed = ((keypoints + 0.5).double() / placement.factors[:, None, None] - 0.5).float()
        finite = scores.isfinite() & placed.isfinite().all(3).all(2) & keypoint_scores.isfinite().all(2)
        strong = (scores > self.score_threshold) & finite
        if self.config.clamp:
            placed = torch.minimum(placed.clamp(min=0), placement.limits[:, None, None].float())
        duplicate = duplicates(placed, placement.min_areas, self.sigmas, self.config.nms_threshold)
        kept, settled = suppress(duplicate, strong)
        kept = kept & (kept.cumsum(1) <= MAX_POSES)
        return Found(scores.clamp(0, 1), placed, keypoint_scores.clamp(0, 1), kept, settled)


def duplicates(keypoints: Tensor, min_areas: Tensor, sigmas: Tensor, oks_threshold: float) -> Tensor:
    """(B, N, N) bool: candidate i is a duplicate of the better candidate j < i; keypoints (B, N, K, 2), best first.

    The similarity is that of `posedet.oks.oks_nms`. Needs memory for B x K x N x N float64 values.
    """
    poses = keypoints.double()
    areas = torch.maximum((poses.amax(2) - poses.amin(2)).prod(2), min_areas[:, None])
    # |a - b|^2 = |a|^2 - 2 a b + |b|^2 as one matrix product: a third of the traffic of differences and squares.
    scaled = (poses / (2 * sigmas[:, None])).transpose(1, 2)
    norms = scaled.square().sum(3, keepdim=True)
    ones = torch.ones_like(norms)
    left, right = torch.cat((-2 * scaled, norms, ones), 3), torch.cat((scaled, ones, norms), 3)
    exponent = left @ right.transpose(2, 3)
    exponent /= -(areas[:, None, :, None] + areas[:, None, None]) / 2
    return (exponent.exp_().mean(1) > oks_threshold).tril(-1)


def suppress(duplicate: Tensor, strong: Tensor, rounds: int = ROUNDS) -> tuple[Tensor, Tensor]:
    """Keep the best, drop its duplicates, and so on, for all candidates at once: kept (B, N), settled (B,).

    duplicate: (B, N, N) bool, row i: the better candidates that i is a duplicate of. strong: (B, N) bool, the
    candidates that take part. A candidate is kept unless a kept one drops it. Starting with all kept, each round
    settles the next link of every chain of duplicates. Once nothing changes, the result is that of the greedy NMS.
    """
    droppers, candidates = duplicate.float(), strong[..., None].float()
    kept = before = candidates
    for _ in range(rounds):
        # 1 minus the number of kept candidates that drop it, at least 0.
        before, kept = kept, torch.baddbmm(candidates, droppers, kept, alpha=-1).relu_()
    return kept[..., 0] > 0, (kept == before).all(2).all(1)


def for_running(network: PoseDetNet, dtype: torch.dtype = torch.float32) -> PoseDetNet:
    """Optimise a network for inference, in place: fold batch normalisation, channels last, convolutions in `dtype`.

    Pixels, coarse offsets, presence, sampling and embeddings stay in float32: half precision would move keypoints.
    """
    network.eval()
    for parent in list(network.modules()):
        for (_, module), (following, norm) in pairwise(list(parent.named_children())):
            if isinstance(module, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                assert norm.running_mean is not None and norm.running_var is not None
                statistics = norm.running_mean, norm.running_var, norm.eps
                module.weight, module.bias = fuse_conv_bn_weights(
                    module.weight, module.bias, *statistics, norm.weight, norm.bias
                )
                setattr(parent, following, nn.Identity())
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if dtype != torch.float32:
        for part in (network.backbone, network.pyramid, network.bypass.tower, network.score_taps, network.refine_taps):
            if part is not None:
                part.to(dtype)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_pre_hook(_in_its_precision)
    return network


def _in_its_precision(convolution: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].to(convolution.weight.dtype),)  # type: ignore[arg-type]
