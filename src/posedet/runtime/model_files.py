"""Find model files by name, path or URL. Downloads are verified by checksum and cached."""

import hashlib
import logging
import os
import re
import sys
import urllib.parse
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from posedet.errors import ModelError
from posedet.files import one_line

log = logging.getLogger(__name__)

MAX_BYTES = 4_000_000_000
REMEDY = "download the file yourself and pass its path"

_CHECKED = re.compile(r"(.+)#sha256=([0-9a-fA-F]{8,64})", re.DOTALL)
_URL = re.compile(r"https?://[^\s#]+")


class Release(NamedTuple):
    """A released ONNX file."""

    sha256: str
    num_bytes: int
    url: str | None  # None: the file is in the package's folder `released/`


RELEASES = {
    "posedet-s": Release("b2bffbed3ac94181e6648c70ba5c59a7a00dd7fd99b14adbe51146453e1a370d", 5_308_523, url=None),
    "posedet-s-int8": Release("c35b90022f81d441897d8b5331023dcc170b3b33563d5a184837ef1ee29b04f7", 6_236_249, url=None),
}
# SHA-256 of the weights that training starts from, in the same folder.
WEIGHTS = {"posedet-s.safetensors": "993512a87454c81369539e64bada9a1d932f45753a4dcf450f1074ddb1feb7e8"}


def model_file(source: str | Path, *, offline: bool = False) -> Path:
    """Find the file of a model, and download it if needed.

    Args:
        source: The name of a released model, a path, or a URL with the file's SHA-256 checksum,
            `https://...#sha256=HEX` (complete, or at least its first 8 digits). A path may end in a checksum, too.
        offline: Never download. `POSEDET_OFFLINE=1` in the environment has the same effect.

    Returns:
        The path of the file, in the package, in the cache or as given.

    Raises:
        ModelError: If the file does not exist, cannot be downloaded, or has another checksum.
    """
    release = RELEASES.get(str(source))
    if release is not None:
        found = available_file(str(source))
        return found or _download(str(release.url), release.sha256, limit=release.num_bytes, offline=offline)
    path = local_file(source, offline=offline)
    if not os.path.isfile(path):
        known = "" if path.suffix else f"; released models: {', '.join(RELEASES)}"
        raise ModelError(f"{one_line(path)}: no such model file{known}")
    return path


def available_file(name: str) -> Path | None:
    """Return the file of a released model if it is in the package or in the cache."""
    release = RELEASES[name]
    if release.url is None:
        return Path(str(resources.files("posedet") / "released" / f"{name}.onnx"))
    return _cached(release.url, release.sha256)


def local_file(source: str | Path, *, offline: bool = False) -> Path:
    """Return a path unchanged; download a URL `https://...#sha256=HEX` to the cache unless it is already there.

    HEX is the file's SHA-256 checksum or at least its first 8 digits, which many public files have in their names; 8
    digits find damage, but only all of them keep an attacker out. A path may have a checksum, too, and the file is then
    compared with it. `offline`, or POSEDET_OFFLINE=1 in the environment, prevents downloads. Raises ModelError if the
    file is not available, incomplete or too large, or has another checksum.
    """
    text = str(source)
    match = _CHECKED.fullmatch(text)
    if text.startswith(("http://", "https://")):
        if match is None or not _URL.fullmatch(match[1]):
            raise ModelError(f"{one_line(text)}: expected a URL that ends in #sha256=HEX (8 to 64 digits)")
        url, expected = match[1], match[2].lower()
        return _cached(url, expected) or _download(url, expected, limit=MAX_BYTES, offline=offline)
    if match is None:
        return Path(source)
    path = Path(match[1])
    if os.path.isfile(path) and not (found := _sha256(path)).startswith(match[2].lower()):
        raise ModelError(f"{one_line(path)}: checksum mismatch: the file has SHA-256 {found}, expected {match[2]}")
    return path


def cache_folder() -> Path:
    """Return the folder for downloads: `$POSEDET_CACHE`, or `posedet` in the system's cache folder."""
    if chosen := os.environ.get("POSEDET_CACHE"):
        return Path(chosen)
    if sys.platform == "darwin":
        caches = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        caches = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "posedet"


def _cached(url: str, expected: str) -> Path | None:
    """Return the file in the cache if it exists and has the checksum."""
    path = _cache_path(url, expected)
    return path if os.path.isfile(path) and _sha256(path).startswith(expected) else None


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{one_line(path)}: cannot be read ({error.strerror})") from None


def _cache_path(url: str, expected: str) -> Path:
    name = re.sub(r"[^\w.-]", "_", urllib.parse.urlsplit(url).path.rpartition("/")[2], flags=re.ASCII)[-100:]
    return cache_folder() / f"{expected[:16]}-{name}"


def _download(url: str, expected: str, *, limit: int, offline: bool) -> Path:
    """Download a file to the cache."""
    shown = one_line(url)
    if offline or os.environ.get("POSEDET_OFFLINE", "0") not in ("", "0"):
        raise ModelError(f"{shown}: not in the cache, and downloads are disabled (offline); {REMEDY}")
    # Imported only when needed: `urllib.request` takes a sixth of the time of `import posedet`.
    from posedet.runtime.download import download

    log.info("downloading %s", shown)
    path = _cache_path(url, expected)
    download(url, expected, path, limit)
    return path
