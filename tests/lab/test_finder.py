"""Poses without the host: the same as NumPy's, and nothing on the way that waits or whose shape depends on the data."""

import copy
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lab.gpu.finder import PoseFinder, duplicates, for_running, suppress
from lab.gpu.host import DeviceDetector, placement_of, poses_of, read_found
from lab.gpu.rows import Plan
from lab.gpu.subjects import MODELS, LoadedModel, build
from posedet.config import load_config
from posedet.errors import ConfigError
from posedet.image import Letterbox, read_photo
from posedet.model.build import build_network
from posedet.model.hrnet import HRNet
from posedet.model.pyramid import HighResolutionPyramid
from posedet.oks import oks_nms
from posedet.runtime.decode import decode
from posedet.runtime.session import Outputs
from posedet.skeleton import COCO, find_skeleton

PHOTOS = ("group.jpg", "street.jpg", "tennis.jpg")


@pytest.fixture(scope="module")
def shipped() -> LoadedModel:
    return build(MODELS[-1], Plan("cpu", True, (), "", 1))


def batch_of(photos: Path, long_side: int) -> tuple[torch.Tensor, list[Letterbox]]:
    """Photos of several shapes in one input, as large as the largest needs."""
    arrays = [read_photo(photos / name) for name in PHOTOS]
    fits = [Letterbox.fit(array.shape[:2], long_side=long_side) for array in arrays]
    size = tuple(max(fit.input_size[axis] for fit in fits) for axis in (0, 1))
    letterboxes = [replace(fit, input_size=size) for fit in fits]
    images = [letterbox.apply(array) for letterbox, array in zip(letterboxes, arrays, strict=True)]
    return torch.from_numpy(np.stack(images)), letterboxes


# --- the same poses ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("rounds_enough", [True, False])
@pytest.mark.parametrize(("candidates", "threshold", "nms", "clamp"), [(100, 0.05, 0.3, False), (150, 0.02, 0.2, True)])
def test_poses_of_real_photos_equal_numpys(
    shipped, photos, candidates, threshold, nms, clamp, rounds_enough, monkeypatch
):
    network, config, skeleton = shipped
    changes = {"candidates": candidates, "nms_threshold": nms, "clamp": clamp}
    config = replace(config, decode=replace(config.decode, **changes))
    for module in ("lab.gpu.finder", "posedet.runtime.decode"):
        monkeypatch.setattr(f"{module}.MAX_POSES", 12)
    images, letterboxes = batch_of(photos, 256)
    finder = PoseFinder(network, skeleton.sigmas, config.decode, threshold).eval()
    if not rounds_enough:
        monkeypatch.setattr(suppress, "__defaults__", (1,))
    with torch.no_grad():
        found = read_found(finder(images, placement_of(letterboxes, config, "cpu")))
        outputs = Outputs(*(each.numpy() for each in finder.deployed(images)))
    assert found.settled.all() == rounds_enough
    for place, letterbox in enumerate(letterboxes):
        settings = replace(config.decode, score_threshold=threshold)
        expected = decode(outputs.one(place), letterbox, skeleton, settings)
        poses = poses_of(
            found,
            place,
            photo_size=letterbox.photo_size,
            config=config,
            skeleton=skeleton,
            score_threshold=threshold,
        )
        assert 0 < len(poses) <= 12
        np.testing.assert_array_equal(poses.keypoints, expected.keypoints)
        np.testing.assert_array_equal(poses.scores, expected.scores)
        np.testing.assert_array_equal(poses.keypoint_scores, expected.keypoint_scores)


def test_a_detector_on_the_device_is_the_detector(shipped, photos, detector):
    network, config, skeleton = shipped
    own = DeviceDetector(PoseFinder(network, skeleton.sigmas, config.decode), config, skeleton, "cpu")
    poses, expected = own(photos / "skiers.jpg").select(COCO), detector(photos / "skiers.jpg")
    np.testing.assert_allclose(poses.keypoints, expected.keypoints, atol=0.05)
    np.testing.assert_allclose(poses.scores, expected.scores, atol=1e-3)


@given(st.data())
def test_rounds_find_what_the_greedy_order_keeps(data):
    count = data.draw(st.integers(1, 12))
    bits = data.draw(st.lists(st.booleans(), min_size=count * (count + 1), max_size=count * (count + 1)))
    duplicate = torch.tensor(bits[count:]).view(count, count).tril(-1)
    strong = torch.tensor(bits[:count])
    expected = []
    for i in range(count):
        if strong[i] and not any(duplicate[i, j] for j in expected):
            expected.append(i)
    kept, settled = suppress(duplicate[None], strong[None], rounds=count + 1)
    assert settled.all() and kept[0].nonzero()[:, 0].tolist() == expected
    early, settled = suppress(duplicate[None], strong[None], rounds=data.draw(st.integers(1, 4)))
    assert not settled.all() or torch.equal(early, kept)


def test_a_chain_takes_a_round_for_each_link():
    """Each drops the next: every second one stays."""
    duplicate = torch.diag(torch.ones(9, dtype=torch.bool), -1)[None]
    strong = torch.ones(1, 10, dtype=torch.bool)
    kept, settled = suppress(duplicate, strong, rounds=10)
    assert kept[0].tolist() == [True, False] * 5 and settled.all()
    assert not suppress(duplicate, strong, rounds=9)[1].any()


def test_duplicates_are_those_of_oks_nms():
    """Pair by pair: of two poses NumPy's suppression keeps one exactly where they are duplicates."""
    generator = np.random.default_rng(0)
    poses = generator.uniform(0, 40, (1, 12, 17, 2)) + generator.uniform(0, 30, (2, 12, 1, 2))
    poses = poses.astype(np.float32)
    floors = (900.0, 20_000.0)
    found = duplicates(torch.from_numpy(poses), torch.tensor(floors).double(), torch.tensor(COCO.sigmas).double(), 0.3)
    assert 5 < found[1].sum() < 60
    for b, floor in enumerate(floors):
        for i in range(12):
            for j in range(12):
                pair, order = poses[b, [j, i]], np.array([0.9, 0.8], np.float32)
                kept = oks_nms(pair, order, COCO.sigmas, oks_threshold=0.3, min_area=floor)
                assert found[b, i, j] == (j < i and len(kept) == 1)


def test_poses_that_are_not_finite_are_dropped(shipped, photos, monkeypatch):
    network, config, skeleton = shipped
    finder = PoseFinder(network, skeleton.sigmas, config.decode, 0.0)
    keypoints = torch.arange(3.0).view(1, 3, 1, 1) * 400 + torch.rand(1, 3, skeleton.num_keypoints, 2) * 100
    keypoints[0, 1, 4, 0] = torch.inf
    outputs = torch.tensor([[0.9, 0.8, 0.7]]), keypoints, torch.ones(1, 3, skeleton.num_keypoints)
    monkeypatch.setattr(finder.deployed, "forward", lambda _: outputs)
    found = finder(torch.zeros(1), placement_of([Letterbox((480, 640), (480, 640), (480, 640))], config, "cpu"))
    assert found.kept.tolist() == [[True, False, True]]


def test_suppression_by_boxes_is_refused(shipped):
    decoding = replace(shipped.config.decode, nms="iou")
    with pytest.raises(ConfigError, match=r"'decode\.nms' is 'iou', expected 'oks', the only NMS on the device"):
        PoseFinder(shipped.network, shipped.skeleton.sigmas, decoding)


# --- nothing that waits -----------------------------------------------------------------------------------------------

WAITS = {"_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim"}
WAITS |= {"unique_consecutive", "bincount", "repeat_interleave", "lift_fresh", "_pin_memory", "argwhere"}


class NothingWaits(TorchDispatchMode):
    """Refuses what reads a value on the host, whose shape depends on values, or that comes from the host's memory."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        masks = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in WAITS or masks:
            raise AssertionError(f"{function} makes the host wait")
        return function(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: bool(x.any()),
        lambda x: x.unique(),
        lambda x: x + torch.tensor([1.0, 2.0]),
    ],
)
def test_what_waits_is_noticed(call):
    with NothingWaits(), pytest.raises(AssertionError, match="makes the host wait"):
        call(torch.zeros(2))


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["posedet-s", "dla34-coco"])
def test_nothing_waits_for_the_device(preset):
    config = load_config(preset)
    skeleton = find_skeleton(config.model.skeleton)
    network = for_running(build_network(config.model, skeleton), torch.bfloat16)
    finder = PoseFinder(network, skeleton.sigmas, config.decode).eval()
    placement = placement_of([Letterbox((96, 128), (96, 128), (128, 128))] * 2, config, "cpu")
    images = torch.zeros(2, 128, 128, 3, dtype=torch.uint8)
    with torch.no_grad(), NothingWaits():
        finder(images, placement)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["posedet-s", "dla34-coco"])
def test_shapes_are_known_beforehand(preset, monkeypatch):
    """Without any values: what needs one, or a tensor of another device, is an error."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # does not know this device
    config = load_config(preset)
    skeleton = find_skeleton(config.model.skeleton)
    with torch.device("meta"):
        network = for_running(build_network(config.model, skeleton), torch.float16)
        finder = PoseFinder(network, skeleton.sigmas, config.decode).eval()
    placement = placement_of([Letterbox((480, 640), (480, 640), (480, 640))] * 3, config, "meta")
    with torch.no_grad():
        found = finder(torch.empty(3, 480, 640, 3, dtype=torch.uint8, device="meta"), placement)
    n, k = config.decode.candidates, skeleton.num_keypoints
    assert [tuple(each.shape) for each in found] == [(3, n), (3, n, k, 2), (3, n, k), (3, n), (3,)]


# --- made quick to run ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [None, HRNet(8)], ids=["dla34", "hrnet"])
def test_folding_changes_nothing(backbone):
    torch.manual_seed(0)
    network = build_network(load_config("dla34-coco-improved").model, COCO).eval()
    if backbone is not None:
        network.backbone, network.pyramid = backbone, HighResolutionPyramid(backbone.channels, 128)
        network.geometry = network.geometry._replace(tap_strides=network.geometry.strides)
        network.score_taps[0].conv = nn.Conv2d(128, 64, 3, padding=1, bias=False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    images = torch.randint(0, 256, (1, 3, 128, 128)).float()
    with torch.no_grad():
        expected = network.eval()(images)
        num_norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.backbone.modules())
        found = for_running(network)(images)
    assert num_norms > 30 and not any(isinstance(module, nn.BatchNorm2d) for module in network.backbone.modules())
    for mine, wanted in ((found.logits, expected.logits), (found.poses[-1], expected.poses[-1])):
        assert (mine - wanted).norm() < 1e-4 * wanted.norm() and wanted.std() > 0


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "pixels"), [(torch.bfloat16, 3.0), (torch.float16, 0.4)])
def test_half_precision_moves_keypoints_little(shipped, photos, dtype, pixels):
    network, config, skeleton = shipped
    images, letterboxes = (batch[:1] for batch in batch_of(photos, 256))
    placement = placement_of(letterboxes, config, "cpu")
    found = []
    for each in (network, for_running(copy.deepcopy(network), dtype)):
        finder = PoseFinder(each, skeleton.sigmas, config.decode)
        with torch.no_grad():
            found.append(finder(images, placement))
    assert found[1].keypoints.dtype == torch.float32
    best = [each.keypoints[:, 0] for each in found]
    difference = (best[0] - best[1]).norm(dim=-1)
    assert 0 < difference.median() < pixels / 3 and difference.max() < 4 * pixels
