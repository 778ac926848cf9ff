"""The whole network: pixels in and out, sparse as dense, the best first, and what gradients reach."""

import math
from typing import get_args, get_type_hints

import pytest
import torch
from torch import Tensor, nn

from posedet.config import ModelConfig, load_config
from posedet.model.build import BACKBONES, build_network
from posedet.model.deployed import DeployedNet
from posedet.model.embedding import TapTable, sample
from posedet.model.network import PoseDetNet, Proposals
from posedet.skeleton import BODY19, COCO, find_skeleton
from slow_bilinear import slow_bilinear

# The paper's head on a small backbone, with few channels: the same code, but fast.
SMALL = [
    "assign.selected=64",
    "model.backbone=mobilenetv2",
    "model.channels=32",
    "model.tap_channels=32",
    "model.embedding_channels=32",
]


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


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


def test_chosen_bias_of_heatmaps_and_keypoints():
    network = build_network(load_config("posedet-s").model, BODY19)
    assert network.heatmap.output.bias.tolist() == pytest.approx([-4.6] * 19)
    assert network.bypass.presence.bias.item() == pytest.approx(-4.595120)
    assert network.score.output.bias.tolist() == pytest.approx([-4.595120] + [0] * 19)


def test_the_settings_name_the_backbones_that_there_are():
    assert get_args(get_args(get_type_hints(ModelConfig, include_extras=True)["backbone"])[0]) == tuple(BACKBONES)


# --- the network's words ---


def small(preset: str, *overrides: str) -> PoseDetNet:
    """A network whose poses spread over several cells and whose outputs differ from place to place."""
    config = load_config(preset, [*(SMALL if preset != "posedet-s" else ()), "assign.selected=20", *overrides])
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


@pytest.mark.slow
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
    """Make an output of displacements say these, (x, y) for each keypoint, wherever it is asked."""
    with torch.no_grad():
        output.weight.zero_()
        output.bias.copy_(torch.tensor(cells).flatten())


def test_poses_are_in_pixels():
    """At stride 16, row 3, column 5, an offset (dx, dy) = (2.5, -1.25) is x = 120, y = 28."""
    network = small("dla34-coco").eval()
    cells = [(2.5, -1.25), *((-0.25 * k, 0.5 * k) for k in range(1, 17))]
    set_bias(network.bypass.offsets, cells)
    set_bias(network.refinements[0].output, [(-2.0, 1.0)] * 17)
    with torch.no_grad():
        output = network(images(1, 128, 192))
    # 24 columns and 16 rows of stride 8 come first, then 12 columns of stride 16.
    location = 24 * 16 + 3 * 12 + 5
    assert output.proposals.locations[location].tolist() == [80, 48]
    assert output.proposals.strides[location].item() == 16
    assert output.poses[0][0, location, 0].tolist() == [120, 28]
    expected = [(80 + 16 * x, 48 + 16 * y) for x, y in cells]
    torch.testing.assert_close(output.poses[0][0, location], torch.tensor(expected))
    # The refinement is another displacement in cells of the same stride.
    unit = output.proposals.strides[:, None, None]
    torch.testing.assert_close(output.poses[1][0], output.poses[0][0] + unit * torch.tensor([-2.0, 1.0]))


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_half_precision_ends_before_the_joints():
    """Under autocast the places are float32 all the same."""
    network = small("posedet-s").train()
    with torch.autocast("cpu", torch.bfloat16):
        output = network(images())
    assert {x.dtype for x in (*output.poses, output.logits, output.keypoint_logits, *output.heatmaps)} == {
        torch.float32
    }
    assert all(pose.isfinite().all() for pose in output.poses)


# --- sparse as dense ---

VARIANTS = {
    "paper": ("dla34-coco",),
    "paper, judged when refined": ("dla34-coco", "model.score_at=refined"),
    "paper, presence": ("dla34-coco", "model.presence=true"),
    "paper, refined twice": ("dla34-coco", "model.refinements=2"),
    "ours": ("posedet-s",),
    "ours, judged when coarse": ("posedet-s", "model.score_at=coarse"),
    "ours, never refined": ("posedet-s", "model.refinements=0", "model.local_channels=0"),
    "ours, refined locally alone": ("posedet-s", "model.refinements=0"),
    "ours, everywhere": ("posedet-s", "model.presence=false"),
}


@pytest.mark.slow
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


@pytest.mark.slow
def test_scores_in_parts_are_those_of_all_at_once(monkeypatch):
    """Before the choice every location is scored; 128 locations of two images in parts of 50, the last one smaller."""
    monkeypatch.setattr("posedet.model.network.POSES_IN_CACHE", 100)
    network = small("dla34-coco").eval()
    photo = images()
    sizes, asked = [], []
    network.score.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].shape[1]))

    def choose(_: Proposals, logits: Tensor) -> Tensor:
        asked.append(logits)
        return torch.zeros(2, 1, dtype=torch.int64)

    with torch.no_grad():
        dense = network(photo).logits
        network(photo, choose)
    assert sizes == [128, 50, 50, 28]
    torch.testing.assert_close(asked[0], dense, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
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


@pytest.mark.slow
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
        table = TapTable.of(
            network.score_taps(maps.taps), maps.levels, network.geometry.tap_strides, network.geometry.origin
        )
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


@pytest.mark.slow
def test_who_learns_from_what():
    network = small("dla34-coco").train()
    output = network(images())
    common = {"backbone", "pyramid"}
    assert reached(network, output.poses[0]) == common | {"bypass"}
    assert reached(network, output.poses[1]) == common | {"bypass", "refine_taps", "refinements"}
    assert reached(network, output.logits) == common | {"bypass", "score_taps", "score"}
    assert reached(network, output.heatmaps[0]) == common | {"heatmap"}


@pytest.mark.slow
def test_who_learns_from_what_in_ours():
    """One tower for all; the score judges refined poses without pulling at them."""
    network = small("posedet-s").train()
    output = network(images())
    common = {"backbone", "pyramid"}
    assert reached(network, output.poses[0]) == reached(network, output.proposals.presence) == common | {"bypass"}
    assert reached(network, output.poses[2]) == common | {"bypass", "score_taps", "refinements"}
    assert reached(network, output.poses[3]) == common | {"bypass", "score_taps", "refinements", "local"}
    assert reached(network, output.logits) == common | {"score_taps", "score"}
    assert reached(network, output.keypoint_logits) == common | {"score_taps", "score"}
    assert reached(network, output.heatmaps[0]) == common | {"score_taps", "heatmap"}


@pytest.mark.slow
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
    samples = sample(TapTable.of(taps(maps.taps), maps.levels, network.geometry.strides, 0.0), positions, None)
    if branch == "refinement":
        cells = network.refinements[0](samples)
        correction = torch.stack((cells[..., 0::2], cells[..., 1::2]), -1) * strides[:, None, None]
        again = positions.detach() + correction
    else:
        again = network.score(samples)[..., 0]
    torch.testing.assert_close(again, result, atol=1e-3, rtol=1e-4)
    whole = torch.autograd.grad((again * goal).sum(), positions)[0]
    assert whole.abs().max() > 0
    torch.testing.assert_close(gradient, whole / 10, atol=1e-5 * whole.abs().max().item(), rtol=1e-3)


def seen(field: Tensor, place: Tensor, cell: int, across: int, down: int) -> Tensor:
    """(C,) of a map (C, h, w) of `cell` pixels, some cells beside a place in pixels."""
    beside = place + torch.tensor([across, down]) * cell
    x, y = (beside - (cell - 1) / 2) / cell
    return slow_bilinear(field, x, y)


@pytest.mark.slow
def test_local_refinement_in_plain_loops():
    """Nine bilinear samples a cell of the finer map apart, two layers for each keypoint, in float64."""
    network = small("posedet-s", "model.local_channels=6").eval()
    with torch.no_grad():
        for parameter in network.local.parameters():
            parameter.normal_()
    photo = images()
    with torch.no_grad():
        maps = network.pyramid(network.backbone((photo - network.image_mean) / network.image_std))
        output = network(photo, lambda proposals, presence: torch.tensor([[3, 97], [101, 50]]))
    taps = [field.double() for field in network.score_taps(maps.taps)]
    weights = {name: parameter.detach().double() for name, parameter in network.local.named_parameters()}
    sizes = [field.shape[2] * field.shape[3] for field in maps.levels]
    for b, s in ((0, 0), (0, 1), (1, 0), (1, 1)):
        location = output.chosen[b, s].item()
        level = [location < sum(sizes[: n + 1]) for n in range(3)].index(True)
        cell = (4, 8, 16)[level]
        before = output.poses[-2][b, s].double()
        field = taps[level][b]
        embedding = sum(seen(field, before[k], cell, 0, 0) @ weights["embedding.weight"][k] for k in range(19)).relu()
        context = (weights["context.weight"] @ embedding + weights["context.bias"]).view(19, 6)
        for k in range(19):
            around = torch.cat(
                [seen(field, before[k], cell, across, down) for down in (-1, 0, 1) for across in (-1, 0, 1)]
            )
            moved = (around @ weights["look"][k] + context[k]).relu() @ weights["output"][k]
            torch.testing.assert_close(
                output.poses[-1][b, s, k].double(), before[k] + moved * cell, atol=1e-2, rtol=1e-4
            )
