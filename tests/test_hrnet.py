"""HRNet against the published counts and names, and against a second, flat computation of the whole network."""

import hashlib

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from posedet.model.hrnet import FusionModule, HRNet

# Of the official PoseDet detector's `backbone.*` names and shapes, the prefix taken off: one "name (shape)" a line.
LAYOUTS = {
    32: "20a7b3a43c23ab8145b896094c4bbd915ffbd6da32cade272b9835e662385977",
    48: "a15582e4b1c873d8ddff11c19c4ed2f615ea2e042db996854e1fe5d843f7fab8",
}
STEM = {"conv1": 1_728, "bn1": 128, "conv2": 36_864, "bn2": 128, "layer1": 286_208}
PARTS = {
    32: STEM
    | {"transition1": 221_376, "stage2": 390_848, "transition2": 73_984}
    | {"stage3": 6_821_632, "transition3": 295_424, "stage4": 21_177_216},
    48: STEM
    | {"transition1": 332_064, "stage2": 878_112, "transition2": 166_272}
    | {"stage3": 15_335_040, "transition3": 664_320, "stage4": 47_624_256},
}


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module", params=[32, 48])
def meta_network(request: pytest.FixtureRequest) -> HRNet:
    with torch.device("meta"):
        return HRNet(request.param).eval()


def randomise_norms(network: nn.Module) -> None:
    """Statistics and affine of a trained network in kind: with the start values a forgotten one would not be seen."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


@pytest.mark.slow
def test_parameters_of_every_part(meta_network: HRNet):
    width = meta_network.channels[0]
    parts = {
        name: sum(parameter.numel() for parameter in part.parameters()) for name, part in meta_network.named_children()
    }
    assert parts == PARTS[width]
    assert sum(parts.values()) == {32: 29_305_536, 48: 65_325_120}[width]
    assert sum(buffer.numel() for buffer in meta_network.buffers()) == {32: 57_649, 48: 84_401}[width]


def test_names_and_shapes_of_the_official_checkpoint(meta_network: HRNet):
    tensors = meta_network.state_dict()
    assert len(tensors) == 1830
    lines = "\n".join(sorted(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items()))
    assert hashlib.sha256(lines.encode()).hexdigest() == LAYOUTS[meta_network.channels[0]]


# 640x864 is a 640x480 photo at short side 640.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(512, 512, {32: 41.229e9, 48: 84.722e9}), (640, 864, {32: 86.967e9, 48: 178.709e9})],
)
def test_multiply_adds(meta_network: HRNet, height: int, width: int, expected: dict[int, float]):
    total = 0

    def add(conv: nn.Conv2d, _: tuple[Tensor], output: Tensor) -> None:
        nonlocal total
        total += output.numel() * conv.weight[0].numel()

    hooks = [x.register_forward_hook(add) for x in meta_network.modules() if isinstance(x, nn.Conv2d)]
    meta_network(torch.empty(1, 3, height, width, device="meta"))
    for hook in hooks:
        hook.remove()
    assert total == pytest.approx(expected[meta_network.channels[0]], abs=0.6e6)


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 160)])
def test_shapes(meta_network: HRNet, height: int, width: int):
    maps = meta_network(torch.empty(2, 3, height, width, device="meta"))
    first = meta_network.channels[0]
    assert meta_network.channels == (first, 2 * first, 4 * first, 8 * first)
    assert [tuple(x.shape) for x in maps] == [
        (2, channels, height // stride, width // stride)
        for channels, stride in zip(meta_network.channels, (4, 8, 16, 32), strict=True)
    ]
    assert meta_network.strides == (4, 8, 16, 32)


def test_start_values():
    network = HRNet(32)
    for name, parameter in network.named_parameters():
        if parameter.dim() == 1:
            assert torch.all(parameter == (1.0 if name.endswith("weight") else 0.0)), name
        elif parameter.numel() > 100_000:
            expected = (2 / (parameter.shape[0] * parameter.shape[2] * parameter.shape[3])) ** 0.5
            assert parameter.std().item() == pytest.approx(expected, rel=0.02), name


@pytest.mark.slow
def test_gradient_reaches_every_parameter():
    network = HRNet(4)
    maps = network(torch.randn(2, 3, 64, 64))
    # The plain sum of normalised maps hardly depends on the weights: every cell gets a weight of its own.
    sum((x * torch.randn_like(x)).sum() for x in maps).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


class FlatHRNet:
    """The network in the words of its paper, with plain functions on the named tensors."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def conv_norm(self, x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        weight = self.tensors[f"{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, variance, scale, shift = (
            self.tensors[f"{norm}.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(variance + 1e-5) * scale + shift

    def pair(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        return self.conv_norm(x, f"{name}.0", f"{name}.1", stride)

    def basic(self, x: Tensor, name: str) -> Tensor:
        y = self.conv_norm(x, f"{name}.conv1", f"{name}.bn1").clamp(min=0)
        return (self.conv_norm(y, f"{name}.conv2", f"{name}.bn2") + x).clamp(min=0)

    def bottleneck(self, x: Tensor, name: str, residual: Tensor) -> Tensor:
        y = self.conv_norm(x, f"{name}.conv1", f"{name}.bn1").clamp(min=0)
        y = self.conv_norm(y, f"{name}.conv2", f"{name}.bn2").clamp(min=0)
        return (self.conv_norm(y, f"{name}.conv3", f"{name}.bn3") + residual).clamp(min=0)

    def arrive(self, x: Tensor, name: str, source: int, target: int) -> Tensor:
        """Branch `source`'s map on its way to branch `target`."""
        for step in range(target - source):
            x = self.pair(x, f"{name}.{step}", stride=2)
            x = x.clamp(min=0) if step < target - source - 1 else x
        if source > target:
            factor = 2 ** (source - target)
            x = self.pair(x, name).repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
        return x

    def module(self, maps: list[Tensor], name: str) -> list[Tensor]:
        maps = list(maps)
        for branch in range(len(maps)):
            for block in range(4):
                maps[branch] = self.basic(maps[branch], f"{name}branches.{branch}.{block}")
        fused = []
        for target in range(len(maps)):
            total = torch.zeros_like(maps[target])
            for source in range(len(maps)):
                total += self.arrive(maps[source], f"{name}fuse_layers.{target}.{source}", source, target)
            fused.append(total.clamp(min=0))
        return fused

    def __call__(self, images: Tensor) -> list[Tensor]:
        x = self.conv_norm(images, "conv1", "bn1", 2).clamp(min=0)
        x = self.conv_norm(x, "conv2", "bn2", 2).clamp(min=0)
        x = self.bottleneck(x, "layer1.0", self.pair(x, "layer1.0.downsample"))
        for block in (1, 2, 3):
            x = self.bottleneck(x, f"layer1.{block}", x)
        maps = [self.pair(x, "transition1.0").clamp(min=0), self.pair(x, "transition1.1.0", 2).clamp(min=0)]
        for stage, num_modules in ((2, 1), (3, 4), (4, 3)):
            if stage > 2:
                new = self.pair(maps[-1], f"transition{stage - 1}.{stage - 1}.0", 2)
                maps.append(new.clamp(min=0))
            for module in range(num_modules):
                maps = self.module(maps, f"stage{stage}.{module}.")
        return maps


@torch.no_grad()
def test_fusion_equals_the_flat_computation():
    module = FusionModule((3, 6, 12, 24)).double().eval()
    randomise_norms(module)
    maps = [
        torch.randn(2, width, 48 // 2**i, 32 // 2**i, dtype=torch.float64) for i, width in enumerate((3, 6, 12, 24))
    ]
    before = [x.clone() for x in maps]
    expected = FlatHRNet(module.state_dict()).module(maps, "")
    for ours, flat in zip(module(maps), expected, strict=True):
        torch.testing.assert_close(ours, flat)
    assert all(torch.equal(x, y) for x, y in zip(maps, before, strict=True))


@pytest.mark.slow
@torch.no_grad()
def test_equals_the_flat_computation():
    network = HRNet(4).double().eval()
    randomise_norms(network)
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    expected = FlatHRNet(network.state_dict())(images)
    for ours, flat in zip(network(images), expected, strict=True):
        assert flat.std() > 0.1
        torch.testing.assert_close(ours, flat)


@pytest.mark.slow
@torch.no_grad()
def test_channels_last_and_bfloat16():
    network = HRNet(16).eval()
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
