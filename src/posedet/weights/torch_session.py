"""Run a PyTorch network like a model file, so that validation measures exactly the exported network."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from posedet import __version__
from posedet.config import Config
from posedet.errors import ConfigError
from posedet.files import one_line
from posedet.model.deployed import DeployedNet, further_outputs
from posedet.model.network import PoseDetNet
from posedet.runtime.session import About, Outputs, no_covariances, not_wanted
from posedet.skeleton import Skeleton
from posedet.weights.checkpoint import load_network

log = logging.getLogger(__name__)


class TorchSession:
    """A `posedet.runtime.session.Session` that runs a network on the network's device.

    kind: the class that selects the outputs; another than `DeployedNet` may have more of them. further: as in
    `DeployedNet`.
    """

    def __init__(
        self,
        network: PoseDetNet,
        config: Config,
        skeleton: Skeleton,
        name: str,
        *,
        kind: type[DeployedNet] = DeployedNet,
        further: tuple[str, ...] = (),
    ) -> None:
        self.about = About(name, __version__, skeleton, config.decode, config.to_dict())
        self._deployed = kind(network, config.decode.candidates, further).eval()

    @property
    def device(self) -> str:
        return str(self._deployed.network.image_mean.device)

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        with torch.inference_mode(), enough_memory("use smaller photos, or fewer of them per run"):
            arrays = self._deployed(torch.from_numpy(images).to(self.device))
        names = self._deployed.output_names
        return Outputs.named({name: array.cpu().numpy() for name, array in zip(names, arrays, strict=True)})


def open_weights(
    path: Path, device: str = "cpu", *, embedding: bool = False, covariances: bool = False
) -> TorchSession:
    """Open a posedet weights file. Raises ModelError for any other file, ConfigError for an unavailable device.

    device: as PyTorch names it, or "auto": a CUDA GPU if there is one, otherwise the CPU. embedding: compute
    the identity embedding, if the network has it. covariances: compute the covariances of keypoints.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        log.info("device: %s", device)
    network, config, skeleton = load_network(path)
    if covariances and network.uncertainty is None:
        raise no_covariances(one_line(path))
    unwanted = not_wanted(embedding=embedding, covariances=covariances)
    further = tuple(name for name in further_outputs(network) if name not in unwanted)
    return TorchSession(network.to(local_device(device)), config, skeleton, path.stem, further=further)


def local_device(device: str) -> torch.device:
    """Return the device of this process, which has its own GPU in `torchrun`. Raises ConfigError if unavailable."""
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # no such device, or PyTorch was built without it
        raise ConfigError(f"device {device!r} is not available: {one_line(str(error).splitlines()[0])}") from None


@contextmanager
def enough_memory(remedy: str) -> Iterator[None]:
    """Turn PyTorch's and NumPy's errors about memory, on a GPU or a CPU, into a ConfigError that names the remedy."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
            raise ConfigError(f"not enough memory; {remedy}") from None
        raise
