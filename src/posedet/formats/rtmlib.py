"""rtmlib's interface: for programs that call `keypoints, scores = Body(...)(image)` to find people with PoseDet.

Instead of `from rtmlib import Body, PoseTracker`, write `from posedet.formats.rtmlib import Body, PoseTracker`.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self, cast, get_args

import numpy as np
from numpy.typing import NDArray

from posedet.errors import ConfigError, DataError, PhotoError
from posedet.formats.openpose import composed
from posedet.poses import Poses
from posedet.runtime.detector import PoseDet
from posedet.runtime.session import Device
from posedet.skeleton import COCO
from posedet.tracking.tracker import Tracker

Found = tuple[NDArray[np.float32], NDArray[np.float32]]

_COCO = tuple((name,) for name in COCO.keypoints)
# OpenPose's model COCO, which rtmlib gives with `to_openpose`.
_COCO_18 = (
    *[("nose",), ("left_shoulder", "right_shoulder"), ("right_shoulder",), ("right_elbow",), ("right_wrist",)],
    *[("left_shoulder",), ("left_elbow",), ("left_wrist",), ("right_hip",), ("right_knee",), ("right_ankle",)],
    *[("left_hip",), ("left_knee",), ("left_ankle",), ("right_eye",), ("left_eye",), ("right_ear",), ("left_ear",)],
)
_HALPE_26 = (
    *_COCO,
    *[("head_top",), ("neck",), ("left_hip", "right_hip"), ("left_big_toe",), ("right_big_toe",)],
    *[("left_small_toe",), ("right_small_toe",), ("left_heel",), ("right_heel",)],
)

_MODES = ("lightweight", "balanced", "performance")
_RUNTIMES = ("onnxruntime", "openvino")


class Body:
    """rtmlib's `Body`: COCO's 17 keypoints, or 18 in OpenPose's order.

    Args:
        det: rtmlib's detector of people, which PoseDet does not need. Only None is accepted.
        det_input_size: Ignored, as nothing detects people first.
        pose: A model as in `PoseDet`: the path of an ONNX file or a name. None: that of `mode`.
        pose_input_size: Ignored. The network takes photos of any size.
        mode: `"lightweight"` (posedet-s-int8), `"balanced"` (posedet-s), or `"performance"` (posedet-s with a long side
            of 960 pixels).
        to_openpose: Report the 18 keypoints of OpenPose's model COCO.
        backend: `"onnxruntime"` or `"openvino"`.
        device: As in `PoseDet`: `"cpu"`, `"cuda"`, ...

    Raises:
        ConfigError: If an argument has a value that PoseDet does not know, or the device is missing.
        ModelError: If the model file is missing, damaged or not made by posedet.
    """

    keypoints: ClassVar[Sequence[Sequence[str]]] = _COCO
    det_model = None  # so that rtmlib's own PoseTracker takes it for a model without a detector

    def __init__(
        self,
        det: str | None = None,
        det_input_size: tuple[int, int] = (640, 640),
        pose: str | None = None,
        pose_input_size: tuple[int, int] = (288, 384),
        mode: str = "balanced",
        to_openpose: bool = False,
        backend: str = "onnxruntime",
        device: str = "cpu",
    ) -> None:
        if det is not None:
            raise ConfigError(f"det: {det!r:.80}, but PoseDet needs no detector of people; leave it out")
        for name, value, known in (
            ("mode", mode, _MODES),
            ("backend", backend, _RUNTIMES),
            ("device", device, get_args(Device)),
        ):
            if value not in known:
                raise ConfigError(f"{name}: {value!r:.80}, expected one of {', '.join(known)}")
        self._wanted = _COCO_18 if to_openpose else self.keypoints
        self.detector = PoseDet(
            pose or ("posedet-s-int8" if mode == "lightweight" else "posedet-s"),
            long_side=960 if mode == "performance" else None,
            runtime="openvino" if backend == "openvino" else "onnxruntime",
            device=cast(Device, device),
        )
        model = self.detector.about.skeleton
        if missing := [part for parts in self._wanted for part in parts if part not in model.keypoints]:
            raise DataError(f"{type(self).__name__}: the model has no keypoint '{missing[0]}'; use Body")
        self.detector = self.detector.adjusted(skeleton=model)

    @property
    def pose_model(self) -> Self:
        """The model itself, which is where rtmlib's own PoseTracker looks for it."""
        return self

    def __call__(self, image: NDArray[np.uint8]) -> Found:
        """Find people.

        Args:
            image: (H, W, 3) uint8 BGR, as OpenCV reads it.

        Returns:
            Keypoints (N, K, 2) float32 in pixels, and scores (N, K) float32, the person with the highest score first.

        Raises:
            PhotoError: If the image is no such array.
        """
        return self.found(self.poses(image))

    def poses(self, image: NDArray[np.uint8]) -> Poses:
        """Find people; as a call, but with their scores and all keypoints of the model.

        Args:
            image: (H, W, 3) uint8 BGR.
        """
        if not isinstance(image, np.ndarray) or image.ndim != 3:
            raise PhotoError(f"image: {type(image).__name__}, expected an array (H, W, 3) uint8 BGR")
        return self.detector(image[..., ::-1])

    def found(self, poses: Poses) -> Found:
        """Convert to rtmlib's two arrays.

        Args:
            poses: Poses that `poses` found.
        """
        triples = composed(poses, self._wanted)
        return triples[..., :2], triples[..., 2]


class BodyWithFeet(Body):
    """rtmlib's `BodyWithFeet`: the 26 keypoints of Halpe. posedet-s does not know feet, so `pose` must name a model."""

    keypoints = _HALPE_26


class PoseTracker:
    """rtmlib's `PoseTracker`, with the ids of `posedet.tracking.Tracker`.

    Args:
        solution: `Body` or `BodyWithFeet`.
        det_frequency: Ignored: PoseDet finds people and keypoints in one step, in every frame.
        tracking: Whether people are followed. `track_ids_last_frame` then has the id of each person.
        tracking_thr: Ignored: people are matched by OKS and motion.
        mode: As in `Body`; so are the other arguments.
        to_openpose: As in `Body`.
        backend: As in `Body`.
        device: As in `Body`.
        frame_rate: Frames a second, by which motion is judged.
    """

    def __init__(
        self,
        solution: Callable[..., Any],
        det_frequency: int = 1,
        tracking: bool = True,
        tracking_thr: float = 0.3,
        mode: str | None = None,
        to_openpose: bool = False,
        backend: str = "onnxruntime",
        device: str = "cpu",
        *,
        frame_rate: float = 30.0,
    ) -> None:
        model = solution(mode=mode or "balanced", to_openpose=to_openpose, backend=backend, device=device)
        if not isinstance(model, Body):
            raise ConfigError(f"solution: {type(model).__name__}, expected Body of posedet.formats.rtmlib")
        self._model, self._tracking, self._frame_rate = model, tracking, frame_rate
        self.reset()

    def reset(self) -> None:
        """Forget all people."""
        self._tracker, self.frame_cnt = Tracker(), 0
        self.track_ids_last_frame: list[int] = []

    def __call__(self, image: NDArray[np.uint8]) -> Found:
        """Find people in the next frame; see `Body`."""
        poses = self._model.poses(image)
        if self._tracking:
            poses = self._tracker.update(poses, self.frame_cnt / self._frame_rate)
            self.track_ids_last_frame = (poses.ids - 1).tolist()  # they count from 0
        self.frame_cnt += 1
        return self._model.found(poses)
