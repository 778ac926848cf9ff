"""The terms of the training loss (paper eq. 4, and ours), one function each, and their weighted sum."""

import torch
from torch import Tensor
from torch.nn import functional as F

from posedet.config import AssignConfig, Config, LossConfig
from posedet.model.network import NetworkOutput, PoseDetNet
from posedet.training.assignment import NOBODY, Persons, Selection, assign_by_oks, pose_oks, score_labels
from posedet.training.batches import Batch
from posedet.training.heatmaps import all_level_targets, own_level_targets
from posedet.training.processes import ALONE, Processes

# Unit of the distance losses, in cells (official code: `point_base_scale`), and where the official one is clamped.
UNIT_CELLS = 4.0
CLAMP_UNITS = 5.0


def focal_loss(logits: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss (Lin et al., 2017) of binary targets, elementwise."""
    probability = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    wrong = targets * (1 - probability) + (1 - targets) * probability
    balance = targets * alpha + (1 - targets) * (1 - alpha)
    return balance * wrong**gamma * cross_entropy


def quality_focal_loss(logits: Tensor, quality: Tensor) -> Tensor:
    """Quality focal loss (Li et al., 2020): soft targets in 0..1, weighted by the squared error, elementwise."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return (logits.sigmoid() - quality).detach().square() * cross_entropy


def clamped_distance(poses: Tensor, keypoints: Tensor, weights: Tensor, units: Tensor) -> Tensor:
    """The official pose loss (facts 5): sum over labelled keypoints of the distance in units, at most 5 each.

    poses, keypoints: (n, K, 2); weights: (n, K); units: (n,) pixels -> (n,). The gradient at zero distance is zero.
    """
    squared = ((poses - keypoints) / units[:, None, None]).square().sum(-1)
    apart = squared > 0
    distance = torch.where(apart, squared, 1.0).sqrt() * apart
    return (distance.clamp(max=CLAMP_UNITS) * weights).sum(1)


def smooth_distance(poses: Tensor, keypoints: Tensor, weights: Tensor, units: Tensor) -> Tensor:
    """Mean over labelled keypoints of sqrt(d^2 + 0.01) - 0.1, d in units: smooth at zero, a pull however far away.

    Shapes as in `clamped_distance`.
    """
    squared = ((poses - keypoints) / units[:, None, None]).square().sum(-1)
    return (((squared + 0.01).sqrt() - 0.1) * weights).sum(1) / weights.sum(1).clamp(min=1e-6)


def oks_loss(poses: Tensor, keypoints: Tensor, weights: Tensor, areas: Tensor, sigmas: Tensor) -> Tensor:
    """1 - OKS, averaged over labelled keypoints by weight: (n,)."""
    squared = (poses - keypoints).square().sum(-1)
    # At least a square pixel: a person without area has value 0 and a gradient that is not a number.
    similarity = (-squared / (8 * sigmas.square() * areas[:, None].clamp(min=1))).exp()
    return 1 - (similarity * weights).sum(1) / weights.sum(1).clamp(min=1e-6)


def heatmap_focal_loss(logits: Tensor, targets: Tensor, mask: Tensor, processes: Processes = ALONE) -> Tensor:
    """Penalty-reduced focal loss (Law & Deng, 2018), in the log-sigmoid form that stays finite (facts 5, 13.5)."""
    probability = logits.sigmoid()
    peaks = (targets == 1).float() * mask
    positive = (1 - probability).square() * F.logsigmoid(logits) * peaks
    negative = (1 - targets) ** 4 * probability.square() * F.logsigmoid(-logits) * (mask * (targets < 1))
    count = processes.share(peaks.sum())
    # Nothing to find: the sum itself, as in the official code.
    return -(positive.sum() + negative.sum()) / torch.where(count > 0, count, 1 / processes.world)


def heatmap_l2_loss(logits: Tensor, targets: Tensor, mask: Tensor, processes: Processes = ALONE) -> Tensor:
    """Mean squared error to the Gaussians: what the paper writes (facts 12.7)."""
    squared = (logits.sigmoid() - targets).square() * mask
    return squared.sum() / processes.share(mask.sum() * targets.shape[1]).clamp(min=1e-6)


DISTANCES = {"clamped sum": clamped_distance, "smooth mean": smooth_distance}
HEATMAP_LOSSES = {"focal": heatmap_focal_loss, "l2": heatmap_l2_loss}


class PoseLoss:
    """Distance and OKS loss of poses, each with the person that it learns, summed and divided by their number."""

    def __init__(
        self,
        batch: Batch,
        selection: Selection,
        sigmas: Tensor,
        config: LossConfig,
        oks_weight: float,
        processes: Processes,
    ) -> None:
        self.processes = processes
        self.batch, self.selection, self.sigmas, self.oks_weight = batch, selection, sigmas, oks_weight
        self.distance = DISTANCES[config.distance]

    def __call__(self, poses: Tensor, owner: Tensor, strides: Tensor) -> Tensor:
        """poses: (B, S, K, 2); owner: (B, S) persons or NOBODY; strides: (B, S) pixels."""
        b, s = (owner != NOBODY).nonzero().unbind(1)
        p = owner[b, s]
        keypoints, weights = self.batch.keypoints[b, p], self.batch.weights[b, p]
        loss = self.distance(poses[b, s], keypoints, weights, UNIT_CELLS * strides[b, s])
        if self.oks_weight:
            areas = self.selection.persons.areas[b, p]
            similarity = oks_loss(poses[b, s], keypoints, weights, areas, self.sigmas)
            # A person that a teacher is unsure of counts less; the distance of the official code knows no teacher.
            loss = (loss + self.oks_weight * similarity) * weights.amax(1)
        return loss.sum() / self.processes.share(positives_in(owner))


def positives_in(owner: Tensor) -> Tensor:
    """What a term is divided by: positives, but at least one for each image (facts 4.5)."""
    return (owner != NOBODY).sum(1).clamp(min=1).sum()


def losses(
    network: PoseDetNet,
    output: NetworkOutput,
    batch: Batch,
    selection: Selection,
    *,
    sigmas: Tensor,
    config: Config,
    step: int,
    processes: Processes = ALONE,
) -> dict[str, Tensor]:
    """Every term of one step, already weighted; their sum is what is minimised.

    With several processes a term is divided by the count of all: the mean over processes is that of the whole batch.
    """
    weight, proposals = config.loss, output.proposals
    # The OKS loss starts from nothing: far from the truth it has no gradient, and its optimum is a collapsed pose.
    oks_weight = weight.oks * (min(1.0, step / weight.oks_warmup) if weight.oks_warmup else 1.0)
    pose_loss = PoseLoss(batch, selection, sigmas, weight, oks_weight, processes)
    strides = proposals.strides.expand(len(selection.owner), -1)
    terms = {"coarse": weight.coarse * pose_loss(proposals.coarse, selection.owner, strides)}

    if proposals.presence is not None:
        here = selection.owner != NOBODY
        focal = focal_loss(proposals.presence, here.float()) * (here | ~selection.ignored)
        terms["presence"] = weight.presence * focal.sum() / processes.share(positives_in(selection.owner))

    index = output.chosen
    owner, ignored = selection.owner, selection.ignored
    if index is not None:
        owner, ignored, strides = (x.gather(1, index) for x in (owner, ignored, strides))
    with torch.no_grad():
        coarse_oks = pose_oks(output.poses[0], batch, selection.persons, sigmas)
        learnt = assign_by_oks(coarse_oks, positive=config.assign.refine_oks, rescue=config.assign.rescue_oks)
        if config.assign.rescue_oks == 0:
            learnt = torch.where(owner != NOBODY, owner, learnt)
    for number, poses in enumerate(output.poses[1:], 1):
        terms[f"refined{number}"] = weight.refined * pose_loss(poses, learnt, strides)

    ignored = ignored & (learnt == NOBODY)
    score, num_positives = _score_loss(output, batch, selection, coarse_oks, learnt, ignored, sigmas, config.assign)
    terms["score"] = score / processes.share(num_positives)
    if output.keypoint_logits is not None:
        terms["keypoint_score"] = weight.keypoint_score * _visibility_loss(
            output.keypoint_logits, batch, learnt, processes
        )
    if output.heatmaps:
        terms["heatmap"] = weight.heatmap * _heatmap_loss(network, output, batch, selection, config, processes)
    return terms


def _score_loss(
    output: NetworkOutput,
    batch: Batch,
    selection: Selection,
    coarse_oks: Tensor,
    learnt: Tensor,
    ignored: Tensor,
    sigmas: Tensor,
    config: AssignConfig,
) -> tuple[Tensor, Tensor]:
    """Sum of the score's loss and the number of its positives."""
    if config.score_target == "labels":
        labels, counted = score_labels(coarse_oks, batch, selection.persons)
        focal = focal_loss(output.logits, labels) * counted * ~ignored
        return focal.sum(), labels.sum(1).clamp(min=1).sum()
    with torch.no_grad():
        refined_oks = pose_oks(output.poses[-1], batch, selection.persons, sigmas)
        own = refined_oks.gather(2, learnt.clamp(min=0)[..., None])[..., 0]
        quality = torch.where(learnt != NOBODY, own, refined_oks.amax(2)).clamp(min=0)
    return (quality_focal_loss(output.logits, quality) * ~ignored).sum(), positives_in(learnt)


def _visibility_loss(logits: Tensor, batch: Batch, learnt: Tensor, processes: Processes) -> Tensor:
    """Cross entropy of each keypoint's visibility, mean over those whose visibility is known."""
    b, s = (learnt != NOBODY).nonzero().unbind(1)
    visible = batch.visible[b, learnt[b, s]]
    known = (visible >= 0).float()
    entropy = F.binary_cross_entropy_with_logits(logits[b, s], visible.clamp(min=0), reduction="none")
    return (entropy * known).sum() / processes.share(known.sum()).clamp(min=1e-6)


def heatmap_targets(
    network: PoseDetNet, heatmaps: list[Tensor], batch: Batch, persons: Persons, config: Config
) -> tuple[list[Tensor], list[Tensor]]:
    """Targets (B, K, h, w) in 0..1 and weights (B, 1, h, w) of every level, for what the network's `heatmaps` learn."""
    sizes = [(x.shape[2], x.shape[3]) for x in heatmaps]
    if config.loss.heatmap_targets == "all levels":
        return all_level_targets(batch, sizes, network.heatmap_strides, config.loss.heatmap_sigma)
    return own_level_targets(
        batch,
        persons,
        sizes,
        network.heatmap_strides,
        level_strides=network.strides,
        origin=network.origin,
        sigma=config.loss.heatmap_sigma,
    )


def _heatmap_loss(
    network: PoseDetNet, output: NetworkOutput, batch: Batch, selection: Selection, config: Config, processes: Processes
) -> Tensor:
    targets, masks = heatmap_targets(network, output.heatmaps, batch, selection.persons, config)
    loss = HEATMAP_LOSSES[config.loss.heatmap_form]
    each = [loss(x, t, w, processes) for x, t, w in zip(output.heatmaps, targets, masks, strict=True)]
    return torch.stack(each).mean()
