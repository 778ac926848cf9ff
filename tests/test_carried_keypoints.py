"""A network for other keypoints starts from what it shares by name, and from nothing else."""

import json
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from posedet.config import Config, load_config
from posedet.model.build import build_network
from posedet.model.network import NetworkOutput, PoseDetNet
from posedet.skeleton import BODY19, COCO, CROWDPOSE, Skeleton, infer_pairs
from posedet.weights.checkpoint import (
    is_displacement,
    load_start,
    load_weights,
    save_weights,
    stored_skeleton,
    swap_axes,
)
from posedet.weights.keypoints import carry_over

SHIPPED = Path(str(resources.files("posedet") / "released" / "posedet-s.safetensors"))


def skeleton_of(names: list[str]) -> Skeleton:
    known = dict(zip(BODY19.keypoints, BODY19.sigmas, strict=True))
    return Skeleton("own", tuple(names), (), infer_pairs(tuple(names)), tuple(known.get(name, 0.079) for name in names))


def network_for(config: Config, skeleton: Skeleton, seed: int) -> PoseDetNet:
    """With weights that matter: fresh heads are nearly 0."""
    torch.manual_seed(seed)
    network = build_network(config.model, skeleton).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            if not name.startswith("backbone."):
                tensor += 0.05 * torch.randn(tensor.shape, generator=generator)
    return network


def started(config: Config, old: PoseDetNet, theirs: Skeleton, ours: Skeleton, folder: Path) -> tuple[PoseDetNet, str]:
    save_weights(folder / "old.safetensors", "posedet train", old.state_dict(), config, theirs, {})
    new = network_for(config, ours, 1)
    return new, load_start(new, folder / "old.safetensors", ours)


@torch.no_grad()
def outputs(network: PoseDetNet) -> NetworkOutput:
    """Also of the heatmaps, which are made while training alone; statistics stay."""
    images = torch.rand(1, 3, 128, 160, generator=torch.Generator().manual_seed(2)) * 255
    if network.heatmap is not None:
        network.training = True
    return network(images, lambda _, logits: logits.topk(min(9, logits.shape[1]), dim=1).indices)


def assert_same_keypoints(old: NetworkOutput, new: NetworkOutput, at: list[int], to: list[int]) -> None:
    """The keypoints `to` of the new network are the keypoints `at` of the old one, and the people the same."""
    close = {"rtol": 1e-4, "atol": 1e-3}
    torch.testing.assert_close(new.proposals.presence, old.proposals.presence, **close)
    torch.testing.assert_close(new.proposals.coarse[:, :, to], old.proposals.coarse[:, :, at], **close)
    for ours, theirs in zip(new.poses, old.poses, strict=True):
        torch.testing.assert_close(ours[:, :, to], theirs[:, :, at], **close)
    torch.testing.assert_close(new.logits, old.logits, **close)
    if old.keypoint_logits is not None:
        torch.testing.assert_close(new.keypoint_logits[..., to], old.keypoint_logits[..., at], **close)
    assert len(new.heatmaps) == len(old.heatmaps)
    for ours, theirs in zip(new.heatmaps, old.heatmaps, strict=True):
        torch.testing.assert_close(ours[:, to], theirs[:, at], **close)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["posedet-s", "dla34-crowdpose"])
def test_more_keypoints_in_another_order_change_nothing_for_the_old_ones(preset: str, tmp_path: Path) -> None:
    """Coarse and refined poses, scores and heatmaps of all shared keypoints are what they were before."""
    config = load_config(preset)
    theirs = {"posedet-s": BODY19, "dla34-crowdpose": CROWDPOSE}[preset]
    ours = skeleton_of(["hat", *reversed(theirs.keypoints), "left_toe", "right_toe"])
    old = network_for(config, theirs, 0)
    new, report = started(config, old, theirs, ours, tmp_path)
    assert report.endswith(f"; reused keypoints: {', '.join(ours.keypoints[1:-2])}; new: hat, left_toe, right_toe")
    at = list(range(len(theirs.keypoints)))
    assert_same_keypoints(outputs(old), outputs(new), at, [ours.index(name) for name in theirs.keypoints])


@pytest.mark.slow
def test_fewer_keypoints_keep_their_coarse_places(tmp_path: Path) -> None:
    """What the network reads at the places of keypoints that are gone, it cannot read any more."""
    config = load_config("posedet-s")
    old = network_for(config, BODY19, 0)
    ours = skeleton_of(["right_wrist", "nose", "left_wrist"])
    new, report = started(config, old, BODY19, ours, tmp_path)
    assert report.endswith("; reused keypoints: right_wrist, nose, left_wrist; new: none")
    before, after = outputs(old).proposals, outputs(new).proposals
    kept = [BODY19.index(name) for name in ours.keypoints]
    torch.testing.assert_close(after.coarse, before.coarse[:, :, kept], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(after.presence, before.presence)


def test_what_is_new_starts_as_it_would_alone() -> None:
    """Offsets of a new keypoint are those of the fresh network; what is read at its place counts for nothing yet."""
    config = load_config("posedet-s")
    ours = skeleton_of(["hat", "nose"])
    old, fresh = network_for(config, BODY19, 0), network_for(config, ours, 1)
    own = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    carried = carry_over(old.state_dict(), own, BODY19, ours)
    assert torch.equal(carried["bypass.offsets.weight"][:2], own["bypass.offsets.weight"][:2])
    assert torch.equal(carried["bypass.offsets.weight"][2:], old.state_dict()["bypass.offsets.weight"][:2])
    for name in ("score.embedding.weight", "refinements.0.embedding.weight"):
        assert not carried[name][0].any()
        assert torch.equal(carried[name][1], old.state_dict()[name][BODY19.index("nose")])
    assert all(torch.equal(tensor, own[name]) for name, tensor in fresh.state_dict().items())


def test_nothing_shared(tmp_path: Path) -> None:
    """A hand from a body: the features, and nothing that belongs to a keypoint."""
    config = load_config("posedet-s")
    ours = skeleton_of(["thumb", "little"])
    new, report = started(config, network_for(config, BODY19, 0), BODY19, ours, tmp_path)
    assert report.endswith("; reused keypoints: none; new: thumb, little")
    fresh = network_for(config, ours, 1)
    assert torch.equal(new.bypass.offsets.weight, fresh.bypass.offsets.weight)


def test_tensors_of_another_kind_are_given_back() -> None:
    config = load_config("posedet-s")
    old, ours = network_for(config, BODY19, 0).state_dict(), skeleton_of(["nose"])
    own = build_network(config.model, ours).state_dict()
    odd = {
        "bypass.offsets.weight": torch.zeros(7, 64, 1, 1),
        "not.ours": torch.zeros(3),
        "score.output.bias": old["score.output.bias"],
    }
    carried = carry_over(odd, own, BODY19, ours)
    assert carried["bypass.offsets.weight"] is odd["bypass.offsets.weight"]
    assert carried["not.ours"] is odd["not.ours"]
    assert carried["score.output.bias"].shape == (2,) and carried["score.output.bias"][0] == odd["score.output.bias"][0]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["posedet-s", "dla34-coco", "dla34-coco-improved"])
@pytest.mark.parametrize(
    "change",
    [{}, {"keypoint_scores": True, "refinements": 2, "mixing_depth": 2}, {"representation": "anchors"}],
    ids=["as it is", "all there is", "anchors"],
)
def test_every_tensor_whose_size_follows_the_keypoints_is_brought_to_the_new_ones(preset: str, change: dict) -> None:
    """Or that part of the network would start fresh without a word."""
    model = replace(load_config(preset).model, **change)
    with torch.device("meta"):
        old, own = (
            {name: tensor.shape for name, tensor in build_network(model, skeleton).state_dict().items()}
            for skeleton in (COCO, CROWDPOSE)
        )
    following = [name for name, shape in old.items() if own[name] != shape]
    assert len(following) >= 6
    before, now = ({name: torch.zeros(shapes[name]) for name in following} for shapes in (old, own))
    carried = carry_over(before, now, COCO, CROWDPOSE)
    assert {name: tensor.shape for name, tensor in carried.items()} == {name: own[name] for name in following}


def test_older_files_are_turned_once(tmp_path: Path) -> None:
    """Older files hold displacements as y, x; a copy written today holds them as x, y and reads the same."""
    tensors, config, info = load_weights(SHIPPED)
    turned = {name: swap_axes(tensor) if is_displacement(name) else tensor for name, tensor in tensors.items()}
    assert not torch.equal(turned["bypass.offsets.bias"], tensors["bypass.offsets.bias"])
    assert torch.equal(turned["refinements.1.output.weight"][0::2], tensors["refinements.1.output.weight"][1::2])
    older = tmp_path / "older.safetensors"
    save_file(turned, older, {"posedet": json.dumps({**info, "format": "posedet-1"})})
    skeleton = stored_skeleton(info, older)
    save_weights(tmp_path / "copy.safetensors", "posedet train", load_weights(older)[0], config, skeleton, info)
    for path in (older, tmp_path / "copy.safetensors"):
        again, _, _ = load_weights(path)
        for name, tensor in tensors.items():
            assert torch.equal(again[name], tensor), (path, name)
