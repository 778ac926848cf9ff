"""Open a model file with ONNX Runtime or OpenVINO, and read its metadata."""

import ctypes
import json
import logging
import os
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from posedet.config import DecodeConfig, decode_config_from_dict
from posedet.errors import ConfigError, DataError, ModelError
from posedet.files import content_of, one_line
from posedet.poses import COVARIANCES
from posedet.runtime.onnx_file import onnx_metadata
from posedet.runtime.parallel import available_cores
from posedet.runtime.telemetry import turn_off
from posedet.skeleton import Skeleton

log = logging.getLogger(__name__)

Runtime = Literal["onnxruntime", "openvino"]
Device = Literal["cpu", "cuda", "directml", "coreml", "openvino", "auto"]
Float32Array = NDArray[np.float32]


class _Provider(NamedTuple):
    """What ONNX Runtime calls a device, and the package whose ONNX Runtime has it."""

    name: str
    package: str


# In the order in which "auto" tries them.
_PROVIDERS: dict[str, _Provider] = {
    "cuda": _Provider("CUDAExecutionProvider", "onnxruntime-gpu"),
    "directml": _Provider("DmlExecutionProvider", "onnxruntime-directml"),
    "coreml": _Provider("CoreMLExecutionProvider", "onnxruntime for macOS"),
    "openvino": _Provider("OpenVINOExecutionProvider", "onnxruntime-openvino"),
    "cpu": _Provider("CPUExecutionProvider", "onnxruntime"),
}

MAX_MODEL_BYTES = 2_000_000_000
MAX_POSES = 100_000  # of an image: what leaves the network, before duplicates are removed
INPUT = "images"
# Outputs of some models, computed on demand: what a person looks like, (B, N, D), L2-normalised, and the covariances of
# the keypoints, `poses.COVARIANCES`, (B, N, K, 2, 2) in pixels of the network input squared.
EMBEDDING = "embedding"


class Outputs(NamedTuple):
    """The outputs of a network for B images: N poses of K keypoints each.

    `extra` holds further outputs of the model by name: (B, N, K, ...) if the name begins with "keypoint_", otherwise
    (B, N, ...).
    """

    scores: Float32Array  # (B, N) 0 to 1
    keypoints: Float32Array  # (B, N, K, 2) x, y in pixels of the network input
    keypoint_scores: Float32Array  # (B, N, K) 0 to 1
    extra: Mapping[str, Float32Array] = {}

    @classmethod
    def named(cls, arrays: Mapping[str, Float32Array]) -> "Outputs":
        """Build `Outputs` from a network's outputs by name."""
        extra = {name: array for name, array in arrays.items() if name not in OUTPUTS}
        return cls(arrays["scores"], arrays["keypoints"], arrays["keypoint_scores"], extra)

    def one(self, place: int) -> "Outputs":
        """Return the poses of one image: the same fields without the dimension B."""
        extra = {name: array[place] for name, array in self.extra.items()}
        return Outputs(self.scores[place], self.keypoints[place], self.keypoint_scores[place], extra)


OUTPUTS = Outputs._fields[:3]  # the names of the outputs that every model has


@dataclass(frozen=True)
class About:
    """The metadata of a model file (entry `posedet`).

    Attributes:
        name: The name of the model.
        version: The posedet version that exported it.
        skeleton: All keypoints of the model.
        decode: The settings for decoding its output.
        config: All settings, as a dictionary.
    """

    name: str
    version: str
    skeleton: Skeleton
    decode: DecodeConfig
    config: dict[str, Any]


class Session(Protocol):
    """An open network. Sessions may be used from several threads at the same time."""

    @property
    def about(self) -> About: ...

    @property
    def device(self) -> str:
        """Where the network runs, such as `"cpu"` or `"cuda"`."""

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Run the network and return its outputs for each image.

        Args:
            images: (B, H, W, 3) uint8 RGB; H and W are multiples of 32 and at least 128.
        """


def open_session(
    model: Path | bytes | BinaryIO,
    *,
    runtime: Runtime = "onnxruntime",
    device: Device = "cpu",
    threads: int | None = None,
    at_once: int = 1,
    embedding: bool = False,
    covariances: bool = False,
) -> Session:
    """Open a posedet ONNX file.

    Args:
        model: The file: a path, its bytes, or a binary file that is open.
        runtime: `"onnxruntime"` or `"openvino"`.
        device: Where ONNX Runtime runs: `"cpu"`, `"cuda"`, `"directml"`, `"coreml"`, `"openvino"`, or `"auto"`, the
            first of `cuda`, `directml`, `coreml`, `openvino` and `cpu` that works. Runtime `"openvino"` uses the CPU.
        threads: Number of processor cores to use. Default: all.
        at_once: Number of concurrent calls that share the cores.
        embedding: Compute the identity embedding, if the model has it.
        covariances: Compute the covariances of keypoints, which the model must have.

    Raises:
        ModelError: If the file is missing, damaged or not made by posedet, or if the runtime is not installed.
        ConfigError: If an argument is out of range, or if the device cannot be used.
    """
    if runtime not in get_args(Runtime):
        raise ConfigError(f"runtime is {runtime!r}, expected {' or '.join(map(repr, get_args(Runtime)))}")
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}, expected at least 1")
    if threads is not None and threads < at_once:
        raise ConfigError(f"at_once is {at_once}, but threads is {threads}; each photo needs a thread")
    if threads is None and at_once > 1:
        threads = max(available_cores(), at_once)
    if device not in get_args(Device):
        raise ConfigError(f"device is {device!r}, expected one of {', '.join(map(repr, get_args(Device)))}")
    if runtime == "openvino" and device not in ("cpu", "auto"):
        raise ConfigError(f"device is {device!r}, but runtime 'openvino' runs on the CPU; choose one of the two")
    if not isinstance(model, Path | bytes):
        model = content_of(model, "model", MAX_MODEL_BYTES, ModelError)
    kind = _OpenVino if runtime == "openvino" else _OnnxRuntime
    return kind(model, threads, at_once, not_wanted(embedding=embedding, covariances=covariances), device)


def not_wanted(*, embedding: bool, covariances: bool) -> frozenset[str]:
    """Return the names of the outputs that are computed on demand, without those that are wanted."""
    return frozenset(name for name, wanted in ((EMBEDDING, embedding), (COVARIANCES, covariances)) if not wanted)


class _OpenFile:
    """A file that is checked before a runtime opens it.

    A session is pickled as what opened it, because the objects of a runtime cannot be pickled. For the same reason a
    forked process opens the file again: the threads of a runtime are not in the fork.
    """

    _session: Any = None  # the runtime's own session; None in a fork that has not used it yet
    device = "cpu"

    def __init__(
        self, model: Path | bytes, threads: int | None, at_once: int, unwanted: frozenset[str], device: Device
    ) -> None:
        self._name = "model" if isinstance(model, bytes) else one_line(model)
        if isinstance(model, Path):
            if not model.is_file():
                raise ModelError(f"{self._name}: no such model file")
            model = model.absolute()
        if (len(model) if isinstance(model, bytes) else model.stat().st_size) > MAX_MODEL_BYTES:
            raise ModelError(f"{self._name}: larger than {MAX_MODEL_BYTES} bytes")
        self._opened = (model, threads, at_once, unwanted, device)
        self.about = _about(self._name, onnx_metadata(model, self._name).get("posedet"))
        _open_files.add(self)

    def _here(self) -> Any:
        """The runtime's own session, of this process."""
        if self._session is None:
            self.__init__(*self._opened)  # type: ignore[misc]
        return self._session

    def _forked(self) -> None:
        # One reference too many: to release it, even at the end of the process, would wait for its threads for ever.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))
        self._session = None

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), self._opened

    def _checked(self, arrays: Mapping[str, NDArray[Any]], images: NDArray[np.uint8]) -> Outputs:
        """Return the outputs if their shapes and types are those of poses, which no runtime promises."""
        scores = arrays["scores"]
        poses = (len(images), scores.shape[1] if scores.ndim == 2 else 1)
        keypoints = (*poses, self.about.skeleton.num_keypoints)
        exact = {"scores": poses, "keypoints": (*keypoints, 2), "keypoint_scores": keypoints}
        for name, array in arrays.items():
            wanted = exact.get(name) or (keypoints if name.startswith("keypoint_") else poses)
            shape = array.shape if name in exact else array.shape[: len(wanted)]
            if array.dtype.kind not in "biuf" or shape != wanted:
                expected = f"numbers of shape {wanted}{'' if name in exact else ' and more'}"
                found = f"{array.dtype} of shape {array.shape}, expected {expected}"
                raise ModelError(f"{self._name}: output {one_line(name):.80} is {found}")
        if poses[1] > MAX_POSES:
            raise ModelError(f"{self._name}: finds {poses[1]} poses in an image, expected at most {MAX_POSES}")
        return Outputs.named(arrays)


_open_files: weakref.WeakSet[_OpenFile] = weakref.WeakSet()


def _forked() -> None:
    for each in _open_files:
        each._forked()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forked)


class _OnnxRuntime(_OpenFile):
    def __init__(
        self, model: Path | bytes, threads: int | None, at_once: int, unwanted: frozenset[str], device: Device
    ) -> None:
        super().__init__(model, threads, at_once, unwanted, device)
        import onnxruntime  # takes 0.2 s, which `import posedet` should not pay

        turn_off()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # Spinning threads take cores from other work, and were no faster here (measured).
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # A larger constant that the graph computes is not computed when the file is opened.
        options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", "100000000")
        if threads is not None:
            # Each caller uses its own thread and shares the rest. For many photos, one core per photo needs 0.88 of
            # the processor time of several cores per photo (measured), because no layer has to be split.
            options.intra_op_num_threads = threads - at_once + 1
        self._session, self.device = self._on(device, options)
        # DirectML alone must not run a session in two threads at once.
        self._turn = threading.Lock() if self.device == "directml" else nullcontext()
        shapes = {port.name: port.shape for port in self._session.get_outputs()}
        self._names = [name for name in shapes if name not in unwanted]
        self._run_options = onnxruntime.RunOptions()
        self._run_options.only_execute_path_to_fetches = True
        _check_ports(self._name, self.about, [port.name for port in self._session.get_inputs()], shapes, unwanted)

    def _on(self, device: Device, options: Any) -> tuple[Any, str]:
        """Open the model on a device, or on the best that works; return ONNX Runtime's session and that device."""
        import onnxruntime

        available = onnxruntime.get_available_providers()
        if device != "auto" and _PROVIDERS[device].name not in available:
            package = _PROVIDERS[device].package
            raise ConfigError(f"device {device!r} is not in this ONNX Runtime; install {package} in its place")
        wanted = [name for name in _PROVIDERS if _PROVIDERS[name].name in available and device in (name, "auto")]
        reason = ""
        for name in dict.fromkeys([*wanted, "cpu"]):
            if name == "cuda" and hasattr(onnxruntime, "preload_dlls"):
                with redirect_stdout(sys.stderr):
                    onnxruntime.preload_dlls()  # those that pip installed; otherwise only PyTorch loads them
            provider = _PROVIDERS[name].name
            try:
                # Without a fallback, which prints what failed and then uses the CPU.
                session = onnxruntime.InferenceSession(
                    self._opened[0], options, providers=[provider], enable_fallback=0
                )
            except Exception as error:  # the runtime's exceptions have no common base class
                reason = _first_line(error)
                continue
            if provider in session.get_providers():
                break
            reason = "it took the CPU instead"
        else:
            raise ModelError(f"{self._name}: not a readable ONNX file ({reason})")
        if name != device != "auto":
            raise ConfigError(f"device {device!r} does not work in ONNX Runtime ({reason}); check its drivers")
        if device == "auto":
            log.info("device: %s", name)
        return session, name

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        session = self._here()
        try:
            with self._turn:
                arrays = session.run(self._names, {INPUT: images}, self._run_options)
        except Exception as error:
            raise _failed(self._name, images, error) from error
        return self._checked(dict(zip(self._names, arrays, strict=True)), images)


class _OpenVino(_OpenFile):
    def __init__(
        self, model: Path | bytes, threads: int | None, at_once: int, unwanted: frozenset[str], device: Device
    ) -> None:
        super().__init__(model, threads, at_once, unwanted, device)
        try:
            import openvino
        except ModuleNotFoundError:
            raise ModelError('runtime "openvino" is not installed: pip install "posedet[openvino]"') from None
        # The default precision on many processors is bfloat16, which moves keypoints by half a pixel.
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        if at_once > 1:
            settings["NUM_STREAMS"] = at_once
        try:
            network = openvino.Core().read_model(self._opened[0])
            for result in network.get_results():
                if unwanted & result.input(0).get_source_output().get_names():
                    network.remove_result(result)
            self._session = openvino.Core().compile_model(network, "CPU", settings)
        except Exception as error:
            raise ModelError(f"{self._name}: not a readable model ({_first_line(error)})") from None
        shapes = {
            port.any_name: [side.get_length() if side.is_static else None for side in port.partial_shape]
            for port in network.outputs
        }
        _check_ports(self._name, self.about, [port.any_name for port in network.inputs], shapes, unwanted)

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        session = self._here()
        try:
            # One request per call, because two threads must not use the same one.
            result = session.create_infer_request().infer([images])
            arrays = {port.any_name: result[port] for port in session.outputs}
        except Exception as error:
            raise _failed(self._name, images, error) from error
        return self._checked(arrays, images)


def _about(name: str, text: str | None) -> About:
    """Read the metadata."""
    if text is None:
        raise ModelError(
            f"{name}: not a posedet model: metadata 'posedet' is missing; make the file with `posedet export`"
        )
    try:
        data = json.loads(text)
        return About(
            name=str(data["name"]),
            version=str(data["version"]),
            skeleton=Skeleton.from_dict(data["skeleton"]),
            decode=decode_config_from_dict(data["config"]["decode"], "config"),
            config=data["config"],
        )
    except (ValueError, KeyError, TypeError, RecursionError, DataError, ConfigError) as error:
        raise ModelError(f"{name}: metadata 'posedet' is invalid ({_first_line(error)})") from None


def _check_ports(
    name: str, about: About, inputs: Sequence[str], outputs: Mapping[str, Sequence[object]], unwanted: frozenset[str]
) -> None:
    """Check the names of the inputs and outputs, and that the keypoints are those of the metadata."""
    if list(inputs) != [INPUT] or not set(OUTPUTS) <= set(outputs):
        names = f"{', '.join(inputs)} -> {', '.join(outputs)}"
        raise ModelError(f"{name}: has {one_line(names):.200}, expected {INPUT} -> {', '.join(OUTPUTS)}")
    if COVARIANCES not in unwanted and COVARIANCES not in outputs:
        raise no_covariances(name)
    shape = outputs["keypoints"]
    if len(shape) == 4 and isinstance(shape[2], int) and shape[2] != about.skeleton.num_keypoints:
        expected = f"its skeleton '{about.skeleton.name}' has {about.skeleton.num_keypoints}"
        raise ModelError(f"{name}: has {shape[2]} keypoints, but {expected}")


def no_covariances(name: str) -> ModelError:
    """Return the error of a model that lacks covariances which are wanted."""
    return ModelError(f"{name}: does not know covariances of keypoints; `posedet uncertainty` adds them to weights")


def _failed(name: str, images: NDArray[np.uint8], error: Exception) -> ModelError:
    _, height, width, _ = images.shape
    return ModelError(f"{name}: failed on an input of {width} x {height} pixels ({_first_line(error)})")


def _first_line(error: Exception) -> str:
    """Return the first line of a runtime's message, which may quote any byte of the file."""
    return one_line(next(iter(str(error).splitlines()), ""))[:300] or type(error).__name__
