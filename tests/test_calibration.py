"""Reliability of scores, against loops and numbers by hand; and the correction, folded into real weights."""

import json
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from posedet import PoseDet, Poses
from posedet.commands.main import main
from posedet.data.annotations import AnnotatedPhoto, Person
from posedet.data.sources import read_photos
from posedet.diagnosis.calibration import (
    Found,
    PlattScaling,
    calibration,
    coverage,
    found_people,
    matches,
    reliability,
)
from posedet.errors import DataError, ModelError
from posedet.image import read_photo
from posedet.skeleton import COCO, Skeleton
from posedet.weights.keypoints import corrected_keypoint_scores
from posedet.weights.torch_session import open_weights

WEIGHTS = Path(str(resources.files("posedet") / "released" / "posedet-s.safetensors"))
PAIR = Skeleton("pair", ("left_hand", "right_hand"), ((0, 1),), ((0, 1),), (0.1, 0.1))


# --- reliability -----------------------------------------------------------------------------------------------------


def test_reliability_by_hand() -> None:
    curve = reliability([0.0, 0.4, 0.5, 0.7, 1.0], [0, 1, 0, 1, 1], num_bins=2)
    assert_allclose(curve.counts, [2, 3])
    assert_allclose(curve.predicted, [0.2, 2.2 / 3])
    assert_allclose(curve.observed, [0.5, 2 / 3])
    assert curve.error == pytest.approx((2 * 0.3 + 3 * (0.2 / 3)) / 5)
    assert reliability([], []).error == 0


def slow_error(probabilities: list[float], outcomes: list[bool], num_bins: int) -> float:
    error = 0.0
    for place in range(num_bins):
        inside = [
            (p, came)
            for p, came in zip(probabilities, outcomes, strict=True)
            if place <= p * num_bins < place + 1 or (p == 1 and place == num_bins - 1)
        ]
        if inside:
            mean, share = (sum(column) / len(inside) for column in zip(*inside, strict=True))
            error += abs(mean - share) * len(inside) / len(probabilities)
    return error


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30), st.integers(1, 20))
def test_the_error_is_that_of_a_loop(pairs: list[tuple[float, bool]], num_bins: int) -> None:
    probabilities, outcomes = [p for p, _ in pairs], [came for _, came in pairs]
    curve = reliability(probabilities, outcomes, num_bins=num_bins)
    assert curve.error == pytest.approx(slow_error(probabilities, outcomes, num_bins), abs=1e-12)


# --- the correction --------------------------------------------------------------------------------------------------


def drawn(slope: float, offset: float, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose logits times slope plus offset are right."""
    generator = np.random.default_rng(0)
    scores = 1 / (1 + np.exp(-generator.normal(0.5, 2, count)))
    return scores, generator.random(count) < PlattScaling(slope, offset)(scores)


@pytest.mark.parametrize(("slope", "offset"), [(1.0, 0.0), (0.6, 1.3), (2.0, -1.0), (-0.5, 0.2)])
def test_what_was_wrong_is_found_and_mended(slope: float, offset: float) -> None:
    scores, came = drawn(slope, offset)
    found = PlattScaling.fitted(scores, came)
    assert_allclose(found, (slope, offset), atol=0.07)
    assert reliability(found(scores), came).error < 0.012
    if slope != 1:
        assert reliability(scores, came).error > 0.1


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=20))
def test_the_correction_is_the_most_likely_one(pairs: list[tuple[float, bool]]) -> None:
    scores, came = np.array([p for p, _ in pairs]), np.array([c for _, c in pairs])
    positive, negative = int(came.sum()), int((~came).sum())
    if not positive or not negative:
        with pytest.raises(DataError, match=f"^{positive} keypoints are seen and {negative} are not"):
            PlattScaling.fitted(scores, came)
        return
    targets = np.where(came, (positive + 1) / (positive + 2), 1 / (negative + 2))

    def loss(correction: PlattScaling) -> float:
        p = np.clip(correction(scores), 1e-300, 1 - 1e-16)
        return -float((targets * np.log(p) + (1 - targets) * np.log(1 - p)).sum())

    best = PlattScaling.fitted(scores, came)
    assert np.isfinite(best).all()
    for slope, offset in ((0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01)):
        assert loss(best) <= loss(PlattScaling(best.slope + slope, best.offset + offset)) + 1e-9


def test_weights_corrected_are_scores_corrected(photos: Path) -> None:
    """In the last layer of the real network: keypoint scores change as told, all else stays as it is.

    The scores, too, although the head for uncertainty reads keypoint scores.
    """
    image = read_photo(photos / "tennis.jpg")[None, :256, :256]
    session = open_weights(WEIGHTS)
    before = session.run(image)
    network = session._deployed.network
    network.load_state_dict(corrected_keypoint_scores(network.state_dict(), 0.6, 1.3))
    after = session.run(image)
    assert_allclose(after[0], before[0], atol=1e-5)
    np.testing.assert_array_equal(after[1], before[1])
    assert_allclose(after[2], PlattScaling(0.6, 1.3)(before[2]), atol=1e-5)
    assert np.abs(after[2] - before[2]).max() > 0.1


def test_weights_without_keypoint_scores() -> None:
    tensors = {"score.output.weight": torch.zeros(1, 4), "score.output.bias": torch.zeros(1)}
    for state in (tensors, {}):
        with pytest.raises(ModelError, match=r"^this network does not predict keypoint scores"):
            corrected_keypoint_scores(state, 1, 0)


# --- people found ----------------------------------------------------------------------------------------------------


def person(x: float, flags: tuple[int, int] = (2, 2), *, told: bool = True, ignore: bool = False) -> Person:
    """Two hands, 20 pixels apart."""
    visibility = np.array(flags, np.uint8)
    return Person(
        keypoints=np.array([[x, 10], [x + 20, 10]], np.float32),
        visibility=visibility,
        visible=np.where(told, visibility == 2, -1).astype(np.int8),
        keypoint_weights=np.ones(2, np.float32),
        box=np.array([x, 0, x + 20, 20], np.float32),
        area=400.0,
        score=1.0,
        is_crowd=False,
        ignore=ignore,
        annotation_id=1,
    )


def poses_at(*places: tuple[float, float], keypoint_scores: tuple[float, float] = (0.9, 0.2)) -> Poses:
    """Pairs of x and score."""
    points = [[[x, 10], [x + 20, 10]] for x, _ in places]
    keypoints, scores = np.array(points).reshape(-1, 2, 2), [score for _, score in places]
    return Poses(keypoints, scores, np.tile(keypoint_scores, (len(places), 1)).reshape(-1, 2), PAIR)


def test_the_best_pose_takes_the_person_most_like_it() -> None:
    persons = [person(100), person(102), person(300)]
    # Third is best and takes the second person; the first would be as well there, and takes what is left.
    poses = poses_at((102, 0.5), (310, 0.6), (102, 0.9), (101, 0.1))
    assert matches(poses, persons) == [(2, 1), (0, 0)]  # 310 is beyond OKS 0.5, and (101, 0.1) comes too late
    assert matches(poses_at((302, 0.6)), persons) == [(0, 2)]
    assert matches(poses, []) == []
    assert matches(poses_at(), persons) == []


def photo(number: int, *persons: Person) -> AnnotatedPhoto:
    return AnnotatedPhoto(number, Path(str(number)), (100, 400), persons, False, None)


def test_only_what_the_truth_tells_counts() -> None:
    photos = [
        photo(0, person(100, (2, 1))),
        photo(1, person(100, ignore=True)),
        photo(2, person(100, (2, 0)), person(200, (1, 2), told=False)),
    ]
    found = found_people(lambda _: poses_at((100, 0.9), (200, 0.8)), photos)
    np.testing.assert_array_equal(found.photos, [0, 2, 2])
    np.testing.assert_array_equal(found.seen, [[1, 0], [1, 0], [-1, -1]])
    np.testing.assert_array_equal(found.among(labelled=False), [[1, 1], [1, 1], [0, 0]])
    np.testing.assert_array_equal(found.among(labelled=True), [[1, 1], [1, 0], [0, 0]])
    assert_allclose(found.scores, [[0.9, 0.2]] * 3, atol=1e-6)
    with pytest.raises(
        DataError, match=r"^none of the labelled people in 3 photos was found: no keypoint scores to measure$"
    ):
        found_people(lambda _: Poses.empty(PAIR), photos)


def found_as(photos: np.ndarray, scores: np.ndarray, seen: np.ndarray) -> Found:
    return Found(photos, scores, seen, seen >= 0, np.ones(len(photos)), None)


def test_each_half_is_corrected_by_the_other() -> None:
    """Photos of even numbers are wrong in one way, odd ones in another: the correction must not help."""
    scores, even = drawn(0.5, 2)
    _, odd = drawn(0.5, -2)
    seen = np.concatenate([even, odd])[:, None].astype(np.int8)
    both = np.concatenate([scores, scores])[:, None]
    photos = np.repeat([0, 1], len(scores))
    measured = calibration(found_as(photos, both, seen), labelled=False)
    assert measured.num_keypoints == 40_000
    assert measured.corrected.error > 0.25
    alike = calibration(found_as(np.arange(40_000), both, seen), labelled=False)
    assert alike.corrected.error < 0.02 < alike.as_is.error


def test_ellipses_hold_what_a_normal_distribution_promises() -> None:
    """People of 20 pixels with the errors that their covariances say, and those of 200 with half the deviation."""
    covariance = np.array([[9.0, 4.0], [4.0, 4.0]])
    generator = np.random.default_rng(0)
    photos, predicted = [], {}
    for number in range(4000):
        small = number % 2 == 0
        error = generator.multivariate_normal([0, 0], covariance * (1 if small else 0.25), 2)
        truth = replace(person(100, (2, 0 if number % 4 == 0 else 1)), area=400.0 if small else 40_000.0)
        photos.append(photo(number, truth))
        poses = poses_at((100, 0.9))
        # A keypoint that is not labelled does not count, wherever it is.
        error[1] *= 1000 if number % 4 == 0 else 1
        keypoints = poses.keypoints - error
        extra = {"keypoint_covariances": np.tile(covariance, (1, 2, 1, 1))}
        predicted[str(number)] = Poses(keypoints, poses.scores, poses.keypoint_scores, PAIR, extra)
    wide = replace(PAIR, sigmas=(1.0, 1.0))
    predicted = {name: replace(poses, skeleton=wide) for name, poses in predicted.items()}
    measured = coverage(found_people(lambda path: predicted[str(path)], photos))
    everybody, little, large = measured
    assert (everybody.num_keypoints, little.num_keypoints, large.num_keypoints) == (7000, 3000, 4000)
    assert (little.least, little.below, large.least, large.below) == (0, 32, 192, None)
    assert_allclose(little.shares, (0.5, 0.9, 0.95), atol=0.02)
    assert_allclose(large.shares, 1 - (1 - np.array([0.5, 0.9, 0.95])) ** 4, atol=0.02)
    assert_allclose(everybody.shares, (3 * np.array(little.shares) + 4 * np.array(large.shares)) / 7, atol=1e-9)
    assert str(large).startswith("people of 192 pixels and more: 4000 labelled keypoints, in ellipses 93.")
    assert coverage(found_people(lambda _: poses_at((100, 0.9)), photos[:1])) == []


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_calibrate_measures_and_corrects(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, written = photos / "truth.json", tmp_path / "corrected.safetensors"
    command = ["calibrate", truth, "--photos", photos, "--output", tmp_path / "out", "--long-side", 320, "--labelled"]
    command += ["--score-threshold", 0.2]
    assert main([*map(str, command), "--model", str(WEIGHTS), "--write", str(written)]) == 0
    results = json.loads((tmp_path / "out" / "calibration.json").read_text())["results"]
    assert results["num_people"] > 10
    assert f"expected calibration error {results['as_is']['error']:.3f}; " in capsys.readouterr().out
    assert (tmp_path / "out" / "calibration.png").read_bytes().startswith(b"\x89PNG")
    # Of corrected weights there is nothing left to correct.
    detector = PoseDet(open_weights(written), long_side=320, score_threshold=0.2)
    found = found_people(detector, read_photos(f"{truth}:{photos}", COCO))
    assert_allclose(calibration(found, labelled=True).correction, (1, 0), atol=0.01)
    assert np.abs(np.subtract(list(results["correction"].values()), (1, 0))).max() > 0.1


def test_an_onnx_file_cannot_be_corrected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "truth.json", "--output", str(tmp_path), "--write", "x.safetensors"]) == 2
    assert capsys.readouterr().err.startswith("posedet: error: --write: needs --model x.safetensors")
