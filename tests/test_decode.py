"""From the network's output to poses, held against loops that spell out what is promised."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import posedet.runtime.decode as runtime_decode
from posedet.config import DecodeConfig
from posedet.image import Letterbox
from posedet.poses import Poses
from posedet.runtime.decode import area_floor, candidates, decode
from posedet.runtime.session import Outputs
from posedet.skeleton import COCO, CROWDPOSE15, Skeleton

# Two joints of different sigma, so that joints taken for one another are noticed.
PAIR = Skeleton("pair", ("left", "right"), ((0, 1),), ((0, 1),), (0.05, 0.1))

CONFIG = DecodeConfig(
    long_side=512,
    short_side=None,
    candidates=100,
    score_threshold=0.3,
    nms="oks",
    nms_threshold=0.3,
    min_area=256.0,
    clamp=False,
    skeleton="pair",
)


def decoded(outputs: tuple, photo_size: tuple[int, int], skeleton: Skeleton, **changes: Any) -> Poses:
    config = replace(CONFIG, **changes)
    letterbox = Letterbox.fit(photo_size, long_side=config.long_side)
    return decode(Outputs(*outputs), letterbox, skeleton, config)


def some_outputs(seed: int, skeleton: Skeleton, *, count: int = 60, side: float = 500) -> tuple:
    """A few people, each found several times, with equal scores among them."""
    generator = np.random.default_rng(seed)
    people = generator.uniform(0, side, (6, skeleton.num_keypoints, 2))
    spread = generator.choice([1, 8, 40, 150], (count, 1, 1))
    keypoints = people[generator.integers(0, 6, count)] + spread * generator.normal(
        size=(count, skeleton.num_keypoints, 2)
    )
    scores = generator.integers(1, 20, count) / 20
    keypoint_scores = generator.uniform(0, 1, (count, skeleton.num_keypoints))
    return scores.astype(np.float32), keypoints.astype(np.float32), keypoint_scores.astype(np.float32)


def slow_decode(outputs: tuple, photo_size: tuple[int, int], skeleton: Skeleton, config: DecodeConfig) -> list[tuple]:
    """(score, keypoints) of the poses that stay, with the paper's OKS: no factor 2, the mean of both areas."""
    height, width = photo_size
    factor = config.long_side / max(photo_size)
    resized_height, resized_width = int(height * factor + 0.5), int(width * factor + 0.5)
    poses = []
    for score, keypoints in zip(*outputs[:2], strict=True):
        if not score > config.score_threshold:
            continue
        points = [
            ((x + 0.5) * width / resized_width - 0.5, (y + 0.5) * height / resized_height - 0.5)
            for x, y in keypoints.astype(float)
        ]
        if config.clamp:
            points = [(min(max(x, 0), width - 1), min(max(y, 0), height - 1)) for x, y in points]
        poses.append((float(score), np.array(points)))

    def area(points: np.ndarray) -> float:
        (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
        return max((x2 - x1) * (y2 - y1), config.min_area * (max(photo_size) / 640) ** 2)

    def similarity(first: np.ndarray, second: np.ndarray) -> float:
        if config.nms == "iou":
            low, high = np.maximum(first.min(0), second.min(0)), np.minimum(first.max(0), second.max(0))
            shared = float(np.maximum(high - low, 0).prod())
            union = float(np.ptp(first, axis=0).prod() + np.ptp(second, axis=0).prod()) - shared
            return shared / union
        mean_area = (area(first) + area(second)) / 2
        terms = [
            np.exp(-((a - b) ** 2).sum() / (2 * (2 * sigma) ** 2 * mean_area / 2))
            for a, b, sigma in zip(first, second, skeleton.sigmas, strict=True)
        ]
        return float(np.mean(terms))

    kept: list[tuple] = []
    for score, points in sorted(poses, key=lambda pose: -pose[0]):  # stable: the first of equals stays first
        if all(similarity(points, other) <= config.nms_threshold for _, other in kept):
            kept.append((score, points))
    return kept[: runtime_decode.MAX_POSES]


def check_loops(skeleton: Skeleton, photo_size: tuple[int, int], changes: dict, *, seeds: int) -> None:
    num_kept = 0
    for seed in range(seeds):
        outputs = some_outputs(seed, skeleton)
        poses = decoded(outputs, photo_size, skeleton, **changes)
        expected = slow_decode(outputs, photo_size, skeleton, replace(CONFIG, **changes))
        assert_allclose(poses.scores, [score for score, _ in expected])
        assert_allclose(poses.keypoints, [points for _, points in expected], rtol=1e-6, atol=1e-3)
        num_kept += len(poses)
    assert seeds <= num_kept < seeds * 50  # something was found, and something suppressed


@pytest.mark.slow
@pytest.mark.parametrize("skeleton", [PAIR, COCO], ids=lambda skeleton: skeleton.name)
@pytest.mark.parametrize("photo_size", [(480, 640), (3000, 4001), (200, 150), (90, 1000)])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"nms": "iou", "nms_threshold": 0.5},
        {"clamp": True},
        {"min_area": 40_000.0},
        {"score_threshold": 0.0, "nms_threshold": 0.05},
    ],
    ids=str,
)
def test_the_loops_agree(skeleton: Skeleton, photo_size: tuple[int, int], changes: dict) -> None:
    check_loops(skeleton, photo_size, changes, seeds=4)


@pytest.mark.parametrize(
    "changes", [{"clamp": True, "min_area": 40_000.0}, {"nms": "iou", "nms_threshold": 0.5}], ids=str
)
def test_the_loops_agree_on_one_photo(changes: dict) -> None:
    check_loops(PAIR, (300, 401), changes, seeds=1)


@pytest.mark.parametrize("nms", ["oks", "iou"])
def test_no_more_poses_than_the_limit(nms: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, changes = some_outputs(0, COCO), {"nms": nms, "nms_threshold": 1.0}
    everybody = decoded(outputs, (480, 640), COCO, **changes)
    monkeypatch.setattr(runtime_decode, "MAX_POSES", 3)
    best = decoded(outputs, (480, 640), COCO, **changes)
    assert len(everybody) > 3
    assert_allclose(best.keypoints, everybody.keypoints[:3])


def test_scores_of_joints_stay_with_their_pose() -> None:
    scores, keypoints, keypoint_scores = some_outputs(0, PAIR)
    poses = decoded((scores, keypoints, keypoint_scores), (512, 512), PAIR)
    for pose in poses:
        place = np.flatnonzero(np.abs(keypoints - pose.keypoints[0]).max(axis=(1, 2)) < 1e-3)
        assert_array_equal(keypoint_scores[place], pose.keypoint_scores)
        assert_array_equal(scores[place], pose.scores)


def test_the_threshold_itself_is_not_enough() -> None:
    scores = np.array([0.3, np.nextafter(np.float32(0.3), np.float32(1)), 0.2], np.float32)
    keypoints = np.arange(3)[:, None, None] * 200 + np.zeros((3, 2, 2), np.float32)
    outputs = scores, keypoints.astype(np.float32), np.ones((3, 2), np.float32)
    assert decoded(outputs, (512, 512), PAIR).keypoints[:, 0, 0].tolist() == [200]
    assert len(decoded(outputs, (512, 512), PAIR, score_threshold=0.0)) == 3


def test_a_pose_that_is_not_finite_is_dropped_and_roundings_above_one_are_not() -> None:
    for bad in (np.nan, np.inf, -np.inf, 3e38):  # the last is beyond float32 in a photo twice as large
        scores = np.array([0.9, 0.8, 0.7], np.float32)
        keypoints = np.zeros((3, 2, 2), np.float32) + np.array([0, 100, 200], np.float32)[:, None, None]
        keypoint_scores = np.full((3, 2), 0.5, np.float32)
        keypoints[0, 1, 0] = bad
        outputs = scores, keypoints, keypoint_scores
        assert_array_equal(decoded(outputs, (1024, 1024), PAIR).scores, scores[1:])
        if not np.isfinite(bad):
            keypoint_scores[1, 0] = bad
            assert_array_equal(decoded(outputs, (1024, 1024), PAIR).scores, scores[2:])
            scores[2] = bad
            assert len(decoded(outputs, (1024, 1024), PAIR)) == 0
    above = np.nextafter(np.float32(1), np.float32(2))
    outputs = np.array([above]), np.zeros((1, 2, 2), np.float32), np.array([[above, -1e-9]], np.float32)
    poses = decoded(outputs, (512, 512), PAIR)
    assert (poses.scores.tolist(), poses.keypoint_scores.tolist()) == ([1], [[1, 0]])


def test_the_least_area_grows_with_the_photo() -> None:
    """It is that of a photo whose long side has 640 pixels."""
    assert [area_floor(size, CONFIG) for size in ((480, 640), (1280, 960), (100, 320))] == [256, 1024, 64]


def test_nobody() -> None:
    for count in (0, 5):
        outputs = np.zeros(count, np.float32), np.zeros((count, 2, 2), np.float32), np.zeros((count, 2), np.float32)
        poses = decoded(outputs, (480, 640), PAIR)
        assert (len(poses), poses.skeleton) == (0, PAIR)


def test_outputs_stay_as_they_are() -> None:
    outputs = some_outputs(1, COCO)
    for array in outputs:
        array.setflags(write=False)
    decoded(outputs, (300, 200), COCO, clamp=True)


def test_candidates_are_all_that_is_strong_in_the_order_of_the_network() -> None:
    scores, keypoints, keypoint_scores = some_outputs(2, PAIR)
    outputs = Outputs(scores, keypoints, keypoint_scores, {"ids": np.arange(len(scores))})
    config = replace(CONFIG, score_threshold=0.5)
    found = candidates(outputs, Letterbox.fit((512, 512), long_side=512), PAIR, config)
    assert_array_equal(found.scores, scores[scores > 0.5])
    assert_array_equal(found.extra["ids"], np.flatnonzero(scores > 0.5))
    assert_allclose(found.keypoints, keypoints[scores > 0.5], atol=1e-4)


def official_suppression(poses: np.ndarray, sigmas: np.ndarray, threshold: float, min_area: float) -> list[int]:
    """The indices that stay of (N, K, 2) poses, best first: mean of both areas, no factor 2."""
    areas = [max((xs.max() - xs.min()) * (ys.max() - ys.min()), min_area) for xs, ys in poses.transpose(0, 2, 1)]
    kept: list[int] = []
    for place, pose in enumerate(poses):
        squares = [((pose - poses[better]) ** 2).sum(1) for better in kept]
        scales = [4 * sigmas**2 * (areas[place] + areas[better]) / 2 for better in kept]
        if not any(np.exp(-square / scale).mean() > threshold for square, scale in zip(squares, scales, strict=True)):
            kept.append(place)
    return kept


def test_the_abdomen_of_crowdpose_networks_does_not_decide_about_duplicates() -> None:
    """Of 200 poses those stay that the official code keeps; with all 15 points it would be others."""
    generator = np.random.default_rng(0)
    person = generator.uniform(0, 90, (15, 2))
    person[14] = 45
    poses = person + generator.uniform(0, 600, (20, 1, 2)).repeat(10, 0) + generator.normal(0, 9, (200, 15, 2))
    poses[:, 14] += generator.normal(0, 40, (200, 2))
    poses = poses.astype(np.float32).astype(float)
    scores = np.linspace(0.99, 0.4, 200, dtype=np.float32)
    outputs = scores, poses.astype(np.float32), np.ones((200, 15), np.float32)
    # At a long side of 640 pixels, both minimum areas are the same.
    found = decoded(outputs, (640, 640), CROWDPOSE15, long_side=640, min_area=1024.0)
    sigmas = np.array(CROWDPOSE15.sigmas)
    kept = official_suppression(poses[:, :14], sigmas[:14], CONFIG.nms_threshold, 1024)
    assert 20 < len(kept) < 100 and kept != official_suppression(poses, sigmas, CONFIG.nms_threshold, 1024)
    assert np.flatnonzero(np.isin(scores, found.scores)).tolist() == kept
    assert_allclose(found.keypoints, poses[kept], atol=1e-3)
