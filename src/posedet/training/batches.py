"""Annotated photos -> augmented patches -> batches of padded tensors."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from posedet.config import DataConfig
from posedet.data.annotations import AnnotatedPhoto, PhotoSet
from posedet.data.augment import Patch, make_patch
from posedet.errors import PhotoError, PoseDetError
from posedet.skeleton import Skeleton

SIGNAL_SECONDS = 1.0  # within which the signal of a process that ended arrives


class Batch(NamedTuple):
    """B patches with at most P persons and Q ignored regions each; padding has weight 0.

    Coordinates are pixels of the patch, pixel centres at integers.
    """

    images: Tensor  # (B, 3, S, S) uint8 RGB
    keypoints: Tensor  # (B, P, K, 2)
    weights: Tensor  # (B, P, K): 0 = not labelled, below 1 = a teacher's confidence
    visible: Tensor  # (B, P, K): 1 seen, 0 hidden or absent, -1 not known
    areas: Tensor  # (B, P) pixels of the patch squared
    boxes: Tensor  # (B, P, 4) x1 y1 x2 y2
    ignored: Tensor  # (B, Q, 4) x1 y1 x2 y2: regions that are neither person nor background
    crowds: Tensor  # (B, Q): 0 where the ignored region is one person, without labelled keypoints
    sources: list[str]  # the photo files, for error messages

    def to(self, device: torch.device) -> "Batch":
        tensors = (x.to(device, non_blocking=True) if isinstance(x, Tensor) else x for x in self)
        return Batch(*tensors)  # type: ignore[arg-type]


@dataclass(frozen=True)
class PhotoStream(Dataset[Patch]):
    """An endless stream of patches, in which sample n depends only on the seed and n.

    Each epoch has a new permutation of the photos, and the augmentation uses a generator seeded by (seed, n). Workers,
    processes and resumed runs therefore need no state. The first `early_samples` have the side `data.early_patch`.
    """

    photos: PhotoSet
    skeleton: Skeleton
    config: DataConfig
    seed: int
    early_samples: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "_epoch", (-1, np.empty(0, np.int64)))

    @property
    def epoch_length(self) -> int:
        return self.photos.epoch_length

    def photo_at(self, number: int) -> AnnotatedPhoto:
        epoch, place = divmod(number, self.epoch_length)
        if self._epoch[0] != epoch:  # type: ignore[attr-defined]
            order = np.random.default_rng((self.seed, epoch)).permutation(
                np.repeat(np.arange(len(self.photos)), self.photos.repeats)
            )
            object.__setattr__(self, "_epoch", (epoch, order))
        return self.photos.photos[self._epoch[1][place]]  # type: ignore[attr-defined]

    def __getitem__(self, number: int) -> Patch:
        generator = np.random.default_rng((self.seed, 1_000_003, number))
        photo = self.photo_at(number)
        others = [self.photos.photos[i] for i in generator.integers(len(self.photos), size=3)]
        config = _smaller(self.config) if number < self.early_samples else self.config
        return make_patch(photo, others, self.skeleton, config, generator)


def _smaller(config: DataConfig) -> DataConfig:
    """The settings of early patches, which show people at the same scale."""
    side = config.early_patch or config.patch
    if config.crop == "person":  # its zoom does not depend on the patch
        return replace(config, patch=side)
    low, high = (zoom * config.patch / side for zoom in config.zoom)
    return replace(config, patch=side, zoom=(low, high))


def collate(patches: list[Patch]) -> Batch:
    """Stack patches, padding persons and ignored regions to the largest number in the batch."""

    def padded(arrays: list[np.ndarray], fill: float) -> Tensor:
        longest = max(1, max(len(array) for array in arrays))
        out = np.full((len(arrays), longest, *arrays[0].shape[1:]), fill, np.float32)
        for row, array in zip(out, arrays, strict=True):
            row[: len(array)] = array
        return torch.from_numpy(out)

    return Batch(
        images=torch.from_numpy(np.stack([patch.image for patch in patches])).permute(0, 3, 1, 2),
        keypoints=padded([patch.keypoints for patch in patches], 0),
        weights=padded([patch.weights for patch in patches], 0),
        visible=padded([patch.visible for patch in patches], -1),
        areas=padded([patch.areas for patch in patches], 1),
        boxes=padded([patch.boxes for patch in patches], 0),
        # An empty box far away holds no location.
        ignored=padded([patch.ignored for patch in patches], -1e6),
        crowds=padded([patch.crowds for patch in patches], 1),
        sources=[patch.source for patch in patches],
    )


class _Numbers:
    """Sample numbers of one process's batches, from step `first_step` on."""

    def __init__(self, first_step: int, last_step: int, batch_size: int, rank: int, world: int) -> None:
        self.steps = range(first_step, last_step)
        self.batch_size, self.rank, self.world = batch_size, rank, world

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            first = (step * self.world + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))


def batches(
    stream: PhotoStream,
    *,
    batch_size: int,
    first_step: int,
    last_step: int,
    workers: int,
    rank: int = 0,
    world: int = 1,
) -> DataLoader[Patch]:
    """Load batches of `batch_size` for this process, one per step."""
    return DataLoader(
        stream,
        batch_sampler=_Numbers(first_step, last_step, batch_size, rank, world),
        num_workers=workers,
        collate_fn=collate,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )


@contextmanager
def errors_of_workers() -> Iterator[None]:
    """Give errors of the processes that prepare photos one line.

    It surrounds all steps, because PyTorch notices a dead process by a signal, which may come at any time.
    """
    try:
        yield
    except PhotoError as error:
        # A worker's error contains a traceback, whose last line is the message.
        line = str(error).strip().splitlines()[-1]
        raise PhotoError(line.removeprefix(f"{PhotoError.__module__}.{PhotoError.__name__}: ")) from None
    except (RuntimeError, ConnectionError, EOFError) as error:
        if not isinstance(error, RuntimeError):
            # Its connection was noticed first. The signal follows, and must not interrupt what is done next.
            with suppress(RuntimeError):
                time.sleep(SIGNAL_SECONDS)
        elif not str(error).startswith("DataLoader worker"):
            raise
        reason = "it may have been out of memory, or in a container of shared memory; use fewer workers"
        raise PoseDetError(f"a process that prepares photos ended unexpectedly; {reason}") from None
