"""Gaussian targets of the auxiliary supervision (sec. 3.4)."""

import torch
from torch import Tensor

from posedet.training.assignment import Persons, person_levels
from posedet.training.batches import Batch

# The official window: 15 x 15 cells around the cell of the keypoint.
WINDOW_CELLS = 7
# Our targets weigh cells of ignored places from this value on: a labelled keypoint is known even there.
KNOWN = 0.1


def all_level_targets(
    batch: Batch, sizes: list[tuple[int, int]], strides: tuple[int, ...], sigma: float
) -> tuple[list[Tensor], list[Tensor]]:
    """The official targets: every person on every level, around whole cells.

    sizes: (h, w) of every map; sigma: cells. Returns targets (B, K, h, w) in 0..1 and weights (B, 1, h, w) of every
    level: 0 in the boxes of persons without labelled keypoints.
    """
    labelled = batch.weights > 0
    unlabelled = torch.where((batch.crowds == 0)[..., None], batch.ignored, torch.zeros_like(batch.ignored))
    targets, masks = [], []
    for (height, width), stride in zip(sizes, strides, strict=True):
        cells = (batch.keypoints / stride).trunc()
        inside = (cells >= 0).all(-1) & (cells[..., 0] < width) & (cells[..., 1] < height) & labelled
        columns = torch.arange(width, device=cells.device) - cells[..., :1]
        rows = torch.arange(height, device=cells.device) - cells[..., 1:]
        near_x = (-columns.square() / (2 * sigma**2)).exp() * (columns.abs() <= WINDOW_CELLS)
        near_y = (-rows.square() / (2 * sigma**2)).exp() * (rows.abs() <= WINDOW_CELLS)
        target = torch.zeros(*batch.weights.shape[::2], height, width, device=cells.device)
        for p in range(cells.shape[1]):
            blob = near_y[:, p, :, :, None] * near_x[:, p, :, None] * inside[:, p, :, None, None]
            target = torch.maximum(target, blob)
        x1, y1, x2, y2 = (side[..., None] for side in (unlabelled / stride).trunc().unbind(-1))
        xs, ys = torch.arange(width, device=cells.device), torch.arange(height, device=cells.device)
        covered = ((ys >= y1) & (ys < y2))[..., None] & ((xs >= x1) & (xs < x2))[:, :, None]
        targets.append(target)
        masks.append((~covered.any(1, keepdim=True)).float())
    return targets, masks


def own_level_targets(
    batch: Batch,
    persons: Persons,
    sizes: list[tuple[int, int]],
    strides: tuple[int, ...],
    *,
    level_strides: tuple[int, ...],
    origin: float,
    sigma: float,
) -> tuple[list[Tensor], list[Tensor]]:
    """Our targets: each person on the map of its own level only, around the true place of the keypoint.

    sizes and strides: of every map; origin: of its cells, as in the network; level_strides: of the levels. The cell
    nearest to a keypoint is exactly 1. Ignored regions and the boxes of other levels' persons have weight 0, but for
    the surroundings of this level's keypoints.
    """
    num_images, _, num_keypoints = batch.weights.shape
    device = batch.weights.device
    levels = person_levels(persons.sizes, level_strides)
    targets, masks = [], []
    for number, ((height, width), stride) in enumerate(zip(sizes, strides, strict=True)):
        shift = origin * (stride - 1)
        xs, ys = torch.arange(width, device=device), torch.arange(height, device=device)
        cell_x, cell_y = xs * stride + shift, ys * stride + shift
        foreign = torch.where((persons.valid & (levels != number))[..., None], batch.boxes, -1e6)
        x1, y1, x2, y2 = (side[..., None] for side in torch.cat((persons.ignored, foreign), 1).unbind(-1))
        inside_x = ((cell_x >= x1) & (cell_x <= x2)).float()  # (B, Q, w)
        inside_y = ((cell_y >= y1) & (cell_y <= y2)).float()
        mask = (inside_y.transpose(1, 2) @ inside_x == 0).float()[:, None]
        b, p = (persons.valid & (levels == number)).nonzero().unbind(1)
        cells = (batch.keypoints[b, p] - shift) / stride  # (n, K, 2)
        labelled = persons.labelled[b, p]
        near_x = (-(xs - cells[..., :1]).square() / (2 * sigma**2)).exp()
        near_y = (-(ys - cells[..., 1:]).square() / (2 * sigma**2)).exp() * labelled[..., None]
        # 0.99: a keypoint exactly on a cell must not make a second peak.
        blobs = 0.99 * near_y[..., None] * near_x[:, :, None]
        target = torch.zeros(num_images, num_keypoints, height, width, device=device)
        for image, blob in zip(b.tolist(), blobs, strict=True):
            target[image] = torch.maximum(target[image], blob)
        column, row = cells.round().long().unbind(-1)
        n, k = (labelled & (column >= 0) & (column < width) & (row >= 0) & (row < height)).nonzero().unbind(1)
        target[b[n], k, row[n, k], column[n, k]] = 1.0
        targets.append(target)
        masks.append(torch.maximum(mask, (target.amax(1, keepdim=True) > KNOWN).float()))
    return targets, masks
