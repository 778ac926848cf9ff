"""Describe the weaknesses of a model in plain sentences."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from posedet.diagnosis.calibration import Reliability
from posedet.diagnosis.groups import Group
from posedet.diagnosis.matching import GOOD, KINDS, ErrorCost, KeypointErrors, Matching

MIN_GAIN = 0.005  # of AP; smaller gains are not reported
MAX_COSTS = 4
MIN_GROUP = 10  # people; the AP of fewer is too noisy
MIN_GAP = 0.05  # of AP, between groups
MIN_ERROR = 0.05  # of calibration


class Finding(NamedTuple):
    """A headline, and the numbers behind it."""

    headline: str
    text: str


def findings(
    matching: Matching,
    costs: Sequence[ErrorCost],
    parts: Mapping[str, Sequence[Group]],
    by_keypoint: Sequence[KeypointErrors],
    of_scores: Reliability | None,
    of_keypoints: Reliability | None,
) -> list[Finding]:
    """Return what is found, the errors by cost, then findings about groups, keypoints and scores."""
    return [
        _found(matching),
        *_costs(matching, costs),
        *_groups(parts),
        *_keypoints(by_keypoint),
        *_scores(of_scores, "Person scores", "right (OKS from 0.5 on)"),
        *_scores(of_keypoints, "Keypoint scores", "seen, not hidden"),
    ]


def _found(matching: Matching) -> Finding:
    near, exact = (float(matching.found(threshold)[matching.to_find].mean()) for threshold in (0, 5))
    people, photos = _count(int(matching.to_find.sum()), "person", "people"), _count(len(matching.photos), "photo")
    text = f"{people} in {photos}; found means with an OKS from 0.5 on, precisely from 0.75 on."
    return Finding(f"{_share(near)} of the people are found, {_share(exact)} precisely", text)


def _costs(matching: Matching, costs: Sequence[ErrorCost]) -> list[Finding]:
    ap, judged = matching.ap(), max(1, int((matching.kinds >= GOOD).sum()))
    found = []
    for cost in sorted(costs, key=lambda cost: -cost.ap):
        if cost.name in _HEADLINES and cost.ap - ap >= MIN_GAIN:
            of = f", {_share(cost.num_errors / judged)} of those judged" if cost.name in KINDS else ""
            headline, text = _HEADLINES[cost.name]
            gain = f"Without this AP would be {_points(cost.ap)} instead of {_points(ap)}."
            found.append(Finding(headline, f"{text(cost.num_errors)}{of}. {gain}"))
    return found[:MAX_COSTS]


_HEADLINES: dict[str, tuple[str, Callable[[int], str]]] = {
    "jitter": (
        "Keypoints are near, but not exact",
        lambda n: f"{_count(n, 'keypoint lies', 'keypoints lie')} near the true place but not on it",
    ),
    "inversion": (
        "Left and right are exchanged",
        lambda n: f"{_count(n, 'keypoint lies', 'keypoints lie')} on the person's other side",
    ),
    "swap": (
        "Limbs go to other people",
        lambda n: f"{_count(n, 'keypoint lies', 'keypoints lie')} on somebody else",
    ),
    "miss": (
        "Keypoints are lost",
        lambda n: f"{_count(n, 'keypoint lies', 'keypoints lie')} far from every place where they could belong",
    ),
    "order of scores": (
        "Ranking errors",
        lambda n: f"Worse poses often score higher than better ones ({_count(n, 'pose')})",
    ),
    "false positives": (
        "Poses where nobody is",
        lambda n: f"{_count(n, 'pose is', 'poses are')} where the truth has nobody",
    ),
    "duplicates": (
        "People are found twice",
        lambda n: f"{_count(n, 'pose is', 'poses are')} a second one of somebody",
    ),
    "missed people": (
        "People are missed",
        lambda n: f"No pose comes near {_count(n, 'person', 'people')}",
    ),
}
_GROUP_TEXTS = {
    "size": "people {}",
    "labelled keypoints": "people with {} labelled keypoints",
    "overlapping people": "people whose box overlaps {}",
}


def _groups(parts: Mapping[str, Sequence[Group]]) -> list[Finding]:
    """Return the gaps between groups, the widest first."""
    found = []
    for name, groups in parts.items():
        counted = [group for group in groups if group.num_people >= MIN_GROUP]
        if len(counted) < 2:
            continue
        worst, best = min(counted, key=lambda group: group.ap), max(counted, key=lambda group: group.ap)
        say = _GROUP_TEXTS[name].format
        text = f"AP is {_points(worst.ap)} for them, and {_points(best.ap)} for {say(best.name)}."
        if best.ap - worst.ap >= MIN_GAP:
            found.append((best.ap - worst.ap, Finding(f"{say(worst.name).capitalize()} are hardest", text)))
    return [finding for _, finding in sorted(found, key=lambda each: -each[0])]


def _keypoints(by_keypoint: Sequence[KeypointErrors]) -> list[Finding]:
    judged = [keypoint for keypoint in by_keypoint if keypoint.num_judged >= MIN_GROUP]
    if len(judged) < 2:
        return []
    order = sorted(judged, key=lambda keypoint: keypoint.shares[GOOD])
    worst, best = order[0], order[-1]
    text = (
        f"{_share(worst.shares[GOOD])} of them are exact, where {_name(best.name)} reaches {_share(best.shares[GOOD])}."
    )
    return [Finding(f"The hardest keypoint is {_name(worst.name)}", text)]


def _scores(curve: Reliability | None, what: str, came_true: str) -> list[Finding]:
    if curve is None:
        return []
    mean, observed = (float(curve.counts @ each / curve.counts.sum()) for each in (curve.predicted, curve.observed))
    text = f"Their mean is {mean:.2f}, and {_share(observed)} are {came_true}; the expected error is {curve.error:.2f}."
    if curve.error < MIN_ERROR:
        return [Finding(f"{what} can be read as probabilities", text)]
    bias = float(np.sign(mean - observed)) if abs(mean - observed) >= curve.error / 2 else 0.0
    says = {1.0: "promise too much", -1.0: "promise too little", 0.0: "are no probabilities"}[bias]
    return [Finding(f"{what} {says}", text)]


def _name(keypoint: str) -> str:
    return "the " + keypoint.replace("_", " ")


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def _points(ap: float) -> str:
    return f"{100 * ap:.1f}"


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
