"""Other keypoints than a body's, from annotations to predictions by the command line alone."""

import json
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn
from torch.nn import functional as F

from posedet import PoseDet, Poses
from posedet.commands.main import main
from posedet.model import build
from posedet.skeleton import CROWDPOSE, Skeleton, skeleton_for
from posedet.weights.checkpoint import load_info
from sets import changed, made_up_set

HAND = Path(__file__).parent.parent / "docs" / "skeletons" / "hand.toml"
# As CrowdPose's own files have them.
CROWDPOSE_NAMES = [*CROWDPOSE.keypoints[:12], "head", "neck"]
QUICK = ("--workers", "0", "--set", "train.steps=2", "--set", "train.batch_size=2", "--set", "data.patch=64")


# Exporting the whole takes half a minute.
SMALL = [
    f"model.{setting}"
    for setting in (
        "refinements=0",
        "local_channels=0",
        "mixing_depth=1",
        "fine_taps=false",
        "heatmaps=false",
        "keypoint_scores=false",
        "bypass_depth=0",
        "branch_depth=0",
        "channels=32",
        "tap_channels=32",
    )
]


class Tiny(nn.Module):
    """A backbone of four convolutions."""

    channels = (4, 8, 16, 32)
    image_mean = image_std = (127.5, 127.5, 127.5)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride, 1)
            for a, b, stride in zip((3, *self.channels), self.channels, (4, 2, 2, 2), strict=False)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = [images]
        for layer in self.layers:
            maps.append(F.relu(layer(maps[-1])))
        return tuple(maps[1:])


def posedet(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def as_crowdpose(content: dict) -> None:
    """What CrowdPose's files have that COCO's have not, and the other way round."""
    for photo in content["images"]:
        photo["crowdIndex"] = 0.76
    for person in content["annotations"]:
        person["keypoints"][2::3] = [1] * 14  # it tells no hidden from seen ones
        person["num_keypoints"] = 12  # head and neck do not count
    content["categories"][0]["supercategory"] = "person"


def predicted(model: Path, photo: Path, output: Path) -> list[dict]:
    """The best pose first, for all to be had from a network that has learnt nothing."""
    posedet("predict", photo, "--model", model, "--output", output, "--score-threshold", 0, "--threads", 1)
    return json.loads((output / "poses.json").read_text())


@pytest.mark.slow
def test_crowdpose_trains_with_the_papers_preset(tmp_path: Path) -> None:
    """14 keypoints are 14, under the skeleton's names, although the file says "head"."""
    annotations = changed(made_up_set(tmp_path / "crowd.json", CROWDPOSE_NAMES), as_crowdpose)
    posedet("train", "dla34-crowdpose", "--data", annotations, "--run", tmp_path / "run", *QUICK)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1]
    assert all(line["coarse"] > 0 and line["heatmap"] > 0 for line in lines)
    weights = tmp_path / "run" / "weights.safetensors"
    assert Skeleton.from_dict(load_info(weights)["skeleton"]) == CROWDPOSE
    assert len(CROWDPOSE.keypoints) == 14
    found = predicted(weights, tmp_path / "crowd" / "1.jpg", tmp_path / "found")
    assert {len(each["keypoints"]) for each in found} == {3 * 14}


@pytest.mark.slow
def test_a_hand_is_trained_exported_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The skeleton travels from its file through the weights into the ONNX file, and out with the predictions."""
    monkeypatch.setitem(build.BACKBONES, "mobilenetv2", Tiny)
    hand = skeleton_for(str(HAND))
    annotations = made_up_set(tmp_path / "set.json", hand.keypoints, category="hand")
    settings = [
        part for each in (f"model.skeleton={HAND}", "train.frozen_blocks=0", *SMALL) for part in ("--set", each)
    ]
    posedet("train", "posedet-s", "--data", annotations, "--run", tmp_path / "run", *settings, *QUICK)
    posedet("export", tmp_path / "run" / "weights.safetensors", tmp_path / "hand.onnx")
    detector = PoseDet(tmp_path / "hand.onnx", threads=1, score_threshold=0.0)
    assert detector.skeleton == hand
    poses = detector(tmp_path / "set" / "1.jpg")
    found = predicted(tmp_path / "hand.onnx", tmp_path / "set" / "1.jpg", tmp_path / "found")
    assert len(found) == len(poses) > 0
    np.testing.assert_allclose(Poses.from_coco(found, hand).keypoints, poses.keypoints, atol=0.02)
