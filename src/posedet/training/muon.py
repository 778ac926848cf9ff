"""Muon (Jordan et al., 2024) for matrices: momentum, all its directions made equally long. AdamW for the rest."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from posedet.training.precision import computes_bfloat16

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
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step, from the gradients that the parameters hold."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["matrices"]]
        super().step()
        self.param_groups = groups
        for group in groups:
            for parameter in group["params"] if group["matrices"] else ():
                if parameter.grad is not None:
                    self._step(parameter, group)

    def _step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
        average = state["exp_avg"].lerp_(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(average, MOMENTUM)
        direction = orthogonal(ahead.flatten(1) if ahead.ndim == 4 else ahead)
        size = STEP_SIZE * math.sqrt(max(direction.shape[-2:]))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(direction.view(parameter.shape), alpha=-group["lr"] * size)


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
