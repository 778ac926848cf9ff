"""PoseDet (arXiv 2107.10466): finding people and their keypoints is one detection problem.

- backbone and pyramid: photo -> maps at several strides; every cell of every map is one candidate person
- bypass: at every location a coarse pose, K displacements
- pose embedding: the features at those K places, mixed into one vector
- branches: from one embedding the score, from another the refinement
- pose = location + coarse offset + refinement, in pixels of the network input; all levels are joined
- heatmap branch: only while training

`build.py` makes the parts from the settings.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from posedet.model.branches import EmbeddingBranch, HeatmapBranch, LocalRefinement
from posedet.model.bypass import Bypass
from posedet.model.embedding import TapTable, sample, sample_around
from posedet.model.pyramid import PyramidMaps

# So many at a time, 5,440 poses of 17 samples of 128 channels take two thirds of the time of all at once.
POSES_IN_CACHE = 1024

# Share of the gradient that reaches the bypass through the sampling positions (official code).
POSITION_GRADIENT = 0.1


class Geometry(NamedTuple):
    """Where the cells of the network's maps lie. Strides are in pixels of the network input, one for each level."""

    strides: tuple[int, ...]  # of the locations
    tap_strides: tuple[int, ...]  # of the maps that embeddings are sampled from
    heatmap_strides: tuple[int, ...]
    origin: float  # a cell's centre as a share of (stride - 1): 0 its first pixel, 0.5 the middle of its pixels


class Proposals(NamedTuple):
    """What is known of every location before any embedding is made."""

    coarse: Tensor  # (B, M, K, 2) pixels of the network input
    presence: Tensor | None  # (B, M) logits
    locations: Tensor  # (M, 2) pixels of the network input
    strides: Tensor  # (M,) pixels of the network input
    offsets: Tensor  # (B, M, K, 2) cells: what `coarse` is made of


# Takes the proposals and a logit (B, M) for each, presence or score; returns the indices (B, S) of those to keep.
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

    score_taps and refine_taps make the maps that the embeddings of score and refinement are sampled from; with
    refine_taps None both read the same. local is a further refinement, heatmap the training branch; both may be None.
    image_mean and image_std, (3,) on the scale 0..255, belong to the start weights of the backbone. score_at and
    representation are explained at `ModelConfig`.
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
        self.register_buffer("image_mean", torch.tensor(image_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(image_std).view(3, 1, 1), persistent=False)
        if representation == "box":
            self.register_buffer("grid", _grid(num_keypoints), persistent=False)
        if representation == "anchors":
            # In cells; the training sets it.
            self.register_buffer("anchor_pose", torch.zeros(num_keypoints, 2))

    def forward(self, images: Tensor, choose: Choice | None = None) -> NetworkOutput:
        """images: (B, 3, H, W) RGB 0..255, H and W multiples of the largest stride.

        choose: the locations whose poses are wanted; None = all. They are chosen by presence, or by the score where
        the bypass gives no presence.
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
                scores = _at(scores, chosen)
        keypoint_logits = scores[..., 1:] if scores.shape[-1] > 1 else None
        return NetworkOutput(proposals, chosen, poses, scores[..., 0], keypoint_logits, heatmaps)

    def _heatmaps(self, maps: PyramidMaps, score_maps: list[Tensor]) -> list[Tensor]:
        """Logits (B, K, h, w) of every level while training. Shared towers learn from them what they are sampled for;
        the paper's branch starts from the pyramid."""
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
        """Coarse poses of the chosen locations and the poses after each refinement: (B, S, K, 2) each."""
        poses, unit = [proposals.coarse], proposals.strides[:, None, None]
        if index is not None:
            # Not `coarse` at the chosen ones: a graph that is exported then places no others.
            strides = proposals.strides[index]
            poses = [_placed(_at(proposals.offsets, index), proposals.locations[index], strides)]
            unit = strides[..., None, None]
        for step in self.refinements:
            correction = step(self._read(table, poses[-1], proposals, index)).unflatten(-1, (-1, 2))
            # The correction learns what is missing; the pose that it corrects is not pulled along (official code).
            poses.append(poses[-1].detach() + correction * unit)
        if self.local is not None:
            # Cells of the maps that are read, which may be finer than the level.
            cell = unit * (self.geometry.tap_strides[0] / self.geometry.strides[0])
            poses.append(poses[-1].detach() + self.local(_around(table, poses[-1], index)) * cell)
        return tuple(poses)

    def _score(self, table: TapTable, poses: Tensor, proposals: Proposals, index: Tensor | None) -> Tensor:
        """Logits (B, S, 1) of the poses, or (B, S, 1 + K) with those of the keypoints' visibility."""
        logits: Tensor = self.score(self._read(table, poses, proposals, index))
        return logits

    def score_all(self, table: TapTable, poses: Tensor, proposals: Proposals, *, in_parts: bool) -> Tensor:
        """As `_score` for poses (B, M, K, 2) of all locations; in parts whose samples fit a processor's cache."""
        if not in_parts or not poses.is_cpu or torch.compiler.is_exporting():
            return self._score(table, poses, proposals, None)
        batch, count = poses.shape[:2]
        index = torch.arange(count).expand(batch, -1)
        size = max(1, POSES_IN_CACHE // batch)
        parts = [slice(first, first + size) for first in range(0, count, size)]
        return torch.cat([self._score(table, poses[:, part], proposals, index[:, part]) for part in parts], dim=1)

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
    """Poses (B, S, K, 2) in pixels: offsets (B, S, K, 2) in cells from locations (..., S, 2) in pixels."""
    return locations[..., None, :] + offsets * strides[..., None, None]


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
