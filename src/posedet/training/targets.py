"""Compute the training targets of every output of the network from a batch."""

from typing import NamedTuple

import torch
from torch import Tensor

from posedet.config import Config
from posedet.model.network import Geometry, NetworkOutput, Proposals
from posedet.training.assignment import (
    NOBODY,
    Persons,
    Selection,
    assign_by_oks,
    assign_coarse,
    in_ignored,
    pose_oks,
    score_labels,
)
from posedet.training.batches import Batch
from posedet.training.heatmaps import all_level_targets, own_level_targets


class Targets(NamedTuple):
    """What one step learns: B images with P persons, M locations of which S are chosen. No gradient."""

    keypoints: Tensor  # (B, P, K, 2) pixels of the patch
    weights: Tensor  # (B, P, K): 0 = not labelled, below 1 = a teacher's confidence
    visible: Tensor  # (B, P, K): 1 seen, 0 hidden or absent, -1 not known
    areas: Tensor  # (B, P) of the OKS, in COCO's form, pixels squared
    owner: Tensor  # (B, M): the person that each coarse pose learns, or NOBODY
    ignored: Tensor  # (B, M) bool: neither person nor background
    learnt: Tensor  # (B, S): the person that each refinement learns, or NOBODY
    scores: Tensor  # (B, S) 0 to 1
    score_weights: Tensor  # (B, S)
    hard_scores: bool  # the scores are labels, 0 or 1; otherwise they are the OKS of the refined pose
    num_scored: Tensor  # (): what the score's loss is divided by
    heatmaps: list[Tensor]  # (B, K, h, w) 0 to 1, of every level; none without a heatmap branch
    heatmap_weights: list[Tensor]  # (B, 1, h, w)


class Assigner:
    """Decides, for every batch of a run, which output learns what."""

    def __init__(self, config: Config, sigmas: Tensor, geometry: Geometry) -> None:
        """sigmas: (K,) of the skeleton; geometry: of the network."""
        self.config, self.sigmas, self.geometry = config, sigmas, geometry

    @torch.no_grad()
    def select(self, proposals: Proposals, batch: Batch) -> Selection:
        """What can be decided before any embedding is made: the person of each coarse pose."""
        config = self.config.assign
        persons = Persons.of(batch, config)
        owner = assign_coarse(batch, persons, proposals, self.geometry.strides, config)
        ignored = in_ignored(persons, proposals)
        return Selection(persons, owner, ignored if config.ignore_regions else torch.zeros_like(ignored))

    @torch.no_grad()
    def targets(self, output: NetworkOutput, batch: Batch, selection: Selection) -> Targets:
        """All that the output is to learn. Refinement and score are assigned by OKS (paper sec. 3.3)."""
        config, persons, owner = self.config.assign, selection.persons, selection.owner
        ignored = selection.ignored
        if output.chosen is not None:
            owner, ignored = owner.gather(1, output.chosen), ignored.gather(1, output.chosen)
        coarse_oks = pose_oks(output.poses[0], batch, persons, self.sigmas)
        learnt = assign_by_oks(coarse_oks, positive=config.refine_oks, rescue=config.rescue_oks)
        if config.rescue_oks == 0:
            learnt = torch.where(owner != NOBODY, owner, learnt)
        if hard := config.score_target == "labels":
            scores, weights = score_labels(coarse_oks, batch, persons)
            num_scored = scores.sum(1).clamp(min=1).sum()
        else:
            scores = self._quality(output, batch, persons, learnt)
            weights, num_scored = torch.ones_like(scores), positives_in(learnt)
        heatmaps, heatmap_weights = self._heatmaps(output.heatmaps, batch, persons)
        return Targets(
            keypoints=batch.keypoints,
            weights=batch.weights,
            visible=batch.visible,
            areas=persons.areas,
            owner=selection.owner,
            ignored=selection.ignored,
            learnt=learnt,
            scores=scores,
            score_weights=weights * ~(ignored & (learnt == NOBODY)),
            hard_scores=hard,
            num_scored=num_scored,
            heatmaps=heatmaps,
            heatmap_weights=heatmap_weights,
        )

    def _quality(self, output: NetworkOutput, batch: Batch, persons: Persons, learnt: Tensor) -> Tensor:
        """(B, S) OKS of the refined poses, with the person that each learns or else the one that it is most like."""
        refined_oks = pose_oks(output.poses[-1], batch, persons, self.sigmas)
        own = refined_oks.gather(2, learnt.clamp(min=0)[..., None])[..., 0]
        return torch.where(learnt != NOBODY, own, refined_oks.amax(2)).clamp(min=0)

    def _heatmaps(self, heatmaps: list[Tensor], batch: Batch, persons: Persons) -> tuple[list[Tensor], list[Tensor]]:
        """Targets and weights for what the network's `heatmaps` learn, level by level."""
        sizes = [(x.shape[2], x.shape[3]) for x in heatmaps]
        strides, sigma = self.geometry.heatmap_strides[: len(sizes)], self.config.loss.heatmap_sigma
        if self.config.loss.heatmap_targets == "all levels":
            return all_level_targets(batch, sizes, strides, sigma)
        return own_level_targets(
            batch,
            persons,
            sizes,
            strides,
            level_strides=self.geometry.strides,
            origin=self.geometry.origin,
            sigma=sigma,
        )


def positives_in(owner: Tensor) -> Tensor:
    """Count positives, but at least one per image; terms of the loss are divided by this number (official code)."""
    return (owner != NOBODY).sum(1).clamp(min=1).sum()
