"""Train the uncertainty of poses on a finished network: how far the poses that it finds are from the truth.

The network finds the poses in views of annotated photos, and only the head for uncertainty learns: the likelihood of
the true places, by a Student distribution around the found ones, because a few errors are huge (another limb, another
person); and the OKS of the pose, 0 where nobody is, which becomes its score. The network fits the photos of its own
training better than others. So the size of all ellipses is calibrated afterwards, on photos held out from its training:
90 % of the true places shall lie in the 90 % ellipse. One factor for all people is enough, whatever their size
(measured).
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from posedet.config import Config
from posedet.data.annotations import AnnotatedPhoto, PhotoSet
from posedet.data.augment import Patch
from posedet.errors import DataError
from posedet.files import no_terminal
from posedet.model.deployed import DeployedNet
from posedet.model.uncertainty import LOGIT_SCALE, Uncertainty
from posedet.oks import best_pairs, oks
from posedet.poses import COVARIANCES, Poses
from posedet.runtime.decode import best
from posedet.training.batches import errors_of_workers
from posedet.training.heads import Finished, Views, learn, pixels_of

GENERATOR = "posedet uncertainty"

EPOCHS, AT_ONCE = 6, 128  # poses
FREEDOM = 3.0  # degrees of freedom of the Student distribution
SIDE, ZOOM, COLOUR, ROTATION = 448, (0.9, 1.8), 0.2, 8.0
FOUND_OKS = 0.5  # from here on, a found pose is that of the labelled person
LEAST_SCORE = 0.02
SCORE_WEIGHT = 2.0  # of the loss of the score
SHARE = 0.9
RADIUS = -2 * math.log(1 - SHARE)  # squared, of the ellipse with this share of a normal distribution: 4.605
VIEWS_HELD_OUT = 2  # of each photo: moved a little, half of them mirrored
LEAST_HELD_OUT = 40  # people in these views

log = logging.getLogger(__name__)


def train_uncertainty(
    weights: Path,
    photos: PhotoSet,
    output: Path,
    *,
    held_out: Sequence[AnnotatedPhoto],
    views: int,
    channels: int,
    workers: int = 1,
) -> None:
    """Add covariances and better scores to the weights of a network, train them, and write the weights anew.

    The score threshold of the weights is set anew, so that as many poses are reported as before.

    Args:
        weights: A posedet weights file; a head for uncertainty that it has is trained anew.
        photos: Annotated photos. Only keypoints labelled by people teach something.
        output: The weights file to write. Everything but the head and the score threshold is as in
            `weights`.
        held_out: Annotated photos that neither this training nor that of the network has seen, for the calibration.
        views: How many views to train on.
        channels: Width of the head.
        workers: Processes that prepare photos.

    Raises:
        ModelError: If the weights cannot be read.
        DataError: If nobody is found in the photos, or too few people in those held out.
        ConfigError: If the network does not predict the visibility of keypoints.
    """
    finished = Finished.opened(weights, "uncertainty", channels)
    config, head = finished.config, finished.network.uncertainty
    assert head is not None
    augmented = replace(
        config.data,
        patch=SIDE,
        crop="photo",
        zoom=ZOOM,
        rotation_deg=ROTATION,
        colour=COLOUR,
        mosaic=0.0,
        keep="keypoints",
    )
    # As a detector sees them: whole, at the size at which the network is used.
    whole = replace(
        augmented, patch=-(-config.decode.long_side // 32) * 32, zoom=(1.0, 1.0), rotation_deg=0.0, colour=0.0
    )
    errors = read_errors(finished, Views(_with_people(photos.photos), finished.skeleton, augmented, 1), views, workers)
    log.info("%d poses of %d people found", len(errors.features), int(errors.labelled.any(dim=1).sum()))
    train(head, errors)
    unseen = Views(_with_people(held_out), finished.skeleton, whole, VIEWS_HELD_OUT)
    errors = read_errors(finished, unseen, len(unseen.photos), workers)
    calibrate(head, errors)
    threshold = new_threshold(head, errors, config.decode.score_threshold)
    log.info("score threshold: %g, before %g", threshold, config.decode.score_threshold)
    config = replace(config, decode=replace(config.decode, score_threshold=threshold))
    replace(finished, config=config).save(output, GENERATOR)


class Errors(NamedTuple):
    """N poses that were found."""

    features: Tensor  # (N, F) float16, see `Uncertainty.read`
    errors: Tensor  # (N, K, 2) the true place minus the found one, pixels of the network input
    labelled: Tensor  # (N, K) bool: where that is known, of people who were found
    oks: Tensor  # (N,) OKS of the pose with its person; 0 for nobody


@errors_of_workers()
@torch.inference_mode()
def read_errors(finished: Finished, views: Views, number: int, workers: int) -> Errors:
    """Find poses in the first `number` tuples of views. Raises DataError if nobody is found."""
    deployed = DeployedNet(finished.network, finished.config.decode.candidates, (COVARIANCES,))
    rows: list[tuple[Tensor, ...]] = []
    num_keypoints = finished.skeleton.num_keypoints
    for batch in tqdm(views.batches(number, workers), unit="batch", disable=no_terminal()):
        patches = [patch for each in batch for patch in each]
        *outputs, features = deployed.read(pixels_of(patches))
        for place, patch in enumerate(patches):
            scores, keypoints, keypoint_scores = (output[place].numpy() for output in outputs)
            poses = Poses(keypoints, scores, np.clip(keypoint_scores, 0, 1), finished.skeleton)
            for pose, person, similarity in _found(poses, patch, finished.config):
                error = np.zeros((num_keypoints, 2), np.float32)
                labelled = np.zeros(num_keypoints, bool)
                if person is not None:
                    # A teacher's labels have errors of their own.
                    error, labelled = patch.keypoints[person] - keypoints[pose], patch.weights[person] == 1
                arrays = map(torch.from_numpy, (error, labelled))
                rows.append((features[place, pose].half(), *arrays, torch.tensor(similarity)))
    errors = Errors(*map(torch.stack, zip(*rows, strict=True))) if rows else None
    if errors is None or not errors.labelled.any():
        raise DataError("nobody was found in the photos; is this a network for these annotations?")
    return errors


def _found(poses: Poses, patch: Patch, config: Config) -> list[tuple[int, int | None, float]]:
    """Return which poses a detector would report, even at a low score: pose, person or None, and their OKS.

    Left out are poses of nobody in ignored regions, where somebody may be.
    """
    kept = best(poses, patch.image.shape[:2], config.decode)
    kept = kept[poses.scores[kept] > LEAST_SCORE]
    keypoints = poses.keypoints[kept]
    similarity = oks(keypoints, patch.keypoints, poses.skeleton.sigmas, patch.areas, patch.weights > 0)
    people = dict(best_pairs(similarity, FOUND_OKS))
    missed = np.setdiff1d(np.arange(len(patch.keypoints)), list(people.values()))
    centres = keypoints.mean(axis=1)[:, None]
    ignored = ((centres >= patch.ignored[:, :2]) & (centres <= patch.ignored[:, 2:])).all(axis=2).any(axis=1)
    found: list[tuple[int, int | None, float]] = []
    for place, pose in enumerate(kept.tolist()):
        if place in people:
            found.append((pose, people[place], float(similarity[place, people[place]])))
        elif not ignored[place]:
            found.append((pose, None, float(similarity[place, missed].max(initial=0))))
    return found


def train(head: Uncertainty, errors: Errors, epochs: int = EPOCHS) -> None:
    """Train the head on the errors."""

    def loss(rows: Tensor) -> Tensor:
        shape, squared = _distances(head, errors, rows)
        along_x, along_y, correlation = shape
        likelihood = -along_x - along_y - (1 - correlation.square()).log() / 2
        likelihood = likelihood - (FREEDOM + 2) / 2 * torch.log1p(squared / FREEDOM)
        known = errors.labelled[rows]
        logits = head.score_logit(errors.features[rows].float())
        score = F.binary_cross_entropy_with_logits(logits, errors.oks[rows])
        return SCORE_WEIGHT * score - likelihood[known].sum() / known.sum().clamp(min=1)

    learn(head, list(np.arange(len(errors.features))[:, None]), loss, at_once=AT_ONCE, epochs=epochs)


@torch.no_grad()
def calibrate(head: Uncertainty, errors: Errors) -> None:
    """Set the size of the ellipses by people held out. Raises DataError if there are too few."""
    count = int(errors.labelled.any(dim=1).sum())
    if count < LEAST_HELD_OUT:
        raise DataError(
            f"people were found {count} times in {VIEWS_HELD_OUT} views of each photo held out, expected at least "
            f"{LEAST_HELD_OUT}"
        )
    squared = _distances(head, errors, torch.arange(len(errors.features)))[1]
    head.log_scale.fill_(math.log(np.quantile(squared[errors.labelled].numpy(), SHARE) / RADIUS) / 2)


@torch.no_grad()
def new_threshold(head: Uncertainty, errors: Errors, before: float) -> float:
    """Return the score that as many poses exceed as exceeded `before` without the head, in hundredths."""
    features = errors.features.float()
    corrected = head.score_logit(features).sigmoid()
    share = (LOGIT_SCALE * features[:, -3]).sigmoid().le(before).float().mean()
    return round(torch.quantile(corrected, share).item(), 2)


def _distances(head: Uncertainty, errors: Errors, rows: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Return the shapes (N, K) each of the ellipses of some people, and the squared distances (N, K) of the true places
    in units of them, before calibration."""
    features = errors.features[rows].float()
    along_x, along_y, correlation = head.shape_of(features)
    error = errors.errors[rows] / features[:, -1, None, None].exp()
    x, y = error[..., 0] / along_x.exp(), error[..., 1] / along_y.exp()
    squared = (x * x - 2 * correlation * x * y + y * y) / (1 - correlation.square())
    return (along_x, along_y, correlation), squared


def _with_people(photos: Sequence[AnnotatedPhoto]) -> list[AnnotatedPhoto]:
    return [photo for photo in photos if any(not person.ignore for person in photo.persons)]
