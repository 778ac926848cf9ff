"""Download a file with a known checksum."""

import hashlib
import os
import secrets
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from posedet.errors import ModelError
from posedet.files import one_line
from posedet.outputs import discard
from posedet.runtime.model_files import REMEDY

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30


def download(url: str, expected: str, path: Path, limit: int) -> None:
    """Download to a temporary file and rename it, so that every file in the cache is complete and verified.

    Raises ModelError if the file is not available, larger than `limit` bytes, or has another SHA-256 than `expected`.
    """
    shown = one_line(url)
    partial = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        found = _fetch(url, partial, limit)
        if not found.startswith(expected):
            raise ModelError(
                f"{shown}: checksum mismatch: the download has SHA-256 {found}, expected {expected}; it was discarded"
            )
        os.replace(partial, path)
    except urllib.error.HTTPError as error:
        error.close()  # it keeps the connection open
        reason = "".join(str(error.reason).splitlines()[:1])
        raise ModelError(f"{shown}: not available ({error.code} {one_line(reason)}); {REMEDY}") from None
    except urllib.error.URLError as error:
        raise ModelError(f"{shown}: could not be reached ({error.reason}); if offline, {REMEDY}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise ModelError(f"{shown}: could not be downloaded ({one_line(error)}); {REMEDY}") from None
    finally:
        discard(partial)


def _fetch(url: str, partial: Path, limit: int) -> str:
    """Download to `partial` and return the SHA-256 checksum."""
    digest, size = hashlib.sha256(), 0
    opener = urllib.request.build_opener(_Redirects)
    with opener.open(url, timeout=TIMEOUT_S) as answer, partial.open("xb") as file:
        while size + (answer.length or 0) <= limit and (chunk := answer.read(CHUNK_BYTES)):
            size += len(chunk)
            digest.update(chunk)
            file.write(chunk)
        if size + (answer.length or 0) > limit:
            raise ModelError(f"{one_line(url)}: larger than {limit} bytes")
        if answer.length:
            raise ModelError(
                f"{one_line(url)}: the connection was lost {answer.length} bytes before the end; try again"
            )
    return digest.hexdigest()


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects, but neither from https to an unencrypted connection nor to other protocols."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme not in (req.type, "https"):
            fp.close()
            raise ModelError(f"{one_line(req.full_url)}: redirects to {scheme}, which is not allowed; {REMEDY}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
