"""Build a network from its settings."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from posedet.config import ModelConfig
from posedet.model.branches import EmbeddingBranch, HeatmapBranch, LocalRefinement
from posedet.model.bypass import PRIOR_LOGIT, Bypass
from posedet.model.dla import DLA34
from posedet.model.hrnet import HRNet
from posedet.model.identity import Identity
from posedet.model.layers import tower
from posedet.model.mobilenet import MobileNetV2
from posedet.model.network import Geometry, PoseDetNet
from posedet.model.pyramid import FeaturePyramid, HighResolutionPyramid
from posedet.model.uncertainty import Uncertainty
from posedet.skeleton import Skeleton


class Backbone(Protocol):
    """A module from images (B, 3, H, W) to four maps (B, channels[i], h, w), at strides 4, 8, 16 and 32.

    image_mean and image_std normalise images on the scale 0..255 as the public start weights require.
    """

    channels: tuple[int, ...]
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]: ...


# To add a backbone, write a module like `dla.py`, and add a line here and its name in `ModelConfig`.
BACKBONES: dict[str, Callable[[], Backbone]] = {
    "mobilenetv2": MobileNetV2,
    "dla34": lambda: DLA34(dead_projections=True),
    "hrnet-w32": lambda: HRNet(32),
    "hrnet-w48": lambda: HRNet(48),
}


def build_network(config: ModelConfig, skeleton: Skeleton) -> PoseDetNet:
    """Build and initialise the network that `config` describes."""
    backbone = BACKBONES[config.backbone]()
    assert isinstance(backbone, nn.Module)
    num_keypoints = skeleton.num_keypoints
    taps = tuple(stride // 2 for stride in config.strides) if config.fine_taps else config.strides
    geometry = Geometry(
        strides=config.strides,
        tap_strides=taps,
        heatmap_strides=taps if config.share_towers else config.strides,
        origin=0.0 if config.location == "corner" else 0.5,
    )
    return PoseDetNet(
        num_keypoints=num_keypoints,
        geometry=geometry,
        backbone=backbone,
        pyramid=_pyramid(config, backbone.channels),
        bypass=Bypass(
            config.channels,
            num_keypoints,
            depth=config.bypass_depth,
            presence=config.presence,
            num_levels=len(config.strides),
            norm=config.norm,
        ),
        score_taps=_taps(config),
        refine_taps=None if config.share_towers else _taps(config),
        score=_score(config, num_keypoints),
        refinements=nn.ModuleList(_branch(config, num_keypoints, 2 * num_keypoints) for _ in range(config.refinements)),
        local=LocalRefinement(num_keypoints, config.tap_channels, config.local_channels)
        if config.local_channels
        else None,
        heatmap=_heatmap(config, num_keypoints) if config.heatmaps else None,
        identity=Identity(skeleton.limbs, num_keypoints, config.tap_channels, config.identity_channels)
        if config.identity_channels
        else None,
        uncertainty=_uncertainty(config, num_keypoints) if config.uncertainty_channels else None,
        image_mean=backbone.image_mean,
        image_std=backbone.image_std,
        score_at=config.score_at,
        representation=config.representation,
    )


def _pyramid(config: ModelConfig, channels: tuple[int, ...]) -> nn.Module:
    if config.pyramid == "hrfpn":
        return HighResolutionPyramid(channels, config.channels)
    return FeaturePyramid(
        channels,
        config.channels,
        norm=config.norm,
        extra_level=len(config.strides) == len(channels),
        fine_taps=config.fine_taps,
    )


def _taps(config: ModelConfig) -> nn.Module:
    num_levels = len(config.strides)
    return tower(config.channels, config.tap_channels, config.branch_depth, num_levels=num_levels, norm=config.norm)


def _branch(config: ModelConfig, num_keypoints: int, outputs: int) -> EmbeddingBranch:
    return EmbeddingBranch(
        num_keypoints, config.tap_channels, config.embedding_channels, outputs, mixing_depth=config.mixing_depth
    )


def _score(config: ModelConfig, num_keypoints: int) -> EmbeddingBranch:
    """Build the branch with a logit for the pose and, if configured, one for the visibility of each keypoint."""
    score = _branch(config, num_keypoints, 1 + num_keypoints if config.keypoint_scores else 1)
    with torch.no_grad():
        score.output.bias[0] = PRIOR_LOGIT
    return score


def _uncertainty(config: ModelConfig, num_keypoints: int) -> Uncertainty:
    moves = config.refinements + bool(config.local_channels)
    return Uncertainty(num_keypoints, config.tap_channels, moves, config.uncertainty_channels)


def _heatmap(config: ModelConfig, num_keypoints: int) -> HeatmapBranch:
    return HeatmapBranch(
        config.tap_channels if config.share_towers else config.channels,
        num_keypoints,
        num_levels=len(config.strides),
        norm=config.norm,
        output_bias=config.heatmap_bias,
    )
