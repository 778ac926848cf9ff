"""Are scores probabilities? Reliability curves, and the correction that makes keypoint scores calibrated.

A keypoint score is the probability that the keypoint is seen. It is held against COCO's flags in people that were found
(OKS of 0.5 with somebody): 2 is seen, 1 hidden; 0, not labelled, is what lies outside of the photo or is hidden so that
nobody could place it. Over all keypoints, 0 counts as not seen; over labelled keypoints it is left out.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from posedet.data.annotations import AnnotatedPhoto, Person
from posedet.errors import DataError, PoseDetError
from posedet.files import write_atomically
from posedet.oks import oks
from posedet.poses import Poses

Floats = NDArray[np.float64]

NUM_BINS = 15  # as in Guo et al., On calibration of modern neural networks, 2017
FOUND_OKS = 0.5


class Reliability(NamedTuple):
    """What was predicted and what came true, in bins of equal width (B,); an empty bin has 0 everywhere."""

    counts: Floats
    predicted: Floats  # mean probability
    observed: Floats  # share that came true

    @property
    def error(self) -> float:
        """The expected calibration error: the mean distance of the two, each bin by its count; 0 of nothing."""
        gaps = np.abs(self.predicted - self.observed)
        return float(self.counts @ gaps / max(1, self.counts.sum()))


def reliability(probabilities: ArrayLike, outcomes: ArrayLike, *, num_bins: int = NUM_BINS) -> Reliability:
    """The curve of any probabilities (n,) in 0..1 and what came true of them (n,), 0 or 1."""
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
        """Corrected probabilities of any shape."""
        return _sigmoid(self.slope * _logit(probabilities) + self.offset)

    @classmethod
    def fitted(cls, probabilities: Floats, outcomes: NDArray[np.bool_]) -> "PlattScaling":
        """The most likely one, (n,) and (n,), by Newton's method; Platt's softened targets keep it finite.

        Raises DataError where nothing or everything came true.
        """
        positive = int(outcomes.sum())
        negative = len(outcomes) - positive
        if not positive or not negative:
            raise DataError(f"{positive} keypoints are seen and {negative} are not: nothing to learn the difference of")
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
            # Far from the optimum a whole step can lead uphill.
            while np.abs(step).max() > 1e-9 and loss(weights - step) > loss(weights):
                step /= 2
            weights = weights - step
        return cls(float(weights[0]), float(weights[1]))


class KeypointScores(NamedTuple):
    """Scores of the keypoints of people found, and what the truth says of them: n people, K keypoints."""

    photos: NDArray[np.intp]  # (n,) number of the photo
    scores: Floats  # (n, K)
    seen: NDArray[np.int8]  # (n, K): 1 seen, 0 not, -1 the truth does not tell
    labelled: NDArray[np.bool_]  # (n, K)

    def among(self, *, labelled: bool) -> NDArray[np.bool_]:
        """(n, K) which keypoints count: all of which the truth tells, or of these the labelled ones alone."""
        return (self.seen >= 0) & self.labelled if labelled else self.seen >= 0


def keypoint_scores(predict: Callable[[Path], Poses], photos: Sequence[AnnotatedPhoto]) -> KeypointScores:
    """Run `predict` on all photos and keep the keypoint scores of people found; both have the same keypoints.

    Raises DataError when nobody is found.
    """
    rows: list[tuple[int, NDArray[np.float32], Person]] = []
    for number, photo in enumerate(tqdm(photos, unit="photo", disable=None)):
        persons = [person for person in photo.persons if not person.ignore]
        poses = predict(photo.path)
        rows += [(number, poses.keypoint_scores[pose], persons[person]) for pose, person in matches(poses, persons)]
    if not rows:
        raise DataError(f"nobody labelled in {len(photos)} photos is found: no keypoint scores to judge")
    numbers, scores, people = zip(*rows, strict=True)
    return KeypointScores(
        photos=np.array(numbers),
        scores=np.array(scores, np.float64),
        seen=np.array([person.visible for person in people]),
        labelled=np.array([person.labelled for person in people]),
    )


def matches(poses: Poses, persons: Sequence[Person]) -> list[tuple[int, int]]:
    """Pairs (pose, person), as COCO matches: the best pose first takes the person most like it, from OKS 0.5 on."""
    if not persons:
        return []
    similarity = oks(
        poses.keypoints,
        np.stack([person.keypoints for person in persons]),
        poses.skeleton.sigmas,
        [person.area for person in persons],
        np.stack([person.labelled for person in persons]),
    )
    pairs = []
    for pose in np.argsort(-poses.scores, kind="stable").tolist():
        person = int(similarity[pose].argmax())
        if similarity[pose, person] >= FOUND_OKS:
            pairs.append((pose, person))
            similarity[:, person] = -1
    return pairs


class Calibration(NamedTuple):
    """How calibrated keypoint scores are, as they are and corrected."""

    num_keypoints: int
    share_seen: float
    as_is: Reliability
    corrected: Reliability  # each half of the photos by what was fitted on the other half
    correction: PlattScaling  # fitted on all photos

    def to_dict(self) -> dict[str, Any]:
        """Names and numbers, ready for JSON."""
        curves = {
            name: {"error": curve.error} | {field: values.tolist() for field, values in curve._asdict().items()}
            for name, curve in (("as_is", self.as_is), ("corrected", self.corrected))
        }
        counts = {"num_keypoints": self.num_keypoints, "share_seen": self.share_seen}
        return {**counts, **curves, "correction": self.correction._asdict()}


def calibration(found: KeypointScores, *, labelled: bool) -> Calibration:
    """Measure the scores over all keypoints, or over the labelled ones. Raises DataError as `PlattScaling.fitted`."""
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


def plot_reliability(measured: Calibration, path: Path) -> None:
    """The reliability curves as PNG, over a histogram of the scores."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise PoseDetError('the figure needs matplotlib: pip install "posedet[train]"') from None
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
        xlabel="keypoint score", ylabel="share that is seen (bars: share of the keypoints)", xlim=(0, 1), ylim=(0, 1)
    )
    axes.legend(loc="upper left")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100)
    write_atomically(path, png.getvalue())


def _logit(probabilities: ArrayLike) -> Floats:
    # A float32 sigmoid reaches 1, whose logit is infinite.
    p = np.clip(np.asarray(probabilities, np.float64), 1e-7, 1 - 1e-7)
    logit: Floats = np.log(p / (1 - p))
    return logit


def _sigmoid(x: Floats) -> Floats:
    p: Floats = np.exp(-np.logaddexp(0, -x))
    return p
