"""Memory does not grow over epochs: what a step leaves behind, the next does not add to."""

import gc
import sys
from pathlib import Path

import pytest
import torch

from posedet.config import load_config
from posedet.data.sources import read_sets
from posedet.skeleton import BODY19
from posedet.training.loop import train
from sets import made_up_set

STEPS = 14  # of four photos: as many epochs


@pytest.mark.slow
def test_epoch_after_epoch_the_same(tmp_path: Path) -> None:
    """Tensors and Python's other objects are counted; photos are prepared in the process itself."""
    annotations = made_up_set(tmp_path / "set.json", BODY19.keypoints, num_photos=4)
    photos = read_sets([str(annotations)], BODY19)
    config = load_config("posedet-s", [f"train.steps={STEPS}", "train.batch_size=4", "data.patch=64"])
    counted: list[tuple[int, int]] = []

    def count(step: int) -> None:
        if step in (3, STEPS - 2):  # before: the optimiser's state is made; after: a checkpoint is
            gc.collect()
            num_tensors = sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())
            counted.append((num_tensors, sys.getallocatedblocks()))

    train(config, photos, tmp_path / "run", workers=0, after_step=count)
    (tensors, blocks), (tensors_later, blocks_later) = counted
    assert tensors_later == tensors
    # A patch is ten objects, and four of them are made in a step.
    assert blocks_later - blocks < 250
