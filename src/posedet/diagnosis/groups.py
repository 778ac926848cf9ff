"""For whom poses are good and for whom not, and whether scores can be trusted."""

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
    """How well some of the people are found; -1 of nobody."""

    name: str
    num_people: int
    ap: float
    found: float  # share, at an OKS of 0.5
    exact: float  # share, at an OKS of 0.75


def groups(matching: Matching) -> dict[str, list[Group]]:
    """People by size, by number of labelled keypoints, and by crowding; groups with nobody are left out."""
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
    """(P,) with how many others of the photo each person's box overlaps; regions of many people are no person."""
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
    """AP of those people (P,) alone, all of them to find.

    Poses matched with others do not count. False positives belong to nobody: each counts by the group's share of all
    people, as in the normalised precision of Hoiem et al., Diagnosing Error in Object Detectors, 2012. So groups of
    any size compare, and the AP of everybody is COCO's.
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
    """A pose's score against whether the pose is right: matched by COCO's rules with somebody, at an OKS of 0.5.

    Of the poses that count: the best 20 of a photo, without those on ignored people. None unless all scores are
    probabilities, 0 to 1.
    """
    counted = ~matching.ignored_at[0]
    scores = matching.scores[counted]
    if not len(scores) or scores.min() < 0 or scores.max() > 1:
        return None
    return reliability(scores, matching.person_at[0, counted] >= 0)


def keypoint_reliability(matching: Matching) -> Reliability | None:
    """A keypoint's score against the truth's flag, 1 for seen (2) and 0 for hidden (1), unlabelled ones left out.

    Of people found at an OKS of 0.5. None where results have no scores of keypoints, 0 to 1, or the truth does not tell
    hidden from seen.
    """
    chosen = (matching.person_at[0] >= 0) & ~matching.ignored_at[0]
    flags = matching.person_keypoints[matching.person_at[0, chosen], :, 2]
    scores = matching.pose_keypoints[chosen, :, 2]
    # As in reading annotations: keypoints and people never flagged as seen were not flagged with care.
    judged = (flags > 0) & (flags == 2).any(axis=0) & (flags == 2).any(axis=1, keepdims=True)
    outcomes, scores = flags[judged] == 2, scores[judged]
    if not len(scores) or outcomes.all() or scores.min() < 0 or scores.max() > 1 or np.ptp(scores) == 0:
        return None
    return reliability(scores, outcomes)
