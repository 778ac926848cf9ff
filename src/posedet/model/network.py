"""PoseDet (arXiv 2107.10466): finding people and their keypoints is one detection problem.

- backbone and pyramid: photo -> maps at several strides; every cell of every map is a location, a possible person
- bypass: a coarse pose at every location, as K displacements
- pose embedding: the features at the K keypoints, mixed into one vector
- branches: the score from one embedding, the refinement from another
- pose = location + coarse offset + refinement, in pixels of the network input, for all levels together
- heatmap branch: only in training

`build.py` builds the parts from the settings.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from posedet.model.branches import EmbeddingBranch, HeatmapBranch, LocalRefinement
from posedet.model.bypass import Bypass
from posedet.model.embedding import TapTable, sample, sample_around
from posedet.model.identity import Identity
from posedet.model.pyramid import PyramidMaps
from posedet.model.uncertainty import Uncertainty

# With parts of this size, 5,440 poses of 17 samples of 128 channels take two thirds of the time of all at once.
POSES_IN_CACHE = 1024

# Fraction of the gradient that reaches the bypass through the sampling positions (official code).
POSITION_GRADIENT = 0.1


class Geometry(NamedTuple):
    """The grid of the network's maps. Strides are in pixels of the network input, one per level."""

    strides: tuple[int, ...]  # strides of the locations
    tap_strides: tuple[int, ...]  # strides of the maps from which embeddings are sampled
    heatmap_strides: tuple[int, ...]
    origin: float  # a cell's centre as a fraction of (stride - 1): 0 its first pixel, 0.5 the middle of its pixels


class Proposals(NamedTuple):
    """The outputs for every location that need no embedding."""

    coarse: Tensor  # (B, M, K, 2) pixels of the network input
    presence: Tensor | None  # (B, M) logits
    locations: Tensor  # (M, 2) pixels of the network input
    strides: Tensor  # (M,) pixels of the network input
    offsets: Tensor  # (B, M, K, 2) displacements of `coarse` in cells


# A function from the proposals and their logits (B, M), presence or score, to the indices (B, S) of those to keep.
Choice = Callable[[Proposals, Tensor], Tensor]


class NetworkOutput(NamedTuple):
    """Poses of the chosen locations (S of M, or all), in pixels of the network input."""

    proposals: Proposals
    chosen: Tensor | None  # (B, S) int64: the chosen locations; None = all
    poses: tuple[Tensor, ...]  # (B, S, K, 2): coarse, then after each refinement
    logits: Tensor  # (B, S): logits of the score
    keypoint_logits: Tensor | None  # (B, S, K): logits of the visibility of each keypoint
    heatmaps: list[Tensor]  # (B, K, h, w) logits for every level; empty outside training
    table: TapTable  # the maps from which the score is sampled


class PoseDetNet(nn.Module):
    """Images -> scored poses.

    score_taps and refine_taps compute the maps from which the embeddings of score and refinement are sampled; if
    refine_taps is None, both use the same maps. local is a further refinement, heatmap the training branch; identity
    and uncertainty, which `DeployedNet` runs, describe the found people. Each of these may be None. image_mean and
    image_std, (3,) on the scale 0..255, belong to the backbone's start weights. `ModelConfig` explains score_at and
    representation.
    """

    image_mean: Tensor
    image_std: Tensor
    grid: Tensor
    anchor_pose: Tensor

    def __init__(
        self,
        *,
        num_keypoints: int,
        geometry: Geometry,
        backbone: nn.Module,
        pyramid: nn.Module,
        bypass: Bypass,
        score_taps: nn.Module,
        refine_taps: nn.Module | None,
        score: EmbeddingBranch,
        refinements: nn.ModuleList,
        local: LocalRefinement | None,
        heatmap: HeatmapBranch | None,
        identity: Identity | None,
        uncertainty: Uncertainty | None,
        image_mean: tuple[float, float, float],
        image_std: tuple[float, float, float],
        score_at: Literal["coarse", "refined"],
        representation: Literal["pose", "centre", "box", "anchors"],
    ) -> None:
        super().__init__()
        self.geometry, self.score_at, self.representation = geometry, score_at, representation
        self.backbone, self.pyramid, self.bypass = backbone, pyramid, bypass
        self.score_taps, self.refine_taps = score_taps, refine_taps
        self.score, self.refinements, self.local, self.heatmap = score, refinements, local, heatmap
        self.identity, self.uncertainty = identity, uncertainty
        self.register_buffer("image_mean", torch.tensor(image_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(image_std).view(3, 1, 1), persistent=False)
        if representation == "box":
            self.register_buffer("grid", _grid(num_keypoints), persistent=False)
        if representation == "anchors":
            # In cells; training sets it.
            self.register_buffer("anchor_pose", torch.zeros(num_keypoints, 2))

    def forward(self, images: Tensor, choose: Choice | None = None) -> NetworkOutput:
        """images: (B, 3, H, W) RGB 0..255, H and W multiples of the largest stride.

        choose: selects the locations to refine, by presence or, if the bypass does not predict it, by score. None: all
        locations.
        """
        maps = self.pyramid(self.backbone((images - self.image_mean) / self.image_std))
        proposals = self._propose(maps.levels)
        score_maps = self.score_taps(maps.taps)
        refine_maps = score_maps if self.refine_taps is None else self.refine_taps(maps.taps)
        heatmaps = self._heatmaps(maps, score_maps)
        with torch.autocast(images.device.type, enabled=False):
            refine_table = self._table(refine_maps, maps)
            score_table = refine_table if self.refine_taps is None else self._table(score_maps, maps)
            ranking, scores = proposals.presence, None
            if ranking is None:
                judged = proposals.coarse
                if self.score_at == "refined":
                    judged = self._refine(refine_table, proposals, None)[-1].detach()
                scores = self.score_all(score_table, judged, proposals, in_parts=choose is not None)
                ranking = scores[..., 0]
            chosen = None if choose is None else choose(proposals, ranking)
            poses = self._refine(refine_table, proposals, chosen)
            if scores is None:
                judged = poses[0] if self.score_at == "coarse" else poses[-1].detach()
                scores = self._score(score_table, judged, proposals, chosen)
            else:
                scores = rows_at(scores, chosen)
        keypoint_logits = scores[..., 1:] if scores.shape[-1] > 1 else None
        return NetworkOutput(proposals, chosen, poses, scores[..., 0], keypoint_logits, heatmaps, score_table)

    def _heatmaps(self, maps: PyramidMaps, score_maps: list[Tensor]) -> list[Tensor]:
        """Return logits (B, K, h, w) for every level in training, from the shared towers or, as in the paper, from the
        pyramid."""
        if self.heatmap is None or not self.training:
            return []
        heatmaps: list[Tensor] = self.heatmap(score_maps if self.refine_taps is None else maps.levels)
        return heatmaps

    def _table(self, tap_maps: list[Tensor], maps: PyramidMaps) -> TapTable:
        return TapTable.of(tap_maps, maps.levels, self.geometry.tap_strides, self.geometry.origin)

    def _propose(self, levels: list[Tensor]) -> Proposals:
        offsets, presence = self.bypass(levels)
        locations, strides = [], []
        for x, stride in zip(levels, self.geometry.strides, strict=True):
            height, width = x.shape[2:]
            shift = self.geometry.origin * (stride - 1)
            ys = torch.arange(height, device=x.device, dtype=torch.float32) * stride + shift
            xs = torch.arange(width, device=x.device, dtype=torch.float32) * stride + shift
            grid_x, grid_y = xs.expand(height, width).flatten(), ys[:, None].expand(height, width).flatten()
            locations.append(torch.stack((grid_x, grid_y), -1))
            strides.append(torch.ones_like(grid_x) * stride)
        all_locations, all_strides = torch.cat(locations), torch.cat(strides)
        coarse = _placed(offsets, all_locations, all_strides)
        return Proposals(coarse, presence, all_locations, all_strides, offsets)

    def _refine(self, table: TapTable, proposals: Proposals, index: Tensor | None) -> tuple[Tensor, ...]:
        """Return the coarse poses of the chosen locations and the poses after each refinement: (B, S, K, 2) each."""
        poses, unit = [proposals.coarse], proposals.strides[:, None, None]
        if index is not None:
            # Recomputed instead of indexing `coarse`, so that an exported graph computes no other poses.
            strides = proposals.strides[index]
            poses = [_placed(rows_at(proposals.offsets, index), proposals.locations[index], strides)]
            unit = strides[..., None, None]
        for step in self.refinements:
            correction = step(self._read(table, poses[-1], proposals, index)).unflatten(-1, (-1, 2))
            # Detached: the loss of the corrected pose trains only the correction (official code).
            poses.append(poses[-1].detach() + correction * unit)
        if self.local is not None:
            # Cells of the sampled maps, which may be finer than the level.
            cell = unit * (self.geometry.tap_strides[0] / self.geometry.strides[0])
            poses.append(poses[-1].detach() + self.local(_around(table, poses[-1], index)) * cell)
        return tuple(poses)

    def _score(self, table: TapTable, poses: Tensor, proposals: Proposals, index: Tensor | None) -> Tensor:
        """Return logits (B, S, 1) of the poses, or (B, S, 1 + K) with the visibility of their keypoints."""
        logits: Tensor = self.score(self._read(table, poses, proposals, index))
        return logits

    def score_all(self, table: TapTable, poses: Tensor, proposals: Proposals, *, in_parts: bool) -> Tensor:
        """Score poses (B, M, K, 2) of all locations, if `in_parts` in parts that fit the processor's cache."""
        if not in_parts or not poses.is_cpu or torch.compiler.is_exporting():
            return self._score(table, poses, proposals, None)
        batch, count = poses.shape[:2]
        index = torch.arange(count).expand(batch, -1)
        size = max(1, POSES_IN_CACHE // batch)
        parts = [slice(first, first + size) for first in range(0, count, size)]
        return torch.cat([self._score(table, poses[:, part], proposals, index[:, part]) for part in parts], dim=1)

    def _read(self, table: TapTable, poses: Tensor, proposals: Proposals, index: Tensor | None) -> Tensor:
        """Sample the features (B, S, K, C) of each pose (B, S, K, 2); see `ModelConfig.representation`."""
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
    """Add offsets (B, S, K, 2) in cells to locations (..., S, 2) in pixels: poses (B, S, K, 2) in pixels."""
    return locations[..., None, :] + offsets * strides[..., None, None]


def rows_at(rows: Tensor, index: Tensor | None) -> Tensor:
    """Select rows (B, M, ...) by locations (B, S): (B, S, ...)."""
    if index is None:
        return rows
    return rows.gather(1, index.view(*index.shape, *[1] * (rows.ndim - 2)).expand(-1, -1, *rows.shape[2:]))


def _around(table: TapTable, poses: Tensor, index: Tensor | None) -> Tensor:
    """Sample features (B, K, S, 9, C) around the keypoints of poses (B, S, K, 2)."""
    batch, count, num_keypoints = poses.shape[:3]
    if index is None:
        index = torch.arange(count, device=poses.device).expand(batch, -1)
    # Each keypoint is treated as a pose, which gives the samples in the required order.
    places = _soften(poses).transpose(1, 2).flatten(1, 2)[:, :, None]
    samples = sample_around(table, places, index.repeat(1, num_keypoints))
    return samples.view(batch, num_keypoints, count, *samples.shape[3:])


def _grid(num_points: int) -> Tensor:
    """Return (K, 2) points in the unit square, row by row on the smallest square grid with K points."""
    side = math.ceil(math.sqrt(num_points))
    numbers = torch.arange(num_points)
    return (torch.stack((numbers % side, numbers // side), -1) + 0.5) / side


def _soften(positions: Tensor) -> Tensor:
    """Return the same positions with a reduced gradient."""
    return positions.detach() + POSITION_GRADIENT * (positions - positions.detach())
