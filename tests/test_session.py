"""Model files, good and bad, in both runtimes; bad ones are made here, a few nodes each."""

import io
import json
import pickle
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from posedet import PoseDet
from posedet.config import load_config
from posedet.errors import ConfigError, ModelError
from posedet.image import Letterbox, read_photo
from posedet.runtime import session
from posedet.runtime.session import Device, Runtime, open_session
from posedet.skeleton import BODY19, COCO

SHIPPED = Path(str(resources.files("posedet") / "released" / "posedet-s.onnx"))
RUNTIMES = ("onnxruntime", "openvino")

METADATA = {
    "name": "small",
    "version": "1.2.3",
    "skeleton": COCO.to_dict(),
    "config": load_config("posedet-s").to_dict(),
}


def small_model(
    path: Path,
    *,
    metadata: object = METADATA,
    num_keypoints: int = 17,
    input_name: str = "images",
    score_name: str = "scores",
) -> Path:
    """An ONNX file that finds one pose, at the same place in every image."""
    helper = onnx.helper
    found = {
        score_name: np.full((1, 1), 0.9, np.float32),
        "keypoints": np.full((1, 1, num_keypoints, 2), 50, np.float32),
        "keypoint_scores": np.ones((1, 1, num_keypoints), np.float32),
    }
    # Something of the input goes into the scores: a runtime would drop an input that nothing needs.
    nodes = [
        helper.make_node("Cast", [input_name], ["pixels"], to=onnx.TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["pixels"], ["brightest"], keepdims=0),
        helper.make_node("Mul", ["brightest", "nothing"], ["zero"]),
        *(helper.make_node("Add", [f"{name}.constant", "zero"], [name]) for name in found),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(input_name, onnx.TensorProto.UINT8, ["batch", "height", "width", 3])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, array.shape) for name, array in found.items()],
        [
            onnx.numpy_helper.from_array(np.zeros((), np.float32), "nothing"),
            *(onnx.numpy_helper.from_array(array, f"{name}.constant") for name, array in found.items()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if metadata is not None:
        text = metadata if isinstance(metadata, str) else json.dumps(metadata)
        helper.set_model_props(model, {"posedet": text})
    onnx.save(model, path)
    return path


def refusal(path: Path, runtime: Runtime = "onnxruntime") -> str:
    """The one line that a user reads, without the file's name."""
    with pytest.raises(ModelError) as caught:
        open_session(path, runtime=runtime, threads=1)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and len(text) < 600
    return text.removeprefix(f"{path}: ")


# --- good ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_a_file_says_of_itself(runtime: Runtime, tmp_path: Path) -> None:
    opened = open_session(small_model(tmp_path / "small.onnx"), runtime=runtime, threads=1)
    assert (opened.about.name, opened.about.version) == ("small", "1.2.3")
    assert opened.about.skeleton == COCO
    assert opened.about.decode == load_config("posedet-s").decode
    assert opened.about.config == json.loads(json.dumps(METADATA["config"]))
    scores, keypoints, keypoint_scores = opened.run(np.zeros((1, 128, 160, 3), np.uint8))[:3]
    assert_allclose(scores, [[0.9]])
    assert_array_equal(keypoints, np.full((1, 1, 17, 2), 50))
    assert_array_equal(keypoint_scores, np.ones((1, 1, 17)))


def test_the_shipped_model_describes_itself() -> None:
    about = open_session(SHIPPED, threads=1).about
    assert (about.name, about.skeleton) == ("posedet-s", BODY19)
    weights = SHIPPED.with_suffix(".safetensors")
    assert SHIPPED.stat().st_size + weights.stat().st_size < 20_000_000


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_bytes_and_open_files_are_models_too(runtime: Runtime, tmp_path: Path) -> None:
    """Also if a file gives little at a time, and after pickling."""
    content = small_model(tmp_path / "small.onnx").read_bytes()
    images = np.zeros((1, 128, 160, 3), np.uint8)
    with (tmp_path / "small.onnx").open("rb", buffering=0) as file:
        file.seek(5)
        opened = [open_session(model, runtime=runtime, threads=1) for model in (content, file, io.BytesIO(content))]
    for each in (*opened, pickle.loads(pickle.dumps(opened[0]))):
        assert each.about.name == "small"
        assert_allclose(each.run(images).scores, [[0.9]])
    for bad, text in ((content[:100], "model: not a readable "), (io.StringIO(""), "model: is open in text mode")):
        with pytest.raises(ModelError, match=f"^{text}"):
            open_session(bad, runtime=runtime, threads=1)


def test_an_open_file_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MAX_MODEL_BYTES", 1 << 20)
    with pytest.raises(ModelError, match=r"^model: larger than 1048576 bytes$"), open("/dev/zero", "rb") as file:
        open_session(file)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_shipped_model_runs_at_every_size_and_batch(runtime: Runtime) -> None:
    opened = open_session(SHIPPED, runtime=runtime, threads=1)
    for size in ((1, 128, 128), (2, 128, 256), (1, 224, 160)):
        scores, keypoints, keypoint_scores = opened.run(np.full((*size, 3), 90, np.uint8))[:3]
        num_poses = scores.shape[1]
        assert scores.shape == (size[0], num_poses) and num_poses > 0
        assert keypoints.shape == (size[0], num_poses, 19, 2)
        assert keypoint_scores.shape == (size[0], num_poses, 19)
        assert {array.dtype for array in (scores, keypoints, keypoint_scores)} == {np.dtype(np.float32)}
        assert (np.diff(scores, axis=1) <= 0).all() and (scores >= 0).all() and (scores <= 1).all()
        assert (keypoint_scores >= 0).all() and (keypoint_scores <= 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_sixteen_threads_share_a_session(runtime: Runtime, photos: Path) -> None:
    opened = open_session(SHIPPED, runtime=runtime, threads=1)
    images = []
    for i, name in enumerate(("group.jpg", "tennis.jpg", "street.jpg", "child.jpg")):
        photo = read_photo(photos / name)
        height, width = photo.shape[:2]
        images.append(Letterbox.fit((height, width), long_side=128 + 32 * i).apply(photo)[None])
    alone = [opened.run(image) for image in images]
    start = threading.Barrier(16)

    def run(place: int) -> bool:
        start.wait()
        for step in range(4):
            which = (place + step) % 4
            for got, expected in zip(opened.run(images[which])[:3], alone[which][:3], strict=True):
                if not np.array_equal(got, expected):
                    return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(run, range(16)))


# --- devices ---------------------------------------------------------------------------------------------------------


class Installed:
    """An ONNX Runtime of another package: some providers are in it, and fewer of them work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *available: str) -> None:
        self.asked: list[str] = []
        self.works = {"CPUExecutionProvider"}
        self.silent = False  # whether what does not work goes on with the CPU
        self.running = self.most_running = 0
        own, installed = onnxruntime.InferenceSession, self

        class InferenceSession:
            def __init__(self, model: object, options: object, *, providers: list[str], enable_fallback: int) -> None:
                assert enable_fallback == 0
                (self.provider,) = providers
                installed.asked.append(self.provider)
                if self.provider not in installed.works and not installed.silent:
                    raise RuntimeError("no driver\nat line 1")
                self.own = own(model, options, providers=["CPUExecutionProvider"])

            def __getattr__(self, name: str) -> Any:
                return getattr(self.own, name)

            def get_providers(self) -> list[str]:
                return ["CPUExecutionProvider"] if installed.silent else [self.provider, "CPUExecutionProvider"]

            def run(self, *arguments: Any) -> Any:
                installed.running += 1
                installed.most_running = max(installed.most_running, installed.running)
                time.sleep(0.05)
                installed.running -= 1
                return self.own.run(*arguments)

        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*available, "CPUExecutionProvider"])
        monkeypatch.setattr(onnxruntime, "InferenceSession", InferenceSession)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return small_model(tmp_path / "small.onnx")


@pytest.mark.parametrize("device", ["cpu", "auto"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_cpu_is_always_there(runtime: Runtime, device: Device, small: Path) -> None:
    opened = open_session(small, runtime=runtime, device=device, threads=1)
    assert opened.device == PoseDet(opened).device == "cpu"
    assert_allclose(opened.run(np.zeros((1, 128, 160, 3), np.uint8)).scores, [[0.9]])


@pytest.mark.parametrize(
    ("device", "provider"),
    [("cuda", "CUDA"), ("directml", "Dml"), ("coreml", "CoreML"), ("openvino", "OpenVINO")],
)
def test_a_device_that_is_installed_is_used(
    device: Device, provider: str, small: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    installed = Installed(monkeypatch, f"{provider}ExecutionProvider")
    installed.works.add(f"{provider}ExecutionProvider")
    assert PoseDet(small, device=device).device == device
    assert caplog.messages == []
    detector = PoseDet(small, device="auto", threads=1)
    assert (detector.device, caplog.messages) == (device, [f"device: {device}"])
    assert pickle.loads(pickle.dumps(detector)).device == device
    assert installed.asked == 3 * [f"{provider}ExecutionProvider"]
    # Where a copy is opened on a machine that has no such device, "auto" takes what is there.
    installed.works.clear()
    installed.works.add("CPUExecutionProvider")
    assert pickle.loads(pickle.dumps(detector)).device == "cpu"


@pytest.mark.parametrize("silent", [True, False])
def test_a_device_that_does_not_work_is_an_error(
    silent: bool, small: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """ONNX Runtime says so, or goes on with the CPU without a word."""
    caplog.set_level("INFO")
    installed = Installed(monkeypatch, "OpenVINOExecutionProvider", "CUDAExecutionProvider")
    installed.silent = silent
    reason = "it took the CPU instead" if silent else "no driver"
    with pytest.raises(ConfigError) as caught:
        PoseDet(small, device="cuda")
    assert str(caught.value) == f"device 'cuda' does not work in ONNX Runtime ({reason}); check its drivers"
    installed.asked.clear()
    assert PoseDet(small, device="auto").device == "cpu" and caplog.messages == ["device: cpu"]
    assert installed.asked == [f"{name}ExecutionProvider" for name in ("CUDA", "OpenVINO", "CPU")]
    small.write_bytes(b"Dear diary")  # then it is the file's fault
    assert refusal(small).startswith("not a readable ONNX file")
    with pytest.raises(ModelError, match=r": not a readable ONNX file \("):
        PoseDet(small, device="cuda")


def test_directml_runs_one_call_at_a_time(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = Installed(monkeypatch, "DmlExecutionProvider", "CUDAExecutionProvider")
    installed.works |= {"DmlExecutionProvider", "CUDAExecutionProvider"}
    images = np.zeros((1, 128, 160, 3), np.uint8)
    for device, expected in (("directml", 1), ("cuda", 2)):
        installed.most_running = 0
        opened = open_session(small, device=device)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(opened.run, [images, images]))
        assert installed.most_running == expected


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"device": "cuda"}, "device 'cuda' is not in this ONNX Runtime; install onnxruntime-gpu in its place"),
        ({"device": "directml"}, "device 'directml' is not in this ONNX Runtime; install onnxruntime-directml in its"),
        ({"device": "coreml"}, "device 'coreml' is not in this ONNX Runtime; install onnxruntime for macOS in its"),
        ({"device": "openvino"}, "device 'openvino' is not in this ONNX Runtime; install onnxruntime-openvino in its"),
        ({"device": "gpu"}, "device is 'gpu', expected one of 'cpu', 'cuda', 'directml', 'coreml', 'openvino', 'auto'"),
        (
            {"device": "cuda", "runtime": "openvino"},
            "device is 'cuda', but runtime 'openvino' runs on the CPU; choose one of the two",
        ),
    ],
    ids=str,
)
def test_a_device_that_cannot_be(settings: dict, text: str, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ConfigError) as caught:
        PoseDet(small, **settings)
    assert str(caught.value).startswith(text)


# --- bad -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_files_that_are_no_model(runtime: Runtime, tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.onnx", runtime) == "no such model file"
    assert refusal(tmp_path, runtime) == "no such model file"
    for content in (b"", b"Dear diary,\ntoday", SHIPPED.read_bytes()[:100_000]):
        path = tmp_path / "bad.onnx"
        path.write_bytes(content)
        assert refusal(path, runtime).startswith("not a readable ")


def test_a_huge_file_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MAX_MODEL_BYTES", 1000)
    path = tmp_path / "huge.onnx"
    path.write_bytes(b"x" * 1001)
    assert refusal(path) == "larger than 1000 bytes"


def without(*keys: str) -> dict[str, Any]:
    """The metadata without one entry."""
    metadata = json.loads(json.dumps(METADATA))
    inner = metadata
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    return metadata


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        (None, "not a posedet model: metadata 'posedet' is missing; make the file with `posedet export`"),
        ("{", "metadata 'posedet' is invalid (Expecting property name"),
        ("[" * 100_000, "metadata 'posedet' is invalid ("),
        ("7", "metadata 'posedet' is invalid ("),
        ([METADATA], "metadata 'posedet' is invalid ("),
        (without("name"), "metadata 'posedet' is invalid ('name')"),
        (without("config", "decode"), "metadata 'posedet' is invalid ('decode')"),
        (
            without("config", "decode", "nms"),
            "metadata 'posedet' is invalid (config: missing key 'decode.nms')",
        ),
        (without("skeleton", "keypoints"), "metadata 'posedet' is invalid (skeleton: key 'keypoints' is missing)"),
        (METADATA | {"skeleton": 5}, "metadata 'posedet' is invalid (skeleton: 5, expected a table"),
    ],
    ids=lambda value: "" if not isinstance(value, str) else value[-25:],
)
def test_metadata_that_cannot_be_used(runtime: Runtime, metadata: object, text: str, tmp_path: Path) -> None:
    assert refusal(small_model(tmp_path / "bad.onnx", metadata=metadata), runtime).startswith(text)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_networks_that_compute_something_else(runtime: Runtime, tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    wanted = "expected images -> scores, keypoints, keypoint_scores"
    assert refusal(small_model(path, input_name="data"), runtime).endswith(f", {wanted}")
    text = refusal(small_model(path, score_name="logits"), runtime)
    assert text.startswith("has images -> ") and "logits" in text and text.endswith(f", {wanted}")
    small_model(path, num_keypoints=14)
    assert refusal(path, runtime) == "has 14 keypoints, but its skeleton 'coco' has 17"


@pytest.mark.slow
def test_a_failure_while_running_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.zeros((1, 128, 160, 4), np.uint8)  # one channel too many
    with pytest.raises(ModelError) as caught:
        open_session(SHIPPED, threads=1).run(images)
    text = str(caught.value)
    assert text.startswith(f"{SHIPPED}: failed on an input of 160 x 128 pixels (") and "\n" not in text
    opened = open_session(SHIPPED, runtime="openvino", threads=1)
    monkeypatch.setattr(opened, "_session", object())  # it takes even such images
    with pytest.raises(ModelError, match=r": failed on an input of 160 x 128 pixels \("):
        opened.run(images)


def test_settings_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def complaint(call: Callable[[], object]) -> str:
        with pytest.raises((ConfigError, ModelError)) as caught:
            call()
        return str(caught.value)

    path = tmp_path / "none.onnx"
    wrong: Any = "tensorrt"
    assert complaint(lambda: open_session(path, runtime=wrong)) == (
        "runtime is 'tensorrt', expected 'onnxruntime' or 'openvino'"
    )
    assert complaint(lambda: open_session(path, threads=0)) == "threads is 0, expected at least 1"
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert complaint(lambda: open_session(SHIPPED, runtime="openvino")) == (
        'runtime "openvino" is not installed: pip install "posedet[openvino]"'
    )
