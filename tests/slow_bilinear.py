"""Bilinear sampling of one place, corner by corner: what every faster form must equal."""

import torch
from torch import Tensor


def slow_bilinear(field: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(C,) value of the map (C, h, w) at a place in cells: four corners, those outside count as zero."""
    left, top = x.detach().floor().item(), y.detach().floor().item()
    value = torch.zeros(field.shape[0], dtype=torch.float64)
    for column, across in ((left, left + 1 - x), (left + 1, x - left)):
        for row, down in ((top, top + 1 - y), (top + 1, y - top)):
            if 0 <= row < field.shape[1] and 0 <= column < field.shape[2]:
                value = value + across * down * field[:, int(row), int(column)]
    return value
