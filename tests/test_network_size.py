"""Parameters, work and shapes of every part of the network, as published."""

from collections import Counter
from contextlib import nullcontext
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from posedet.config import load_config
from posedet.model.build import build_network
from posedet.model.embedding import PoseEmbedding
from posedet.model.network import PoseDetNet
from posedet.skeleton import BODY19, COCO, CROWDPOSE, Skeleton, find_skeleton

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


@cache
def meta_network(preset: str, skeleton: Skeleton) -> PoseDetNet:
    """Shapes alone: no memory, no time. Training, unless a test says otherwise and sets it back."""
    with torch.device("meta"):
        return build_network(load_config(preset).model, skeleton)


# --- size (facts 10) ---


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "expected"), [("dla34-coco", 25_693_069_312), ("hrnet-w32-coco", 80_683_270_144)])
def test_heatmaps_cost_nothing_after_training(preset, expected, no_autocast):
    network = meta_network(preset, COCO)
    found = multiply_adds(network.eval(), 512, 512)
    network.train()
    assert "heatmap" not in found
    assert sum(found.values()) + 512 * 512 * DEAD.get(preset.rpartition("-")[0], 0) == expected


@pytest.mark.slow
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
    assert [pose.shape for pose in output.poses] == [(2, num_locations, k, 2)] * (
        1 + config.model.refinements + bool(config.model.local_channels)
    )
    assert output.logits.shape == (2, num_locations)
    fineness = 2 if config.model.fine_taps else 1
    sides = [side * fineness // stride for stride in config.model.strides]
    assert [heatmap.shape for heatmap in output.heatmaps] == [(2, k, side, side) for side in sides]
    if preset == "posedet-s":
        assert output.keypoint_logits.shape == (2, num_locations, k)
        assert output.proposals.presence.shape == (2, num_locations)
    else:
        assert output.keypoint_logits is None and output.proposals.presence is None
