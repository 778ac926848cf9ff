"""Write a model repository for NVIDIA's Triton Inference Server.

The format of the configuration is `ModelConfig` in `model_config.proto` of triton-inference-server/common.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnxruntime

from posedet.errors import ModelError
from posedet.files import one_line
from posedet.outputs import make_folder, write_atomically
from posedet.runtime.session import open_session

GENERATOR = "posedet export"
MAX_BATCH = 8
_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(float)": "TYPE_FP32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(uint8)": "TYPE_UINT8",
}


class Repository(NamedTuple):
    """The two files of a model repository with one model."""

    model: Path
    config: Path


def repository(folder: Path, model: Path) -> Repository:
    """Return which files `write_repository` writes in `folder`. Raises ModelError as `open_session`."""
    name = open_session(model).about.name
    if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
        raise ModelError(f"{one_line(model)}: is called {name!r:.80}, which cannot be the name of a folder")
    return Repository(folder / name / "1" / "model.onnx", folder / name / "config.pbtxt")


def write_repository(folder: Path, model: Path) -> Repository:
    """Write a posedet ONNX file and its configuration as a model repository.

    Args:
        folder: The repository, which may have other models already.
        model: A posedet ONNX file.

    Raises:
        ModelError: If the model is not a posedet ONNX file.
        PoseDetError: If a file cannot be written, or is there and `posedet export` did not write it.
    """
    files = repository(folder, model)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    text = "\n".join(
        [
            f"# generator: {GENERATOR}",
            f'name: "{files.config.parent.name}"',
            'backend: "onnxruntime"',
            f"max_batch_size: {MAX_BATCH}",
            "dynamic_batching { }",
            *_ports("input", session.get_inputs()),
            *_ports("output", session.get_outputs()),
            "",
        ]
    )
    make_folder(files.model.parent)
    write_atomically(files.model, GENERATOR, model.read_bytes())
    write_atomically(files.config, GENERATOR, text.encode())
    return files


def _ports(kind: str, ports: Sequence[Any]) -> list[str]:
    """The entries for inputs or outputs; Triton adds the dimension of the batch itself. -1: any size."""
    lines = []
    for port in ports:
        sides = ", ".join(str(side if isinstance(side, int) else -1) for side in port.shape[1:])
        lines.append(f'{kind} {{ name: "{port.name}" data_type: {_TYPES[port.type]} dims: [ {sides} ] }}')
    return lines
