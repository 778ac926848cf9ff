"""PoseDet behind the interface of rtmlib."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from posedet import PoseDet
from posedet.errors import PoseDetError
from posedet.formats import rtmlib
from posedet.formats.rtmlib import Body, BodyWithFeet, PoseTracker
from posedet.image import read_photo


@pytest.fixture(scope="module")
def body() -> Body:
    return Body(mode="balanced", backend="onnxruntime", device="cpu")


@pytest.fixture
def image(photos: Path) -> np.ndarray:
    """BGR, as OpenCV reads it."""
    return np.ascontiguousarray(read_photo(photos / "skiers.jpg")[..., ::-1])


def test_it_is_the_detector_with_other_colours_and_arrays(body: Body, image: np.ndarray, photos: Path) -> None:
    keypoints, scores = body(image)
    poses = PoseDet()(read_photo(photos / "skiers.jpg"))
    assert len(poses) == 2
    np.testing.assert_array_equal(keypoints, poses.keypoints, strict=True)
    np.testing.assert_array_equal(scores, poses.keypoint_scores, strict=True)
    keypoints, scores = body(np.zeros((64, 64, 3), np.uint8))
    assert keypoints.shape == (0, 17, 2) and scores.shape == (0, 17)


def test_openpose_has_a_neck_and_right_before_left(body: Body, image: np.ndarray) -> None:
    keypoints, scores = body(image)
    openpose = Body(to_openpose=True)
    other, other_scores = openpose(image)
    assert other.shape == (2, 18, 2)
    np.testing.assert_allclose(other[:, 1], keypoints[:, 5:7].mean(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(other[:, [0, 2, 4, 13, 17]], keypoints[:, [0, 6, 10, 15, 3]])
    np.testing.assert_array_equal(other_scores[:, 15], scores[:, 1])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"det": "yolox_m.onnx"}, "det: 'yolox_m.onnx', but PoseDet needs no detector of people; leave it out"),
        ({"mode": "fast"}, "mode: 'fast', expected one of lightweight, balanced, performance"),
        ({"mode": {"pose_class": "RTMO"}}, "mode: {'pose_class': 'RTMO'}, expected one of lightweight, balanced"),
        ({"backend": "opencv"}, "backend: 'opencv', expected one of onnxruntime, openvino"),
        ({"device": "mps"}, "device: 'mps', expected one of cpu, cuda, directml, coreml, openvino, auto"),
        ({"device": "directml"}, "device 'directml' is not in this ONNX Runtime; install onnxruntime-directml"),
        ({"pose": "https://example.org/rtmpose.zip"}, "https://example.org/rtmpose.zip"),
    ],
)
def test_what_it_does_not_know_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(PoseDetError) as caught:
        Body(**arguments)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_feet_need_a_model_with_feet() -> None:
    with pytest.raises(PoseDetError, match=r"^BodyWithFeet: the model has no keypoint 'left_big_toe'; use Body$"):
        BodyWithFeet()


def test_only_images_are_taken(body: Body) -> None:
    with pytest.raises(PoseDetError, match=r"^image: str, expected an array \(H, W, 3\) uint8 BGR$"):
        body("a.jpg")


def test_the_tracker_keeps_ids(image: np.ndarray) -> None:
    tracker = PoseTracker(Body, det_frequency=7, tracking=True, mode="balanced", to_openpose=False, device="cpu")
    first, _ = tracker(image)
    assert tracker.track_ids_last_frame == [0, 1]
    shifted, _ = tracker(np.roll(image, 2, axis=1))
    assert tracker.track_ids_last_frame == [0, 1] and tracker.frame_cnt == 2
    assert np.abs(shifted - first).max() < 30
    tracker.reset()
    assert tracker.track_ids_last_frame == []
    with pytest.raises(PoseDetError, match=r"solution: SimpleNamespace, expected Body of posedet\.formats"):
        PoseTracker(SimpleNamespace)


def test_the_tracker_of_rtmlib_takes_it_for_a_model_without_a_detector(body: Body) -> None:
    assert body.det_model is None and body.pose_model is body
    assert rtmlib._MODES == ("lightweight", "balanced", "performance")
