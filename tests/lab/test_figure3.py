"""Figure 3 against loops that spell out the rules, and the slow AP of the definition."""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from lab.paper.__main__ import main
from lab.paper.figure3 import (
    RULES,
    Crowd,
    similarities,
    softened,
    true_people,
    upper_bounds,
    with_duplicates,
)
from posedet.errors import DataError
from posedet.skeleton import CROWDPOSE
from sets import photos_of
from slow_keypoint_ap import reference


def random_people(seed: int, count: int) -> np.ndarray:
    """People close together, with labels missing; (N, 14, 3)."""
    random = np.random.default_rng(seed)
    centres = random.uniform(0, 60, (count, 1, 2))
    flags = random.choice([0, 1, 2], (count, 14, 1), p=[0.3, 0.3, 0.4])
    flags[:, 0] = 2
    return np.concatenate([(centres + random.normal(0, 25, (count, 14, 2))) * (flags > 0), flags], axis=2)


SIZE = {"width": 100, "height": 100}


def crowdpose(seed: int, num_photos: int = 6) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    images, annotations = [], []
    for number in range(num_photos):
        images.append(
            {"id": 7 * number, "file_name": f"{number}.jpg", **SIZE, "crowdIndex": [0.1, 0.5, 0.9][number % 3]}
        )
        for person in random_people(100 * seed + number, int(random.integers(1, 6))):
            labelled = person[person[:, 2] > 0, :2]
            low, high = labelled.min(axis=0), labelled.max(axis=0)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 7 * number,
                    "category_id": 1,
                    "keypoints": person.ravel().tolist(),
                    "num_keypoints": int((person[:12, 2] > 0).sum()),
                    "bbox": [*(low - 5).tolist(), *(high - low + 10).tolist()],
                    "iscrowd": int(random.uniform() < 0.1),
                }
            )
    category = {"id": 1, "name": "person", "keypoints": list(CROWDPOSE.keypoints)}
    return {"images": images, "annotations": annotations, "categories": [category]}


def slow_similarities(kept: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    boxes = []
    for person in (kept, other):
        xs, ys = ([row[axis] for row in person if row[2] > 0] for axis in (0, 1))
        boxes.append((min(xs), min(ys), max(xs), max(ys)))
    (x1, y1, x2, y2), (u1, v1, u2, v2) = boxes
    area = (x2 - x1) * (y2 - y1)
    terms = []
    for (x, y, flag), (u, v, other_flag), sigma in zip(kept, other, CROWDPOSE.sigmas, strict=True):
        if flag > 0 and other_flag > 0:
            terms.append(math.exp(-((x - u) ** 2 + (y - v) ** 2) / (4 * sigma**2 * area)))
    shared = max(0, min(x2, u2) - max(x1, u1)) * max(0, min(y2, v2) - max(y1, v1))
    return sum(terms) / len(terms) if terms else 0.0, shared / (area + (u2 - u1) * (v2 - v1) - shared)


def official(kept: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """What the paper's script compares: all joints of the kept person, the other's missing ones as (0, 0)."""
    labelled = kept[:, 2] > 0
    width, height = np.ptp(kept[labelled, :2], axis=0)
    placed = other[:, :2] * (other[:, 2:] > 0)
    squares = ((kept[:, :2] - placed) ** 2).sum(1)
    near = np.exp(-squares / (2 * np.array(CROWDPOSE.sigmas)) ** 2 / (width * height))
    return float(near[labelled].mean()), slow_similarities(kept, other)[1]


@pytest.mark.parametrize("seed", range(5))
def test_similarities(seed: int) -> None:
    people = random_people(seed, 6)
    similar = similarities(people)
    for i in range(6):
        for j in range(6):
            found = [matrix[i, j] for matrix in similar]
            assert_allclose(
                found, [*slow_similarities(people[i], people[j]), *official(people[i], people[j])], atol=1e-9
            )


def test_people_who_share_no_keypoint_or_have_no_extent() -> None:
    people = np.zeros((3, 14, 3))
    people[0, :2] = (5, 5, 2), (9, 9, 2)
    people[1, 2:4] = (5, 5, 2), (9, 9, 2)  # the same place, other keypoints
    people[2, 0] = 5, 5, 2  # a point
    near, overlap, official_near, official_overlap = similarities(people)
    assert near[0, 1] == near[1, 0] == 0 and near[0, 2] == 1
    assert overlap[0, 1] == 1 and overlap[2].tolist() == [0, 0, 0]
    assert np.isfinite(near).all() and near[2, 2] == 1
    # The second keypoint of the first person is compared with (0, 0).
    far = math.exp(-(9**2 + 9**2) / (4 * CROWDPOSE.sigmas[1] ** 2 * 16))
    assert official_near[0, 2] == pytest.approx((1 + far) / 2)
    assert official_overlap[2].tolist() == [0, 0, 1]  # 0 / 0 with another that has no area


def test_two_points_are_duplicates_by_overlap_in_the_papers_script() -> None:
    people = np.zeros((2, 14, 3))
    people[0, 0], people[1, 0] = (5, 5, 2), (90, 90, 2)
    crowd = Crowd(people, np.ones(2), np.zeros(2, bool))
    assert crowd.rated("official iou", 0.9).tolist() == [1, 0]
    assert crowd.rated("iou", 0.9).tolist() == crowd.rated("official oks", 0.1).tolist() == [1, 1]


def slow_rated(people: np.ndarray, scores: np.ndarray, rule: str, threshold: float) -> list[float]:
    rated, waiting = [0.0] * len(people), {i: float(score) for i, score in enumerate(scores)}
    while waiting:
        best = max(waiting, key=lambda i: (waiting[i], -i))
        rated[best] = waiting.pop(best)
        for other in list(waiting):
            near, overlap = slow_similarities(people[best], people[other])
            official_near, official_overlap = official(people[best], people[other])
            if rule == "soft":
                waiting[other] *= math.exp(-(near**2) / threshold)
            elif {
                "official oks": official_near >= threshold,
                "official iou": official_overlap > threshold,
                "oks": near >= threshold,
                "iou": overlap > threshold,
                "both": near >= threshold and overlap > threshold,
            }[rule]:
                del waiting[other]
    return rated


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(4))
def test_rules(rule: str, seed: int) -> None:
    people = random_people(seed, 8)
    people[4:, :, :2] = (people[:4, :, :2] + np.random.default_rng(seed).normal(0, 4, (4, 14, 2))) * (
        people[4:, :, 2:] > 0
    )
    for scores in (np.ones(8), np.random.default_rng(seed).uniform(0.1, 1, 8)):
        crowd = Crowd(people, scores, np.zeros(8, bool))
        order = np.argsort(-scores, kind="stable")
        assert_array_equal(crowd.keypoints, people[order])
        for threshold in (0.05, 0.2, 0.5):
            expected = slow_rated(people, scores, rule, threshold)
            assert_allclose(crowd.rated(rule, threshold), np.array(expected)[order], atol=1e-9)


def test_at_the_threshold_oks_drops_and_overlap_keeps() -> None:
    twice = np.repeat(random_people(0, 1), 2, axis=0)
    crowd = Crowd(twice, np.ones(2), np.zeros(2, bool))
    assert crowd.rated("oks", 1.0).tolist() == [1, 0]
    assert crowd.rated("iou", 1.0).tolist() == [1, 1]
    assert crowd.rated("both", 1.0).tolist() == [1, 1]
    scores = np.array([0.5, 0.4])
    assert_allclose(softened(np.ones((2, 2)), scores, 0.5), [0.5, 0.4 * math.exp(-2)])
    assert scores.tolist() == [0.5, 0.4]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_upper_bounds_equal_the_definition(seed: int) -> None:
    truth = crowdpose(seed)
    photos = photos_of(truth, CROWDPOSE)
    people = true_people(photos)
    hard = {image["id"] for image in truth["images"] if image["crowdIndex"] >= 0.8}
    for point in upper_bounds(photos, rules=("official oks", "oks", "iou"), thresholds=(0.05, 0.3)):
        crowds = with_duplicates(people) if point.duplicates else None
        results, deleted, left = [], 0, 0
        for image_id, true in people.items():
            poses, scores = true, np.ones(len(true))
            is_duplicate = np.zeros(len(true), bool)
            if crowds is not None:
                crowd = crowds[image_id]
                poses, scores, is_duplicate = crowd.keypoints, crowd.scores, crowd.is_duplicate
            for pose, score, double in zip(
                poses, slow_rated(poses, scores, point.rule, point.threshold), is_duplicate, strict=True
            ):
                deleted += score == 0 and not double
                left += score > 0 and double
                if score > 0:
                    entry = {"image_id": image_id, "category_id": 1, "score": score}
                    results.append({**entry, "keypoints": pose.ravel().tolist()})
        ap = reference(truth, results, CROWDPOSE.sigmas, box_area=True)["ap"]
        ap_hard = reference(truth, results, CROWDPOSE.sigmas, box_area=True, photos=hard)["ap"]
        assert (point.num_deleted, point.num_duplicates_left) == (deleted, left)
        assert point.ap == pytest.approx(ap, abs=1e-9)
        assert point.ap_hard == pytest.approx(ap_hard, abs=5.1e-5)


def test_who_takes_part() -> None:
    """A flag sum above 1: one hidden keypoint is not enough, one seen or two hidden are."""
    truth = crowdpose(0, num_photos=1)
    rows = [[(3, 4, 1)], [(3, 4, 2)], [(3, 4, 1), (5, 6, 1)], []]
    truth["annotations"] = [
        {
            "id": number,
            "image_id": 0,
            "category_id": 1,
            "bbox": [0, 0, 10, 10],
            "keypoints": [value for row in (row + [(0, 0, 0)] * 14)[:14] for value in row],
        }
        for number, row in enumerate(rows)
    ]
    assert [person[:, 2].sum() for person in true_people(photos_of(truth, CROWDPOSE))[0]] == [2, 2]
    truth["annotations"] = truth["annotations"][:1]
    with pytest.raises(DataError, match=r"^no person in the 1 photos has labelled keypoints$"):
        true_people(photos_of(truth, CROWDPOSE))


def test_duplicates_are_the_same_each_time_and_like_their_person() -> None:
    people = {number: random_people(number, 5) for number in range(20)}
    likeness = []
    for image_id, crowd in with_duplicates(people).items():
        again = with_duplicates(people)[image_id]
        assert_array_equal(again.keypoints, crowd.keypoints)
        assert (np.diff(crowd.scores) <= 0).all() and crowd.is_duplicate.sum() == 5
        assert crowd.scores.min() > 0.15 and crowd.scores.max() < 1
        doubles = crowd.keypoints[crowd.is_duplicate]
        for person in people[image_id]:
            near = [slow_similarities(person, double)[0] for double in doubles]
            likeness.append(max(near))
            twin = doubles[int(np.argmax(near))]
            assert_array_equal(twin[:, 2], person[:, 2])
    assert min(likeness) > 0.1 and max(likeness) > 0.95 and 0.5 < np.mean(likeness) < 0.8


@pytest.mark.slow
def test_reproduce_figure3(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    data, output = tmp_path / "val.json.gz", tmp_path / "new" / "figure3"
    data.write_bytes(gzip.compress(json.dumps(crowdpose(1)).encode()))
    command = ["figure3", "--data", str(data), "--output", str(output)]
    monkeypatch.setattr("sys.argv", ["posedet", *command])
    assert main(command) == 0
    tables = capsys.readouterr().out
    assert (output / "figure3.md").read_text() == f"<!-- generator: lab.paper -->\n{tables}"
    report = json.loads((output / "figure3.json").read_text())
    assert report["command"] == ["posedet", *command]
    points = report["results"]["points"]
    assert len(points) == 2 * 6 * 10
    point = next(p for p in points if (p["rule"], p["threshold"], p["duplicates"]) == ("iou", 0.3, False))
    cell = f"{100 * point['ap_hard']:.1f} / {100 * point['ap']:.1f} / {point['num_deleted']}"
    line = next(line for line in tables.splitlines() if line.startswith("| 0.3 |"))
    assert line.split(" | ")[4] == cell
    assert (output / "figure3.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in output.iterdir()) == ["figure3.json", "figure3.md", "figure3.png"]


def test_what_a_user_reads_when_it_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "val.json").write_text(json.dumps(crowdpose(1)))
    content = crowdpose(1)
    del content["images"][2]["crowdIndex"]
    (tmp_path / "plain.json").write_text(json.dumps(content))
    for data, output, expected in (
        ("no.json", "x", f"posedet: error: {tmp_path}/no.json: no such file"),
        (
            "plain.json",
            "x",
            f"posedet: error: {tmp_path}/plain.json: images[2]: the crowd index ('crowdIndex') is missing",
        ),
        (
            "val.json",
            "file",
            f"posedet: error: {tmp_path}/file: cannot be written to (File exists); choose another folder",
        ),
    ):
        command = ["figure3", "--data", str(tmp_path / data), "--output", str(tmp_path / output)]
        assert main(command) == 2
        assert capsys.readouterr().err.strip() == expected
