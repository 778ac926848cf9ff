"""Measure whether scores are probabilities and ellipses hold what they say, and fit the correction of keypoint scores.

A keypoint score is the probability that the keypoint is visible. It is compared with COCO's flags of people who were
found (OKS of at least 0.5): 2 is visible, 1 is hidden, and 0 is not labelled, because the keypoint is outside the photo
or cannot be located. Over all keypoints, 0 counts as not visible; over labelled keypoints it is left out.

The true place of a labelled keypoint, visible or hidden, should lie in the 90 % ellipse of its covariance in 90 % of
the cases.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from posedet.data.annotations import AnnotatedPhoto, Person
from posedet.errors import DataError, PoseDetError
from posedet.files import no_terminal
from posedet.oks import best_pairs, oks
from posedet.outputs import write_figure
from posedet.poses import Poses

Floats = NDArray[np.float64]

GENERATOR = "posedet calibrate"
NUM_BINS = 15  # as in Guo et al., On calibration of modern neural networks, 2017
FOUND_OKS = 0.5
SHARES = (0.5, 0.9, 0.95)  # of ellipses
SIZES = (0.0, 32.0, 64.0, 96.0, 192.0)  # limits of people, pixels of the photo


class Reliability(NamedTuple):
    """Predicted and observed frequencies in bins of equal width (B,). All values of an empty bin are 0."""

    counts: Floats
    predicted: Floats  # mean probability
    observed: Floats  # share of positive outcomes

    @property
    def error(self) -> float:
        """The expected calibration error: the mean gap, weighted by the counts of the bins; 0 without data."""
        gaps = np.abs(self.predicted - self.observed)
        return float(self.counts @ gaps / max(1, self.counts.sum()))


def reliability(probabilities: ArrayLike, outcomes: ArrayLike, *, num_bins: int = NUM_BINS) -> Reliability:
    """Return the curve of probabilities (n,), 0 to 1, and their outcomes (n,), 0 or 1."""
    p, came = np.asarray(probabilities, np.float64), np.asarray(outcomes, np.float64)
    bins = np.minimum((p * num_bins).astype(np.intp), num_bins - 1)
    counts, predicted, observed = (
        np.bincount(bins, values, num_bins).astype(np.float64) for values in (np.ones_like(p), p, came)
    )
    return Reliability(counts, predicted / np.maximum(counts, 1), observed / np.maximum(counts, 1))


class PlattScaling(NamedTuple):
    """Platt scaling: the logit x of a probability becomes slope * x + offset."""

    slope: float
    offset: float

    def __call__(self, probabilities: Floats) -> Floats:
        """Return the corrected probabilities, an array of any shape."""
        return _sigmoid(self.slope * _logit(probabilities) + self.offset)

    @classmethod
    def fitted(cls, probabilities: Floats, outcomes: NDArray[np.bool_]) -> "PlattScaling":
        """Fit probabilities (n,) to outcomes (n,) by Newton's method; Platt's softened targets keep the result finite.

        Raises DataError if all outcomes are the same.
        """
        positive = int(outcomes.sum())
        negative = len(outcomes) - positive
        if not positive or not negative:
            raise DataError(f"{positive} keypoints are seen and {negative} are not: fitting a correction needs both")
        targets = np.where(outcomes, (positive + 1) / (positive + 2), 1 / (negative + 2))
        inputs = np.stack([_logit(probabilities), np.ones(len(probabilities))], axis=1)

        def loss(weights: Floats) -> float:
            x = inputs @ weights
            return float((np.logaddexp(0, x) - targets * x).sum())

        weights = np.array([1.0, 0.0])
        for _ in range(100):
            p = _sigmoid(inputs @ weights)
            curvature = (inputs * (p * (1 - p))[:, None]).T @ inputs + 1e-6 * np.eye(2)
            step = np.linalg.solve(curvature, inputs.T @ (p - targets))
            # Far from the optimum a full step can increase the loss.
            while np.abs(step).max() > 1e-9 and loss(weights - step) > loss(weights):
                step /= 2
            weights = weights - step
        return cls(float(weights[0]), float(weights[1]))


class Found(NamedTuple):
    """n people who were found: what is said about their K keypoints, and the truth."""

    photos: NDArray[np.intp]  # (n,) index of the photo
    scores: Floats  # (n, K)
    seen: NDArray[np.int8]  # (n, K): 1 seen, 0 not, -1 unknown
    labelled: NDArray[np.bool_]  # (n, K)
    sizes: Floats  # (n,) the root of the person's area, pixels of the photo
    distances: Floats | None  # (n, K) squared, from the truth, in units of the covariances; None without covariances

    def among(self, *, labelled: bool) -> NDArray[np.bool_]:
        """Return (n, K) bool: the keypoints with known visibility, or only the labelled ones among them."""
        return (self.seen >= 0) & self.labelled if labelled else self.seen >= 0


def found_people(predict: Callable[[Path], Poses], photos: Sequence[AnnotatedPhoto]) -> Found:
    """Run `predict` on all photos, and return the people found; both have the same keypoints.

    Raises DataError if no person is found.
    """
    rows: list[tuple[int, Poses, Person]] = []
    for number, photo in enumerate(tqdm(photos, unit="photo", disable=no_terminal())):
        persons = [person for person in photo.persons if not person.ignore]
        poses = predict(photo.path)
        rows += [(number, poses[pose], persons[person]) for pose, person in matches(poses, persons)]
    if not rows:
        raise DataError(f"none of the labelled people in {len(photos)} photos was found: no keypoint scores to measure")
    numbers, found, people = zip(*rows, strict=True)
    joined = Poses.joined(found)
    distances = None
    if joined.covariances is not None:
        errors = np.stack([person.keypoints for person in people]) - joined.keypoints
        distances = (np.linalg.solve(joined.covariances, errors[..., None])[..., 0] * errors).sum(axis=-1)
    return Found(
        photos=np.array(numbers),
        scores=joined.keypoint_scores.astype(np.float64),
        seen=np.array([person.visible for person in people]),
        labelled=np.array([person.labelled for person in people]),
        sizes=np.sqrt([person.area for person in people]),
        distances=distances,
    )


def matches(poses: Poses, persons: Sequence[Person]) -> list[tuple[int, int]]:
    """Return pairs (pose, person) as COCO matches: best poses first, each with the most similar person (OKS >= 0.5)."""
    if not persons:
        return []
    similarity = oks(
        poses.keypoints,
        np.stack([person.keypoints for person in persons]),
        poses.skeleton.sigmas,
        [person.area for person in persons],
        np.stack([person.labelled for person in persons]),
    )
    order = np.argsort(-poses.scores, kind="stable")
    return [(int(order[pose]), person) for pose, person in best_pairs(similarity[order], FOUND_OKS)]


class Calibration(NamedTuple):
    """The calibration of keypoint scores, before and after correction."""

    num_keypoints: int
    share_seen: float
    as_is: Reliability
    corrected: Reliability  # each half of the photos is corrected by a fit on the other half
    correction: PlattScaling  # fitted on all photos

    def to_dict(self) -> dict[str, Any]:
        """Convert to names and numbers that can be written as JSON."""
        curves = {
            name: {"error": curve.error} | {field: values.tolist() for field, values in curve._asdict().items()}
            for name, curve in (("as_is", self.as_is), ("corrected", self.corrected))
        }
        counts = {"num_keypoints": self.num_keypoints, "share_seen": self.share_seen}
        return {**counts, **curves, "correction": self.correction._asdict()}


def calibration(found: Found, *, labelled: bool) -> Calibration:
    """Measure the calibration over all or only labelled keypoints. Raises DataError as `PlattScaling.fitted` does."""
    chosen = found.among(labelled=labelled)
    scores, seen = found.scores[chosen], found.seen[chosen] == 1
    odd = np.broadcast_to(found.photos[:, None] % 2 == 1, chosen.shape)[chosen]
    corrected = np.zeros_like(scores)
    for half in (odd, ~odd):
        corrected[half] = PlattScaling.fitted(scores[~half], seen[~half])(scores[half])
    return Calibration(
        num_keypoints=len(scores),
        share_seen=float(seen.mean()),
        as_is=reliability(scores, seen),
        corrected=reliability(corrected, seen),
        correction=PlattScaling.fitted(scores, seen),
    )


class Coverage(NamedTuple):
    """How many true places lie in their ellipses, of people within limits of size."""

    least: float  # pixels of the photo, the root of the area
    below: float | None  # None: no limit
    num_keypoints: int
    shares: tuple[float, ...]  # observed, of the ellipses of `SHARES`

    def __str__(self) -> str:
        size = f"{self.least:g} pixels and more" if self.below is None else f"{self.least:g} to {self.below:g} pixels"
        shares = ", ".join(f"{each:.1%} of {share:.0%}" for each, share in zip(self.shares, SHARES, strict=True))
        return f"people of {size}: {self.num_keypoints} labelled keypoints, in ellipses {shares}"


def coverage(found: Found) -> list[Coverage]:
    """Measure the ellipses of labelled keypoints: of all people, then by their size. Empty without covariances."""
    if found.distances is None:
        return []
    measured = []
    for least, below in ((0.0, math.inf), *pairwise((*SIZES, math.inf))):
        people = (found.sizes >= least) & (found.sizes < below)
        distances = found.distances[people][found.labelled[people]]
        if len(distances):
            shares = tuple(float((distances <= -2 * math.log(1 - share)).mean()) for share in SHARES)
            measured.append(Coverage(least, below if below < math.inf else None, len(distances), shares))
    return measured


def plot_reliability(measured: Calibration, path: Path) -> None:
    """Write the reliability curves and a histogram of the scores as PNG."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise PoseDetError('the figure needs matplotlib: pip install "posedet[evaluate]"') from None
    figure = Figure(figsize=(4.2, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot((0, 1), (0, 1), color="grey", linewidth=0.8)
    for label, curve in (("as it is", measured.as_is), ("corrected", measured.corrected)):
        some = curve.counts > 0
        name = f"{label}: error {curve.error:.3f}"
        axes.plot(curve.predicted[some], curve.observed[some], marker=".", label=name)
    counts = measured.as_is.counts
    axes.bar((np.arange(len(counts)) + 0.5) / len(counts), counts / counts.sum(), 0.9 / len(counts), color="lightgrey")
    axes.set(
        xlabel="keypoint score", ylabel="share that is visible (bars: share of the keypoints)", xlim=(0, 1), ylim=(0, 1)
    )
    axes.legend(loc="upper left")
    write_figure(path, GENERATOR, figure, dpi=100)


def _logit(probabilities: ArrayLike) -> Floats:
    # A float32 sigmoid reaches 1, whose logit is infinite.
    p = np.clip(np.asarray(probabilities, np.float64), 1e-7, 1 - 1e-7)
    logit: Floats = np.log(p / (1 - p))
    return logit


def _sigmoid(x: Floats) -> Floats:
    p: Floats = np.exp(-np.logaddexp(0, -x))
    return p
