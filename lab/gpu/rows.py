"""Measurements: one row for each variant, including those that failed."""

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
    """Settings for all parts."""

    device: str
    toy: bool  # a test run: every part once with tiny inputs, also on a CPU
    photos: tuple[str, ...]
    annotations: str  # in the syntax of `Source.parse`
    threads: int  # CPU threads

    @property
    def seconds(self) -> float:
        """The time for which each variant is measured."""
        return 0.0 if self.toy else 0.5


@dataclass(frozen=True)
class Measurement:
    """A variant of a part with its values by name and unit, or the reason for its failure."""

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


def attempt(row: Measurement, measure: Callable[[], dict[str, float]]) -> Measurement:
    """Measure a row. An exception of a driver, compiler or allocator is stored in it, and the other rows continue."""
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
    """An exception as one line."""
    first = next(iter(str(error).splitlines()), "")
    return f"failed: {type(error).__name__}: {one_line(first):.200}"


def timed(call: Callable[[], object], device: str, seconds: float) -> Spread:
    """Milliseconds from the call until the device has finished, measured for `seconds` after two warm-up calls.

    With 0 seconds there is no warm-up, and only the first call is measured.
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
    """Wait until the device has finished; a CPU always has."""
    if device == "cuda":
        torch.cuda.synchronize()


def milliseconds(spread: Spread) -> dict[str, float]:
    return {"ms": spread.median, "ms low": spread.low, "ms high": spread.high}


def peak_memory(device: str) -> dict[str, float]:
    """Peak device memory since the last call, in MB; empty on a CPU."""
    if device != "cuda":
        return {}
    peak = torch.cuda.max_memory_allocated() / 1e6
    torch.cuda.reset_peak_memory_stats()
    return {"peak MB": peak}
