"""Uploads that a server should refuse, sent while others send good photos."""

import asyncio
import itertools
import multiprocessing
import struct
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from lab.serve.client import SECONDS, Answer, Server, ask_once, connected, form, get, request

SLOW_PAUSE = 0.5
HEALTH_PAUSE = 0.05
SECONDS_ALONE = 5  # of the good ones, before the bad ones begin


class Bad(NamedTuple):
    """A kind of bad upload: how it is sent, and the status of its answer (None: the connection may just end)."""

    send: Callable[[int], Awaitable[Answer | None]]
    status: int | None


class Outcome(NamedTuple):
    """What an attack did to the server and to the others."""

    wrong: list[str]  # bad uploads that were answered otherwise than they should be
    good: Counter[int]  # statuses of the good photos
    good_seconds: list[float]
    health_seconds: list[float]
    peak_mb: float  # memory
    left_mb: float  # memory after the end


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG file of this size whose pixels are missing but for `data`."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bad_uploads(photo: bytes, max_bytes: int) -> dict[str, Bad]:
    """All kinds of bad uploads, made from a good JPEG photo."""
    noise = np.random.default_rng(0)

    def flipped() -> bytes:
        content = bytearray(photo)
        for place in noise.integers(2, 600, 8):
            content[place] ^= 0xFF
        return bytes(content)

    def sends(content: bytes) -> Callable[[int], Awaitable[Answer]]:
        return lambda port: ask_once(port, content)

    async def broken_off(port: int) -> None:
        async with connected(port) as client:
            client.send(request(photo)[: len(photo) // 2])
            await asyncio.sleep(0.05)

    async def endless(port: int) -> Answer:
        """More than the limit, in chunks without a length."""
        async with connected(port) as client:
            client.send(b"POST /v1/poses HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(max_bytes // 1_000_000 + 1):
                client.send(b"%x\r\n%s\r\n" % (1_000_000, bytes(1_000_000)))
                await client.sent()
            return await asyncio.wait_for(client.answer(), SECONDS)

    async def slow(port: int) -> None:
        """A few bytes at a time, for some seconds."""
        async with connected(port) as client:
            with suppress(OSError):
                for byte in request(photo)[:8]:
                    client.send(bytes([byte]))
                    await client.sent()
                    await asyncio.sleep(SLOW_PAUSE)

    bomb = zlib.compress(bytes(50_000_000), 9)
    body, kind = form([("a.jpg", photo), ("b.txt", b"no photo")])
    cut, _ = form([("a.jpg", photo)])
    gif = b"GIF89a\xff\xff\xff\xff\x80\x00\x00" + bytes(6) + b",\x00\x00\x00\x00\xff\xff\xff\xff\x00\x02\x02D\x01\x00;"
    webp = b"RIFF\x16\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x00\x00\x00\x00\xff\x3f\x00\xff\x3f\x00"
    return {
        "text": Bad(sends(request(b"hello " * 1000)), 415),
        "nothing": Bad(sends(request(b"")), 422),
        "noise": Bad(sends(request(noise.bytes(100_000))), 415),
        "cut JPEG": Bad(sends(request(photo[: len(photo) // 2])), 422),
        "damaged JPEG": Bad(sends(request(flipped())), None),
        "PNG bomb": Bad(sends(request(png(20_000, 20_000, bomb))), 413),
        "PNG without pixels": Bad(sends(request(png(3_900, 3_900))), 422),
        "flat PNG": Bad(sends(request(png(3_900, 3_900, zlib.compress(bytes(3_900 * (3 * 3_900 + 1)), 9)))), None),
        "GIF bomb": Bad(sends(request(gif)), 413),
        "WebP bomb": Bad(sends(request(webp)), None),
        "too large": Bad(sends(request(bytes(max_bytes + 1))), 413),
        "endless": Bad(endless, 413),
        "one of two": Bad(sends(request(body, headers=[kind])), 415),
        "cut form": Bad(sends(request(cut[:-20], headers=[kind])), 422),
        "form without a limit": Bad(sends(request(body, headers=["Content-Type: multipart/form-data"])), 422),
        "unknown setting": Bad(sends(request(photo, "?skeletn=coco")), 422),
        "huge input": Bad(sends(request(photo, "?long_side=100000")), 422),
        "a file of the server": Bad(sends(request(photo, "?skeleton=/etc/passwd.toml")), 422),
        "not HTTP": Bad(sends(b"\x16\x03\x01\x02\x00\r\n\r\n"), 400),
        "broken off": Bad(broken_off, None),
        "slow": Bad(slow, None),
    }


def send_bad(port: int, photo: bytes, count: int, at_once: int, max_bytes: int) -> list[str]:
    """Send bad uploads of all kinds in turn, `at_once` at a time; return what went wrong."""
    kinds = bad_uploads(photo, max_bytes)
    waiting = iter(list(itertools.islice(itertools.cycle(kinds.items()), count)))
    wrong: list[str] = []

    async def send() -> None:
        for name, bad in waiting:
            try:
                answer = await bad.send(port)
            except (OSError, EOFError, TimeoutError) as error:
                wrong.append(f"{name}: {type(error).__name__}")
                continue
            if answer is None or answer.status in (503, bad.status):
                continue
            if bad.status is not None or answer.status >= 500:
                wrong.append(f"{name}: {answer.status} instead of {bad.status}")

    async def send_all() -> None:
        await asyncio.gather(*(send() for _ in range(at_once)))

    asyncio.run(send_all())
    return wrong


async def attack(
    server: Server, photos: Sequence[bytes], *, count: int, at_once: int, num_good: int, max_bytes: int
) -> Outcome:
    """Let another process send bad uploads while `num_good` clients send good photos without a pause."""
    server.forget_peak()
    good: list[Answer] = []
    seconds: dict[str, list[float]] = {"good": [], "health": []}
    attacking = True

    async def ask_on(kind: str, contents: Sequence[bytes], pause: float) -> None:
        async with connected(server.port) as client:
            for content in itertools.cycle(contents):
                if not attacking:
                    break
                begin = time.perf_counter()
                answer = await client.ask(content)
                seconds[kind].append(time.perf_counter() - begin)
                if kind == "good":
                    good.append(answer)
                await asyncio.sleep(pause)

    # Another process, because sending so much would delay what is measured here.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        async with asyncio.TaskGroup() as group:
            for first in range(num_good):
                contents = [request(photo) for photo in (*photos[first:], *photos[:first])]
                group.create_task(ask_on("good", contents, 0))
            group.create_task(ask_on("health", [get("/healthz")], HEALTH_PAUSE))
            await asyncio.sleep(SECONDS_ALONE)
            wrong = await asyncio.get_running_loop().run_in_executor(
                process, send_bad, server.port, photos[0], count, at_once, max_bytes
            )
            attacking = False
    statuses = Counter(answer.status for answer in good)
    return Outcome(wrong, statuses, seconds["good"], seconds["health"], server.memory_mb("VmHWM"), server.memory_mb())
