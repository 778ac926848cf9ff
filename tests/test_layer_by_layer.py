"""Pyramids and the published head once more, in plain functions on the named tensors (facts 2.4 to 2.6)."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from posedet.config import load_config
from posedet.model.build import build_network
from posedet.model.embedding import TapTable, sample
from posedet.model.pyramid import FeaturePyramid, HighResolutionPyramid
from posedet.skeleton import COCO


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def randomise_norms(module: nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5) if name.endswith("weight") else parameter.uniform_(-0.2, 0.2)


def conv_group_norm(x: Tensor, tensors: dict[str, Tensor], conv: str, norm: str, *, stride: int = 1) -> Tensor:
    kernel = tensors[f"{conv}.weight"]
    x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
    return F.group_norm(x, 32, tensors[f"{norm}.weight"], tensors[f"{norm}.bias"], 1e-5)


def test_pyramid_of_dla_layer_by_layer():
    """From stride 8 on; the last level from the backbone's map, not from the pyramid's; odd sizes."""
    pyramid = FeaturePyramid((16, 24, 32, 40), 64, norm="group", extra_level=True, fine_taps=False)
    randomise_norms(pyramid)
    t = pyramid.state_dict()
    features = [torch.randn(2, c, *size) for c, size in ((16, (40, 24)), (24, (20, 12)), (32, (10, 6)), (40, (5, 3)))]
    third = conv_group_norm(features[3], t, "laterals.2.0", "laterals.2.1")
    second = conv_group_norm(features[2], t, "laterals.1.0", "laterals.1.1") + F.interpolate(third, scale_factor=2)
    first = conv_group_norm(features[1], t, "laterals.0.0", "laterals.0.1") + F.interpolate(second, scale_factor=2)
    expected = [conv_group_norm(x, t, f"outputs.{i}.0", f"outputs.{i}.1") for i, x in enumerate((first, second, third))]
    expected.append(conv_group_norm(features[3], t, "extra.0", "extra.1", stride=2))
    with torch.no_grad():
        maps = pyramid(tuple(features))
    assert [x.shape[2:] for x in maps.levels] == [(20, 12), (10, 6), (5, 3), (3, 2)]
    assert maps.taps is maps.levels
    for found, wanted in zip(maps.levels, expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_finer_maps_to_sample():
    """Merged maps from stride 4 on, each twice as fine as its level, which is merged as without them."""
    pyramid = FeaturePyramid((16, 24, 32, 40), 64, norm="group", extra_level=False, fine_taps=True)
    randomise_norms(pyramid)
    t = pyramid.state_dict()
    features = [torch.randn(2, c, side, side) for c, side in ((16, 32), (24, 16), (32, 8), (40, 4))]
    merged = [conv_group_norm(x, t, f"laterals.{i}.0", f"laterals.{i}.1") for i, x in enumerate(features)]
    for i in (2, 1, 0):
        merged[i] = merged[i] + F.interpolate(merged[i + 1], scale_factor=2)
    with torch.no_grad():
        maps = pyramid(tuple(features))
    for i in range(3):
        torch.testing.assert_close(maps.taps[i], merged[i], atol=1e-5, rtol=1e-4)
        expected = conv_group_norm(merged[i + 1], t, f"outputs.{i}.0", f"outputs.{i}.1")
        torch.testing.assert_close(maps.levels[i], expected, atol=1e-5, rtol=1e-4)


def test_pyramid_of_hrnet_layer_by_layer():
    """Bilinear to stride 4, one reduction with bias and nothing after it, pooling, one convolution of stride 2 each."""
    pyramid = HighResolutionPyramid((8, 16, 32, 64), 48)
    with torch.no_grad():
        for parameter in pyramid.parameters():
            parameter.normal_(std=0.1)
    features = [torch.randn(2, c, *size) for c, size in ((8, (24, 40)), (16, (12, 20)), (32, (6, 10)), (64, (3, 5)))]
    joined = [F.interpolate(x, scale_factor=2**i, mode="bilinear") if i else x for i, x in enumerate(features)]
    reduced = F.conv2d(torch.cat(joined, 1), pyramid.reduction.weight, pyramid.reduction.bias)
    with torch.no_grad():
        maps = pyramid(tuple(features))
    for i, found in enumerate(maps.levels):
        pooled = reduced.unfold(2, 2**i, 2**i).unfold(3, 2**i, 2**i).mean((4, 5))
        convolution = pyramid.outputs[i]
        expected = F.conv2d(pooled, convolution.weight, convolution.bias, stride=2, padding=1)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_published_head_layer_by_layer():
    small = ["backbone=mobilenetv2", "channels=64", "tap_channels=64", "embedding_channels=64"]
    network = build_network(load_config("dla34-coco", [f"model.{setting}" for setting in small]).model, COCO)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1 and not name.startswith("backbone."):
                parameter.normal_(std=1 / math.sqrt(parameter[0].numel()))  # poses over several cells
    for tower in (network.bypass.tower, network.score_taps, network.refine_taps, network.heatmap.tower):
        randomise_norms(tower)
    t = network.state_dict()
    seen = []
    network.pyramid.register_forward_hook(lambda _, __, maps: seen.extend(maps.levels))
    with torch.no_grad():
        output = network(torch.randint(0, 256, (2, 3, 96, 64)).float())

    def branch(name: str, depth: int) -> list[Tensor]:
        maps = seen
        for i in range(depth):
            maps = [F.relu(conv_group_norm(x, t, f"{name}.{i}.conv", f"{name}.{i}.norms.0")) for x in maps]
        return maps

    def rows(maps: list[Tensor]) -> Tensor:
        return torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)

    def embedding(maps: list[Tensor], name: str) -> Tensor:
        samples = sample(TapTable.of(maps, seen, network.geometry.strides, 0.0), coarse, None)
        mixed = torch.einsum("bskc,kcd->bsd", samples, t[f"{name}.embedding.weight"])
        return F.linear(F.relu(mixed), t[f"{name}.output.weight"], t[f"{name}.output.bias"])

    unit = output.proposals.strides[:, None]
    offsets = [F.conv2d(x, t["bypass.offsets.weight"], t["bypass.offsets.bias"]) for x in branch("bypass.tower", 3)]
    places = output.proposals.locations
    dx, dy = rows(offsets)[..., 0::2], rows(offsets)[..., 1::2]
    coarse = torch.stack((places[:, :1] + unit * dx, places[:, 1:] + unit * dy), -1)
    assert (coarse - places[:, None]).abs().mean() > 4
    torch.testing.assert_close(output.poses[0], coarse, atol=1e-2, rtol=1e-4)
    correction = embedding(branch("refine_taps", 2), "refinements.0")
    refined = coarse + unit[..., None] * torch.stack((correction[..., 0::2], correction[..., 1::2]), -1)
    torch.testing.assert_close(output.poses[1], refined, atol=1e-2, rtol=1e-4)
    logits = embedding(branch("score_taps", 2), "score")[..., 0]
    torch.testing.assert_close(output.logits, logits, atol=1e-3, rtol=1e-4)
    for found, x in zip(output.heatmaps, branch("heatmap.tower", 1), strict=True):
        heatmap = F.conv2d(x, t["heatmap.output.weight"], t["heatmap.output.bias"])
        torch.testing.assert_close(found, heatmap, atol=1e-3, rtol=1e-4)


def test_start_values_of_the_pyramids():
    """Xavier uniform with DLA; with HRNet uniform to sqrt(3 / fan-in), and no bias at the start (facts 2.4, 2.5)."""
    fpn = build_network(load_config("dla34-coco", ["model.backbone=mobilenetv2"]).model, COCO).pyramid
    hrfpn = build_network(load_config("hrnet-w32-coco", ["model.channels=64"]).model, COCO).pyramid
    for module in (*fpn.modules(), *hrfpn.modules()):
        if not isinstance(module, nn.Conv2d):
            continue
        fan_in, fan_out = module.weight[0].numel(), module.weight[:, 0].numel()
        if module.bias is None:
            limit = math.sqrt(6 / (fan_in + fan_out))
        else:
            limit = math.sqrt(3 / fan_in)
            assert not module.bias.any()
        assert 0.98 * limit < module.weight.abs().max() <= limit
        assert module.weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.05)
