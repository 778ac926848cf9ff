"""Classify the errors of poses, and measure the cost of each kind; after Ronchi and Perona, Benchmarking and Error
Diagnosis in Multi-Instance Pose Estimation, 2017.

A keypoint of a person found is compared with the true ones by its share of OKS, its *similarity*, 0 to 1. It is good
from 0.85 on, and a jitter from 0.5 on. Otherwise it may lie on the other side of the same person (inversion), on
another person (swap), or far from all of them (miss). People and poses are matched by pycocotools, as for AP.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posedet.data.annotations import AnnotatedPhoto
from posedet.evaluation.checked_entries import CheckedEntries, Entries, coco_evaluator, read_entries
from posedet.evaluation.protocols import Protocol
from posedet.oks import oks

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]
Mask = NDArray[np.bool_]

KINDS = ("good", "jitter", "inversion", "swap", "miss")
GOOD, JITTER, INVERSION, SWAP, MISS = range(len(KINDS))
UNJUDGED = -1  # the keypoint is not labelled, or the pose matches no person

GOOD_SIMILARITY, NEAR_SIMILARITY = 0.85, 0.5
FOUND_OKS = 0.1  # a pose belongs to a person from this OKS on


@dataclass(frozen=True, eq=False)
class Matching(CheckedEntries):
    """P people and D poses (the best of each photo that the protocol counts) of K keypoints, and how they match.

    Arrays name a person by its index, or -1 for nobody.
    """

    precision: Floats  # (10, 101, C): OKS thresholds 0.50 to 0.95, recalls 0 to 1, categories; -1 without people
    person_at: Integers  # (10, D) the person matched with each pose at these thresholds
    ignored_at: Mask  # (10, D) poses that count neither as right nor as wrong
    person_of: Integers  # (D,) the person to find that each pose matches at an OKS of `FOUND_OKS`

    @cached_property
    def pose_keypoints(self) -> Floats:
        """(D, K, 3): x, y and the keypoint's score."""
        return self._tables(self.poses)

    @cached_property
    def person_keypoints(self) -> Floats:
        """(P, K, 3) x, y and COCO's flag."""
        return self._tables(self.persons)

    def _tables(self, entries: Sequence[dict[str, Any]]) -> Floats:
        rows = np.array([entry["keypoints"] for entry in entries], np.float64)
        return rows.reshape(len(entries), self.protocol.skeleton.num_keypoints, 3)

    @cached_property
    def scores(self) -> Floats:
        """(D,)"""
        return np.array([pose["score"] for pose in self.poses], np.float64)

    @cached_property
    def areas(self) -> Floats:
        """(P,) square pixels."""
        return np.array([person["area"] for person in self.persons], np.float64)

    @cached_property
    def labelled(self) -> Mask:
        """(P, K)"""
        labelled: Mask = self.person_keypoints[..., 2] > 0
        return labelled

    @cached_property
    def best_oks(self) -> Floats:
        """(D,): the OKS of each pose with the person to find that it fits best; 0 without people."""
        best = np.zeros(len(self.poses))
        for poses, people in self.by_photo():
            people = people[self.to_find[people]]
            if len(people):
                points, true = self.pose_keypoints[poses, :, :2], self.person_keypoints[people, :, :2]
                sigmas = self.protocol.skeleton.sigmas
                best[poses] = oks(points, true, sigmas, self.areas[people], self.labelled[people]).max(axis=1)
        return best

    def by_photo(self) -> Iterator[tuple[Integers, Integers]]:
        """Yield the indices of the poses and of the people of each photo that has poses."""
        of_poses, of_persons = (
            np.array([entry["image_id"] for entry in entries], np.int64) for entries in (self.poses, self.persons)
        )
        for photo in np.unique(of_poses):
            yield np.flatnonzero(of_poses == photo), np.flatnonzero(of_persons == photo)

    def ap(self, threshold: int | None = None) -> float:
        """COCO's AP, or that at one of the ten OKS thresholds; -1 without people to find."""
        defined = self.precision if threshold is None else self.precision[threshold]
        defined = defined[defined > -1]
        return float(defined.mean()) if len(defined) else -1.0

    def found(self, threshold: int) -> Mask:
        """Return (P,) bool: who was found at one of the ten OKS thresholds, by a pose of any score."""
        found = np.zeros(len(self.persons), bool)
        found[self.person_at[threshold][self.person_at[threshold] >= 0]] = True
        return found & self.to_find

    @cached_property
    def kinds(self) -> NDArray[np.int8]:
        """(D, K): the kind of error of each keypoint, an index of `KINDS`, or `UNJUDGED`."""
        return self._nearest[0]

    @cached_property
    def _nearest(self) -> tuple[NDArray[np.int8], Floats]:
        """The kinds, and the similarity (D, K) of each keypoint to the nearest true one."""
        kinds = np.full(self.pose_keypoints.shape[:2], UNJUDGED, np.int8)
        similarities = np.zeros(kinds.shape)
        for poses, people in self.by_photo():
            poses = poses[self.person_of[poses] >= 0]
            if not len(poses):
                continue
            own = np.searchsorted(people, self.person_of[poses])
            kinds[poses], similarities[poses] = classify(
                self.pose_keypoints[poses, :, :2],
                own,
                self.person_keypoints[people],
                self.areas[people],
                np.array(self.protocol.skeleton.sigmas),
                self.protocol.skeleton.mirror,
            )
        return kinds, similarities

    def corrected(self, kinds: Sequence[int], *, exactly: bool = False) -> Entries:
        """Return the poses with keypoint errors of these kinds corrected.

        As in the paper, a jitter is moved to where it is good, a miss to where it is a jitter, and an inversion or swap
        as near to the true place as it was to the wrong one. `exactly` moves all of them to the true places.
        """
        wrong, similarity = self._nearest
        goal = np.select([wrong == JITTER, wrong == MISS], [GOOD_SIMILARITY, NEAR_SIMILARITY], similarity)
        goal = np.ones_like(goal) if exactly else np.maximum(goal, np.finfo(float).tiny)
        sigmas, areas = np.array(self.protocol.skeleton.sigmas), self.areas[self.person_of][:, None]
        moved = self.person_keypoints[self.person_of, :, :2].copy()
        moved[..., 0] += np.sqrt(-8 * np.log(goal) * areas) * sigmas
        tables = self.pose_keypoints.copy()
        chosen = np.isin(wrong, kinds)
        tables[chosen, :2] = moved[chosen]
        return [{**pose, "keypoints": table.ravel()} for pose, table in zip(self.poses, tables, strict=True)]


def match(
    photos: Sequence[AnnotatedPhoto], results: str | Path | Sequence[dict[str, Any]], protocol: Protocol
) -> Matching:
    """Match results with annotated photos, which are checked as in `read_entries`."""
    return _match(read_entries(photos, results, protocol))


def _match(checked: CheckedEntries) -> Matching:
    evaluator = coco_evaluator(checked)
    counted, person_at, ignored_at = _outcomes(evaluator)
    precision = evaluator.eval["precision"][..., 0, 0]
    evaluator.params.iouThrs = np.array([FOUND_OKS])
    evaluator.params.areaRng = evaluator.params.areaRng[:1]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.evaluate()
    _, (person_of,), (ignored,) = _outcomes(evaluator)
    return Matching(
        protocol=checked.protocol,
        photos=checked.photos,
        persons=checked.persons,
        poses=[checked.poses[number] for number in counted],
        precision=precision,
        person_at=person_at,
        ignored_at=ignored_at,
        person_of=np.where(ignored, -1, person_of),
    )


def _outcomes(evaluator: Any) -> tuple[Integers, Integers, Mask]:
    """Return the poses that count (D,), and at each threshold their people and whether they are ignored."""
    whole = evaluator.params.areaRng[0]
    judged = [each for each in evaluator.evalImgs if each is not None and each["aRng"] == whole]
    none = np.zeros((len(evaluator.params.iouThrs), 0))
    counted = np.concatenate([none[0], *(each["dtIds"] for each in judged)]).astype(np.intp) - 1
    persons = np.concatenate([none, *(each["dtMatches"] for each in judged)], axis=1).astype(np.intp) - 1
    return counted, persons, np.concatenate([none, *(each["dtIgnore"] for each in judged)], axis=1).astype(bool)


def classify(
    poses: Floats, own: Integers, people: Floats, areas: Floats, sigmas: Floats, mirror: Integers
) -> tuple[NDArray[np.int8], Floats]:
    """Return the kind of error (n, K) of each keypoint of n poses in one photo, and its similarity to the nearest.

    poses: (n, K, 2) pixels. own: (n,) index of the person of each pose. people: (G, K, 3) x, y and flag. areas: (G,)
    square pixels. mirror: (K,) index of the keypoint on the other side.
    """
    # All people, followed by all people with left and right swapped.
    true, scale = np.concatenate([people, people[:, mirror]]), np.concatenate([areas, areas])[:, None]
    squares = np.square(poses[:, None] - true[..., :2]).sum(axis=-1)
    near = np.exp(-squares / (8 * np.square(sigmas) * (scale + np.spacing(1.0))))
    near[:, true[..., 2] == 0] = -1
    rows, best = np.arange(len(poses)), near.max(axis=1)
    right, inverted = near[rows, own], near[rows, len(people) + own]
    kinds = np.select(
        [right == -1, best < NEAR_SIMILARITY, (right == best) & (best >= GOOD_SIMILARITY), right == best],
        [UNJUDGED, MISS, GOOD, JITTER],
        np.where(inverted == best, INVERSION, SWAP),
    )
    return kinds.astype(np.int8), np.maximum(best, 0)


class ErrorCost(NamedTuple):
    """The AP after one kind of error is corrected."""

    name: str
    num_errors: int  # keypoints, poses or people
    ap: float
    ap50: float
    ap75: float


def error_costs(matching: Matching) -> list[ErrorCost]:
    """Correct each kind of error on its own: those of keypoints, of scores, and of people."""
    nobody = matching.person_of < 0
    background = nobody & (matching.best_oks < FOUND_OKS) & ~matching.ignored_at[0]
    duplicate = nobody & (matching.best_oks >= FOUND_OKS)
    missed = matching.to_find.copy()
    missed[matching.person_of[~nobody]] = False
    rescored = [{**pose, "score": float(best)} for pose, best in zip(matching.poses, matching.best_oks, strict=True)]
    pardoned = [
        {**person, "num_keypoints": 0} if miss else person
        for person, miss in zip(matching.persons, missed.tolist(), strict=True)
    ]

    def corrected(name: str, num_errors: int, poses: Entries, persons: Entries = matching.persons) -> ErrorCost:
        after = _match(CheckedEntries(matching.protocol, matching.photos, persons, poses))
        return ErrorCost(name, num_errors, after.ap(), after.ap(0), after.ap(5))

    def without(mask: Mask) -> Entries:
        return [pose for pose, gone in zip(matching.poses, mask.tolist(), strict=True) if not gone]

    wrong_kinds = (JITTER, INVERSION, SWAP, MISS)
    found = [
        corrected(KINDS[kind], int((matching.kinds == kind).sum()), matching.corrected([kind])) for kind in wrong_kinds
    ]
    exact = matching.corrected(wrong_kinds, exactly=True)
    return [
        *found,
        corrected("all keypoints", int((matching.kinds > GOOD).sum()), exact),
        corrected("order of scores", len(matching.poses), rescored),
        corrected("false positives", int(background.sum()), without(background)),
        corrected("duplicates", int(duplicate.sum()), without(duplicate)),
        corrected("missed people", int(missed.sum()), matching.poses, pardoned),
    ]


class KeypointErrors(NamedTuple):
    """The errors of one keypoint over all people found."""

    name: str
    shares: Floats  # (5,) share of each of `KINDS`; 0 if never labelled
    num_judged: int
    median_error: float  # as a share of the person's size, the root of its area


def keypoint_errors(matching: Matching) -> list[KeypointErrors]:
    """Return the errors of each keypoint, in the skeleton's order."""
    person, kinds = matching.person_of, matching.kinds
    errors = np.linalg.norm(matching.pose_keypoints[..., :2] - matching.person_keypoints[person, :, :2], axis=-1)
    errors /= np.sqrt(matching.areas[person])[:, None] + np.spacing(1.0)
    found = []
    for place, name in enumerate(matching.protocol.skeleton.keypoints):
        judged = kinds[:, place] >= GOOD
        shares = np.bincount(kinds[judged, place], minlength=len(KINDS)) / max(1, judged.sum())
        median = float(np.median(errors[judged, place])) if judged.any() else 0.0
        found.append(KeypointErrors(name, shares, int(judged.sum()), median))
    return found
