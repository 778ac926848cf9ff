"""DLA-34 against the published counts and names, and against a second, flat computation of the same tree."""

import hashlib
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from posedet.model.dla import DLA34

DEAD_VALUES = 41_728


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def randomise_norms(network: nn.Module) -> None:
    """Statistics and affine of a trained network in kind: with the start values a forgotten one would not be seen."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


def layout(network: nn.Module) -> str:
    """Hash of all names and shapes, one "name (shape)" a line, sorted."""
    lines = sorted(f"{name} {tuple(tensor.shape)}" for name, tensor in network.state_dict().items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def multiply_adds(network: nn.Module, height: int, width: int) -> int:
    """Of all convolutions that are really computed; needs a network on the meta device."""
    total = 0

    def add(conv: nn.Conv2d, _: tuple[Tensor], output: Tensor) -> None:
        nonlocal total
        total += output.numel() * conv.weight[0].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(add)
    network(torch.empty(1, 3, height, width, device="meta"))
    return total


def test_parameters_of_every_part():
    network = DLA34(dead_projections=True)
    parts = {name: count(part) for name, part in network.named_children()}
    assert parts == {
        "base_layer": 2_384,
        "level0": 2_336,
        "level1": 4_672,
        "level2": 140_032,
        "level3": 1_215_488,
        "level4": 4_855_808,
        "level5": 9_050_112,
    }
    assert count(network) == 15_270_832
    assert sum(buffer.numel() for buffer in network.buffers()) == 16_295


def test_names_and_shapes_of_the_official_checkpoint():
    network = DLA34(dead_projections=True)
    assert len(network.state_dict()) == 234
    # Of the official PoseDet detector's `backbone.*` entries, the prefix taken off.
    assert layout(network) == "65262e71ba123aa41a105d32909c6661d4a4e48aee2bd373c96d8182977d6d5f"


def test_without_dead_projections_only_these_are_gone():
    whole, live = DLA34(dead_projections=True), DLA34(dead_projections=False)
    assert count(whole) - count(live) == DEAD_VALUES
    gone = set(whole.state_dict()) - set(live.state_dict())
    assert {name.rsplit(".", 2)[0] for name in gone} == {"level3.project", "level4.project"}
    randomise_norms(whole)
    kept = {name: tensor for name, tensor in whole.state_dict().items() if name not in gone}
    live.load_state_dict(kept)
    images = torch.randn(1, 3, 64, 32)
    for first, second in zip(whole.eval()(images), live.eval()(images), strict=True):
        assert torch.equal(first, second)


# Published, less what the dead projections cost; 640x864 is a 640x480 photo at short side 640.
@pytest.mark.slow
@pytest.mark.parametrize(("height", "width", "expected"), [(512, 512, 16.052e9), (640, 864, 33.859e9)])
def test_multiply_adds(height: int, width: int, expected: float):
    dead = height * width * (64 * 128 / 8**2 + 128 * 256 / 16**2)
    with torch.device("meta"):
        network = DLA34(dead_projections=True).eval()
    assert multiply_adds(network, height, width) + dead == pytest.approx(expected, abs=0.6e6)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 160)])
def test_shapes(height: int, width: int):
    with torch.device("meta"):
        network = DLA34(dead_projections=False)
        maps = network(torch.empty(2, 3, height, width))
    assert [tuple(x.shape) for x in maps] == [
        (2, channels, height // stride, width // stride)
        for channels, stride in zip(network.channels, network.strides, strict=True)
    ]


def test_start_values():
    network = DLA34(dead_projections=True)
    for name, parameter in network.named_parameters():
        if parameter.dim() == 1:
            expected = 1.0 if name.endswith("weight") else 0.0
            assert torch.all(parameter == expected), name
        elif parameter.numel() > 100_000:
            expected = math.sqrt(2 / (parameter.shape[0] * parameter.shape[2] * parameter.shape[3]))
            assert parameter.std().item() == pytest.approx(expected, rel=0.02), name


def test_gradient_reaches_every_live_parameter():
    network = DLA34(dead_projections=True)
    maps = network(torch.randn(2, 3, 64, 64))
    # The plain sum of normalised maps hardly depends on the weights: every cell gets a weight of its own.
    sum((x * torch.randn_like(x)).sum() for x in maps).backward()
    dead = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert {name.rsplit(".", 2)[0] for name in dead} == {"level3.project", "level4.project"}
    assert sum(network.get_parameter(name).numel() for name in dead) == DEAD_VALUES
    for name, parameter in network.named_parameters():
        if name in dead:
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


class FlatDLA:
    """The tree as the paper draws it, written out level by level with plain functions on the named tensors."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def conv_norm(self, x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        weight = self.tensors[f"{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, variance, scale, shift = (
            self.tensors[f"{norm}.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(variance + 1e-5) * scale + shift

    def block(self, x: Tensor, name: str, stride: int, residual: Tensor) -> Tensor:
        y = self.conv_norm(x, f"{name}.conv1", f"{name}.bn1", stride).clamp(min=0)
        return (self.conv_norm(y, f"{name}.conv2", f"{name}.bn2") + residual).clamp(min=0)

    def tree(self, x: Tensor, name: str, stride: int, joined: list[Tensor]) -> Tensor:
        residual = F.max_pool2d(x, stride, stride) if stride > 1 else x
        if f"{name}.project.0.weight" in self.tensors:
            residual = self.conv_norm(residual, f"{name}.project.0", f"{name}.project.1")
        first = self.block(x, f"{name}.tree1", stride, residual)
        second = self.block(first, f"{name}.tree2", 1, first)
        leaves = torch.cat([second, first, *joined], dim=1)
        return self.conv_norm(leaves, f"{name}.root.conv", f"{name}.root.bn").clamp(min=0)

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        x = images
        for name, stride in (("base_layer", 1), ("level0", 1), ("level1", 2)):
            x = self.conv_norm(x, f"{name}.0", f"{name}.1", stride).clamp(min=0)
        level2 = self.tree(x, "level2", 2, [])
        first = self.tree(level2, "level3.tree1", 2, [])
        level3 = self.tree(first, "level3.tree2", 1, [F.max_pool2d(level2, 2), first])
        first = self.tree(level3, "level4.tree1", 2, [])
        level4 = self.tree(first, "level4.tree2", 1, [F.max_pool2d(level3, 2), first])
        level5 = self.tree(level4, "level5", 2, [F.max_pool2d(level4, 2)])
        return level2, level3, level4, level5


@torch.no_grad()
def test_equals_the_flat_computation():
    network = DLA34(dead_projections=True).double().eval()
    randomise_norms(network)
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    expected = FlatDLA(network.state_dict())(images)
    for ours, flat in zip(network(images), expected, strict=True):
        assert flat.std() > 0.1
        torch.testing.assert_close(ours, flat)


@torch.no_grad()
def test_channels_last_and_bfloat16():
    network = DLA34(dead_projections=False).eval()
    randomise_norms(network)
    images = torch.randn(1, 3, 64, 64)
    expected = network(images)
    network = network.to(memory_format=torch.channels_last)
    images = images.to(memory_format=torch.channels_last)
    for ours, plain in zip(network(images), expected, strict=True):
        assert ours.is_contiguous(memory_format=torch.channels_last)
        assert (ours - plain).norm() < 1e-5 * plain.norm()
    with torch.autocast("cpu", torch.bfloat16):
        maps = network(images)
    for half, plain in zip(maps, expected, strict=True):
        assert half.dtype == torch.bfloat16
        assert (half - plain).norm() < 0.05 * plain.norm()
