"""What the embedding reads, in place of the coarse keypoints: the paper's comparison."""

from pathlib import Path

import pytest
import torch

from posedet.config import load_config
from posedet.data.sources import read_photos
from posedet.model.build import build_network
from posedet.model.network import PoseDetNet
from posedet.skeleton import BODY19, COCO
from posedet.training.setup import mean_pose

PHOTOS = Path(__file__).parent.parent / "photos"


def network_of(representation: str) -> PoseDetNet:
    config = load_config("posedet-s", [f"model.representation='{representation}'", "model.refinements=1"])
    torch.manual_seed(0)
    return build_network(config.model, COCO).eval()


def places_read(network: PoseDetNet, monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, ...]:
    """Where the first refinement samples, the coarse poses, and the locations of 5 chosen candidates."""
    seen = []

    def sample(table: object, places: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        seen.append(places)
        return torch.zeros(*places.shape[:3], 48)

    monkeypatch.setattr("posedet.model.network.sample", sample)
    with torch.no_grad():
        output = network(torch.rand(1, 3, 128, 160) * 255, lambda proposals, logits: torch.arange(5)[None] * 7)
    return seen[0], output.poses[0], output.proposals.locations[torch.arange(5) * 7], output.proposals.strides[:1]


@pytest.mark.slow
def test_pose_reads_the_coarse_keypoints(monkeypatch: pytest.MonkeyPatch) -> None:
    places, coarse, _, _ = places_read(network_of("pose"), monkeypatch)
    torch.testing.assert_close(places, coarse)


def test_centre_reads_the_location(monkeypatch: pytest.MonkeyPatch) -> None:
    places, _, locations, _ = places_read(network_of("centre"), monkeypatch)
    torch.testing.assert_close(places[0], locations[:, None].expand(5, 17, 2))


def test_box_reads_a_grid_in_the_box_of_the_coarse_pose(monkeypatch: pytest.MonkeyPatch) -> None:
    places, coarse, _, _ = places_read(network_of("box"), monkeypatch)
    low, high = coarse[0, 3].amin(0), coarse[0, 3].amax(0)
    for k in range(17):  # 5 x 5 cells, row by row
        share = torch.tensor([k % 5 + 0.5, k // 5 + 0.5]) / 5
        torch.testing.assert_close(places[0, 3, k], low + share * (high - low))


def test_anchors_read_the_mean_pose_around_the_location(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of("anchors")
    network.anchor_pose.copy_(torch.arange(34.0).view(17, 2))
    places, _, locations, strides = places_read(network, monkeypatch)
    torch.testing.assert_close(places[0, 2], locations[2] + torch.arange(34.0).view(17, 2) * strides)


def test_mean_pose_stands_upright() -> None:
    pose = mean_pose(read_photos(f"{PHOTOS}/truth.json:{PHOTOS}", BODY19))
    names = BODY19.keypoints
    height = [pose[names.index(name), 1] for name in ("nose", "left_shoulder", "left_hip", "left_knee", "left_ankle")]
    assert height == sorted(height)
    assert pose[names.index("head_top")].tolist() == [0, 0]  # not labelled in COCO
