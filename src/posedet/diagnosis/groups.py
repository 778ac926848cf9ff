"""Accuracy for groups of people, and the reliability of scores."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from posedet.diagnosis.calibration import Reliability, reliability
from posedet.diagnosis.matching import Matching

Integers = NDArray[np.intp]
Mask = NDArray[np.bool_]

CROWDED_OVERLAP = 0.1  # of boxes, intersection over union
RECALLS = np.linspace(0, 1, 101)
# Roots of areas in pixels; 32 and 96 are where COCO's medium and large begin.
SIZES = (0, 32, 64, 96, 192, np.inf)
NEIGHBOURS = {"nobody": (0, 1), "1 or 2 others": (1, 3), "3 or more others": (3, np.inf)}


class Group(NamedTuple):
    """How well a group of people is found; all values are -1 for an empty group."""

    name: str
    num_people: int
    ap: float
    found: float  # share, at an OKS of 0.5
    exact: float  # share, at an OKS of 0.75


def groups(matching: Matching) -> dict[str, list[Group]]:
    """Group people by size, by number of labelled keypoints, and by crowding."""
    num_keypoints = matching.protocol.skeleton.num_keypoints
    # For 17 keypoints as in Ronchi and Perona: 1 to 5, 6 to 10, 11 to 15, 16 and 17.
    edges = [1, *(int(share * num_keypoints) + 1 for share in (0.3, 0.6, 0.9)), num_keypoints + 1]
    labelled = {f"{low} to {high - 1}" if high - low > 1 else f"{low}": (low, high) for low, high in pairwise(edges)}
    sizes = {f"{low:g} to {high:g} px" if low else f"below {high:g} px": (low, high) for low, high in pairwise(SIZES)}
    sizes[f"from {SIZES[-2]:g} px"] = sizes.pop(f"{SIZES[-2]:g} to inf px")
    return {
        name: [_group(matching, label, (values >= low) & (values < high)) for label, (low, high) in ranges.items()]
        for name, values, ranges in (
            ("size", np.sqrt(matching.areas), sizes),
            ("labelled keypoints", matching.labelled.sum(axis=1), labelled),
            ("overlapping people", neighbours(matching), NEIGHBOURS),
        )
    }


def _group(matching: Matching, name: str, members: Mask) -> Group:
    members = members & matching.to_find
    if not members.any():
        return Group(name, 0, -1, -1, -1)
    found, exact = (float(matching.found(threshold)[members].mean()) for threshold in (0, 5))
    return Group(name, int(members.sum()), group_ap(matching, members), found, exact)


def neighbours(matching: Matching) -> Integers:
    """Return (P,): how many other people of the photo each person's box overlaps; crowd regions do not count."""
    counts = np.zeros(len(matching.persons), np.intp)
    boxes = np.array([person["bbox"] for person in matching.persons], np.float64).reshape(-1, 4)
    crowd = np.array([person["iscrowd"] for person in matching.persons], bool)
    image_ids = np.array([person["image_id"] for person in matching.persons])
    for photo in np.unique(image_ids):
        people = np.flatnonzero((image_ids == photo) & ~crowd)
        low, size = boxes[people, :2], boxes[people, 2:]
        sides = np.minimum(low[:, None] + size[:, None], low + size) - np.maximum(low[:, None], low)
        shared, areas = np.maximum(sides, 0).prod(axis=-1), size.prod(axis=-1)
        union = areas[:, None] + areas - shared
        overlapping = shared >= CROWDED_OVERLAP * np.where(union > 0, union, np.inf)
        counts[people] = overlapping.sum(axis=1) - overlapping.diagonal()
    return counts


def group_ap(matching: Matching, members: Mask) -> float:
    """Return the AP for only the people of the mask (P,).

    Poses matched with other people do not count. A false positive belongs to no group, so it is weighted by the group's
    share of all people, as in the normalised precision of Hoiem et al., Diagnosing Error in Object Detectors, 2012.
    Groups of any size are therefore comparable, and the AP of all people is COCO's.
    """
    order = np.argsort(-matching.scores, kind="stable")
    share = members.sum() / matching.to_find.sum()
    values = []
    for person_at, ignored in zip(matching.person_at[:, order], matching.ignored_at[:, order], strict=True):
        right = (person_at >= 0) & members[person_at]
        wrong = (person_at < 0) & ~ignored
        num_right = np.cumsum(right)
        precision = num_right / (num_right + share * np.cumsum(wrong) + np.spacing(1.0))
        best = np.maximum.accumulate(precision[::-1])[::-1]
        places = np.searchsorted(num_right / members.sum(), RECALLS)
        values.append(np.append(best, 0)[places].mean())
    return float(np.mean(values))


def score_reliability(matching: Matching) -> Reliability | None:
    """Compare the scores of poses with whether they are right, that is matched by COCO's rules at an OKS of 0.5.

    Only the best 20 poses of a photo count, without those on ignored people. Returns None unless all scores are 0 to 1.
    """
    counted = ~matching.ignored_at[0]
    scores = matching.scores[counted]
    if not len(scores) or scores.min() < 0 or scores.max() > 1:
        return None
    return reliability(scores, matching.person_at[0, counted] >= 0)


def keypoint_reliability(matching: Matching) -> Reliability | None:
    """Compare keypoint scores with COCO's flags, 2 (seen) or 1 (hidden), for people found at an OKS of 0.5.

    Unlabelled keypoints do not count. Returns None if the results have no keypoint scores from 0 to 1, or if the labels
    do not distinguish hidden from seen keypoints.
    """
    chosen = (matching.person_at[0] >= 0) & ~matching.ignored_at[0]
    flags = matching.person_keypoints[matching.person_at[0, chosen], :, 2]
    scores = matching.pose_keypoints[chosen, :, 2]
    # As in `forget_untold`: keypoints and people never flagged as seen have no reliable flags.
    judged = (flags > 0) & (flags == 2).any(axis=0) & (flags == 2).any(axis=1, keepdims=True)
    outcomes, scores = flags[judged] == 2, scores[judged]
    if not len(scores) or outcomes.all() or scores.min() < 0 or scores.max() > 1 or np.ptp(scores) == 0:
        return None
    return reliability(scores, outcomes)
