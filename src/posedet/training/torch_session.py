"""A network in PyTorch, run like a model file: what validation measures is what is exported."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from posedet import __version__
from posedet.config import Config
from posedet.model.deployed import DeployedNet
from posedet.model.network import PoseDetNet
from posedet.session import About, Outputs
from posedet.skeleton import Skeleton
from posedet.training.checkpoint import load_network
from posedet.training.processes import local_device


class TorchSession:
    """A `posedet.session.Session` of a network, on the device where the network is."""

    def __init__(self, network: PoseDetNet, config: Config, skeleton: Skeleton, name: str) -> None:
        self.about = About(name, __version__, skeleton, config.decode, config.to_dict())
        self._deployed = DeployedNet(network, config.decode.candidates).eval()

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        device = self._deployed.network.image_mean.device
        with torch.inference_mode():
            scores, keypoints, keypoint_scores = self._deployed(torch.from_numpy(images).to(device))
        return scores.cpu().numpy(), keypoints.cpu().numpy(), keypoint_scores.cpu().numpy()


def open_weights(path: Path, device: str = "cpu") -> TorchSession:
    """A posedet weights file, ready to run. Raises ModelError for any other file, ConfigError for another device."""
    network, config, skeleton = load_network(path)
    return TorchSession(network.to(local_device(device)), config, skeleton, path.stem)
