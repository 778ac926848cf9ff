"""Receive photos: count their bytes as they arrive, keep them in memory only, and look at their headers."""

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header
from starlette.requests import Request

from posedet.errors import PhotoError, PhotoSizeError
from posedet.files import one_line
from posedet.image import size_of
from posedet.serve.refusals import Refusal, busy

MAX_NAME_LENGTH = 255


class Upload(NamedTuple):
    """A photo of a request; `name` is that of its file, if the request says it."""

    name: str | None
    content: bytes
    num_pixels: int


class Held:
    """The bytes of all requests that are being received or answered: at most twice what a single one may have."""

    def __init__(self, max_body_bytes: int) -> None:
        self._most = 2 * max_body_bytes
        self.num_bytes = 0

    @contextmanager
    def room(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that takes room for so many bytes or raises `Refusal`. The end frees what was taken."""
        taken = 0

        def take(num_bytes: int) -> None:
            nonlocal taken
            if self.num_bytes + num_bytes > self._most:
                raise busy("too many photos are being uploaded")
            self.num_bytes += num_bytes
            taken += num_bytes

        try:
            yield take
        finally:
            self.num_bytes -= taken


async def received(request: Request, take: Callable[[int], None], *, max_bytes: int, seconds: float) -> bytes:
    """Return the body of a request, counted as it arrives, whatever its headers say.

    Raises:
        Refusal: If the body is too large or arrives too slowly, or if there is no room for it.
        ClientDisconnect: If the client has gone.
    """
    too_large = Refusal(413, "size", f"the request is larger than {max_bytes / 1e6:g} MB; send fewer or smaller photos")
    if int(request.headers.get("content-length", 0)) > max_bytes:
        raise too_large
    chunks: list[bytes] = []
    num_bytes = 0
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                num_bytes += len(chunk)
                if num_bytes > max_bytes:
                    raise too_large
                take(len(chunk))
                chunks.append(chunk)
    except TimeoutError:
        raise Refusal(408, "slow", f"the request did not arrive within {seconds:g} s") from None
    return b"".join(chunks)


def uploads_in(content_type: str, body: bytes, max_photos: int, max_pixels: int) -> list[Upload]:
    """Return the photos of a body: a multipart form with files, or one photo whatever its type is called.

    Their headers are read, and none of their pixels.

    Raises:
        Refusal: If the form is invalid, has no files or too many, or has other fields.
        PhotoError: If a file is not a photo, or has too many pixels.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        return [_checked(None, body, "photo", max_pixels)]
    files: list[tuple[str, bytes]] = []

    def add(file: File) -> None:
        if len(files) == max_photos:
            raise Refusal(413, "size", f"more than {max_photos} photos; send several requests")
        name = (file.file_name or b"").decode(errors="backslashreplace")
        file.file_object.seek(0)
        files.append((name[:MAX_NAME_LENGTH], file.file_object.read()))

    def refuse(field: Field) -> None:
        name = one_line((field.field_name or b"").decode(errors="backslashreplace"))
        raise Refusal(
            422, "form", f"form field '{name:.80}' has no file name; send files, and settings in the query string"
        )

    try:
        config = {"MAX_MEMORY_FILE_SIZE": math.inf}  # nothing is written to the disk
        parser = FormParser("multipart/form-data", refuse, add, boundary=options.get(b"boundary"), config=config)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise Refusal(422, "form", f"the multipart form is invalid ({one_line(error):.200})") from None
    if not files:
        raise Refusal(422, "form", "the form has no file; send at least one, such as curl -F photo=@photo.jpg")
    return [_checked(name, content, f"photo {place}", max_pixels) for place, (name, content) in enumerate(files, 1)]


def _checked(name: str | None, content: bytes, called: str, max_pixels: int) -> Upload:
    with called_photo(called):
        height, width = size_of(content)
        if height * width > max_pixels:
            raise PhotoSizeError(f"photo: more than {max_pixels / 1e6:g} million pixels; reduce its size first")
        return Upload(name, content, height * width)


@contextmanager
def called_photo(called: str) -> Iterator[None]:
    """Say in a PhotoError which photo of a request it is about."""
    try:
        yield
    except PhotoError as error:
        # Their frames would hold the pixels until the answer is sent.
        error.__cause__ = error.__context__ = error.__traceback__ = None
        raise type(error)(f"{called}{str(error).removeprefix('photo')}") from None
