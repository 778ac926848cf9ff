"""Figures 4 and 5: coarse poses on the left, and on the right the refined ones that the detector reports."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image

from lab.paper.__main__ import main
from lab.paper.figure4 import GAP, StagedNet
from posedet import PoseDet
from posedet.draw import draw
from posedet.image import read_photo, write_photo
from posedet.runtime.model_files import model_file
from posedet.weights.checkpoint import load_network
from posedet.weights.torch_session import TorchSession, open_weights

PHOTO = Path(__file__).parents[2] / "photos" / "tennis.jpg"
WEIGHTS = model_file("posedet-s").with_suffix(".safetensors")


def test_a_coarse_pose_is_the_one_that_was_refined() -> None:
    network, config, skeleton = load_network(WEIGHTS)
    detector = PoseDet(TorchSession(network, config, skeleton, "x", kind=StagedNet), skeleton=skeleton)
    poses = detector(PHOTO)
    letterbox, image = detector.prepared(PHOTO)
    with torch.inference_mode():
        every = network.eval()(torch.from_numpy(image)[None].permute(0, 3, 1, 2).float(), None)
    refined = letterbox.to_photo(every.poses[-1][0].numpy())
    (place,) = [int(np.abs(refined - pose.keypoints).max((1, 2)).argmin()) for pose in poses]
    assert_allclose(refined[place], poses.keypoints[0], atol=0.01)
    coarse = poses.extra["keypoint_coarse"][0]
    assert_allclose(coarse, every.proposals.coarse[0, place].numpy(), atol=0.01)
    assert np.linalg.norm(letterbox.to_photo(coarse) - poses.keypoints[0], axis=1).max() > 20  # it was far off


def test_pictures_of_given_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "pictures"
    assert main(["figure4", str(PHOTO), "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"1 pictures -> {output}\n"
    picture = np.asarray(Image.open(output / "tennis.jpg"))
    photo = read_photo(PHOTO)
    height, width = photo.shape[:2]
    assert picture.shape == (height, 2 * width + GAP, 3)
    write_photo(tmp_path / "right.jpg", draw(photo, PoseDet(open_weights(WEIGHTS))(photo)))
    right = np.asarray(Image.open(tmp_path / "right.jpg"))
    differences = [np.abs(half.astype(int) - right).mean() for half in (picture[:, :width], picture[:, -width:])]
    assert differences[1] < 1 < differences[0]


def test_a_model_without_coarse_poses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["figure5", str(PHOTO), "--model", "posedet-s-int8", "--output", str(tmp_path)]) == 2
    file = model_file("posedet-s-int8")
    assert capsys.readouterr().err == (
        f"posedet: error: --model {file}: coarse poses need PyTorch weights (.safetensors)\n"
    )
    assert not list(tmp_path.iterdir())
