"""The best and the worst cases of a matching, and pictures of predicted and true poses side by side."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from posedet.diagnosis.matching import GOOD, INVERSION, MISS, SWAP, Matching
from posedet.draw import SEEN, draw
from posedet.image import Letterbox, read_photo
from posedet.poses import Poses

NUM_CASES = 4  # of a kind, each of another photo
# The root of the area in pixels; smaller people are hard to see in a picture.
MIN_SIZE = 48
MIN_LABELLED = 0.3  # share of the keypoints
MARGIN = 0.25  # around the person, as a share of the longer side
PANEL = 300  # pixels of a picture's longer side

Floats = NDArray[np.float64]


class Case(NamedTuple):
    """A pose, a person, or both, to show in a picture."""

    image_id: int
    pose: int | None  # numbers in the matching
    person: int | None
    caption: str


class Kind(NamedTuple):
    """Cases of one kind, the clearest first."""

    title: str
    text: str
    cases: list[Case]


def worst_cases(matching: Matching) -> list[Kind]:
    """Return the clearest errors of each kind, without empty kinds."""
    person_of, kinds = matching.person_of, matching.kinds
    large = np.append(np.sqrt(matching.areas) >= MIN_SIZE, False)[person_of]
    found = (person_of >= 0) & large

    def keypoints(kind: int) -> Floats:
        return np.where(found, (kinds == kind).sum(axis=1), 0) + 1e-3 * matching.scores

    # People with only a few labelled keypoints are not instructive.
    everybody = np.where(matching.to_find & (matching.labelled.mean(axis=1) >= MIN_LABELLED), matching.areas, 0)
    everybody[person_of[person_of >= 0]] = 0
    alone = (person_of < 0) & (matching.best_oks < 0.01) & ~matching.ignored_at[0]
    sure = np.where(found, matching.scores * (1 - matching.best_oks), 0)
    found_kinds = [
        Kind("Sure, and wrong", "High scores on poses that do not fit.", _poses(matching, sure)),
        Kind(
            "Left and right exchanged", "Keypoints on the person's other side.", _poses(matching, keypoints(INVERSION))
        ),
        Kind("Limbs of somebody else", "Keypoints on another person.", _poses(matching, keypoints(SWAP))),
        Kind("Keypoints lost", "Far from any place where they could belong.", _poses(matching, keypoints(MISS))),
        Kind("People missed", "No pose comes near them; the largest.", _people(matching, everybody)),
        Kind(
            "Nobody there",
            "Poses where the truth has nobody; the surest. Sometimes it is the truth that misses somebody.",
            _poses(matching, np.where(alone, matching.scores, 0)),
        ),
    ]
    return [kind for kind in found_kinds if kind.cases]


def best_cases(matching: Matching) -> Kind:
    """Return the poses that fit best, among people with most keypoints labelled."""
    labelled = np.append(matching.labelled.mean(axis=1) >= 0.7, False)[matching.person_of]
    large = np.append(np.sqrt(matching.areas) >= MIN_SIZE, False)[matching.person_of]
    fit = np.where(labelled & large & (matching.kinds >= GOOD).any(axis=1), matching.best_oks, 0)
    return Kind("Where it works", "The poses nearest to the truth.", _poses(matching, fit))


def _poses(matching: Matching, worth: Floats) -> list[Case]:
    """Return the poses of the highest worth (D,) above 0.1."""
    cases: dict[int, Case] = {}
    for pose in np.argsort(-worth, kind="stable").tolist():
        if worth[pose] <= 0.1 or len(cases) == NUM_CASES:
            break
        person = int(matching.person_of[pose])
        image_id = matching.poses[pose]["image_id"]
        fit = f", OKS {matching.best_oks[pose]:.2f}" if person >= 0 else ""
        caption = f"photo {image_id}: score {matching.scores[pose]:.2f}{fit}"
        cases.setdefault(image_id, Case(image_id, pose, None if person < 0 else person, caption))
    return list(cases.values())


def _people(matching: Matching, worth: Floats) -> list[Case]:
    cases: dict[int, Case] = {}
    for person in np.argsort(-worth, kind="stable").tolist():
        if worth[person] < MIN_SIZE**2 or len(cases) == NUM_CASES:
            break
        image_id = matching.persons[person]["image_id"]
        labelled = int(matching.labelled[person].sum())
        caption = f"photo {image_id}: {labelled} keypoint{'s' * (labelled != 1)} labelled"
        cases.setdefault(image_id, Case(image_id, None, person, caption))
    return list(cases.values())


def picture(matching: Matching, case: Case, photos: Mapping[int, Path]) -> bytes:
    """A JPEG: the predicted pose to the left, the true one to the right, hidden keypoints hollow.

    photos: image id -> file. Raises PhotoError if it cannot be read.
    """
    photo = read_photo(photos[case.image_id])
    left, top, right, bottom = _window(matching, case, photo.shape[:2])
    size = bottom - top, right - left
    factor = PANEL / max(size)
    panel = max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
    letterbox = Letterbox(size, panel, panel)
    shown = letterbox.apply(np.ascontiguousarray(photo[top:bottom, left:right]))
    skeleton, panels = matching.protocol.skeleton, []
    for table, is_truth in ((_predicted(matching, case), False), (_true(matching, case), True)):
        if table is None:
            panels.append(shown)
            continue
        points = letterbox.to_input(table[:, :2] - (left, top))
        # True keypoints are drawn as seen or hidden; unlabelled ones are not drawn.
        scores = (
            np.select([table[:, 2] >= 2, table[:, 2] > 0], [1, SEEN / 2]) if is_truth else table[:, 2].clip(0.05, 1)
        )
        pose = Poses(points[None].astype(np.float32), np.ones(1, np.float32), scores[None].astype(np.float32), skeleton)
        panels.append(draw(shown, pose))
    gap = np.full((panel[0], 4, 3), 255, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate([panels[0], gap, panels[1]], axis=1)).save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


def _predicted(matching: Matching, case: Case) -> Floats | None:
    return None if case.pose is None else matching.pose_keypoints[case.pose]


def _true(matching: Matching, case: Case) -> Floats | None:
    return None if case.person is None else matching.person_keypoints[case.person]


def _window(matching: Matching, case: Case, size: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom (exclusive) of the part of the photo that shows both poses, in whole pixels."""
    points = []
    if case.pose is not None:
        points.append(matching.pose_keypoints[case.pose, :, :2])
    if case.person is not None:
        points.append(matching.person_keypoints[case.person][matching.labelled[case.person], :2])
        x, y, width, height = matching.persons[case.person]["bbox"]
        points.append(np.array(((x, y), (x + width, y + height))))
    extent = np.concatenate(points)
    low, high = extent.min(axis=0), extent.max(axis=0)
    margin = MARGIN * max(float((high - low).max()), 1.0) + 8
    limit = np.array((size[1], size[0]))
    # Keep at least one pixel, even for a pose outside the photo.
    start = np.floor(low - margin).clip(0, limit - 1).astype(int)
    end = np.maximum(np.ceil(high + margin).clip(0, limit).astype(int), start + 1)
    return int(start[0]), int(start[1]), int(end[0]), int(end[1])
