"""Weights of other programs: PyTorch's pickled files, read as data and never run, and files behind a URL."""

import hashlib
import logging
import os
import pickle
import re
import urllib.error
import urllib.parse
import urllib.request
import warnings
import zipfile
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from posedet.errors import ModelError

log = logging.getLogger(__name__)

MAX_BYTES = 4_000_000_000
CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30

_CHECKED_URL = re.compile(r"(https?://[^\s#]+)#sha256=([0-9a-fA-F]{8,64})")


def load_pth(path: Path) -> dict[str, Tensor]:
    """The named tensors of a PyTorch file: a state dict, or a dictionary that has one as `state_dict`.

    What stands beside the state dict (an optimiser, say) is named in the log. A `module.` that distributed training
    put before all names is taken off. Raises ModelError, one line, for anything else; code in the file is not run.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
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


def local_file(source: str | Path) -> Path:
    """A path as it is; `https://...#sha256=HEX` as a file in the cache, downloaded if it is not there yet.

    HEX is the file's SHA-256, whole or its first digits (8 at least: what many public files carry in their name).
    The cache is `posedet` in $XDG_CACHE_HOME or ~/.cache. Raises ModelError when offline or when the sum is another.
    """
    text = str(source)
    if not text.startswith(("http://", "https://")):
        return Path(source)
    match = _CHECKED_URL.fullmatch(text)
    if match is None:
        raise ModelError(f"{text}: expected a URL that ends in #sha256=HEX, the file's checksum (8 to 64 digits)")
    url, expected = match[1], match[2].lower()
    name = re.sub(r"[^\w.-]", "_", urllib.parse.urlsplit(url).path.rpartition("/")[2])[-100:]
    path = _cache_folder() / f"{expected[:16]}-{name}"
    if path.is_file() and _sha256(path).startswith(expected):
        return path
    log.info("downloading %s", url)
    _download(url, expected, path)
    return path


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "posedet"


def _download(url: str, expected: str, path: Path) -> None:
    """Fetch beside and rename: what stands in the cache is whole and has the sum."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    remedy = "download it by other means and give its path"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        found = _fetch(url, partial)
        if not found.startswith(expected):
            raise ModelError(f"{url}: what came has SHA-256 {found}, expected {expected}; not used")
        os.replace(partial, path)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise ModelError(f"{url}: not available ({error.code} {error.reason}); {remedy}") from None
    except urllib.error.URLError as error:
        raise ModelError(f"{url}: could not be reached ({error.reason}); if offline, {remedy}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise ModelError(f"{url}: could not be downloaded ({error}); {remedy}") from None
    finally:
        partial.unlink(missing_ok=True)


def _fetch(url: str, partial: Path) -> str:
    """Write the answer to `partial`; its SHA-256."""
    digest, size = hashlib.sha256(), 0
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer, partial.open("wb") as file:
        while chunk := answer.read(CHUNK_BYTES):
            size += len(chunk)
            if size > MAX_BYTES:
                raise ModelError(f"{url}: larger than {MAX_BYTES} bytes")
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
