"""What commands share that train one more head on a finished network: the network, and random views of photos."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from posedet.config import Config, DataConfig
from posedet.data.annotations import AnnotatedPhoto
from posedet.data.augment import Patch, make_patch
from posedet.errors import ConfigError
from posedet.files import one_line
from posedet.model.build import build_network
from posedet.model.network import PoseDetNet
from posedet.skeleton import Skeleton
from posedet.weights.checkpoint import load_weights, save_weights, stored_skeleton

AT_ONCE = 16  # photos
SEED = 0
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 0.01

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Finished:
    """A finished network with a new head; everything but the head is as in its weights file."""

    head: str
    network: PoseDetNet
    config: Config
    skeleton: Skeleton
    weights: dict[str, Tensor]  # without the head's
    info: dict[str, Any]

    @classmethod
    def opened(cls, path: Path, head: str, channels: int) -> "Finished":
        """Read a weights file, and add a head that is not trained, in the place of one that it has.

        head: "identity" or "uncertainty".

        Raises:
            ModelError: If the file cannot be read.
            ConfigError: If the network does not predict the visibility of keypoints, which the heads need.
        """
        tensors, config, info = load_weights(path)
        if not config.model.keypoint_scores:
            raise ConfigError(
                f"{one_line(path)}: model.keypoint_scores is false, expected true: hidden keypoints show others"
            )
        skeleton = stored_skeleton(info, path)
        change: dict[str, Any] = {f"{head}_channels": channels}
        config = replace(config, model=replace(config.model, **change))
        torch.manual_seed(SEED)
        network = build_network(config.model, skeleton).eval()
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{head}.")}
        network.load_state_dict({name: tensor.float() for name, tensor in kept.items()}, strict=False)
        return cls(head, network, config, skeleton, kept, {"step": info.get("step")})

    def save(self, path: Path, generator: str) -> None:
        """Write the weights with the head."""
        trained = {
            f"{self.head}.{name}": tensor for name, tensor in getattr(self.network, self.head).state_dict().items()
        }
        save_weights(path, generator, self.weights | trained, self.config, self.skeleton, self.info)


@dataclass(frozen=True)
class Views(Dataset[tuple[Patch, ...]]):
    """An endless stream of `count` views of a photo each; number n depends only on n.

    spoiled: views are sometimes blurred, and people partly covered.
    """

    photos: Sequence[AnnotatedPhoto]
    skeleton: Skeleton
    config: DataConfig
    count: int
    spoiled: bool = False

    def __getitem__(self, number: int) -> tuple[Patch, ...]:
        epoch, place = divmod(number, len(self.photos))
        order = np.random.default_rng((SEED, epoch)).permutation(len(self.photos))
        generator = np.random.default_rng((SEED, 1, number))
        photo = self.photos[order[place]]
        patches = (make_patch(photo, [], self.skeleton, self.config, generator) for _ in range(self.count))
        return tuple(_spoiled(patch, generator) if self.spoiled else patch for patch in patches)

    def batches(self, number: int, workers: int) -> DataLoader[tuple[Patch, ...]]:
        """Return the first `number` in batches, lists of up to `AT_ONCE`."""
        return DataLoader(Subset(self, range(number)), AT_ONCE, num_workers=workers, collate_fn=list)


def learn(
    head: nn.Module, groups: Sequence[NDArray[np.intp]], loss: Callable[[Tensor], Tensor], *, at_once: int, epochs: int
) -> None:
    """Train a head.

    Args:
        head: The head.
        groups: Rows that belong together.
        loss: Computes the loss of the rows of some groups.
        at_once: Groups in a step.
        epochs: How often each group is seen.
    """
    optimiser = torch.optim.AdamW(head.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    generator = np.random.default_rng(SEED)
    for epoch in range(epochs):
        order = generator.permutation(len(groups))
        losses = []
        for begin in range(0, len(order), at_once):
            for group in optimiser.param_groups:
                share = (epoch + begin / len(order)) / epochs
                group["lr"] = LEARNING_RATE * (0.5 + 0.5 * math.cos(math.pi * share))
            value = loss(torch.from_numpy(np.concatenate([groups[place] for place in order[begin : begin + at_once]])))
            optimiser.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(value.item())
        log.info("epoch %d of %d: loss %.3f", epoch + 1, epochs, np.mean(losses))


def pixels_of(patches: Sequence[Patch]) -> Tensor:
    """Return the images (B, S, S, 3) uint8 RGB of patches."""
    return torch.from_numpy(np.stack([patch.image for patch in patches]))


def _spoiled(patch: Patch, generator: np.random.Generator) -> Patch:
    image = patch.image.copy()
    if generator.random() < 0.5:  # less detail, as of somebody far away or in motion
        blurred = cv2.GaussianBlur(image, (0, 0), generator.uniform(0.5, 2.5))
        image = np.asarray(blurred, np.uint8)
    for x1, y1, x2, y2 in patch.boxes.astype(int):
        if generator.random() < 0.4 and min(x2 - x1, y2 - y1) >= 8:
            _cover(image, (x1, y1, x2, y2), generator)
    return patch._replace(image=image)


def _cover(image: NDArray[np.uint8], box: tuple[int, int, int, int], generator: np.random.Generator) -> None:
    """Hide up to half of a person behind another piece of the patch."""
    x1, y1, x2, y2 = box
    width = max(1, round((x2 - x1) * generator.uniform(0.3, 0.7)))
    height = max(1, round((y2 - y1) * generator.uniform(0.3, 0.7)))
    to_x, to_y = generator.integers(x1, x2 - width + 1), generator.integers(y1, y2 - height + 1)
    from_x, from_y = generator.integers(image.shape[1] - width + 1), generator.integers(image.shape[0] - height + 1)
    image[to_y : to_y + height, to_x : to_x + width] = image[from_y : from_y + height, from_x : from_x + width].copy()
