"""The whole network: size and work of every part as published, pixels out, what gradients reach, sparse as dense."""

import math
from collections import Counter
from contextlib import nullcontext
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from posedet.config import load_config
from posedet.model.deployed import DeployedNet
from posedet.model.embedding import PoseEmbedding, TapTable, sample
from posedet.model.network import PoseDetNet, Proposals, build_network
from posedet.model.pyramid import FeaturePyramid, HighResolutionPyramid
from posedet.skeleton import BODY19, COCO, CROWDPOSE, Skeleton, find_skeleton

# The paper's head on a small backbone, with few channels: the same code, but fast.
SMALL = ["model.backbone=mobilenetv2", "model.channels=32", "model.tap_channels=32", "model.embedding_channels=32"]

FIFTEEN = BODY19.subset(BODY19.keypoints[:15])

PART_OF = {
    "backbone": "backbone",
    "pyramid": "neck",
    "bypass": "bypass",
    "score_taps": "classification",
    "score": "classification",
    "refine_taps": "refinement",
    "refinements": "refinement",
    "heatmap": "heatmap",
}
PARTS = ("backbone", "neck", "bypass", "classification", "refinement", "heatmap")


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@cache
def meta_network(preset: str, skeleton: Skeleton) -> PoseDetNet:
    """Shapes alone: no memory, no time. Training, unless a test says otherwise and sets it back."""
    with torch.device("meta"):
        return build_network(load_config(preset).model, skeleton)


# --- size (facts 10) ---


@pytest.mark.parametrize(
    ("preset", "skeleton", "expected"),
    [
        ("dla34-coco", COCO, (15_270_832, 1_148_672, 447_522, 574_081, 578_338, 149_905)),
        ("hrnet-w32-coco", COCO, (29_305_536, 1_893_376, 1_779_746, 2_295_041, 2_303_522, 594_705)),
        ("hrnet-w48-coco", COCO, (65_325_120, 1_954_816, 1_779_746, 2_295_041, 2_303_522, 594_705)),
        ("dla34-crowdpose", FIFTEEN, (15_270_832, 1_148_672, 447_006, 541_313, 545_054, 149_647)),
        ("hrnet-w48-crowdpose", FIFTEEN, (65_325_120, 1_954_816, 1_778_718, 2_163_969, 2_171_422, 594_191)),
        # 14 joints, without the official code's added one: by the rule that the published counts follow.
        ("dla34-crowdpose", CROWDPOSE, (15_270_832, 1_148_672)),
        ("hrnet-w32-crowdpose", CROWDPOSE, (29_305_536, 1_893_376)),
        ("hrnet-w48-crowdpose", CROWDPOSE, (65_325_120, 1_954_816)),
    ],
)
def test_parameters_of_every_part(preset, skeleton, expected):
    network = meta_network(preset, skeleton)
    found: Counter[str] = Counter()
    for name, parameter in network.named_parameters():
        found[PART_OF[name.partition(".")[0]]] += parameter.numel()
    c, k = load_config(preset).model.channels, skeleton.num_keypoints
    convolution = 9 * c**2 + 2 * c
    head = (
        3 * convolution + 2 * k * (c + 1),
        2 * convolution + k * c**2 + (c + 1),
        2 * convolution + k * c**2 + 2 * k * (c + 1),
        convolution + k * (c + 1),
    )
    assert tuple(found[part] for part in PARTS) == (*expected[:2], *head)
    assert expected[2:] in (head, ())


@pytest.mark.parametrize(
    ("preset", "num_tensors", "num_buffer_values"),
    [("dla34-coco", 289, 16_295), ("hrnet-w32-coco", 1872, 57_649), ("hrnet-w48-coco", 1872, 84_401)],
)
def test_number_of_tensors(preset, num_tensors, num_buffer_values):
    network = meta_network(preset, COCO)
    state, learnt = network.state_dict(), dict(network.named_parameters())
    assert len(state) == num_tensors
    assert sum(tensor.numel() for name, tensor in state.items() if name not in learnt) == num_buffer_values


# --- work (facts 11) ---


def multiply_adds(network: PoseDetNet, height: int, width: int) -> dict[str, int]:
    """Of all convolutions and linear maps; an embedding is counted as the dense 1 x K convolution that it replaces."""
    found: Counter[str] = Counter()

    def counter(part: str):
        def add(module: nn.Module, _: tuple[Tensor], output: Tensor) -> None:
            if isinstance(module, PoseEmbedding):
                per_value = module.weight.shape[0] * module.weight.shape[1]
            else:
                per_value = module.weight[0].numel()
            found[part] += output.numel() * per_value

        return add

    hooks = [
        module.register_forward_hook(counter(PART_OF[name.partition(".")[0]]))
        for name, module in network.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear, PoseEmbedding))
    ]
    network(torch.empty(1, 3, height, width, device="meta"))
    for hook in hooks:
        hook.remove()
    return dict(found)


@pytest.fixture
def no_autocast(monkeypatch):
    """It does not know the meta device."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


DEAD = {"dla34": 64 * 128 / 8**2 + 128 * 256 / 16**2}  # projections, for each pixel: published, never computed by us


@pytest.mark.parametrize(
    ("preset", "skeleton", "expected"),
    [
        ("dla34-coco", COCO, 26_507_067_392),
        ("hrnet-w32-coco", COCO, 83_877_560_320),
        ("hrnet-w48-coco", COCO, 128_376_766_464),
        ("dla34-crowdpose", FIFTEEN, 26_143_588_352),
        ("hrnet-w48-crowdpose", FIFTEEN, 126_953_717_760),
        # Every joint costs the same: two more from 15 to 17 above, one less here.
        ("dla34-crowdpose", CROWDPOSE, 26_143_588_352 - (26_507_067_392 - 26_143_588_352) // 2),
        ("hrnet-w48-crowdpose", CROWDPOSE, 126_953_717_760 - (128_376_766_464 - 126_953_717_760) // 2),
        ("hrnet-w32-crowdpose", CROWDPOSE, 83_877_560_320 - 3 * (128_376_766_464 - 126_953_717_760) // 2),
    ],
)
def test_multiply_adds_at_512(preset, skeleton, expected, no_autocast):
    found = multiply_adds(meta_network(preset, skeleton), 512, 512)
    assert sum(found.values()) + 512 * 512 * DEAD.get(preset.rpartition("-")[0], 0) == expected


@pytest.mark.parametrize(
    ("preset", "size", "expected"),
    [
        ("dla34-coco", (640, 864), (33.859, 2.002, 5.128, 6.585, 6.633, 1.718)),
        ("dla34-coco", (512, 704), (22.071, 1.303, 3.341, 4.290, 4.322, 1.119)),
        ("hrnet-w32-coco", (512, 704), (56.690, 7.128, 13.144, 16.957, 17.020, 4.392)),
        ("hrnet-w48-coco", (640, 864), (178.709, 13.059, 20.165, 26.014, 26.110, 6.738)),
    ],
)
def test_multiply_adds_of_every_part(preset, size, expected, no_autocast):
    found = multiply_adds(meta_network(preset, COCO), *size)
    found["backbone"] += size[0] * size[1] * DEAD.get(preset.rpartition("-")[0], 0)
    assert [found[part] / 1e9 for part in PARTS] == pytest.approx(expected, abs=0.0006)


@pytest.mark.parametrize(("preset", "expected"), [("dla34-coco", 25_693_069_312), ("hrnet-w32-coco", 80_683_270_144)])
def test_heatmaps_cost_nothing_after_training(preset, expected, no_autocast):
    network = meta_network(preset, COCO)
    found = multiply_adds(network.eval(), 512, 512)
    network.train()
    assert "heatmap" not in found
    assert sum(found.values()) + 512 * 512 * DEAD.get(preset.rpartition("-")[0], 0) == expected


@pytest.mark.parametrize(
    ("preset", "side", "num_locations"),
    [
        ("dla34-coco", 512, 5440),
        ("dla34-coco", 640, 8500),
        ("hrnet-w32-coco", 512, 5376),
        ("hrnet-w48-coco", 640, 8400),
        ("posedet-s", 320, 2100),
    ],
)
def test_shapes(preset, side, num_locations, no_autocast):
    config = load_config(preset)
    skeleton = find_skeleton(config.model.skeleton)
    k = skeleton.num_keypoints
    output = meta_network(preset, skeleton)(torch.empty(2, 3, side, side, device="meta"))
    assert output.chosen is None
    assert [pose.shape for pose in output.poses] == [(2, num_locations, k, 2)] * (1 + config.model.refinements)
    assert output.logits.shape == (2, num_locations)
    fineness = 2 if config.model.fine_taps else 1
    sides = [side * fineness // stride for stride in config.model.strides]
    assert [heatmap.shape for heatmap in output.heatmaps] == [(2, k, side, side) for side in sides]
    if preset == "posedet-s":
        assert output.keypoint_logits.shape == (2, num_locations, k)
        assert output.proposals.presence.shape == (2, num_locations)
    else:
        assert output.keypoint_logits is None and output.proposals.presence is None


# --- start values (facts 2.6) ---


def test_start_values_of_the_head():
    config = load_config("dla34-coco", ["model.backbone=mobilenetv2"])
    network = build_network(config.model, COCO)
    for name, parameter in network.named_parameters():
        if name.startswith(("backbone.", "pyramid.")):
            continue
        if ".norms." in name:
            assert torch.all(parameter == (1 if name.endswith("weight") else 0)), name
        elif name.endswith("bias"):
            expected = -4.595120 if name == "score.output.bias" else 0
            torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, expected), msg=name)
        else:
            tolerance = 4 * 0.01 / math.sqrt(2 * parameter.numel())
            assert parameter.std().item() == pytest.approx(0.01, abs=tolerance), name
            assert abs(parameter.mean().item()) < 4 * 0.01 / math.sqrt(parameter.numel()), name


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


def test_chosen_bias_of_heatmaps_and_keypoints():
    network = build_network(load_config("posedet-s").model, BODY19)
    assert network.heatmap.output.bias.tolist() == pytest.approx([-4.6] * 19)
    assert network.bypass.presence.bias.item() == pytest.approx(-4.595120)
    assert network.score.output.bias.tolist() == pytest.approx([-4.595120] + [0] * 19)


# --- the network's words ---


def small(preset: str, *overrides: str) -> PoseDetNet:
    """A network whose poses spread over several cells and whose outputs differ from place to place."""
    config = load_config(preset, [*(SMALL if preset != "posedet-s" else ()), *overrides])
    network = build_network(config.model, find_skeleton(config.model.skeleton))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith(("bypass.", "score", "refine", "heatmap.")) and parameter.ndim > 1:
                parameter.normal_(std=1.5 / math.sqrt(parameter[0].numel()))
        network.bypass.offsets.weight.normal_(std=0.4)
        # Statistics of real maps; with those of the start all outputs are nearly the same.
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        network.train()(images())
    return network


def images(num_images: int = 2, height: int = 96, width: int = 64) -> Tensor:
    return torch.randint(0, 256, (num_images, 3, height, width)).float()


@pytest.mark.parametrize(
    ("preset", "mean", "std"),
    [
        ("dla34-coco", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        ("hrnet-w48-crowdpose", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        ("posedet-s", (127.5,) * 3, (127.5,) * 3),
    ],
)
def test_pixels_are_normalised(preset, mean, std):
    """Where the backbone's start weights expect it, in RGB; and the file of weights does not hold it."""
    shallow = ["model.backbone=hrnet-w32"] if "hrnet" in preset else []  # builds faster
    network = build_network(load_config(preset, shallow).model, COCO).eval()
    seen = []
    network.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pixels = torch.tensor([10.0, 100.0, 200.0]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    with torch.no_grad():
        network(pixels)
    expected = [(value - m) / s for value, m, s in zip((10, 100, 200), mean, std, strict=True)]
    assert seen[0][0, :, 5, 7].tolist() == pytest.approx(expected, rel=1e-5)
    assert not any("image" in name for name in network.state_dict())


def set_bias(output: nn.Module, cells: list[tuple[float, float]]) -> None:
    """Make an output of displacements say these, (y, x) for each joint, wherever it is asked."""
    with torch.no_grad():
        output.weight.zero_()
        output.bias.copy_(torch.tensor(cells).flatten())


def test_poses_are_in_pixels():
    """Facts 15.7: stride 16, row 3, column 5, offset (dy, dx) = (-1.25, 2.5) is x = 120, y = 28."""
    network = small("dla34-coco").eval()
    cells = [(-1.25, 2.5), *((0.5 * k, -0.25 * k) for k in range(1, 17))]
    set_bias(network.bypass.offsets, cells)
    set_bias(network.refinements[0].output, [(1.0, -2.0)] * 17)
    with torch.no_grad():
        output = network(images(1, 128, 192))
    # 24 columns and 16 rows of stride 8 come first, then 12 columns of stride 16.
    location = 24 * 16 + 3 * 12 + 5
    assert output.proposals.locations[location].tolist() == [80, 48]
    assert output.proposals.strides[location].item() == 16
    assert output.poses[0][0, location, 0].tolist() == [120, 28]
    expected = [(80 + 16 * x, 48 + 16 * y) for y, x in cells]
    torch.testing.assert_close(output.poses[0][0, location], torch.tensor(expected))
    # The refinement is another displacement in cells of the same stride.
    unit = output.proposals.strides[:, None, None]
    torch.testing.assert_close(output.poses[1][0], output.poses[0][0] + unit * torch.tensor([-2.0, 1.0]))


@pytest.mark.parametrize(("location", "share"), [("corner", 0.0), ("centre", 0.5)])
def test_locations(location, share):
    """Level after level, row by row; corners as published, or the middle of a cell's pixels (3.5 at stride 8)."""
    network = small("dla34-coco", f"model.location={location}").eval()
    with torch.no_grad():
        proposals = network(images(1, 64, 128)).proposals
    expected = [
        (column * stride + share * (stride - 1), row * stride + share * (stride - 1), stride)
        for stride in (8, 16, 32, 64)
        for row in range(64 // stride)
        for column in range(128 // stride)
    ]
    found = torch.cat((proposals.locations, proposals.strides[:, None]), 1)
    assert [tuple(row) for row in found.tolist()] == expected


def test_heatmaps_only_while_training():
    network = small("dla34-coco")
    assert [x.shape[2:] for x in network.train()(images()).heatmaps] == [(12, 8), (6, 4), (3, 2), (2, 1)]
    assert network.eval()(images()).heatmaps == []
    assert build_network(load_config("dla34-coco", [*SMALL, "model.heatmaps=false"]).model, COCO).heatmap is None


def test_images_do_not_meet():
    """A pose of one image reads nothing of another in the batch; the order of sums alone may differ."""
    network = small("posedet-s").eval()
    both = images(2)
    with torch.no_grad():
        together = network(both)
        for b in range(2):
            alone = network(both[b : b + 1])
            torch.testing.assert_close(together.poses[-1][b : b + 1], alone.poses[-1], atol=0.05, rtol=0)
            torch.testing.assert_close(together.logits[b : b + 1], alone.logits, atol=1e-2, rtol=0)


def test_half_precision_ends_before_the_joints():
    """Under autocast the places are float32 all the same."""
    network = small("posedet-s").train()
    with torch.autocast("cpu", torch.bfloat16):
        output = network(images())
    assert {x.dtype for x in (*output.poses, output.logits, output.keypoint_logits, *output.heatmaps)} == {
        torch.float32
    }
    assert all(pose.isfinite().all() for pose in output.poses)


# --- pyramids and head once more, layer by layer (facts 2.4 to 2.6) ---


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
    network = small("dla34-coco", "model.channels=64", "model.tap_channels=64", "model.embedding_channels=64").train()
    randomise_norms(network.bypass.tower)
    for tower in (network.score_taps, network.refine_taps, network.heatmap.tower):
        randomise_norms(tower)
    t = network.state_dict()
    seen = []
    network.pyramid.register_forward_hook(lambda _, __, maps: seen.extend(maps.levels))
    with torch.no_grad():
        output = network(images())

    def branch(name: str, depth: int) -> list[Tensor]:
        maps = seen
        for i in range(depth):
            maps = [F.relu(conv_group_norm(x, t, f"{name}.{i}.conv", f"{name}.{i}.norms.0")) for x in maps]
        return maps

    def rows(maps: list[Tensor]) -> Tensor:
        return torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)

    def embedding(maps: list[Tensor], name: str) -> Tensor:
        samples = sample(TapTable.of(maps, seen, network.strides, 0.0), coarse, None)
        mixed = torch.einsum("bskc,kcd->bsd", samples, t[f"{name}.embedding.weight"])
        return F.linear(F.relu(mixed), t[f"{name}.output.weight"], t[f"{name}.output.bias"])

    unit = output.proposals.strides[:, None]
    offsets = [F.conv2d(x, t["bypass.offsets.weight"], t["bypass.offsets.bias"]) for x in branch("bypass.tower", 3)]
    places = output.proposals.locations
    dy, dx = rows(offsets)[..., 0::2], rows(offsets)[..., 1::2]
    coarse = torch.stack((places[:, :1] + unit * dx, places[:, 1:] + unit * dy), -1)
    torch.testing.assert_close(output.poses[0], coarse, atol=1e-2, rtol=1e-4)
    correction = embedding(branch("refine_taps", 2), "refinements.0")
    refined = coarse + unit[..., None] * torch.stack((correction[..., 1::2], correction[..., 0::2]), -1)
    torch.testing.assert_close(output.poses[1], refined, atol=1e-2, rtol=1e-4)
    logits = embedding(branch("score_taps", 2), "score")[..., 0]
    torch.testing.assert_close(output.logits, logits, atol=1e-3, rtol=1e-4)
    for found, x in zip(output.heatmaps, branch("heatmap.tower", 1), strict=True):
        heatmap = F.conv2d(x, t["heatmap.output.weight"], t["heatmap.output.bias"])
        torch.testing.assert_close(found, heatmap, atol=1e-3, rtol=1e-4)


# --- sparse as dense ---

VARIANTS = {
    "paper": ("dla34-coco",),
    "paper, judged when refined": ("dla34-coco", "model.score_at=refined"),
    "paper, presence": ("dla34-coco", "model.presence=true"),
    "paper, refined twice": ("dla34-coco", "model.refinements=2"),
    "ours": ("posedet-s",),
    "ours, judged when coarse": ("posedet-s", "model.score_at=coarse"),
    "ours, never refined": ("posedet-s", "model.refinements=0"),
    "ours, everywhere": ("posedet-s", "model.presence=false"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_sparse_is_dense_at_the_same_locations(variant):
    network = small(*VARIANTS[variant]).eval()
    photo = images()
    index = torch.tensor([[7, 0, 100, 99, 55], [101, 3, 3, 96, 60]])
    asked = []

    def choose(proposals: Proposals, logits: Tensor) -> Tensor:
        asked.append(logits)
        return index

    with torch.no_grad():
        dense = network(photo)
        sparse = network(photo, choose)
    assert sparse.chosen is index and len(asked) == 1
    wanted = dense.logits if dense.proposals.presence is None else dense.proposals.presence
    torch.testing.assert_close(asked[0], wanted, atol=1e-5, rtol=1e-5)
    assert dense.poses[-1].std() > 10, "poses too near to their cells to tell"
    assert len(sparse.poses) == len(dense.poses)
    for b in range(2):
        for found, whole in zip(sparse.poses, dense.poses, strict=True):
            torch.testing.assert_close(found[b], whole[b, index[b]], atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(sparse.logits[b], dense.logits[b, index[b]], atol=1e-4, rtol=1e-4)
        if dense.keypoint_logits is not None:
            torch.testing.assert_close(
                sparse.keypoint_logits[b], dense.keypoint_logits[b, index[b]], atol=1e-4, rtol=1e-4
            )


@pytest.mark.parametrize("variant", VARIANTS)
def test_deployed_gives_the_best_first(variant):
    """Scores, refined poses and visibilities of the dense network, chosen and sorted by plain loops."""
    network = small(*VARIANTS[variant]).eval()
    photo = torch.randint(0, 256, (2, 96, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        scores, keypoints, keypoint_scores = DeployedNet(network, 30)(photo)
        dense = network(photo.permute(0, 3, 1, 2).float())
    presence = dense.proposals.presence
    for b in range(2):
        ranking = (dense.logits if presence is None else presence)[b].tolist()
        chosen = sorted(range(len(ranking)), key=lambda m: -ranking[m])[:30]
        score = {m: dense.logits[b, m].sigmoid().item() for m in chosen}
        if presence is not None:
            score = {m: math.sqrt(score[m] * presence[b, m].sigmoid().item()) for m in chosen}
        chosen.sort(key=lambda m: -score[m])
        assert scores[b].tolist() == pytest.approx([score[m] for m in chosen], abs=1e-5)
        torch.testing.assert_close(keypoints[b], dense.poses[-1][b, chosen], atol=1e-2, rtol=1e-4)
        if dense.keypoint_logits is None:
            expected = scores[b][:, None].expand(-1, keypoints.shape[2])
        else:
            expected = dense.keypoint_logits[b, chosen].sigmoid()
        torch.testing.assert_close(keypoint_scores[b], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("preset", ["dla34-coco", "posedet-s"])
@pytest.mark.parametrize("presence", ["true", "false"])
@pytest.mark.parametrize("score_at", ["coarse", "refined"])
def test_which_pose_is_judged(preset, presence, score_at):
    """The score reads the maps at the coarse pose, as published, or at the last refined one."""
    network = small(preset, f"model.presence={presence}", f"model.score_at={score_at}").eval()
    photo = images()
    with torch.no_grad():
        output = network(photo)
        maps = network.pyramid(network.backbone((photo - network.image_mean) / network.image_std))
        table = TapTable.of(network.score_taps(maps.taps), maps.levels, network.tap_strides, network.origin)
        judged = {"coarse": output.poses[0], "refined": output.poses[-1]}
        logits = {name: network.score(sample(table, poses, None))[..., 0] for name, poses in judged.items()}
    torch.testing.assert_close(output.logits, logits[score_at], atol=1e-3, rtol=1e-4)
    # Far more than the tolerance.
    assert (logits["coarse"] - logits["refined"]).abs().max() > 0.1


# --- gradient stops (facts 3) ---


def reached(network: PoseDetNet, output: Tensor) -> set[str]:
    """The parts that learn from an output."""
    network.zero_grad(set_to_none=True)
    (output * torch.randn_like(output)).sum().backward(retain_graph=True)
    return {
        name.partition(".")[0]
        for name, parameter in network.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().max() > 0
    }


def test_who_learns_from_what():
    network = small("dla34-coco").train()
    output = network(images())
    common = {"backbone", "pyramid"}
    assert reached(network, output.poses[0]) == common | {"bypass"}
    assert reached(network, output.poses[1]) == common | {"bypass", "refine_taps", "refinements"}
    assert reached(network, output.logits) == common | {"bypass", "score_taps", "score"}
    assert reached(network, output.heatmaps[0]) == common | {"heatmap"}


def test_who_learns_from_what_in_ours():
    """One tower for all; the score judges refined poses without pulling at them."""
    network = small("posedet-s").train()
    output = network(images())
    common = {"backbone", "pyramid"}
    assert reached(network, output.poses[0]) == reached(network, output.proposals.presence) == common | {"bypass"}
    assert reached(network, output.poses[2]) == common | {"bypass", "score_taps", "refinements"}
    assert reached(network, output.logits) == common | {"score_taps", "score"}
    assert reached(network, output.keypoint_logits) == common | {"score_taps", "score"}
    assert reached(network, output.heatmaps[0]) == common | {"score_taps", "heatmap"}


@pytest.mark.parametrize("presence", ["true", "false"])
@pytest.mark.parametrize("branch", ["refinement", "score"])
def test_a_tenth_reaches_the_bypass(branch, presence):
    """Through the sampling positions a tenth; through the sum of coarse pose and correction nothing."""
    network = small("dla34-coco", f"model.presence={presence}").train()
    photo = images()
    output = network(photo)
    coarse, strides = output.proposals.coarse, output.proposals.strides
    result = output.poses[1] if branch == "refinement" else output.logits
    goal = torch.randn_like(result)
    gradient = torch.autograd.grad((result * goal).sum(), coarse, retain_graph=True)[0]

    maps = network.pyramid(network.backbone((photo - network.image_mean) / network.image_std))
    taps = network.refine_taps if branch == "refinement" else network.score_taps
    positions = coarse.detach().requires_grad_()
    samples = sample(TapTable.of(taps(maps.taps), maps.levels, network.strides, 0.0), positions, None)
    if branch == "refinement":
        cells = network.refinements[0](samples)
        correction = torch.stack((cells[..., 1::2], cells[..., 0::2]), -1) * strides[:, None, None]
        again = positions.detach() + correction
    else:
        again = network.score(samples)[..., 0]
    torch.testing.assert_close(again, result, atol=1e-3, rtol=1e-4)
    whole = torch.autograd.grad((again * goal).sum(), positions)[0]
    assert whole.abs().max() > 0
    torch.testing.assert_close(gradient, whole / 10, atol=1e-5 * whole.abs().max().item(), rtol=1e-3)
