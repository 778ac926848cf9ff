"""The terms of the training loss (paper eq. 4, and ours), one function each, and their weighted sum."""

import torch
from torch import Tensor
from torch.nn import functional as F

from posedet.config import LossConfig
from posedet.model.network import NetworkOutput
from posedet.training.assignment import NOBODY, keypoint_similarity
from posedet.training.processes import ALONE, Processes
from posedet.training.targets import Targets, positives_in

# Unit of the distance losses, in cells (official code: `point_base_scale`), and where the official one is clamped.
UNIT_CELLS = 4.0
CLAMP_UNITS = 5.0


def focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sigmoid focal loss (Lin et al., 2017) of binary targets, elementwise, with its alpha = 0.25 and gamma = 2."""
    probability = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    wrong = targets * (1 - probability) + (1 - targets) * probability
    balance = 0.25 * targets + 0.75 * (1 - targets)
    return balance * wrong.square() * cross_entropy


def quality_focal_loss(logits: Tensor, quality: Tensor) -> Tensor:
    """Quality focal loss (Li et al., 2020): soft targets in 0..1, weighted by the squared error, elementwise."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return (logits.sigmoid() - quality).detach().square() * cross_entropy


def clamped_distance(poses: Tensor, keypoints: Tensor, weights: Tensor, units: Tensor) -> Tensor:
    """The official pose loss: sum over labelled keypoints of the distance in units, at most 5 each.

    poses, keypoints: (n, K, 2); weights: (n, K); units: (n,) pixels -> (n,). The gradient at zero distance is zero.
    """
    squared = ((poses - keypoints) / units[:, None, None]).square().sum(-1)
    apart = squared > 0
    distance = torch.where(apart, squared, 1.0).sqrt() * apart
    return (distance.clamp(max=CLAMP_UNITS) * weights).sum(1)


def squared_distance(poses: Tensor, keypoints: Tensor, weights: Tensor, units: Tensor) -> Tensor:
    """The L2 loss that the paper writes (eq. 4): sum over labelled keypoints of the squared distance in units.

    Shapes as in `clamped_distance`.
    """
    squared = ((poses - keypoints) / units[:, None, None]).square().sum(-1)
    return (squared * weights).sum(1)


def smooth_distance(poses: Tensor, keypoints: Tensor, weights: Tensor, units: Tensor) -> Tensor:
    """Mean over labelled keypoints of sqrt(d^2 + 0.01) - 0.1, d in units: smooth at zero, a pull however far away.

    Shapes as in `clamped_distance`.
    """
    squared = ((poses - keypoints) / units[:, None, None]).square().sum(-1)
    return (((squared + 0.01).sqrt() - 0.1) * weights).sum(1) / weights.sum(1).clamp(min=1e-6)


def oks_loss(poses: Tensor, keypoints: Tensor, weights: Tensor, areas: Tensor, sigmas: Tensor) -> Tensor:
    """1 - OKS, averaged over labelled keypoints by weight: (n,)."""
    # At least a square pixel: a person without area has value 0 and a gradient that is not a number.
    similarity = keypoint_similarity(poses, keypoints, sigmas, areas[:, None].clamp(min=1))
    return 1 - (similarity * weights).sum(1) / weights.sum(1).clamp(min=1e-6)


def heatmap_focal_loss(logits: Tensor, targets: Tensor, mask: Tensor, processes: Processes = ALONE) -> Tensor:
    """Penalty-reduced focal loss (Law & Deng, 2018), in the log-sigmoid form that stays finite."""
    probability = logits.sigmoid()
    peaks = (targets == 1).float() * mask
    positive = (1 - probability).square() * F.logsigmoid(logits) * peaks
    negative = (1 - targets) ** 4 * probability.square() * F.logsigmoid(-logits) * (mask * (targets < 1))
    count = processes.share(peaks.sum())
    # Nothing to find: the sum itself, as in the official code.
    return -(positive.sum() + negative.sum()) / torch.where(count > 0, count, 1 / processes.world)


def heatmap_l2_loss(logits: Tensor, targets: Tensor, mask: Tensor, processes: Processes = ALONE) -> Tensor:
    """Mean squared error to the Gaussians: what the paper writes (sec. 3.4)."""
    squared = (logits.sigmoid() - targets).square() * mask
    return squared.sum() / processes.share(mask.sum() * targets.shape[1]).clamp(min=1e-6)


DISTANCES = {"clamped sum": clamped_distance, "squared sum": squared_distance, "smooth mean": smooth_distance}
HEATMAP_LOSSES = {"focal": heatmap_focal_loss, "l2": heatmap_l2_loss}


class PoseLoss:
    """Distance and OKS loss of poses, each with the person that it learns, summed and divided by their number."""

    def __init__(
        self, targets: Targets, sigmas: Tensor, config: LossConfig, oks_weight: float, processes: Processes
    ) -> None:
        self.targets, self.sigmas, self.oks_weight, self.processes = targets, sigmas, oks_weight, processes
        self.distance = DISTANCES[config.distance]

    def __call__(self, poses: Tensor, owner: Tensor, strides: Tensor) -> Tensor:
        """poses: (B, S, K, 2); owner: (B, S) persons or NOBODY; strides: (B, S) pixels."""
        b, s = (owner != NOBODY).nonzero().unbind(1)
        p = owner[b, s]
        keypoints, weights = self.targets.keypoints[b, p], self.targets.weights[b, p]
        loss = self.distance(poses[b, s], keypoints, weights, UNIT_CELLS * strides[b, s])
        if self.oks_weight:
            similarity = oks_loss(poses[b, s], keypoints, weights, self.targets.areas[b, p], self.sigmas)
            # A person that a teacher is unsure of counts less; the distance of the official code knows no teacher.
            loss = (loss + self.oks_weight * similarity) * weights.amax(1)
        return loss.sum() / self.processes.share(positives_in(owner))


def losses(
    output: NetworkOutput,
    targets: Targets,
    config: LossConfig,
    *,
    sigmas: Tensor,
    oks_weight: float,
    processes: Processes = ALONE,
) -> dict[str, Tensor]:
    """Compute the weighted terms of the loss, whose sum is minimised.

    config: the weights and forms of the terms. oks_weight: that of the OKS loss in this step, see `oks_weight_at`.
    With several processes a term is divided by the count of all: the mean over processes is that of the whole batch.
    """
    proposals = output.proposals
    pose_loss = PoseLoss(targets, sigmas, config, oks_weight, processes)
    strides = proposals.strides.expand(len(targets.owner), -1)
    terms = {"coarse": config.coarse * pose_loss(proposals.coarse, targets.owner, strides)}
    if proposals.presence is not None:
        here = targets.owner != NOBODY
        focal = focal_loss(proposals.presence, here.float()) * (here | ~targets.ignored)
        terms["presence"] = config.presence * focal.sum() / processes.share(positives_in(targets.owner))
    if output.chosen is not None:
        strides = strides.gather(1, output.chosen)
    for number, poses in enumerate(output.poses[1:], 1):
        terms[f"refined{number}"] = config.refined * pose_loss(poses, targets.learnt, strides)
    score_loss = focal_loss if targets.hard_scores else quality_focal_loss
    score = (score_loss(output.logits, targets.scores) * targets.score_weights).sum()
    terms["score"] = score / processes.share(targets.num_scored)
    if output.keypoint_logits is not None:
        terms["keypoint_score"] = config.keypoint_score * visibility_loss(output.keypoint_logits, targets, processes)
    if output.heatmaps:
        heatmap_loss = HEATMAP_LOSSES[config.heatmap_form]
        levels = zip(output.heatmaps, targets.heatmaps, targets.heatmap_weights, strict=True)
        each = [heatmap_loss(logits, target, weight, processes) for logits, target, weight in levels]
        terms["heatmap"] = config.heatmap * torch.stack(each).mean()
    return terms


def oks_weight_at(step: int, config: LossConfig) -> float:
    """Return the weight of the OKS loss. It grows from 0, because far from the truth that loss has no gradient and its
    optimum is a collapsed pose."""
    return config.oks * (min(1.0, step / config.oks_warmup) if config.oks_warmup else 1.0)


def visibility_loss(logits: Tensor, targets: Targets, processes: Processes = ALONE) -> Tensor:
    """Cross entropy of each keypoint's visibility, (B, S, K) logits, mean over those whose visibility is known."""
    b, s = (targets.learnt != NOBODY).nonzero().unbind(1)
    visible = targets.visible[b, targets.learnt[b, s]]
    known = (visible >= 0).float()
    entropy = F.binary_cross_entropy_with_logits(logits[b, s], visible.clamp(min=0), reduction="none")
    return (entropy * known).sum() / processes.share(known.sum()).clamp(min=1e-6)
