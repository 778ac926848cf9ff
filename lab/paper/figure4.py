"""Figures 4 and 5 of the paper: the coarse poses beside the refined ones, in photos of your choice."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from lab.paper import GENERATOR
from posedet.draw import draw
from posedet.errors import ConfigError
from posedet.files import one_line
from posedet.image import read_photo, write_photo
from posedet.model.deployed import DeployedNet
from posedet.outputs import make_folder
from posedet.runtime.detector import PoseDet
from posedet.weights.checkpoint import load_network
from posedet.weights.torch_session import TorchSession, local_device

GAP = 8  # white pixels between the two halves


class StagedNet(DeployedNet):
    """The deployed network, which also returns the coarse pose of each refined one, in pixels of the input."""

    output_names = (*DeployedNet.output_names, "keypoint_coarse")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        output, scores, order = self.ranked(images)
        coarse = output.poses[0].gather(1, order[..., None, None].expand_as(output.poses[0]))
        return *self.selected(output, scores, order), coarse


def reproduce_figure4(photos: Sequence[Path], pictures: Sequence[Path], model: Path, *, device: str = "cpu") -> None:
    """Write a picture of each photo: coarse poses on the left, refined ones on the right.

    The same people are shown on both sides: those that the refined poses and their scores select. Raises
    ConfigError unless `model` is a file of PyTorch weights, because ONNX files have only refined poses.
    """
    weights = model.with_suffix(".safetensors")
    if not weights.is_file():
        raise ConfigError(f"--model {one_line(model)}: coarse poses need PyTorch weights (.safetensors)")
    network, config, skeleton = load_network(weights)
    session = TorchSession(network.to(local_device(device)), config, skeleton, weights.stem, kind=StagedNet)
    detector = PoseDet(session)
    make_folder(pictures[0].parent)
    for photo, picture in zip(photos, pictures, strict=True):
        image = read_photo(photo)
        poses = detector(image)
        letterbox, _ = detector.prepared(image)
        coarse = letterbox.to_photo(poses.extra["keypoint_coarse"]).astype(np.float32)
        halves = [draw(image, each) for each in (replace(poses, keypoints=coarse), poses)]
        gap = np.full((len(image), GAP, 3), 255, np.uint8)
        write_photo(picture, np.concatenate([halves[0], gap, halves[1]], axis=1), generator=GENERATOR)
