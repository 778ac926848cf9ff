"""Read the weights of other programs from PyTorch's pickled files, without running code from them."""

import logging
import os
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from posedet.errors import ModelError
from posedet.files import one_line
from posedet.runtime.model_files import MAX_BYTES

log = logging.getLogger(__name__)


def load_pth(path: Path) -> dict[str, Tensor]:
    """Read the named tensors of a PyTorch file: a state dict, or a dictionary with the key `state_dict`.

    The log names other entries of the file, such as an optimiser. If all names have the prefix `module.` from
    distributed training, it is removed. Raises ModelError for any other content.
    """
    if not os.path.isfile(path):
        raise ModelError(f"{path}: no such file")
    if path.suffix == ".onnx":
        raise ModelError(f"{path}: ONNX files are only for inference; expected a .safetensors or .pth file")
    if path.stat().st_size > MAX_BYTES:
        raise ModelError(f"{path}: larger than {MAX_BYTES} bytes")
    _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles of other versions
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make the unpickler raise almost any exception
        raise ModelError(f"{path}: {_why_refused(error)}") from None
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not state:
        raise ModelError(f"{path}: contains no named tensors, expected a state dict")
    for name, tensor in state.items():
        if not isinstance(name, str) or not _is_plain(tensor):
            raise ModelError(f"{path}: {name!r:.80} is {type(tensor).__name__}, expected only named tensors")
    if state is not content:
        beside = ", ".join(repr(key) for key in content if key != "state_dict")
        log.info("%s: ignored entries other than the weights: %.200s", path.name, beside or "nothing")
    prefix = "module." if all(name.startswith("module.") for name in state) else ""
    return {name.removeprefix(prefix): tensor.detach() for name, tensor in state.items()}


def _check_archive(path: Path) -> None:
    """Raise ModelError if a file is an archive that is too large or damaged; the older format is none.

    The size counts after decompression, because a small malicious archive could fill the memory. PyTorch does not
    compare the checksums.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                raise ModelError(f"larger than {MAX_BYTES} bytes")
            if (damaged := archive.testzip()) is not None:
                raise ModelError(f"damaged: {one_line(damaged)} does not have its checksum; download or copy it again")
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    except Exception as error:  # damaged archives make zipfile raise almost any exception
        raise ModelError(f"{path}: {_why_refused(error)}") from None


def _is_plain(value: Any) -> bool:
    """Return whether a value is a dense tensor with data, not sparse, quantised or on the meta device."""
    return (
        type(value) in (Tensor, nn.Parameter)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def _why_refused(error: Exception) -> str:
    asked = re.search(r"GLOBAL (\S+)", str(error))
    if asked:
        remedy = "if you trust the file, open it with the program that wrote it and save only its state_dict"
        return f"refused: the file requires {asked[1]}, which could run code; {remedy}"
    if isinstance(error, pickle.UnpicklingError):  # PyTorch's own message suggests trusting the file
        return "refused: the pickle contains more than tensors and plain values"
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return f"not a PyTorch weights file, or damaged ({reason:.120})"
