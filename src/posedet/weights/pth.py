"""Weights of other programs: PyTorch's pickled files, read as data and never run."""

import logging
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from posedet.errors import ModelError
from posedet.runtime.model_files import MAX_BYTES

log = logging.getLogger(__name__)


def load_pth(path: Path) -> dict[str, Tensor]:
    """The named tensors of a PyTorch file: a state dict, or a dictionary that has one as `state_dict`.

    What stands beside the state dict (an optimiser, say) is named in the log. A `module.` that distributed training
    put before all names is taken off. Raises ModelError, one line, for anything else; code in the file is not run.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    if path.suffix == ".onnx":
        raise ModelError(f"{path}: an ONNX file, to run and not to train; weights of ours are in a .safetensors file")
    if max(path.stat().st_size, _unpacked_bytes(path)) > MAX_BYTES:
        raise ModelError(f"{path}: larger than {MAX_BYTES} bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other versions' pickles; they are read, or refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes from outside make the unpickler raise whatever
        raise ModelError(f"{path}: {_why_refused(error)}") from None
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not state:
        raise ModelError(f"{path}: holds no named tensors, expected a state dict")
    for name, tensor in state.items():
        if not isinstance(name, str) or not _is_plain(tensor):
            raise ModelError(f"{path}: {name!r:.80} is {type(tensor).__name__}, expected tensors by name alone")
    if state is not content:
        beside = ", ".join(repr(key) for key in content if key != "state_dict")
        log.info("%s: left out beside the weights: %.200s", path.name, beside or "nothing")
    prefix = "module." if all(name.startswith("module.") for name in state) else ""
    return {name.removeprefix(prefix): tensor.detach() for name, tensor in state.items()}


def _unpacked_bytes(path: Path) -> int:
    """PyTorch packs without compression, but would unpack: a few kilobytes could fill the memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return 0  # the older, unpacked format, or no PyTorch file at all


def _is_plain(value: Any) -> bool:
    """A dense tensor with values: a file can hold sparse, quantised or hollow ones too."""
    return (
        type(value) in (Tensor, nn.Parameter)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def _why_refused(error: Exception) -> str:
    asked = re.search(r"GLOBAL (\S+)", str(error))
    if asked:
        return (
            f"refused: beside tensors it asks for {asked[1]}, which could run code; if you trust it, load it with "
            "the program that wrote it and save its state_dict alone"
        )
    if isinstance(error, pickle.UnpicklingError):  # its text is a page of advice to trust the file
        return "refused: a pickle with more than tensors and plain values in it"
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return f"not a whole PyTorch weights file ({reason:.120})"
