"""Batches of persons with keypoints at known places, for the tests of training."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from posedet.config import Config, load_config
from posedet.data.augment import Patch
from posedet.model.network import Proposals
from posedet.training.assignment import Persons
from posedet.training.batches import Batch, collate


class Labelled(NamedTuple):
    """A person as a patch holds it; what is left out follows from the keypoints."""

    keypoints: Sequence[Sequence[float]]  # (K, 2)
    weights: Sequence[float] | None = None  # (K,), all 1 if left out
    box: Sequence[float] | None = None
    area: float | None = None
    visible: Sequence[float] | None = None


class Region(NamedTuple):
    """A place that is ignored: of many people, or of one without labelled keypoints."""

    box: Sequence[float]
    crowd: bool


def patch_of(
    persons: Sequence[Labelled] = (), regions: Sequence[Region] = (), *, num_keypoints: int, side: int
) -> Patch:
    def array(rows: list, *shape: int) -> np.ndarray:
        return np.array(rows, np.float32).reshape(len(rows), *shape)

    keypoints = array([person.keypoints for person in persons], num_keypoints, 2)
    weights = [np.ones(num_keypoints) if person.weights is None else person.weights for person in persons]
    boxes = []
    for person, points, weight in zip(persons, keypoints, weights, strict=True):
        labelled = points[np.asarray(weight) > 0]
        boxes.append((*labelled.min(0), *labelled.max(0)) if person.box is None else person.box)
    boxes = array(boxes, 4)
    extents = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    visible = [np.ones(num_keypoints) if person.visible is None else person.visible for person in persons]
    return Patch(
        image=np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8),
        keypoints=keypoints,
        weights=array(weights, num_keypoints),
        visible=array(visible, num_keypoints),
        areas=array([e if p.area is None else p.area for p, e in zip(persons, extents, strict=True)]),
        boxes=boxes,
        places=np.arange(len(persons), dtype=np.float32),
        ignored=array([region.box for region in regions], 4),
        crowds=array([float(region.crowd) for region in regions]),
        source="photo.jpg",
    )


def batch_of(*images: Sequence[Labelled | Region], num_keypoints: int, side: int = 128) -> Batch:
    """One image for each list of persons and ignored regions."""
    return collate(
        [
            patch_of(
                [each for each in image if isinstance(each, Labelled)],
                [each for each in image if isinstance(each, Region)],
                num_keypoints=num_keypoints,
                side=side,
            )
            for image in images
        ]
    )


def proposals_at(strides: tuple[int, ...], side: int, *, num_images: int = 1, origin: float = 0.0) -> Proposals:
    """All locations of a square input, level after level, row by row; no poses."""
    rows = [
        (column * stride + origin * (stride - 1), row * stride + origin * (stride - 1), stride)
        for stride in strides
        for row in range(-(-side // stride))
        for column in range(-(-side // stride))
    ]
    table = torch.tensor(rows, dtype=torch.float32)
    nothing = torch.zeros(num_images, len(rows), 1, 2)
    return Proposals(nothing, None, table[:, :2], table[:, 2], nothing)


def persons_of(batch: Batch, config: Config | None = None) -> Persons:
    return Persons.of(batch, (config or load_config("dla34-coco")).assign)
