"""Figure 3 of the paper: the upper bound of AP in crowds that the suppression of duplicates leaves.

The annotated poses pass through the suppression as if they were predictions, and are scored. Each deleted pose belongs
to a person who is too close to another. The paper has two curves, for OKS and for the overlap of boxes (IoU). Its
script treats keypoints that one person lacks and boxes without area in ways of its own, so each has two rules. This
bound favours rules that never delete anything, so a second experiment adds a duplicate of each person to be deleted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lab.paper import GENERATOR
from posedet.data.annotations import AnnotatedPhoto
from posedet.data.sources import Source, read_photos
from posedet.errors import DataError, PoseDetError
from posedet.evaluation.keypoint_ap import evaluate_keypoints
from posedet.evaluation.protocols import CROWDPOSE_PROTOCOL
from posedet.evaluation.report import markdown_table, write_report
from posedet.files import no_terminal
from posedet.oks import oks
from posedet.outputs import make_folder, write_figure, write_markdown

Floats = NDArray[np.float64]

THRESHOLDS = tuple(round(0.1 * step, 1) for step in range(1, 11))
RULES = {
    "official oks": "OKS (paper's script)",
    "official iou": "IoU of boxes (paper's script)",
    "oks": "OKS of shared keypoints",
    "iou": "IoU of boxes",
    "both": "OKS and IoU",
    "soft": "soft OKS",
}
SEED = 0


@dataclass(frozen=True)
class Point:
    """One rule at one threshold. AP from 0 to 1."""

    rule: str
    threshold: float  # for the soft rule: its width
    duplicates: bool  # whether each person has a duplicate
    ap_hard: float
    ap: float
    num_deleted: int  # deleted people, without duplicates
    num_duplicates_left: int


class Crowd:
    """The poses of one photo, best first, and their pairwise similarities."""

    def __init__(self, keypoints: Floats, scores: Floats, is_duplicate: NDArray[np.bool_]) -> None:
        """keypoints: (N, K, 3) x, y in pixels, flag (0: not labelled); scores, is_duplicate: (N,)."""
        order = np.argsort(-scores, kind="stable")
        self.keypoints, self.scores, self.is_duplicate = keypoints[order], scores[order], is_duplicate[order]
        self._similar = similarities(self.keypoints)

    def rated(self, rule: str, threshold: float) -> Floats:
        """(N,) scores after suppression, 0 for deleted poses."""
        similar = self._similar
        if rule == "soft":
            return softened(similar.oks, self.scores, threshold)
        drops = {
            "official oks": similar.official_oks >= threshold,
            "official iou": similar.official_iou > threshold,
            "oks": similar.oks >= threshold,
            "iou": similar.iou > threshold,
            "both": (similar.oks >= threshold) & (similar.iou > threshold),
        }[rule]
        alive = np.ones(len(self.scores), bool)
        for place in range(len(alive)):
            if alive[place]:
                alive[place + 1 :] &= ~drops[place, place + 1 :]
        return np.where(alive, self.scores, 0)


class Similarities(NamedTuple):
    """OKS and box overlap between all poses, (N, N) each, where rows are the kept ones."""

    oks: Floats  # over keypoints that both have; 0 if there are none
    iou: Floats  # 0 for two boxes without area
    official_oks: Floats  # over all keypoints of the kept one; those that the other lacks lie at (0, 0)
    official_iou: Floats  # two boxes without area are duplicates


def similarities(keypoints: Floats) -> Similarities:
    """Compare all poses (N, K, 3) with each other.

    As in the authors' script (`tools/analyze_nms.py`), OKS uses only the area of the kept person's box, without a lower
    bound, and boxes enclose the labelled keypoints.
    """
    labelled = keypoints[..., 2] > 0
    points, sigmas = keypoints[..., :2], np.array(CROWDPOSE_PROTOCOL.skeleton.sigmas)
    at_zero = np.where(labelled[..., None], points, 0)
    low, high = _extents(keypoints)
    areas = (high - low).prod(axis=-1)
    near = [
        oks(points[:, k : k + 1], points[:, k : k + 1], sigmas[k : k + 1], areas[:, None] / 2)
        for k in range(len(sigmas))
    ]
    shared = labelled[:, None] & labelled
    similarity = np.where(shared, np.stack(near, axis=-1), 0).sum(axis=-1) / np.maximum(shared.sum(axis=-1), 1)
    sides = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
    overlap = np.maximum(sides, 0).prod(axis=-1)
    union = areas[:, None] + areas - overlap
    iou = overlap / np.where(union > 0, union, 1)
    return Similarities(
        oks=similarity,
        iou=iou,
        official_oks=oks(at_zero, at_zero, sigmas, areas / 2, labelled).T,
        official_iou=np.where(union > 0, iou, 1),  # zero by zero there, which is not below any threshold
    )


def _extents(keypoints: Floats) -> tuple[Floats, Floats]:
    """Minimum and maximum x, y of the labelled keypoints: (N, K, 3) -> (N, 2), (N, 2)."""
    labelled = keypoints[..., 2:] > 0
    low = np.where(labelled, keypoints[..., :2], np.inf).min(axis=1)
    return low, np.where(labelled, keypoints[..., :2], -np.inf).max(axis=1)


def softened(similarity: Floats, scores: Floats, width: float) -> Floats:
    """Scores reduced by exp(-OKS^2 / width) for each better pose, instead of to 0 (Soft-NMS, Gaussian form)."""
    scores = scores.copy()
    waiting = np.ones(len(scores), bool)
    while waiting.any():
        best = int(np.where(waiting, scores, -1).argmax())
        waiting[best] = False
        scores[waiting] *= np.exp(-np.square(similarity[best, waiting]) / width)
    return scores


def true_people(photos: Sequence[AnnotatedPhoto]) -> dict[int, Floats]:
    """Image id -> (N, 14, 3) keypoints of its people whose flags sum to more than 1, in the file's order."""
    people: dict[int, Floats] = {}
    for photo in photos:
        tables = [np.column_stack((person.keypoints, person.visibility)) for person in photo.persons]
        if chosen := [table for table in tables if table[:, 2].sum() > 1]:
            people[photo.image_id] = np.stack(chosen)
    if not people:
        raise DataError(f"no person in the {len(photos)} photos has labelled keypoints")
    return people


def with_duplicates(people: dict[int, Floats]) -> dict[int, Crowd]:
    """Each person with a score of 0.3 to 1, and a duplicate with jittered keypoints and 50 to 100 % of that score.

    The jitter is 0 to 2 sigmas of each keypoint, scaled by the size of the person. The OKS between duplicate and person
    is therefore between about 0.3 and 1, as for duplicate detections of a real person.
    """
    generator = np.random.default_rng(SEED)
    sigmas = np.array(CROWDPOSE_PROTOCOL.skeleton.sigmas)
    crowds = {}
    for image_id, true in people.items():
        count = len(true)
        low, high = _extents(true)
        sizes = np.sqrt((high - low).prod(axis=-1))
        jitter = generator.uniform(0, 2, (count, 1)) * sizes[:, None] * sigmas
        twins = true.copy()
        twins[..., :2] += generator.normal(size=(count, len(sigmas), 2)) * jitter[..., None]
        scores = generator.uniform(0.3, 1, count)
        second = scores * generator.uniform(0.5, 1, count)
        crowds[image_id] = Crowd(
            np.concatenate([true, twins]), np.concatenate([scores, second]), np.arange(2 * count) >= count
        )
    return crowds


def upper_bounds(
    photos: Sequence[AnnotatedPhoto],
    *,
    rules: Sequence[str] = tuple(RULES),
    thresholds: Sequence[float] = THRESHOLDS,
) -> list[Point]:
    """All rules at all thresholds, without duplicates (all scores 1) and with; photos have CrowdPose's keypoints."""
    people = true_people(photos)
    alone = {image_id: Crowd(true, np.ones(len(true)), np.zeros(len(true), bool)) for image_id, true in people.items()}
    cases = [
        (duplicates, rule, threshold) for duplicates in (False, True) for rule in rules for threshold in thresholds
    ]
    doubled = with_duplicates(people)
    return [
        _point(photos, doubled if duplicates else alone, rule, threshold, duplicates=duplicates)
        for duplicates, rule, threshold in tqdm(cases, unit="point", disable=no_terminal())
    ]


def _point(
    photos: Sequence[AnnotatedPhoto], crowds: dict[int, Crowd], rule: str, threshold: float, *, duplicates: bool
) -> Point:
    results: list[dict[str, Any]] = []
    deleted = left = 0
    for image_id, crowd in crowds.items():
        scores = crowd.rated(rule, threshold)
        results += [
            {"image_id": image_id, "category_id": 1, "keypoints": pose.ravel(), "score": float(score)}
            for pose, score in zip(crowd.keypoints, scores, strict=True)
            if score > 0
        ]
        deleted += int(((scores == 0) & ~crowd.is_duplicate).sum())
        left += int(((scores > 0) & crowd.is_duplicate).sum())
    found = evaluate_keypoints(photos, results, CROWDPOSE_PROTOCOL)
    # CrowdPose's protocol always has hard photos.
    return Point(rule, threshold, duplicates, cast(float, found.ap_hard), found.ap, deleted, left)


def reproduce_figure3(data: Source, output: Path) -> str:
    """Write figure3.png, figure3.json and figure3.md into the folder `output`; returns the Markdown."""
    make_folder(output)
    points = upper_bounds(read_photos(data, CROWDPOSE_PROTOCOL.skeleton, check_files=False))
    tables = "\n\n".join(_tables(points))
    write_report(output / "figure3.json", GENERATOR, {"data": str(data), "points": [vars(point) for point in points]})
    write_markdown(output / "figure3.md", GENERATOR, tables)
    draw_figure3(points, output / "figure3.png")
    return tables


def _tables(points: Sequence[Point]) -> Iterator[str]:
    """Markdown: AP hard / AP / deleted people (/ remaining duplicates) for each threshold and rule."""
    for duplicates in (False, True):
        chosen = {(p.rule, p.threshold): p for p in points if p.duplicates == duplicates}
        rules = [rule for rule in RULES if any(rule == each for each, _ in chosen)]
        yield "**" + ("Truth and duplicates" if duplicates else "Truth only") + "**"
        rows = [["threshold", *(RULES[rule] for rule in rules)]]
        for threshold in sorted({threshold for _, threshold in chosen}):
            cells = []
            for rule in rules:
                p = chosen[rule, threshold]
                counts = f"{p.num_deleted}" + (f" / {p.num_duplicates_left}" if duplicates else "")
                cells.append(f"{100 * p.ap_hard:.1f} / {100 * p.ap:.1f} / {counts}")
            rows.append([f"{threshold:g}", *cells])
        yield markdown_table(rows)


def draw_figure3(points: Sequence[Point], path: Path) -> None:
    """Write a PNG of AP hard over thresholds: the paper's experiment on the left, with duplicates on the right."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise PoseDetError('the figure needs matplotlib; install it with: pip install "posedet[evaluate]"') from None
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for duplicates, axis, title in zip((False, True), axes, ("truth only", "truth and duplicates"), strict=True):
        for rule, label in RULES.items():
            curve = sorted(
                (p.threshold, 100 * p.ap_hard) for p in points if (p.rule, p.duplicates) == (rule, duplicates)
            )
            if curve:
                axis.plot(*zip(*curve, strict=True), marker=".", label=label)
        axis.set_title(f"CrowdPose: {title}")
        axis.set_xlabel("threshold (soft: width)")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("upper bound of AP hard")
    axes[0].legend()
    write_figure(path, GENERATOR, figure)
