"""PoseDet (arXiv 2107.10466): finding people and their joints is one detection problem.

- backbone and pyramid: photo -> maps at several strides; every cell of every map is one candidate person
- bypass: at every location a coarse pose, K displacements
- pose embedding: the features at those K places, mixed into one vector
- branches: from one embedding the score, from another the refinement
- pose = location + coarse offset + refinement; the last word is in pixels of the network input, all levels joined
- heatmap branch: only while training
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from posedet.config import ModelConfig
from posedet.model.branches import EmbeddingBranch, HeatmapBranch, LocalRefinement
from posedet.model.bypass import PRIOR_LOGIT, Bypass
from posedet.model.dla import DLA34
from posedet.model.embedding import TapTable, sample, sample_around
from posedet.model.hrnet import HRNet
from posedet.model.layers import tower
from posedet.model.mobilenet import MobileNetV2
from posedet.model.pyramid import FeaturePyramid, HighResolutionPyramid
from posedet.skeleton import Skeleton

BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "mobilenetv2": MobileNetV2,
    "dla34": lambda: DLA34(dead_projections=True),
    "hrnet-w32": lambda: HRNet(32),
    "hrnet-w48": lambda: HRNet(48),
}

# So many at a time, 5,440 poses of 17 samples of 128 channels take two thirds of the time of all at once.
POSES_IN_CACHE = 1024

# Share of the gradient that reaches the bypass through the sampling positions (official code).
POSITION_GRADIENT = 0.1


class Proposals(NamedTuple):
    """What is known of every location before any embedding is made."""

    coarse: Tensor  # (B, M, K, 2) pixels of the network input
    presence: Tensor | None  # (B, M) logits
    locations: Tensor  # (M, 2) pixels of the network input
    strides: Tensor  # (M,) pixels of the network input
    offsets: Tensor  # (B, M, K, 2) cells, y then x: what `coarse` is made of


# From the proposals and a logit (B, M) for each, presence or score, to the indices (B, S) of those to go on with.
Choice = Callable[[Proposals, Tensor], Tensor]


class NetworkOutput(NamedTuple):
    """Poses of the chosen locations (S of M, or all), in pixels of the network input."""

    proposals: Proposals
    chosen: Tensor | None  # (B, S) int64: the chosen locations; None = all
    poses: tuple[Tensor, ...]  # (B, S, K, 2): coarse, then after each refinement
    logits: Tensor  # (B, S): of the score
    keypoint_logits: Tensor | None  # (B, S, K): of the visibility of each keypoint
    heatmaps: list[Tensor]  # (B, K, h, w) logits of every level; empty outside training


class PoseDetNet(nn.Module):
    """Images to scored poses.

    image_mean and image_std, (3,) on the scale 0..255, belong to the start weights of the backbone.
    """

    image_mean: Tensor
    image_std: Tensor
    grid: Tensor
    anchor_pose: Tensor

    def __init__(
        self,
        config: ModelConfig,
        num_keypoints: int,
        *,
        backbone: nn.Module,
        pyramid: nn.Module,
        image_mean: tuple[float, float, float],
        image_std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.strides = config.strides
        self.tap_strides = tuple(stride // 2 for stride in config.strides) if config.fine_taps else config.strides
        # Where a cell's centre lies, as a share of (stride - 1): its first pixel, or the middle of its pixels.
        self.origin = 0.0 if config.location == "corner" else 0.5
        self.score_at = config.score_at
        self.representation = config.representation
        if config.representation == "box":
            self.register_buffer("grid", _grid(num_keypoints), persistent=False)
        if config.representation == "anchors":
            # In cells; the training sets it.
            self.register_buffer("anchor_pose", torch.zeros(num_keypoints, 2))
        self.register_buffer("image_mean", torch.tensor(image_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(image_std).view(3, 1, 1), persistent=False)
        self.backbone = backbone
        self.pyramid = pyramid
        num_levels = len(config.strides)
        self.bypass = Bypass(
            config.channels,
            num_keypoints,
            depth=config.bypass_depth,
            presence=config.presence,
            num_levels=num_levels,
            norm=config.norm,
        )

        def taps() -> nn.Module:
            return tower(
                config.channels, config.tap_channels, config.branch_depth, num_levels=num_levels, norm=config.norm
            )

        self.score_taps = taps()
        self.refine_taps = None if config.share_towers else taps()

        def branch(outputs: int) -> EmbeddingBranch:
            return EmbeddingBranch(
                num_keypoints,
                config.tap_channels,
                config.embedding_channels,
                outputs,
                mixing_depth=config.mixing_depth,
            )

        # One logit for the pose and, where asked for, one for the visibility of each keypoint.
        self.score = branch(1 + num_keypoints if config.keypoint_scores else 1)
        with torch.no_grad():
            self.score.output.bias[0] = PRIOR_LOGIT
        self.refinements = nn.ModuleList(branch(2 * num_keypoints) for _ in range(config.refinements))
        self.local = (
            LocalRefinement(num_keypoints, config.tap_channels, config.local_channels)
            if config.local_channels
            else None
        )
        # Shared towers learn from the heatmaps what they are sampled for; the paper's branch starts from the pyramid.
        heatmap_channels = config.tap_channels if config.share_towers else config.channels
        self.heatmap_strides = self.tap_strides if config.share_towers else config.strides
        self.heatmap = (
            HeatmapBranch(
                heatmap_channels,
                num_keypoints,
                num_levels=num_levels,
                norm=config.norm,
                output_bias=config.heatmap_bias,
            )
            if config.heatmaps
            else None
        )

    def forward(self, images: Tensor, choose: Choice | None = None) -> NetworkOutput:
        """images: (B, 3, H, W) RGB 0..255, H and W multiples of the largest stride.

        choose: the locations whose poses are wanted; None = all. Without `presence` every location is scored before
        the choice; when the score judges coarse poses, only the chosen ones are refined: the same poses, for less.
        """
        features = self.backbone((images - self.image_mean) / self.image_std)
        maps = self.pyramid(features)
        proposals = self._propose(maps.levels)
        score_maps = self.score_taps(maps.taps)
        refine_maps = score_maps if self.refine_taps is None else self.refine_taps(maps.taps)
        heatmaps: list[Tensor] = []
        if self.heatmap is not None and self.training:
            heatmaps = self.heatmap(score_maps if self.refine_taps is None else maps.levels)
        with torch.autocast(images.device.type, enabled=False):
            refine_table = TapTable.of(refine_maps, maps.levels, self.tap_strides, self.origin)
            score_table = refine_table
            if self.refine_taps is not None:
                score_table = TapTable.of(score_maps, maps.levels, self.tap_strides, self.origin)
            if proposals.presence is not None:
                index = None if choose is None else choose(proposals, proposals.presence)
                poses = self._refine(refine_table, proposals, index)
                judged = poses[0] if self.score_at == "coarse" else poses[-1].detach()
                scores = self._score(score_table, judged, proposals, index)
            elif self.score_at == "coarse":
                scores = self.score_all(score_table, proposals, in_parts=choose is not None)
                index = None if choose is None else choose(proposals, scores[..., 0])
                scores = _at(scores, index)
                poses = self._refine(refine_table, proposals, index)
            else:
                poses = self._refine(refine_table, proposals, None)
                scores = self._score(score_table, poses[-1].detach(), proposals, None)
                index = None if choose is None else choose(proposals, scores[..., 0])
                scores, poses = _at(scores, index), tuple(_at(pose, index) for pose in poses)
        keypoint_logits = scores[..., 1:] if scores.shape[-1] > 1 else None
        return NetworkOutput(proposals, index, poses, scores[..., 0], keypoint_logits, heatmaps)

    def _propose(self, levels: list[Tensor]) -> Proposals:
        offsets, presence = self.bypass(levels)
        locations, strides = [], []
        for x, stride in zip(levels, self.strides, strict=True):
            height, width = x.shape[2:]
            shift = self.origin * (stride - 1)
            ys = torch.arange(height, device=x.device, dtype=torch.float32) * stride + shift
            xs = torch.arange(width, device=x.device, dtype=torch.float32) * stride + shift
            grid_x, grid_y = xs.expand(height, width).flatten(), ys[:, None].expand(height, width).flatten()
            locations.append(torch.stack((grid_x, grid_y), -1))
            strides.append(torch.ones_like(grid_x) * stride)
        all_locations, all_strides = torch.cat(locations), torch.cat(strides)
        coarse = _placed(offsets, all_locations, all_strides)
        return Proposals(coarse, presence, all_locations, all_strides, offsets)

    def _refine(self, table: TapTable, proposals: Proposals, index: Tensor | None) -> tuple[Tensor, ...]:
        """Coarse poses of the chosen locations and the poses after each refinement: (B, S, K, 2) each."""
        poses, unit = [proposals.coarse], proposals.strides[:, None, None]
        if index is not None:
            # Not `coarse` at the chosen ones: a graph that is exported then places no others.
            strides = proposals.strides[index]
            poses = [_placed(_at(proposals.offsets, index), proposals.locations[index], strides)]
            unit = strides[..., None, None]
        for step in self.refinements:
            correction = step(self._read(table, poses[-1], proposals, index)).unflatten(-1, (-1, 2)).flip(-1)
            # The correction learns what is missing; the pose that it corrects is not pulled along (official code).
            poses.append(poses[-1].detach() + correction * unit)
        if self.local is not None:
            # Cells of the maps that are read, which may be finer than the level.
            cell = unit * (self.tap_strides[0] / self.strides[0])
            poses.append(poses[-1].detach() + self.local(_around(table, poses[-1], index)) * cell)
        return tuple(poses)

    def _score(self, table: TapTable, poses: Tensor, proposals: Proposals, index: Tensor | None) -> Tensor:
        """Logits (B, S, 1) of the poses, or (B, S, 1 + K) with those of the keypoints' visibility."""
        logits: Tensor = self.score(self._read(table, poses, proposals, index))
        return logits

    def score_all(self, table: TapTable, proposals: Proposals, *, in_parts: bool) -> Tensor:
        """As `_score` of all coarse poses; in parts whose samples stay in a processor's cache."""
        coarse = proposals.coarse
        if not in_parts or not coarse.is_cpu or torch.compiler.is_exporting():
            return self._score(table, coarse, proposals, None)
        batch, count = coarse.shape[:2]
        index = torch.arange(count).expand(batch, -1)
        size = max(1, POSES_IN_CACHE // batch)
        parts = [slice(first, first + size) for first in range(0, count, size)]
        return torch.cat([self._score(table, coarse[:, part], proposals, index[:, part]) for part in parts], dim=1)

    def _read(self, table: TapTable, poses: Tensor, proposals: Proposals, index: Tensor | None) -> Tensor:
        """Features (B, S, K, C) that represent each pose (B, S, K, 2); see `ModelConfig.representation`."""
        places = _soften(poses)
        if self.representation == "box":
            low, high = places.amin(2, keepdim=True), places.amax(2, keepdim=True)
            places = low + self.grid * (high - low)
        elif self.representation in ("centre", "anchors"):
            locations = proposals.locations if index is None else proposals.locations[index]
            strides = proposals.strides if index is None else proposals.strides[index]
            places = locations[..., None, :].expand_as(places)
            if self.representation == "anchors":
                places = places + self.anchor_pose * strides[..., None, None]
        return sample(table, places, index)


def _placed(offsets: Tensor, locations: Tensor, strides: Tensor) -> Tensor:
    """Poses (B, S, K, 2) in pixels: offsets (B, S, K, 2) in cells, y then x, from locations (..., S, 2)."""
    return locations[..., None, :] + offsets.flip(-1) * strides[..., None, None]


def _at(rows: Tensor, index: Tensor | None) -> Tensor:
    """Rows (B, M, ...) at the chosen locations (B, S): (B, S, ...)."""
    if index is None:
        return rows
    return rows.gather(1, index.view(*index.shape, *[1] * (rows.ndim - 2)).expand(-1, -1, *rows.shape[2:]))


def _around(table: TapTable, poses: Tensor, index: Tensor | None) -> Tensor:
    """Features (B, K, S, 9, C) about the keypoints of poses (B, S, K, 2)."""
    batch, count, num_keypoints = poses.shape[:3]
    if index is None:
        index = torch.arange(count, device=poses.device).expand(batch, -1)
    # Each keypoint of a pose as if it were a pose: so they come in the order in which they are needed.
    places = _soften(poses).transpose(1, 2).flatten(1, 2)[:, :, None]
    samples = sample_around(table, places, index.repeat(1, num_keypoints))
    return samples.view(batch, num_keypoints, count, *samples.shape[3:])


def _grid(num_points: int) -> Tensor:
    """(K, 2) points in the unit square, row by row on the smallest square grid that holds them."""
    side = math.ceil(math.sqrt(num_points))
    numbers = torch.arange(num_points)
    return (torch.stack((numbers % side, numbers // side), -1) + 0.5) / side


def _soften(positions: Tensor) -> Tensor:
    """The same positions, a tenth of whose gradient flows back."""
    return positions.detach() + POSITION_GRADIENT * (positions - positions.detach())


def build_network(config: ModelConfig, skeleton: Skeleton) -> PoseDetNet:
    """The network that `config` describes, freshly initialised."""
    backbone = BACKBONES[config.backbone]()
    channels: tuple[int, ...] = backbone.channels  # type: ignore[assignment]
    pyramid: nn.Module
    if config.pyramid == "hrfpn":
        pyramid = HighResolutionPyramid(channels, config.channels)
    else:
        pyramid = FeaturePyramid(
            channels,
            config.channels,
            norm=config.norm,
            extra_level=len(config.strides) == len(channels),
            fine_taps=config.fine_taps,
        )
    if config.backbone == "mobilenetv2":
        mean, std = (127.5,) * 3, (127.5,) * 3
    else:
        mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    return PoseDetNet(
        config, len(skeleton.keypoints), backbone=backbone, pyramid=pyramid, image_mean=mean, image_std=std
    )
