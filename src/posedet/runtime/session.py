"""Open a model file with ONNX Runtime or OpenVINO, and read its metadata."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from posedet.config import DecodeConfig, decode_config_from_dict
from posedet.errors import ConfigError, DataError, ModelError
from posedet.files import one_line
from posedet.runtime.onnx_file import onnx_metadata
from posedet.runtime.parallel import available_cores
from posedet.runtime.telemetry import turn_off
from posedet.skeleton import Skeleton

Runtime = Literal["onnxruntime", "openvino"]
Float32Array = NDArray[np.float32]

MAX_MODEL_BYTES = 2_000_000_000
MAX_POSES = 100_000  # of an image: what leaves the network, before duplicates are removed
INPUT = "images"
EMBEDDING = "embedding"  # output of some models: what a person looks like, (B, N, D), L2-normalised


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

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Run the network and return its outputs for each image.

        Args:
            images: (B, H, W, 3) uint8 RGB; H and W are multiples of 32 and at least 128.
        """


def open_session(
    path: Path,
    *,
    runtime: Runtime = "onnxruntime",
    threads: int | None = None,
    at_once: int = 1,
    embedding: bool = False,
) -> Session:
    """Open a posedet ONNX file.

    Args:
        path: The file.
        runtime: `"onnxruntime"` or `"openvino"`.
        threads: Number of processor cores to use. Default: all.
        at_once: Number of concurrent calls that share the cores.
        embedding: Compute the identity embedding, if the model has it.

    Raises:
        ModelError: If the file is missing, damaged or not made by posedet, or if the runtime is not installed.
        ConfigError: If an argument is out of range.
    """
    if runtime not in get_args(Runtime):
        raise ConfigError(f"runtime is {runtime!r}, expected {' or '.join(map(repr, get_args(Runtime)))}")
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}, expected at least 1")
    if threads is not None and threads < at_once:
        raise ConfigError(f"at_once is {at_once}, but threads is {threads}; each photo needs a thread")
    if threads is None and at_once > 1:
        threads = max(available_cores(), at_once)
    return (_OpenVino if runtime == "openvino" else _OnnxRuntime)(path, threads, at_once, embedding)


class _OpenFile:
    """A file that is checked before a runtime opens it.

    A session is pickled as what opened it, because the objects of a runtime cannot be pickled.
    """

    def __init__(self, path: Path, threads: int | None, at_once: int, embedding: bool) -> None:
        if not path.is_file():
            raise ModelError(f"{one_line(path)}: no such model file")
        if path.stat().st_size > MAX_MODEL_BYTES:
            raise ModelError(f"{one_line(path)}: larger than {MAX_MODEL_BYTES} bytes")
        self._name = one_line(path)
        self._opened = (path.absolute(), threads, at_once, embedding)
        self.about = _about(self._name, onnx_metadata(path, self._name).get("posedet"))

    def __reduce__(self) -> tuple[type, tuple[Path, int | None, int, bool]]:
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


class _OnnxRuntime(_OpenFile):
    def __init__(self, path: Path, threads: int | None, at_once: int, embedding: bool) -> None:
        super().__init__(path, threads, at_once, embedding)
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
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's exceptions have no common base class
            raise ModelError(f"{self._name}: not a readable ONNX file ({_first_line(error)})") from None
        shapes = {port.name: port.shape for port in self._session.get_outputs()}
        self._names = [name for name in shapes if embedding or name != EMBEDDING]
        self._run_options = onnxruntime.RunOptions()
        self._run_options.only_execute_path_to_fetches = True
        _check_ports(self._name, self.about, [port.name for port in self._session.get_inputs()], shapes)

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        try:
            arrays = self._session.run(self._names, {INPUT: images}, self._run_options)
        except Exception as error:
            raise _failed(self._name, images, error) from error
        return self._checked(dict(zip(self._names, arrays, strict=True)), images)


class _OpenVino(_OpenFile):
    def __init__(self, path: Path, threads: int | None, at_once: int, embedding: bool) -> None:
        super().__init__(path, threads, at_once, embedding)
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
            model = openvino.Core().read_model(path)
            for result in model.get_results() if not embedding else ():
                if result.input(0).get_source_output().get_any_name() == EMBEDDING:
                    model.remove_result(result)
            self._compiled = openvino.Core().compile_model(model, "CPU", settings)
        except Exception as error:
            raise ModelError(f"{self._name}: not a readable model ({_first_line(error)})") from None
        shapes = {
            port.any_name: [side.get_length() if side.is_static else None for side in port.partial_shape]
            for port in model.outputs
        }
        _check_ports(self._name, self.about, [port.any_name for port in model.inputs], shapes)

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        try:
            # One request per call, because two threads must not use the same one.
            result = self._compiled.create_infer_request().infer([images])
            arrays = {port.any_name: result[port] for port in self._compiled.outputs}
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


def _check_ports(name: str, about: About, inputs: Sequence[str], outputs: Mapping[str, Sequence[object]]) -> None:
    """Check the names of the inputs and outputs, and that the keypoints are those of the metadata."""
    if list(inputs) != [INPUT] or not set(OUTPUTS) <= set(outputs):
        names = f"{', '.join(inputs)} -> {', '.join(outputs)}"
        raise ModelError(f"{name}: has {one_line(names):.200}, expected {INPUT} -> {', '.join(OUTPUTS)}")
    shape = outputs["keypoints"]
    if len(shape) == 4 and isinstance(shape[2], int) and shape[2] != about.skeleton.num_keypoints:
        expected = f"its skeleton '{about.skeleton.name}' has {about.skeleton.num_keypoints}"
        raise ModelError(f"{name}: has {shape[2]} keypoints, but {expected}")


def _failed(name: str, images: NDArray[np.uint8], error: Exception) -> ModelError:
    _, height, width, _ = images.shape
    return ModelError(f"{name}: failed on an input of {width} x {height} pixels ({_first_line(error)})")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:300] or type(error).__name__
