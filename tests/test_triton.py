"""`posedet export --triton`: a model repository whose configuration fits Triton's schema and the model."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import onnxruntime
import pytest

from posedet.commands.main import main
from posedet.runtime.model_files import model_file


@pytest.fixture(scope="module")
def schema() -> ModuleType:
    """Triton's schema. It is loaded alone, because its package needs gRPC."""
    client = importlib.util.find_spec("tritonclient")
    if client is None or client.submodule_search_locations is None:
        pytest.skip("tritonclient is not installed")
    path = Path(client.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_configuration_fits_schema_and_model(
    schema: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from google.protobuf import text_format

    for _ in range(2):  # its own files are replaced
        assert main(["export", "--triton", str(tmp_path)]) == 0
    folder = tmp_path / "posedet-s"
    assert capsys.readouterr().out == f"{folder}/1/model.onnx\n{folder}/config.pbtxt\n" * 2
    assert (folder / "1" / "model.onnx").read_bytes() == model_file("posedet-s").read_bytes()
    config = text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == ("posedet-s", "onnxruntime", 8)
    assert config.HasField("dynamic_batching")

    def described(ports: Any) -> list[tuple[str, str, list[int]]]:
        return [(each.name, schema.DataType.Name(each.data_type), list(each.dims)) for each in ports]

    assert described(config.input) == [("images", "TYPE_UINT8", [-1, -1, 3])]
    assert described(config.output) == [
        ("scores", "TYPE_FP32", [-1]),
        ("keypoints", "TYPE_FP32", [-1, 19, 2]),
        ("keypoint_scores", "TYPE_FP32", [-1, 19]),
        ("embedding", "TYPE_FP32", [-1, 32]),
        ("keypoint_covariances", "TYPE_FP32", [-1, 19, 2, 2]),
    ]
    session = onnxruntime.InferenceSession(folder / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    names = [port.name for port in (*session.get_inputs(), *session.get_outputs())]
    assert names == [each.name for each in (*config.input, *config.output)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "export: name the weights and the ONNX file to write, or a folder with --triton"),
        ("x.safetensors", "export: name the weights and the ONNX file to write, or a folder with --triton"),
        (
            "a.onnx b.onnx --triton out",
            "export: --triton takes one ONNX file and goes with neither an output nor --compact",
        ),
        ("a.onnx --triton out", "a.onnx: "),
        ("--triton mine", "mine/posedet-s/config.pbtxt: exists, and `posedet export` did not write it"),
    ],
)
def test_refusals(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "posedet-s").mkdir(parents=True)
    (tmp_path / "mine" / "posedet-s" / "config.pbtxt").write_text('name: "mine"\n')
    assert main(["export", *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"posedet: error: {message}") and error.count("\n") == 1
