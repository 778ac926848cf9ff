"""Assign people to locations: by centre for the coarse pose, by OKS for score and refinement (paper sec. 3.3)."""

from typing import NamedTuple

import torch
from torch import Tensor

from posedet.config import AssignConfig
from posedet.model.network import Proposals
from posedet.training.batches import Batch

NOBODY = -1

# The level of a person is that of stride 2 ** floor(log2(size / this)): 4 to 8 cells (official code).
LEVEL_DIVISOR = 4.0
# Hard targets of the score by OKS (paper sec. 3.3): positive from, negative below; nothing is learnt between.
POSITIVE_OKS, NEGATIVE_OKS = 0.6, 0.5

# Number of random locations whose embeddings are trained; without them, the score would never see background.
RANDOM_LOCATIONS = 24


class Persons(NamedTuple):
    """The people of a batch, with the values that the assignment needs."""

    valid: Tensor  # (B, P) bool: enough labelled keypoints
    labelled: Tensor  # (B, P, K) bool
    corners: Tensor  # (B, P, 2) top-left of the labelled keypoints, pixels
    sizes: Tensor  # (B, P, 2) extent of the labelled keypoints, at least a share of √area, pixels
    areas: Tensor  # (B, P) of the OKS in training, in COCO's form, pixels squared
    ignored: Tensor  # (B, Q', 4) regions that are neither person nor background

    @classmethod
    def of(cls, batch: Batch, config: AssignConfig) -> "Persons":
        labelled = batch.weights > 0
        some = labelled.any(2)
        low = batch.keypoints.masked_fill(~labelled[..., None], torch.inf).amin(2)
        high = batch.keypoints.masked_fill(~labelled[..., None], -torch.inf).amax(2)
        valid = labelled.sum(2) >= config.min_keypoints
        few = torch.where((some & ~valid)[..., None], batch.boxes, torch.full_like(batch.boxes, -1e6))
        corners, sizes = torch.where(some[..., None], low, 0), torch.where(some[..., None], high - low, 0)
        if config.least_side:
            missing = (config.least_side * batch.areas.sqrt()[..., None] - sizes).clamp(min=0)
            corners, sizes = corners - missing / 2, sizes + missing
        areas = batch.areas
        if config.oks_area == "half box":
            # The paper's OKS has no factor 2: COCO's form with half the area (docs/lab/fidelity.md, row 15).
            areas = (batch.boxes[..., 2:] - batch.boxes[..., :2]).prod(-1) / 2
        return cls(valid, labelled, corners, sizes, areas, torch.cat((batch.ignored, few), 1))


def person_levels(sizes: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Level of each person by the size (..., 2) of its labelled keypoints: index into `strides` (official code)."""
    sizes = sizes.clamp(min=1e-6)
    level = ((sizes[..., 0] / LEVEL_DIVISOR).log2() + (sizes[..., 1] / LEVEL_DIVISOR).log2()) / 2
    first = strides[0].bit_length() - 1
    return (level.trunc().long() - first).clamp(0, len(strides) - 1)


def person_centres(batch: Batch, persons: Persons, config: AssignConfig) -> Tensor:
    """Where each person is: (B, P, 2) pixels, the mean of the labelled keypoints or the middle of their box."""
    if config.centre == "box":
        return persons.corners + persons.sizes / 2
    labelled = persons.labelled.float()
    return (batch.keypoints * labelled[..., None]).sum(2) / labelled.sum(2).clamp(min=1)[..., None]


def assign_coarse(
    batch: Batch, persons: Persons, proposals: Proposals, strides: tuple[int, ...], config: AssignConfig
) -> Tensor:
    """The person that each location learns the coarse pose of: (B, M) int64, NOBODY where none.

    Each person takes the `positives` nearest locations of its own level, by the distance to its centre in units of
    its size; a location wanted by several goes to the nearest, among equals to the first. With several positives, a
    person that would be left without any takes its nearest free one.
    """
    centres = person_centres(batch, persons, config)
    levels = person_levels(persons.sizes, strides)
    difference = proposals.locations[None, None] - centres[:, :, None]
    distances = (difference / persons.sizes.clamp(min=1e-6)[:, :, None]).square().sum(-1).sqrt()  # (B, P, M)
    own_level = torch.tensor(strides, device=levels.device)[levels][..., None] == proposals.strides
    distances = distances.masked_fill(~(own_level & persons.valid[..., None]), torch.inf)
    if config.positives == 1:
        # argmin returns the first of equal values, topk any of them.
        index = distances.argmin(-1, keepdim=True)
    else:
        index = distances.topk(min(config.positives, distances.shape[-1]), dim=-1, largest=False).indices
    wanted = torch.full_like(distances, torch.inf).scatter(-1, index, distances.gather(-1, index))
    best, owner = wanted.min(1)
    owner = torch.where(best.isfinite(), owner, NOBODY)
    if config.positives > 1:
        _place_losers(owner, distances, persons.valid)
    return owner


def _place_losers(owner: Tensor, distances: Tensor, valid: Tensor) -> None:
    """Give every person without a location its nearest free one (changes `owner`)."""
    numbers = torch.arange(distances.shape[1], device=owner.device)
    has_one = (owner[:, None] == numbers[:, None]).any(2)
    for b, p in (valid & ~has_one).nonzero().tolist():
        free = distances[b, p].masked_fill(owner[b] != NOBODY, torch.inf)
        if free.min().isfinite():
            owner[b, free.argmin()] = p


def in_ignored(persons: Persons, proposals: Proposals) -> Tensor:
    """Locations inside an ignored region: (B, M) bool."""
    x, y = proposals.locations.unbind(-1)
    x1, y1, x2, y2 = (side[..., None] for side in persons.ignored.unbind(-1))
    return ((x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)).any(1)


def keypoint_similarity(first: Tensor, second: Tensor, sigmas: Tensor, areas: Tensor) -> Tensor:
    """exp(-d^2 / (8 sigma^2 area)), COCO's form: (..., 2) and (..., 2) in the same pixels -> (...).

    sigmas and areas, square pixels, broadcast to the result. OKS is its mean over labelled keypoints; the NumPy twin
    is `posedet.oks`.
    """
    squared = (first - second).square().sum(-1)
    return (-squared / (8 * sigmas.square() * areas)).exp()


def pose_oks(poses: Tensor, batch: Batch, persons: Persons, sigmas: Tensor) -> Tensor:
    """OKS of poses (B, S, K, 2) with the persons of the batch: (B, S, P), -1 for persons that are not learnt.

    The mean of `keypoint_similarity` over labelled keypoints; the NumPy twin is `posedet.oks.oks`.
    """
    similarity = torch.zeros(poses.shape[0], poses.shape[1], batch.keypoints.shape[1], device=poses.device)
    areas = persons.areas[:, None].clamp(min=1e-9)
    # One keypoint at a time: (B, S, P, K) at once is gigabytes when every location has a pose.
    for k in range(poses.shape[2]):
        near = keypoint_similarity(poses[:, :, None, k], batch.keypoints[:, None, :, k], sigmas[k], areas)
        similarity += near * persons.labelled[:, None, :, k]
    similarity /= persons.labelled.sum(2).clamp(min=1)[:, None]
    return similarity.masked_fill(~persons.valid[:, None], -1)


def assign_by_oks(oks: Tensor, *, positive: float, rescue: float) -> Tensor:
    """The person that each pose belongs to by its OKS (official code): (B, S) int64, NOBODY where none is near enough.

    oks: (B, S, P), -1 for persons that do not count. Poses at `positive` or above belong to the nearest person. With
    `rescue` above 0, a person's best poses belong to it from `rescue` on, even if they were another's; above 1 there
    are none.
    """
    best, owner = oks.max(2)
    owner = torch.where(best >= positive, owner, NOBODY)
    if rescue > 0:
        top = oks.amax(1)  # (B, P)
        for p in range(oks.shape[2]):
            rescued = (oks[..., p] == top[:, None, p]) & (top[:, None, p] >= rescue)
            owner = torch.where(rescued, p, owner)
    return owner


def score_labels(oks: Tensor, batch: Batch, persons: Persons) -> tuple[Tensor, Tensor]:
    """Hard targets of the score by the OKS of the coarse pose (official code): labels and weights, (B, S) each.

    Between NEGATIVE_OKS and POSITIVE_OKS nothing is learnt, nor in an image that has people, but none with enough
    labelled keypoints.
    """
    best = oks.amax(2)
    unsure = (best >= NEGATIVE_OKS) & (best < POSITIVE_OKS)
    people = persons.labelled.any(2).any(1) | (batch.crowds == 0).any(1)
    unlabelled = people & ~persons.valid.any(1)
    return (best >= POSITIVE_OKS).float(), (~unsure & ~unlabelled[:, None]).float()


class Selection(NamedTuple):
    """The decisions made before the embeddings are computed."""

    persons: Persons
    owner: Tensor  # (B, M): the person of each coarse pose
    ignored: Tensor  # (B, M) bool


def choose_locations(selection: Selection, presence: Tensor, chances: Tensor, num_selected: int) -> Tensor:
    """Choose all positives, some random locations, and those with the highest presence: (B, S) location indices.

    presence: (B, M) logits; chances: (B, M) uniform in 0..1.
    """
    random = chances > 1 - RANDOM_LOCATIONS / presence.shape[1]
    positive = selection.owner != NOBODY
    # Positives in an ignored region too: the losses count them.
    priority = presence.sigmoid() + 2 * random + 4 * positive - 4 * (selection.ignored & ~positive)
    index: Tensor = priority.topk(min(num_selected, presence.shape[1]), dim=1).indices
    return index
