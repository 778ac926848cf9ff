"""Train the identity embedding of a finished network: the same people in two views of a photo.

The views are cropped, zoomed, turned, recoloured, blurred and partly covered differently. The network finds the poses
in both, and only the embedding learns (InfoNCE; van den Oord et al., arXiv 1807.03748): a person's two vectors become
similar, and those of others in the photo and in the batch different.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from posedet.config import DataConfig
from posedet.data.annotations import AnnotatedPhoto, PhotoSet
from posedet.data.augment import Patch
from posedet.errors import DataError
from posedet.files import no_terminal
from posedet.model.deployed import DeployedNet
from posedet.model.identity import Identity
from posedet.oks import oks
from posedet.runtime.session import EMBEDDING
from posedet.skeleton import Skeleton
from posedet.training.batches import errors_of_workers
from posedet.training.heads import AT_ONCE, Finished, Views, learn, pixels_of

GENERATOR = "posedet identity"

EPOCHS = 20
TEMPERATURE = 0.1
MOST_HIDDEN = 0.5  # without hiding, 82 instead of 84 % of held-out people are recognised
FOUND_OKS = 0.5  # from here on, a found pose is that of the labelled person
LEAST_SIDE = 24  # pixels of a person in a view, the root of the area
SIDE, ZOOM, COLOUR, ROTATION = 256, (0.9, 1.9), 0.2, 10.0

log = logging.getLogger(__name__)


def train_identity(
    weights: Path,
    photos: PhotoSet,
    output: Path,
    *,
    pairs: int,
    channels: int,
    held_out: Sequence[AnnotatedPhoto] = (),
    workers: int = 1,
) -> None:
    """Add an identity embedding to the weights of a network, train it, and write the weights anew.

    Args:
        weights: A posedet weights file; an embedding that it has is trained anew.
        photos: Annotated photos. Only those with at least two people teach something.
        output: The weights file to write. Everything but the embedding is as in `weights`.
        pairs: How many pairs of views to train on.
        channels: Length of the embedding.
        held_out: Photos on which to measure how often somebody is recognised; the result is logged.
        workers: Processes that prepare photos.

    Raises:
        ModelError: If the weights cannot be read.
        DataError: If fewer than 16 photos have two people.
        ConfigError: If the network does not predict the visibility of keypoints.
    """
    finished = Finished.opened(weights, "identity", channels)
    several = with_several(photos.photos)
    if len(several) < AT_ONCE:
        raise DataError(f"{len(several)} photos have at least two labelled people, expected at least {AT_ONCE}")
    deployed = DeployedNet(finished.network, finished.config.decode.candidates, (EMBEDDING,))
    identity = finished.network.identity
    assert identity is not None
    augmentation = views_of(finished.config.data)
    people = read_people(deployed, Views(several, finished.skeleton, augmentation, 2, spoiled=True), pairs, workers)
    log.info("%d people in both views of a photo", len(people.photos))
    _learn(identity, people)
    if held_out:
        views = Views(with_several(held_out), finished.skeleton, augmentation, 2, spoiled=True)
        seen = read_people(deployed, views, len(views.photos), workers)
        log.info("%s", recognised(identity, seen))
    finished.save(output, GENERATOR)


class People(NamedTuple):
    """N people who were found in both views of a photo."""

    photos: NDArray[np.intp]  # (N,) the pair of views, in rising order
    first: Tensor  # (N, F) features in the first view, see `Identity.read`
    second: Tensor  # (N, F)


@errors_of_workers()
@torch.inference_mode()
def read_people(deployed: DeployedNet, views: Views, pairs: int, workers: int) -> People:
    """Find people in the first `pairs` pairs of views, and read their features."""
    photos: list[int] = []
    first: list[Tensor] = []
    second: list[Tensor] = []
    for number, batch in enumerate(tqdm(views.batches(pairs, workers), unit="batch", disable=no_terminal())):
        patches = [pair[view] for view in range(2) for pair in batch]
        _, keypoints, _, features = deployed.read(pixels_of(patches))
        poses, half = keypoints.numpy(), len(batch)
        for photo in range(half):
            one, other = (_found(poses[at], patches[at], views.skeleton) for at in (photo, photo + half))
            for place in sorted(one.keys() & other.keys()):
                photos.append(number * AT_ONCE + photo)
                # Half as large; thousands of them stay in memory.
                first.append(features[photo, one[place]].half())
                second.append(features[photo + half, other[place]].half())
    if not photos:
        raise DataError("nobody was found in two views of a photo; is this a network for these annotations?")
    return People(np.array(photos), torch.stack(first), torch.stack(second))


def _learn(identity: Identity, people: People) -> None:
    """Train the embedding on the features."""
    of_photo = np.split(np.arange(len(people.photos)), np.flatnonzero(np.diff(people.photos)) + 1)

    def loss(rows: Tensor) -> Tensor:
        first, second = (
            identity(_hidden(features[rows].float(), identity.num_places)) for features in (people.first, people.second)
        )
        similar = first @ second.T / TEMPERATURE
        same = torch.arange(len(rows))
        return (F.cross_entropy(similar, same) + F.cross_entropy(similar.T, same)) / 2

    learn(identity, of_photo, loss, at_once=AT_ONCE, epochs=EPOCHS)


def _hidden(features: Tensor, num_places: int) -> Tensor:
    """Hide a random share of the places of each person, up to `MOST_HIDDEN`, as if somebody stood before them."""
    shares = MOST_HIDDEN * torch.rand(len(features), 1, 1)
    seen = torch.rand(len(features), num_places, 1) > shares
    return (features.view(len(features), num_places, -1) * seen).flatten(1)


class Recognised(NamedTuple):
    """How well people are told apart in two views of photos with several people."""

    people: int
    right: float  # share of people who are most similar to themselves, among the people of the photo
    same: list[float]  # cosines of the same person, 5th, 50th and 95th percentile
    others: list[float]  # and of different people of the photo

    def __str__(self) -> str:
        same, others = (" / ".join(f"{value:.2f}" for value in values) for values in (self.same, self.others))
        return f"{self.people} people: {self.right:.1%} recognised; cosines: same {same}, others {others}"


@torch.inference_mode()
def recognised(identity: Identity, people: People) -> Recognised:
    """Compare the two views of each photo with several people."""
    right: list[bool] = []
    same: list[float] = []
    others: list[float] = []
    for photo in np.unique(people.photos):
        rows = np.flatnonzero(people.photos == photo)
        if len(rows) < 2:
            continue
        first, second = (identity(features[rows].float()) for features in (people.first, people.second))
        cosines = (first @ second.T).numpy()
        right += (cosines.argmax(1) == np.arange(len(rows))).tolist()
        same += cosines.diagonal().tolist()
        others += cosines[~np.eye(len(rows), dtype=bool)].tolist()
    if not right:
        raise DataError("no photo for validation has two people who were found twice")
    marks = [np.percentile(values, [5, 50, 95]).tolist() for values in (same, others)]
    return Recognised(len(right), float(np.mean(right)), *marks)


def _found(poses: NDArray[np.float32], patch: Patch, skeleton: Skeleton) -> dict[int, int]:
    """The best pose of each person of the photo who was found."""
    if not len(patch.keypoints):
        return {}
    labelled = patch.weights > 0
    similarity = oks(poses, patch.keypoints, skeleton.sigmas, patch.areas, labelled)
    best, values = similarity.argmax(0), similarity.max(0)
    large = patch.areas >= LEAST_SIDE**2
    places = np.flatnonzero((values >= FOUND_OKS) & large)
    return {int(patch.places[person]): int(best[person]) for person in places}


def with_several(photos: Sequence[AnnotatedPhoto]) -> list[AnnotatedPhoto]:
    return [photo for photo in photos if sum(not person.ignore for person in photo.persons) >= 2]


def views_of(config: DataConfig) -> DataConfig:
    return replace(
        config, patch=SIDE, crop="photo", zoom=ZOOM, rotation_deg=ROTATION, colour=COLOUR, mosaic=0.0, keep="keypoints"
    )
