"""What is measured: one row for each variant, also where it failed."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import torch

from posedet.benchmark.timing import Clock, Spread
from posedet.files import one_line

MAX_SAMPLES = 300


class Plan(NamedTuple):
    """What all parts are told."""

    device: str
    toy: bool  # every part once at a small size: to see that it works, on a CPU too
    photos: tuple[str, ...]
    annotations: str  # as a user writes them, see `Source`
    threads: int  # of the host

    @property
    def seconds(self) -> float:
        """How long each variant is timed."""
        return 0.0 if self.toy else 0.5


@dataclass(frozen=True)
class Row:
    """A variant of a part, and its numbers by name, with the unit; or why there are none."""

    part: str
    model: str
    variant: str
    precision: str = ""
    batch: int = 0
    values: dict[str, float] = field(default_factory=dict)
    failed: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        said = self.failed or "  ".join(f"{name} {value:.4g}" for name, value in self.values.items())
        batch = f"x {self.batch}" if self.batch else ""
        return f"{self.part:<9} {self.model:<13} {self.variant:<26} {self.precision:<5} {batch:<5} {said}"


def attempt(row: Row, measure: Callable[[], dict[str, float]]) -> Row:
    """The row with its numbers. Whatever a driver, compiler or allocator raises is told in it; the others go on."""
    try:
        values = measure()
        if not all(map(math.isfinite, values.values())):
            raise ArithmeticError(f"not finite: {values}")
        return replace(row, values=values)
    except Exception as error:
        return replace(row, failed=said(error))
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def said(error: Exception) -> str:
    """An exception in one line."""
    first = next(iter(str(error).splitlines()), "")
    return f"failed: {type(error).__name__}: {one_line(first):.200}"


def timed(call: Callable[[], object], device: str, seconds: float) -> Spread:
    """Milliseconds from the call until the device has done its work; with no seconds, of one first call.

    Otherwise two calls before are not counted.
    """
    for _ in range(2 if seconds else 0):
        call()
    wait(device)
    samples: list[float] = []
    until = time.perf_counter() + seconds
    while not samples or (time.perf_counter() < until and len(samples) < MAX_SAMPLES):
        clock = Clock()
        call()
        wait(device)
        clock.lap("all")
        samples.append(clock.ms["all"])
    return Spread.of(samples)


def wait(device: str) -> None:
    """Until all that was asked of the device is done; a CPU has done it."""
    if device == "cuda":
        torch.cuda.synchronize()


def milliseconds(spread: Spread) -> dict[str, float]:
    return {"ms": spread.median, "ms low": spread.low, "ms high": spread.high}


def peak_memory(device: str) -> dict[str, float]:
    """The most device memory held since the last call, in MB; nothing on a CPU."""
    if device != "cuda":
        return {}
    peak = torch.cuda.max_memory_allocated() / 1e6
    torch.cuda.reset_peak_memory_stats()
    return {"peak MB": peak}
