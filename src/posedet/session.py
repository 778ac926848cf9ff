"""A model file, opened to run: ONNX Runtime or OpenVINO, and what the file says of itself."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from posedet.config import DecodeConfig, decode_config_from_dict
from posedet.errors import ConfigError, DataError, ModelError
from posedet.skeleton import Skeleton

Runtime = Literal["onnxruntime", "openvino"]
Outputs = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]

MAX_MODEL_BYTES = 2_000_000_000


@dataclass(frozen=True)
class About:
    """What a model file says of itself (metadata `posedet`)."""

    name: str
    version: str
    skeleton: Skeleton
    decode: DecodeConfig
    config: dict[str, Any]


class Session(Protocol):
    """A network that runs: safe to use from several threads at once."""

    about: About

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """images: (B, H, W, 3) uint8 RGB, H and W multiples of 32, at least 128.

        Returns scores (B, N), keypoints (B, N, K, 2) in pixels of the input, keypoint scores (B, N, K).
        """


def open_session(path: Path, *, runtime: Runtime = "onnxruntime", threads: int | None = None) -> Session:
    """Open a posedet ONNX file. Raises ModelError naming the file when it is missing, damaged or not posedet's."""
    if not path.is_file():
        raise ModelError(f"{path}: no such model file")
    if path.stat().st_size > MAX_MODEL_BYTES:
        raise ModelError(f"{path}: larger than {MAX_MODEL_BYTES} bytes")
    if runtime == "openvino":
        return _OpenVino(path, threads)
    return _OnnxRuntime(path, threads)


class _OnnxRuntime:
    def __init__(self, path: Path, threads: int | None) -> None:
        import onnxruntime  # two tenths of a second: not paid by `import posedet`

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # A spinning pool takes a core from whatever runs beside it, and gains nothing here (measured).
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's own exceptions have no common base
            raise ModelError(f"{path}: not a readable ONNX file ({_first_line(error)})") from None
        self.about = _about(path, self._session.get_modelmeta().custom_metadata_map.get("posedet"))

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        scores, keypoints, keypoint_scores = self._session.run(None, {"images": images})
        return scores, keypoints, keypoint_scores


class _OpenVino:
    def __init__(self, path: Path, threads: int | None) -> None:
        try:
            import openvino
        except ModuleNotFoundError:
            raise ModelError('runtime "openvino" is not installed: pip install "posedet[openvino]"') from None
        # Its default precision on many processors is bfloat16, which moves keypoints by half a pixel.
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            model = openvino.Core().read_model(path)
            self._compiled = openvino.Core().compile_model(model, "CPU", settings)
        except Exception as error:
            raise ModelError(f"{path}: not a readable model ({_first_line(error)})") from None
        key = ["framework", "posedet"]
        self.about = _about(path, model.get_rt_info(key).astype(str) if model.has_rt_info(key) else None)

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        # One request for each call: a shared one may not be used by two threads at once.
        result = self._compiled.create_infer_request().infer([images])
        scores, keypoints, keypoint_scores = (result[i] for i in range(3))
        return scores, keypoints, keypoint_scores


def _about(path: Path, text: str | None) -> About:
    if text is None:
        raise ModelError(f"{path}: not a posedet model: it has no metadata 'posedet' (made by `posedet export`?)")
    try:
        data = json.loads(text)
        return About(
            name=str(data["name"]),
            version=str(data["version"]),
            skeleton=Skeleton.from_dict(data["skeleton"]),
            decode=decode_config_from_dict(data["config"]["decode"], str(path)),
            config=data["config"],
        )
    except (json.JSONDecodeError, KeyError, TypeError, DataError, ConfigError) as error:
        raise ModelError(f"{path}: metadata 'posedet' cannot be used ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
