"""Run the application in uvicorn, with what uvicorn lacks: a time limit for slow headers, and logs in JSON."""

import asyncio
import ctypes
import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from posedet.errors import ConfigError
from posedet.files import one_line
from posedet.serve.observe import JsonLines

MAX_HEADER_BYTES = 16_384
# Requests that run when the server is told to end get this long.
LAST_SECONDS = 60
M_MMAP_THRESHOLD = -3  # of malloc.h
LARGE_BLOCK = 1_000_000  # bytes

log = logging.getLogger(__name__)


class TimedHeaders(H11Protocol):
    """A connection that is closed if it is outside a request for too long, whatever it sends meanwhile.

    uvicorn's own timeout ends with the first byte after a request, and none begins before the first request.
    """

    seconds: float
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._time_headers()

    def handle_events(self) -> None:
        super().handle_events()
        self._time_headers()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._time_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    def _time_headers(self) -> None:
        """Start the timer outside a request, and stop it inside."""
        if self.cycle is not None and not self.cycle.response_complete:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        elif self._timer is None:
            self._timer = self.loop.call_later(self.seconds, self.transport.close)


def serve(app: FastAPI, host: str, port: int, header_seconds: float) -> None:
    """Serve until SIGTERM or Ctrl-C. Requests that run then are still answered.

    Args:
        app: The application.
        host: The address to listen on.
        port: The port; 0: any free one.
        header_seconds: How long a connection may be open without the headers of a request.

    Raises:
        ConfigError: If the address cannot be used.
    """
    _return_memory()
    config: dict[str, Any] = {
        "http": type("Timed", (TimedHeaders,), {"seconds": header_seconds}),
        "h11_max_incomplete_event_size": MAX_HEADER_BYTES,
        "headers": [
            ("X-Content-Type-Options", "nosniff"),
            # Threads of WebAssembly, in the page, need both.
            ("Cross-Origin-Opener-Policy", "same-origin"),
            ("Cross-Origin-Embedder-Policy", "require-corp"),
        ],
        "timeout_graceful_shutdown": LAST_SECONDS,
        "ws": "none",
        "lifespan": "on",
        "log_config": None,
        "access_log": False,
        "proxy_headers": False,
        "server_header": False,
    }
    with _logs_in_json(), _bound(host, port) as listener, suppress(KeyboardInterrupt):
        host, port = listener.getsockname()[:2]
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        log.info("listening", extra={"facts": {"address": address, "photos": f"{address}/v1/poses"}})
        # It raises the signal that ended it again, after everything is closed.
        try:
            uvicorn.Server(uvicorn.Config(app, **config)).run([listener])
        finally:
            log.info("ended")


@contextmanager
def _logs_in_json() -> Iterator[None]:
    """Write logs as lines of JSON, and only those."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    before, root.handlers = root.handlers, [handler]
    try:
        yield
    finally:
        root.handlers = before


def _return_memory() -> None:
    """Let the C library return large blocks to the system when they are freed.

    glibc raises its limit for that with the first large photo, and then keeps hundreds of megabytes in pieces.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # musl has no such setting and needs none
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"--host {one_line(host)} --port {port}: cannot be used ({reason}); name others") from None
