"""Ways to compute the pose embedding of every location: sampling at the keypoints, then a linear layer.

The model uses `bag`. The other ways are compared with it, forward and backward.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lab.gpu.limits import set_tf32
from lab.gpu.rows import Measurement, Plan, attempt, milliseconds, peak_memory, timed
from lab.gpu.subjects import PAPER_MODELS, SPREAD_CELLS, TOY_CANDIDATES, Model, input_size
from posedet.config import load_config
from posedet.model.embedding import TapTable, corners, sample
from posedet.model.layers import as_rows
from posedet.skeleton import find_skeleton

TRAINING_BATCH = 4


class SamplingCase(NamedTuple):
    """Maps to sample from, K positions for every location, and the weights."""

    maps: list[Tensor]  # (B, C, h, w) of each level
    positions: Tensor  # (B, S, K, 2) input pixels; S: the chosen locations, or all, level after level
    weight: Tensor  # (K, C, O)
    strides: tuple[int, ...]
    chosen: Tensor | None  # (B, S) the chosen locations; None = all

    @property
    def table(self) -> TapTable:
        # In the precision of the maps, because the reference is float64.
        return TapTable.of(self.maps, self.maps, self.strides, 0.0)._replace(rows=as_rows(self.maps))


def bag(case: SamplingCase) -> Tensor:
    """One weighted sum of four rows for each sample, then one matrix product, as in the model: (B, S, O)."""
    samples = sample(case.table, case.positions, case.chosen)
    return samples.flatten(2) @ case.weight.flatten(0, 1)


def gather(case: SamplingCase) -> Tensor:
    """Gather the rows of each of the four corners, weight and add them, then one matrix product."""
    table = case.table
    rows, weights = corners(table, case.positions, case.chosen)
    flat = table.rows.flatten(0, 1)
    samples = sum(
        (flat.index_select(0, rows[..., c].flatten()).view(*rows.shape[:3], -1) * weights[..., c, None])
        for c in range(4)
    )
    assert isinstance(samples, Tensor)
    return samples.flatten(2) @ case.weight.flatten(0, 1)


def grid(case: SamplingCase) -> Tensor:
    """`grid_sample` of each level, then one matrix product; only for all locations."""
    samples = []
    for x, stride, positions in zip(case.maps, case.strides, _by_level(case), strict=True):
        height, width = x.shape[2:]
        size = torch.tensor((width, height), device=x.device)
        places = (2 * positions / stride + 1) / size - 1
        samples.append(F.grid_sample(x, places, align_corners=False).permute(0, 2, 3, 1))
    return torch.cat(samples, 1).flatten(2) @ case.weight.flatten(0, 1)


def project(case: SamplingCase) -> Tensor:
    """Apply the linear layer to every row for every keypoint, then one weighted sum of 4 K rows."""
    table = case.table
    rows, weights = corners(table, case.positions, case.chosen)
    num_keypoints, channels, outputs = case.weight.shape
    projected = table.rows.flatten(0, 1) @ case.weight.transpose(0, 1).reshape(channels, -1)
    place = rows * num_keypoints + torch.arange(num_keypoints, device=rows.device)[:, None]
    mixed = F.embedding_bag(
        place.flatten(0, 1).flatten(1),
        projected.view(-1, outputs),
        per_sample_weights=weights.flatten(0, 1).flatten(1),
        mode="sum",
    )
    return mixed.view(*case.positions.shape[:2], outputs)


def deform(case: SamplingCase) -> Tensor:
    """torchvision's deformable convolution with a 1 x K kernel; only for all locations."""
    deform_conv2d = import_module("torchvision.ops").deform_conv2d
    results = []
    for x, offsets, weight in deform_inputs(case):
        results.append(deform_conv2d(x, offsets, weight).flatten(2).transpose(1, 2))
    return torch.cat(results, 1)


def deform_inputs(case: SamplingCase) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For each level: padded map (B, C, h, w + K - 1), offsets (B, 2K, h, w) as y, x, ..., and weight (O, C, 1, K).

    Tap k of the kernel lies k cells to the right of the location, so its offset is reduced by k.
    """
    num_keypoints = len(case.weight)
    weight = case.weight.permute(2, 1, 0)[:, :, None]
    for x, stride, positions in zip(case.maps, case.strides, _by_level(case), strict=True):
        height, width = x.shape[2:]
        cells = positions.view(len(x), height, width, num_keypoints, 2) / stride
        columns = torch.arange(width, device=x.device)[:, None] + torch.arange(num_keypoints, device=x.device)
        rows = torch.arange(height, device=x.device)[:, None, None]
        offsets = torch.stack((cells[..., 1] - rows, cells[..., 0] - columns), -1)
        yield F.pad(x, (0, num_keypoints - 1)), offsets.flatten(3).permute(0, 3, 1, 2).contiguous(), weight


def _by_level(case: SamplingCase) -> tuple[Tensor, ...]:
    if case.chosen is not None:
        raise ValueError("chosen locations cannot be split by level")
    return torch.split(case.positions, [x.shape[2] * x.shape[3] for x in case.maps], 1)


DENSE: dict[str, Callable[[SamplingCase], Tensor]] = {
    "embedding_bag": bag,
    "four gathers": gather,
    "grid_sample": grid,
    "project, then gather": project,
    "deform_conv2d": deform,
}
SPARSE = {name: DENSE[name] for name in ("embedding_bag", "four gathers", "project, then gather")}


def sampling(plan: Plan, models: Sequence[Model] = PAPER_MODELS) -> Iterator[Measurement]:
    """Time each way with each model's shapes: dense as for the score, sparse as for refinement, and in training."""
    for model in models:
        dense = make_case(model, input_size(model, plan), 1, plan.device, chosen=None)
        count = TOY_CANDIDATES if plan.toy else load_config(model.preset).decode.candidates
        sparse = make_case(model, input_size(model, plan), 1, plan.device, chosen=count)
        for name, way in DENSE.items():
            yield attempt(
                Measurement("sampling", model.name, f"{name}, dense", "tf32", 1), partial(_forward, plan, way, dense)
            )
        for name, way in SPARSE.items():
            yield attempt(
                Measurement("sampling", model.name, f"{name}, {count}", "tf32", 1), partial(_forward, plan, way, sparse)
            )
        side = min(input_size(model, plan))
        batch = 1 if plan.toy else TRAINING_BATCH
        training = make_case(model, (side, side), batch, plan.device, chosen=None)
        for name, way in DENSE.items():
            yield attempt(
                Measurement("sampling", model.name, f"{name}, training", "tf32", batch),
                partial(_backward, plan, way, training),
            )


def make_case(model: Model, size: tuple[int, int], batch: int, device: str, *, chosen: int | None) -> SamplingCase:
    """Random maps with a model's shapes for an input (height, width), and poses about as wide as real ones."""
    config = load_config(model.preset).model
    num_keypoints = find_skeleton(config.skeleton).num_keypoints
    generator = torch.Generator(device).manual_seed(0)
    normal = partial(torch.randn, generator=generator, device=device)
    maps, positions = [], []
    for stride in config.strides:
        height, width = (-(-side // stride) for side in size)
        maps.append(normal(batch, config.tap_channels, height, width))
        rows, columns = torch.meshgrid(
            torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
        )
        cells = torch.stack((columns, rows), -1).view(1, -1, 1, 2)
        pose = cells + SPREAD_CELLS * normal(1, 1, num_keypoints, 2) + normal(batch, height * width, num_keypoints, 2)
        positions.append(pose * stride)
    weight = normal(num_keypoints, config.tap_channels, config.embedding_channels) / config.tap_channels**0.5
    every = torch.cat(positions, 1)
    if chosen is None:
        return SamplingCase(maps, every, weight, config.strides, None)
    index = torch.rand(batch, every.shape[1], generator=generator, device=device).topk(chosen, 1).indices
    return SamplingCase(
        maps, every.gather(1, index[..., None, None].expand(-1, -1, *every.shape[2:])), weight, config.strides, index
    )


def _forward(plan: Plan, way: Callable[[SamplingCase], Tensor], case: SamplingCase) -> dict[str, float]:
    peak_memory(plan.device)
    with torch.no_grad():
        set_tf32(False)
        error = _error([way(case)], [gather(_double(case))])
        set_tf32(True)
        spread = timed(lambda: way(case), plan.device, plan.seconds / 2)
    return {**milliseconds(spread), "relative error": error, **peak_memory(plan.device)}


def _backward(plan: Plan, way: Callable[[SamplingCase], Tensor], case: SamplingCase) -> dict[str, float]:
    peak_memory(plan.device)
    set_tf32(False)
    error = _error(_gradients(way, case), _gradients(gather, _double(case)))
    set_tf32(True)
    spread = timed(lambda: _gradients(way, case), plan.device, plan.seconds / 2)
    return {**milliseconds(spread), "relative error": error, **peak_memory(plan.device)}


def _gradients(way: Callable[[SamplingCase], Tensor], case: SamplingCase) -> list[Tensor]:
    """The gradients of the embeddings' squared sum with respect to maps, positions and weights."""
    learnt = [x.detach().requires_grad_() for x in (*case.maps, case.positions, case.weight)]
    moved = SamplingCase(learnt[:-2], learnt[-2], learnt[-1], case.strides, case.chosen)
    return list(torch.autograd.grad(way(moved).square().sum(), learnt))


def _double(case: SamplingCase) -> SamplingCase:
    return case._replace(
        maps=[x.double() for x in case.maps], positions=case.positions.double(), weight=case.weight.double()
    )


def _error(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest relative error |found - expected| / |expected| (norms) of some tensors."""
    return max(float((a.double() - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))
