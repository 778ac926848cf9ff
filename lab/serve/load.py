"""Throughput of the server under load, beside the same model called in Python."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from typing import NamedTuple

from lab.serve.client import Server, connected, request
from posedet.benchmark.timing import interleaved
from posedet.runtime.detector import PoseDet
from posedet.runtime.parallel import in_order


class Load(NamedTuple):
    """One turn."""

    rate: float  # photos a second
    processor: float  # seconds of a core for each photo, of server and clients together
    seconds: list[float]  # that each request took
    statuses: list[int]


async def clients(server: Server, photos: Sequence[bytes], num_clients: int, seconds: float) -> Load:
    """Let clients send photo after photo for some time, each over its own connection."""
    end = time.perf_counter() + seconds
    times: list[float] = []
    statuses: list[int] = []

    async def send(first: int) -> None:
        async with connected(server.port) as client:
            for place in itertools.count(first):
                begin = time.perf_counter()
                if begin > end:
                    break
                statuses.append((await client.ask(request(photos[place % len(photos)]))).status)
                times.append(time.perf_counter() - begin)

    begin, processor = time.perf_counter(), time.process_time() + server.processor_seconds()
    await asyncio.gather(*(send(first) for first in range(num_clients)))
    count, processor = statuses.count(200), time.process_time() + server.processor_seconds() - processor
    return Load(count / (time.perf_counter() - begin), processor / count, times, statuses)


def in_python(detector: PoseDet, photos: Sequence[bytes], seconds: float) -> Load:
    """Let the detector find the poses of photo after photo for some time, `detector.at_once` at a time."""
    begin, processor = time.perf_counter(), time.process_time()
    some = itertools.takewhile(lambda _: time.perf_counter() < begin + seconds, itertools.cycle(photos))
    count = sum(1 for _ in in_order(detector, some, detector.at_once))
    return Load(count / (time.perf_counter() - begin), (time.process_time() - processor) / count, [], [])


def compare(
    server: Server, detector: PoseDet, photos: Sequence[bytes], *, num_clients: int, seconds: float, rounds: int
) -> dict[str, list[Load]]:
    """Let the server and Python take turns."""
    turns = {
        "server": lambda turn: asyncio.run(clients(server, photos, num_clients, turn)),
        "Python": lambda turn: in_python(detector, photos, turn),
    }
    return interleaved(turns, [seconds], rounds)
