"""Muon (Jordan et al., 2024) for matrices: momentum, all its directions made equally long. AdamW for the rest."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from posedet.training.precision import computes_bfloat16
from posedet.training.processes import ALONE, Processes

MOMENTUM = 0.95
# What AdamW's steps measure, as a share of the learning rate (Liu et al., 2025): one learning rate fits both.
STEP_SIZE = 0.2
# Odd polynomials that bring singular values from 0..1 to 0.7..1.2, one after the other (You, 2024).
POLYNOMIALS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
# Layers whose outputs are numbers that are read, and not features.
LAST = {"output", "offsets", "presence"}


class Muon(torch.optim.AdamW):
    """An optimiser whose parameter groups with `"matrices": True` are stepped by Muon and all others by AdamW.

    A linear map is one matrix, so is a convolution (outputs x inputs and places); a (K, m, n) parameter is K matrices.
    Each process computes the directions of a share of the matrices and receives the others.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], processes: Processes = ALONE) -> None:
        """groups: as for AdamW. processes: must all take the same steps, with the same gradients."""
        super().__init__(groups)
        self.processes = processes

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step, from the gradients that the parameters hold."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["matrices"]]
        super().step()
        self.param_groups = groups
        stepped = [
            (parameter, group)
            for group in groups
            if group["matrices"]
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        ahead = [self._ahead(parameter) for parameter, _ in stepped]
        for (parameter, group), direction in zip(stepped, self._directions(ahead), strict=True):
            size = STEP_SIZE * math.sqrt(max(direction.shape[-2:]))
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(direction.view(parameter.shape), alpha=-group["lr"] * size)

    def _ahead(self, parameter: Tensor) -> Tensor:
        """Update the momentum of a parameter, and return its next gradient, as matrices."""
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
        average = state["exp_avg"].lerp_(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(average, MOMENTUM)
        return ahead.flatten(1) if ahead.ndim == 4 else ahead

    def _directions(self, matrices: list[Tensor]) -> list[Tensor]:
        """`orthogonal` of each, computed once over all processes."""
        world, rank = self.processes.world, self.processes.rank
        shares = _shares(matrices, world)
        found = [orthogonal(x) if share == rank else x for x, share in zip(matrices, shares, strict=True)]
        for owner in range(world if world > 1 else 0):
            numbers = [number for number, share in enumerate(shares) if share == owner]
            if not numbers:
                continue
            packed = torch.cat([found[number].flatten() for number in numbers])
            dist.broadcast(packed, owner)
            for number, part in zip(numbers, torch.split(packed, [found[n].numel() for n in numbers]), strict=True):
                found[number] = part.view(found[number].shape)
        return found


def _shares(matrices: list[Tensor], world: int) -> list[int]:
    """The process that computes each direction; all get about the same work, the largest matrices first."""
    work = [x.numel() * min(x.shape[-2:]) for x in matrices]
    shares, sums = [0] * len(matrices), [0] * world
    for number in sorted(range(len(matrices)), key=lambda n: -work[n]):
        shares[number] = sums.index(min(sums))
        sums[shares[number]] += work[number]
    return shares


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon steps this parameter of a network: maps from features to features, but not depthwise ones."""
    depthwise = parameter.ndim == 4 and parameter.shape[1] == 1
    return parameter.ndim > 1 and not depthwise and LAST.isdisjoint(name.split("."))


def orthogonal(matrices: Tensor) -> Tensor:
    """(..., m, n) -> nearly U V^T of each U S V^T, without computing either: singular values of 0.7 to 1.2.

    In bfloat16 where the device has it, whose errors a step can bear; directions with next to no share in a matrix
    keep a smaller one.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    precision = torch.bfloat16 if computes_bfloat16(matrices.device.type) else torch.float32
    x: Tensor = (matrices.mT if tall else matrices).to(precision).contiguous()
    x = x / (1.01 * x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for a, b, c in POLYNOMIALS:
        square = x @ x.mT
        x = a * x + (b * square + c * (square @ square)) @ x
    return (x.mT if tall else x).to(matrices.dtype).contiguous()
