"""Train the identity embedding of a finished network: the same people in two views of a photo.

The views are cropped, zoomed, turned, recoloured, blurred and partly covered differently. The network finds the poses
in both, and only the embedding learns (InfoNCE; van den Oord et al., arXiv 1807.03748): a person's two vectors become
similar, and those of others in the photo and in the batch different.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from posedet.config import DataConfig
from posedet.data.annotations import AnnotatedPhoto, PhotoSet
from posedet.data.augment import Patch, make_patch
from posedet.errors import ConfigError, DataError
from posedet.files import no_terminal, one_line
from posedet.model.build import build_network
from posedet.model.deployed import IdentifiedNet
from posedet.model.identity import Identity
from posedet.oks import oks
from posedet.skeleton import Skeleton
from posedet.training.batches import errors_of_workers
from posedet.weights.checkpoint import load_weights, save_weights, stored_skeleton

GENERATOR = "posedet identity"

AT_ONCE = 16  # photos
EPOCHS = 20
TEMPERATURE = 0.1
MOST_HIDDEN = 0.5  # without hiding, 82 instead of 84 % of held-out people are recognised
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 0.01
FOUND_OKS = 0.5  # from here on, a found pose is that of the labelled person
LEAST_SIDE = 24  # pixels of a person in a view, the root of the area
SIDE, ZOOM, COLOUR, ROTATION = 256, (0.9, 1.9), 0.2, 10.0
SEED = 0

log = logging.getLogger(__name__)


class Views(NamedTuple):
    """Two views of the same photos: first all the first, then all the second ones."""

    images: Tensor  # (2 B, S, S, 3) uint8 RGB
    patches: list[Patch]


@dataclass(frozen=True)
class Stream(Dataset[tuple[Patch, Patch]]):
    """Pairs of views; pair n depends only on n."""

    photos: Sequence[AnnotatedPhoto]
    skeleton: Skeleton
    config: DataConfig

    def __getitem__(self, number: int) -> tuple[Patch, Patch]:
        epoch, place = divmod(number, len(self.photos))
        order = np.random.default_rng((SEED, epoch)).permutation(len(self.photos))
        generator = np.random.default_rng((SEED, 1, number))
        first, second = (_view(self.photos[order[place]], self.skeleton, self.config, generator) for _ in range(2))
        return first, second


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
    tensors, config, info = load_weights(weights)
    if not config.model.keypoint_scores:
        raise ConfigError(
            f"{one_line(weights)}: model.keypoint_scores is false, expected true: hidden keypoints show others"
        )
    several = with_several(photos.photos)
    if len(several) < AT_ONCE:
        raise DataError(f"{len(several)} photos have at least two labelled people, expected at least {AT_ONCE}")
    skeleton = stored_skeleton(info, weights)
    config = replace(config, model=replace(config.model, identity_channels=channels))
    torch.manual_seed(SEED)
    network = build_network(config.model, skeleton)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("identity.")}
    network.load_state_dict({name: tensor.float() for name, tensor in kept.items()}, strict=False)
    deployed = IdentifiedNet(network, config.decode.candidates).eval()
    augmentation = views_of(config.data)
    people = read_people(deployed, Stream(several, skeleton, augmentation), pairs, workers)
    log.info("%d people in both views of a photo", len(people.photos))
    _learn(deployed.identity, people)
    if held_out:
        stream = Stream(with_several(held_out), skeleton, augmentation)
        seen = read_people(deployed, stream, len(stream.photos), workers)
        log.info("%s", recognised(deployed.identity, seen))
    trained = {f"identity.{name}": tensor for name, tensor in deployed.identity.state_dict().items()}
    save_weights(output, GENERATOR, kept | trained, config, skeleton, {"step": info.get("step")})


class People(NamedTuple):
    """N people who were found in both views of a photo."""

    photos: NDArray[np.intp]  # (N,) the pair of views, in rising order
    first: Tensor  # (N, F) features in the first view, see `Identity.read`
    second: Tensor  # (N, F)


@errors_of_workers()
@torch.inference_mode()
def read_people(deployed: IdentifiedNet, stream: Stream, pairs: int, workers: int) -> People:
    """Find people in the first `pairs` pairs of views, and read their features."""
    photos: list[int] = []
    first: list[Tensor] = []
    second: list[Tensor] = []
    loader = DataLoader(stream, batch_sampler=_Numbers(pairs), num_workers=workers, collate_fn=_collated)
    for number, views in enumerate(tqdm(loader, unit="batch", disable=no_terminal())):
        _, keypoints, _, features = deployed.read(views.images)
        poses, half = keypoints.numpy(), len(views.patches) // 2
        for photo in range(half):
            one, other = (_found(poses[at], views.patches[at], stream.skeleton) for at in (photo, photo + half))
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
    optimiser = torch.optim.AdamW(identity.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    of_photo = np.split(np.arange(len(people.photos)), np.flatnonzero(np.diff(people.photos)) + 1)
    generator = np.random.default_rng(SEED)
    for epoch in range(EPOCHS):
        order = generator.permutation(len(of_photo))
        losses = []
        for begin in range(0, len(order), AT_ONCE):
            for group in optimiser.param_groups:
                share = (epoch + begin / len(order)) / EPOCHS
                group["lr"] = LEARNING_RATE * (0.5 + 0.5 * math.cos(math.pi * share))
            rows = torch.from_numpy(np.concatenate([of_photo[photo] for photo in order[begin : begin + AT_ONCE]]))
            first, second = (
                identity(_hidden(features[rows].float(), identity.num_places))
                for features in (people.first, people.second)
            )
            similar = first @ second.T / TEMPERATURE
            same = torch.arange(len(rows))
            loss = (F.cross_entropy(similar, same) + F.cross_entropy(similar.T, same)) / 2
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(loss.item())
        log.info("epoch %d of %d: loss %.3f", epoch + 1, EPOCHS, np.mean(losses))


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


class _Numbers:
    """The numbers of `pairs` pairs of views, in batches."""

    def __init__(self, pairs: int) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return -(-self.pairs // AT_ONCE)

    def __iter__(self) -> Iterator[list[int]]:
        for begin in range(0, self.pairs, AT_ONCE):
            yield list(range(begin, min(begin + AT_ONCE, self.pairs)))


def _collated(pairs: list[tuple[Patch, Patch]]) -> Views:
    patches = [pair[view] for view in range(2) for pair in pairs]
    return Views(torch.from_numpy(np.stack([patch.image for patch in patches])), patches)


def with_several(photos: Sequence[AnnotatedPhoto]) -> list[AnnotatedPhoto]:
    return [photo for photo in photos if sum(not person.ignore for person in photo.persons) >= 2]


def views_of(config: DataConfig) -> DataConfig:
    return replace(
        config, patch=SIDE, crop="photo", zoom=ZOOM, rotation_deg=ROTATION, colour=COLOUR, mosaic=0.0, keep="keypoints"
    )


def _view(photo: AnnotatedPhoto, skeleton: Skeleton, config: DataConfig, generator: np.random.Generator) -> Patch:
    patch = make_patch(photo, [], skeleton, config, generator)
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
