"""Official checkpoints: names and shapes as published, outputs equal to the official head computed by definition."""

import hashlib
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from posedet.commands.main import main
from posedet.config import Config, load_config
from posedet.errors import ConfigError, ModelError, PoseDetError
from posedet.model.build import build_network
from posedet.model.network import PoseDetNet
from posedet.skeleton import find_skeleton
from posedet.weights.checkpoint import load_weights, save_tensors
from posedet.weights.official import OFFICIAL_HEAD, convert, place

Tensors = dict[str, Tensor]

# Tensors of the five official networks, and the hash of their sorted "name shape" lines.
DLA, DLA15 = ("dla34-coco",), ("dla34-crowdpose", "model.skeleton=crowdpose15")
W32, W48 = ("hrnet-w32-coco",), ("hrnet-w48-coco",)
W48_15 = ("hrnet-w48-crowdpose", "model.skeleton=crowdpose15")
LAYOUTS = {
    DLA: (289, "59ab070d86068485e6728c69e0a80e58b28b650e0d7119fafbcc993a43f75f08"),
    DLA15: (289, "20cbea87f6c010fa894d1ee9bcd8f16483319924dee9d0e57342e2ea726ab2eb"),
    W32: (1872, "16c04ecfc53bddfcbc8811deb77e248f2aeb6878f7bf37acba5f775758b8f11b"),
    W48: (1872, "af231fb4ce7c0174b55cd31b3a7337972c559ea65577d6ebeec77ece34ccd54d"),
    W48_15: (1872, "a3ce3a768c0d76b6cb7cb849d4c897708df60b467a034a9fef032475747ae2aa"),
}

# From our names to the official ones, written down apart from the module under test.
RENAMES = (
    (r"bypass\.tower\.(\d)\.conv", r"bbox_head.init_pre_convs.\1.conv"),
    (r"bypass\.tower\.(\d)\.norms\.0", r"bbox_head.init_pre_convs.\1.gn"),
    (r"bypass\.offsets", "bbox_head.init_out"),
    (r"score_taps\.(\d)\.conv", r"bbox_head.cls_pre_convs.\1.conv"),
    (r"score_taps\.(\d)\.norms\.0", r"bbox_head.cls_pre_convs.\1.gn"),
    (r"score\.embedding", "bbox_head.cls_embedding_conv"),
    (r"score\.output", "bbox_head.cls_out"),
    (r"refine_taps\.(\d)\.conv", r"bbox_head.refine_pre_convs.\1.conv"),
    (r"refine_taps\.(\d)\.norms\.0", r"bbox_head.refine_pre_convs.\1.gn"),
    (r"refinements\.0\.embedding", "bbox_head.refine_embedding_conv"),
    (r"refinements\.0\.output", "bbox_head.refine_out"),
    (r"heatmap\.tower\.0\.conv", "bbox_head.heatmap_pre_convs.0.conv"),
    (r"heatmap\.tower\.0\.norms\.0", "bbox_head.heatmap_pre_convs.0.gn"),
    (r"heatmap\.output", "bbox_head.heatmap_out"),
)
FPN_RENAMES = (
    (r"pyramid\.laterals\.(\d)\.0", r"neck.lateral_convs.\1.conv"),
    (r"pyramid\.laterals\.(\d)\.1", r"neck.lateral_convs.\1.gn"),
    (r"pyramid\.outputs\.(\d)\.0", r"neck.fpn_convs.\1.conv"),
    (r"pyramid\.outputs\.(\d)\.1", r"neck.fpn_convs.\1.gn"),
    (r"pyramid\.extra\.0", "neck.fpn_convs.3.conv"),
    (r"pyramid\.extra\.1", "neck.fpn_convs.3.gn"),
)
HRFPN_RENAMES = (
    (r"pyramid\.reduction", "neck.reduction_conv.conv"),
    (r"pyramid\.outputs\.(\d)", r"neck.fpn_convs.\1.conv"),
)


def config_of(key: tuple[str, ...], *overrides: str) -> Config:
    return load_config(key[0], [*key[1:], *overrides])


def network_of(config: Config) -> PoseDetNet:
    return build_network(config.model, find_skeleton(config.model.skeleton))


def official_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the official checkpoint, from our own network."""
    with torch.device("meta"):
        state = network_of(config).state_dict()
    renames = RENAMES + (FPN_RENAMES if config.model.pyramid == "fpn" else HRFPN_RENAMES)
    shapes = {}
    for name, tensor in state.items():
        fitting = [(old, new) for old, new in renames if re.match(old + r"\.\w+$", name)]
        official = re.sub(fitting[0][0], fitting[0][1], name) if fitting else name
        shape = tuple(tensor.shape)
        if "embedding_conv" in official:
            shape = (shape[2], shape[1], 1, shape[0])
        if official in ("bbox_head.cls_out.weight", "bbox_head.refine_out.weight"):
            shape = (*shape, 1, 1)
        shapes[official] = shape
    return shapes


def random_checkpoint(config: Config) -> Tensors:
    """Values of a trained network in kind: offsets of some cells, statistics that are not the start values."""
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for name, shape in official_shapes(config).items():
        if name.endswith("num_batches_tracked"):
            tensors[name] = torch.tensor(7)
        elif name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            tensors[name] = 0.5 + torch.rand(shape, generator=generator)
        elif len(shape) < 2:
            tensors[name] = 0.2 * torch.randn(shape, generator=generator)
        else:
            gain = {"bbox_head.init_out.weight": 3, "bbox_head.refine_out.weight": 0.5}.get(name, 0.7)
            tensors[name] = torch.randn(shape, generator=generator) * (gain / math.sqrt(math.prod(shape[1:])))
    return tensors


@pytest.fixture(scope="module")
def checkpoint() -> Tensors:
    return random_checkpoint(config_of(DLA))


# --- the official computation, by definition and in float64 ---


def conv(x: Tensor, tensors: Tensors, name: str, **settings: int) -> Tensor:
    return F.conv2d(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"), **settings)


def conv_gn(x: Tensor, tensors: Tensors, name: str, **settings: int) -> Tensor:
    x = conv(x, tensors, f"{name}.conv", **settings)
    return F.group_norm(x, 32, tensors[f"{name}.gn.weight"], tensors[f"{name}.gn.bias"])


def fpn(features: tuple[Tensor, ...], tensors: Tensors) -> list[Tensor]:
    third, fourth, fifth = (conv_gn(x, tensors, f"neck.lateral_convs.{i}") for i, x in enumerate(features[1:]))
    fourth = fourth + F.interpolate(fifth, size=fourth.shape[2:])
    third = third + F.interpolate(fourth, size=third.shape[2:])
    levels = [conv_gn(x, tensors, f"neck.fpn_convs.{i}", padding=1) for i, x in enumerate((third, fourth, fifth))]
    return [*levels, conv_gn(features[-1], tensors, "neck.fpn_convs.3", padding=1, stride=2)]


def hrfpn(features: tuple[Tensor, ...], tensors: Tensors) -> list[Tensor]:
    finer = [F.interpolate(x, scale_factor=2**i, mode="bilinear") if i else x for i, x in enumerate(features)]
    joined = conv(torch.cat(finer, 1), tensors, "neck.reduction_conv.conv")
    pooled = [F.avg_pool2d(joined, 2**i) for i in range(3)]
    return [conv(x, tensors, f"neck.fpn_convs.{i}.conv", padding=1, stride=2) for i, x in enumerate(pooled)]


def tower(x: Tensor, tensors: Tensors, branch: str, depth: int) -> Tensor:
    for i in range(depth):
        x = F.relu(conv_gn(x, tensors, f"bbox_head.{branch}_pre_convs.{i}", padding=1))
    return x


def pixel(x: Tensor, row: int, column: int) -> Tensor:
    inside = 0 <= row < x.shape[1] and 0 <= column < x.shape[2]
    return x[:, row, column] if inside else torch.zeros_like(x[:, 0, 0])


def deformable(x: Tensor, offsets: Tensor, weight: Tensor) -> Tensor:
    """A deformable 1 x K convolution: x (C, h, w), offsets (2K, h, w) from each tap's regular place, y before x."""
    num_taps = weight.shape[3]
    result = torch.zeros(weight.shape[0], *x.shape[1:], dtype=x.dtype)
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            for k in range(num_taps):
                y = i + float(offsets[2 * k, i, j])
                left = j + k - (num_taps - 1) / 2 + float(offsets[2 * k + 1, i, j])
                row, column = math.floor(y), math.floor(left)
                fy, fx = y - row, left - column
                value = (1 - fy) * ((1 - fx) * pixel(x, row, column) + fx * pixel(x, row, column + 1))
                value = value + fy * ((1 - fx) * pixel(x, row + 1, column) + fx * pixel(x, row + 1, column + 1))
                result[:, i, j] += weight[:, :, 0, k] @ value
    return result


def official_head(x: Tensor, tensors: Tensors, stride: int) -> tuple[Tensor, ...]:
    """One level (1, C, h, w) -> logits (h * w,), coarse and refined poses (h * w, K, 2) in pixels, heatmap logits."""
    coarse = conv(tower(x, tensors, "init", 3), tensors, "bbox_head.init_out")
    num_taps = coarse.shape[1] // 2
    base = torch.zeros_like(coarse)
    base[:, 1::2] = (torch.arange(num_taps, dtype=x.dtype) - (num_taps - 1) / 2)[:, None, None]

    def embedded(branch: str) -> Tensor:
        weight = tensors[f"bbox_head.{branch}_embedding_conv.weight"]
        embedding = deformable(tower(x, tensors, branch, 2)[0], (coarse - base)[0], weight)
        return conv(F.relu(embedding)[None], tensors, f"bbox_head.{branch}_out")

    refined = coarse + embedded("refine")

    def poses(offsets: Tensor) -> Tensor:
        rows, columns = torch.meshgrid(*(torch.arange(n) for n in x.shape[2:]), indexing="ij")
        xs, ys = columns + offsets[0, 1::2], rows + offsets[0, 0::2]
        return torch.stack((xs, ys), -1).flatten(1, 2).transpose(0, 1) * stride

    heatmap = conv(tower(x, tensors, "heatmap", 1), tensors, "bbox_head.heatmap_out")
    return embedded("cls").flatten(), poses(coarse), poses(refined), heatmap


def official_network(network: PoseDetNet, tensors: Tensors, images: Tensor) -> list[tuple[Tensor, ...]]:
    """All levels. The backbone is our module, whose names are the official ones; the rest is computed here."""
    doubles = {name: tensor.double() for name, tensor in tensors.items()}
    backbone = network.backbone.double().eval()
    prefix = "backbone."
    backbone.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    mean, std = (torch.tensor(x).double().view(3, 1, 1) for x in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    features = backbone((images.double() - mean) / std)
    levels = hrfpn(features, doubles) if "neck.reduction_conv.conv.weight" in tensors else fpn(features, doubles)
    return [official_head(x, doubles, 8 * 2**i) for i, x in enumerate(levels)]


# --- names and shapes ---


@pytest.mark.slow
@pytest.mark.parametrize("key", LAYOUTS, ids=lambda key: " ".join(key))
def test_our_networks_have_the_official_names_and_shapes(key: tuple[str, ...]):
    shapes = official_shapes(config_of(key))
    lines = sorted(f"{name} {shape}" for name, shape in shapes.items())
    assert (len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()) == LAYOUTS[key]


# --- values ---


@pytest.mark.slow
@pytest.mark.parametrize("key", [DLA, DLA15, W32], ids=lambda key: " ".join(key))
def test_a_converted_network_computes_what_the_official_one_does(key: tuple[str, ...]):
    config = config_of(key)
    tensors = random_checkpoint(config)
    weights, dropped = place(tensors, config.model, "official.pth")
    assert not dropped
    network = network_of(config).eval()
    network.load_state_dict(weights)
    images = torch.randint(0, 256, (1, 3, 96, 64), generator=torch.Generator().manual_seed(1)).float()
    with torch.no_grad():
        output = network(images)
        heatmaps = network.heatmap(
            network.pyramid(network.backbone((images - network.image_mean) / network.image_std)).levels
        )
        expected = official_network(network, tensors, images)
    logits, coarse, refined = (torch.cat(parts) for parts in list(zip(*expected, strict=True))[:3])
    # The test is empty unless the joints lie some cells away, the refinement moves them, and scores differ.
    offsets = coarse - output.proposals.locations[:, None]
    assert (offsets.abs() / output.proposals.strides[:, None, None]).median() > 1
    assert (refined - coarse).abs().median() > 0.5
    assert logits.std() > 0.05
    assert logits.shape == output.logits[0].shape
    torch.testing.assert_close(output.logits[0].double(), logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.poses[0][0].double(), coarse, rtol=1e-5, atol=2e-3)
    torch.testing.assert_close(output.poses[1][0].double(), refined, rtol=1e-5, atol=2e-3)
    for ours, theirs in zip(heatmaps, (level[3] for level in expected), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4)


def test_every_value_of_the_checkpoint_is_in_the_weights(checkpoint: Tensors):
    weights, _ = place(checkpoint, config_of(DLA).model, "official.pth")
    assert len(weights) == len(checkpoint)

    def total(tensors: Tensors) -> float:
        return sum(tensor.double().sum().item() for tensor in tensors.values())

    assert sum(t.numel() for t in weights.values()) == sum(t.numel() for t in checkpoint.values())
    assert total(weights) == pytest.approx(total(checkpoint), rel=1e-12)


def test_file_in_file_out(checkpoint: Tensors, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source, output = tmp_path / "epoch_210.pth", tmp_path / "weights.safetensors"
    optimiser = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}
    meta = {"epoch": 210, "iter": 280560, "mmdet_version": "2.1.0", "CLASSES": ("person",)}
    state = checkpoint | {"backbone.fc.weight": torch.zeros(2, 2)}
    torch.save({"meta": meta, "state_dict": state, "optimizer": optimiser}, source)
    assert main(["convert", str(source), str(output), "--preset", "dla34-coco", "--set", "decode.long_side=1000"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "dropped backbone.fc.weight: unknown in official networks",
        f"{output}: 289 tensors converted, 1 dropped, none missing",
    ]
    weights, config, info = load_weights(output)
    assert config == config_of(DLA, "decode.long_side=1000")
    assert info["converted_from"] == "epoch_210.pth"
    for name, tensor in place(checkpoint, config.model, "").weights.items():
        assert torch.equal(weights[name], tensor), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch_210.pth", "weights.safetensors"]


def test_fifteen_points_report_fourteen(tmp_path: Path):
    config = config_of(DLA15)
    torch.save(random_checkpoint(config), tmp_path / "crowdpose.pth")
    convert(tmp_path / "crowdpose.pth", tmp_path / "weights.safetensors", config)
    weights, read, _ = load_weights(tmp_path / "weights.safetensors")
    assert weights["score.embedding.weight"].shape == (15, 128, 128)
    assert find_skeleton(read.model.skeleton).keypoints[14] == "abdomen"
    reported, own = find_skeleton(read.decode.skeleton), find_skeleton(read.model.skeleton)
    assert reported.name == "crowdpose"
    assert own.subset(reported.keypoints, name="crowdpose").keypoints == own.keypoints[:14]


# --- what has no place, and what is missing ---


def test_what_a_setting_leaves_out_is_named(checkpoint: Tensors):
    _, dropped = place(checkpoint, config_of(DLA, "model.heatmaps=false").model, "a.pth")
    assert set(dropped) == {name for name in checkpoint if "heatmap" in name}
    assert set(dropped.values()) == {
        "belongs to the heatmap branch, which is only for training and disabled by model.heatmaps = false"
    }
    _, dropped = place(checkpoint, config_of(DLA, "model.refinements=0").model, "a.pth")
    assert set(dropped) == {f"bbox_head.refine_{x}" for x in ("embedding_conv.weight", "out.weight", "out.bias")}
    assert set(dropped.values()) == {"belongs to the refinement, which is disabled by model.refinements = 0"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"neck.fpn_convs.3.gn.bias": None}, "a.pth: 1 of 289 tensors are missing: neck.fpn_convs.3.gn.bias"),
        (
            {"bbox_head.cls_out.weight": torch.zeros(2, 128, 1, 1)},
            "a.pth: bbox_head.cls_out.weight: float32 (2, 128, 1, 1), expected float32 (1, 128, 1, 1)",
        ),
        (
            {"bbox_head.refine_embedding_conv.weight": torch.zeros(128, 128, 17)},
            "a.pth: bbox_head.refine_embedding_conv.weight: float32 (128, 128, 17), expected float32 (128, 128, 1, 17)",
        ),
        (
            {"neck.fpn_convs.3.gn.bias": torch.zeros(128, dtype=torch.int32)},
            "a.pth: neck.fpn_convs.3.gn.bias: int32 (128,), expected float32 (128,)",
        ),
        (
            {"bbox_head.cls_out.bias": torch.tensor([math.nan])},
            "a.pth: bbox_head.cls_out.bias: some values are not finite",
        ),
        (
            {"bbox_head.init_out.bias": None},
            "a.pth: not an official PoseDet checkpoint: bbox_head.init_out.bias is missing",
        ),
        ({"bbox_head.init_out.bias": torch.zeros(42)}, "a.pth: 21 keypoints, but skeleton 'coco' has 17"),
        (
            {"backbone.transition1.0.0.weight": torch.zeros(32, 1)},
            "a.pth: the backbone is hrnet-w32, but the preset has dla34",
        ),
        (
            {"backbone.transition1.0.0.weight": torch.tensor(1.0)},
            "a.pth: the backbone is hrnet-w0, but the preset has dla34",
        ),
    ],
)
def test_a_checkpoint_of_another_kind(checkpoint: Tensors, change: dict[str, Tensor | None], message: str):
    tensors = {name: tensor for name, tensor in (checkpoint | change).items() if tensor is not None}
    with pytest.raises(ModelError) as caught:
        place(tensors, config_of(DLA).model, "a.pth")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_for_another_preset(checkpoint: Tensors):
    with pytest.raises(
        ModelError, match=re.escape("a.pth: the backbone is dla34, but the preset has hrnet-w32; choose another preset")
    ):
        place(checkpoint, config_of(W32).model, "a.pth")
    with pytest.raises(
        ModelError, match=re.escape("a.pth: 17 keypoints, but skeleton 'crowdpose' has 14; set model.skeleton to coco")
    ):
        place(checkpoint, load_config("dla34-crowdpose").model, "a.pth")
    fifteen = checkpoint | {"bbox_head.init_out.bias": torch.zeros(30)}
    with pytest.raises(ModelError, match=re.escape("skeleton 'crowdpose' has 14; set model.skeleton to crowdpose15")):
        place(fifteen, load_config("dla34-crowdpose").model, "a.pth")


OTHER_VALUES = {
    "norm": "batch",
    "location": "centre",
    "bypass_depth": 2,
    "presence": True,
    "branch_depth": 1,
    "share_towers": True,
    "fine_taps": True,
    "mixing_depth": 2,
    "representation": "box",
    "score_at": "refined",
    "keypoint_scores": True,
    "pyramid": "hrfpn",
    "strides": (8, 16, 32),
}


@pytest.mark.parametrize("key", [*OFFICIAL_HEAD, "pyramid", "strides"])
def test_settings_that_would_compute_something_else_with_the_same_tensors(checkpoint: Tensors, key: str):
    model = replace(config_of(DLA).model, **{key: OTHER_VALUES[key]})
    with pytest.raises(ConfigError, match=f"^model.{key} is .*; official checkpoints need "):
        place(checkpoint, model, "a.pth")


def test_the_small_preset_has_no_official_checkpoint(checkpoint: Tensors):
    with pytest.raises(
        ConfigError, match=re.escape("model.backbone is 'mobilenetv2'; official networks have dla34, hrnet-w32")
    ):
        place(checkpoint, load_config("posedet-s").model, "a.pth")


def test_nothing_is_written_when_something_is_wrong(checkpoint: Tensors, tmp_path: Path, capsys):
    source, output = tmp_path / "a.pth", tmp_path / "weights.safetensors"
    save_tensors(output, "posedet convert", {}, {"earlier": True})
    earlier = output.read_bytes()
    torch.save({"state_dict": {n: t for n, t in checkpoint.items() if not n.startswith("neck.lateral")}}, source)
    assert main(["convert", str(source), str(output), "--preset", "dla34-coco"]) == 2
    message = "a.pth: 9 of 289 tensors are missing: neck.lateral_convs.0.conv.weight, neck.lateral_convs.0.gn.weight"
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert output.read_bytes() == earlier
    with pytest.raises(PoseDetError, match="could not be written"):
        convert(_small_file(checkpoint, tmp_path), tmp_path / "nowhere" / "w.safetensors", config_of(DLA))


def _small_file(checkpoint: Tensors, folder: Path) -> Path:
    torch.save(checkpoint, folder / "whole.pth")
    return folder / "whole.pth"
