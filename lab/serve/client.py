"""A server in a process of its own, and a client that costs little: raw requests over kept connections."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from posedet.errors import PoseDetError

SECONDS = 60  # after which a silent server has failed


class Server(NamedTuple):
    """A running server; `log` has its lines so far."""

    process: subprocess.Popen[str]
    port: int
    log: list[dict[str, object]]

    def memory_mb(self, name: str = "VmRSS") -> float:
        """Memory of the process now, or its peak (`VmHWM`); Linux only."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text("utf-8").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))

    def processor_seconds(self) -> float:
        """Time that the process has spent on all cores; Linux only."""
        numbers = Path(f"/proc/{self.process.pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")

    def forget_peak(self) -> None:
        """Let `VmHWM` begin again at the memory of this moment; Linux only."""
        with open(f"/proc/{self.process.pid}/clear_refs", "w") as switch:
            switch.write("5")


@contextmanager
def running(*options: str, environment: dict[str, str] | None = None) -> Iterator[Server]:
    """Start `posedet serve` on a free port of this machine, and end it with SIGTERM.

    Raises PoseDetError if it does not start.
    """
    command = [sys.executable, "-m", "posedet", "serve", "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        try:
            first = process.stderr.readline()
            if not first.startswith("{"):
                raise PoseDetError(f"the server did not start: {first.strip()}")
            log = [json.loads(first)]
            reader = threading.Thread(target=lambda: log.extend(map(json.loads, process.stderr or ())))
            reader.start()
            yield Server(process, int(log[0]["address"].rsplit(":", 1)[1]), log)
            process.terminate()
            process.wait(SECONDS)
            reader.join()
        finally:
            process.kill()


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def request(body: bytes, query: str = "", headers: Sequence[str] = (), path: str = "/v1/poses") -> bytes:
    """The bytes of a POST request."""
    lines = [f"POST {path}{query} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def get(path: str) -> bytes:
    """The bytes of a GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def form(files: Sequence[tuple[str, bytes]]) -> tuple[bytes, str]:
    """A form with files, and the header that says so."""
    parts = [
        b'--limit\r\nContent-Disposition: form-data; name="photo"; filename="%s"\r\n\r\n%s\r\n'
        % (name.encode(), content)
        for name, content in files
    ]
    return b"".join(parts) + b"--limit--\r\n", "Content-Type: multipart/form-data; boundary=limit"


class Client:
    """One connection to a server on this machine."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, content: bytes) -> Answer:
        """Send a request and return its answer. Raises OSError or EOFError if the connection breaks."""
        self.send(content)
        return await self.answer()

    def send(self, content: bytes) -> None:
        self._writer.write(content)

    async def sent(self) -> None:
        """Wait until the system has taken what was sent."""
        await self._writer.drain()

    async def answer(self) -> Answer:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(int(head[0].split()[1]), headers, body)


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Client]:
    """Open a connection to a server on this machine, and close it in the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def ask_once(port: int, content: bytes) -> Answer:
    """Send one request over a connection of its own."""
    async with connected(port) as client:
        return await asyncio.wait_for(client.ask(content), SECONDS)
