"""Times as medians with quartiles, and as ratios between alternatives that take turns."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

CaseT = TypeVar("CaseT")
ResultT = TypeVar("ResultT")


class Spread(NamedTuple):
    """Median and quartiles of some samples."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Spread":
        low, median, high = (float(value) for value in np.percentile(samples, (25, 50, 75)))
        return cls(median, low, high)

    def __str__(self) -> str:
        digits = 2 if self.median < 10 else 1 if self.median < 100 else 0
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}-{self.high:.{digits}f})"


class Clock:
    """A stopwatch: each lap is the time in milliseconds since the one before."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.ms[name] = 1000 * (now - self._last)
        self._last = now

    def skip(self) -> None:
        """Exclude the time since the last lap."""
        self._last = time.perf_counter()


def interleaved(
    alternatives: Mapping[str, Callable[[CaseT], ResultT]], cases: Sequence[CaseT], rounds: int
) -> dict[str, list[ResultT]]:
    """Call every alternative on every case, `rounds` times; result i of each belongs to the same case and moment.

    All alternatives take their turn on a case before the next case. The first one changes from turn to turn, so that
    none always runs after the same other.
    """
    results: dict[str, list[ResultT]] = {name: [] for name in alternatives}
    names = list(alternatives)
    for turn in range(rounds * len(cases)):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            results[name].append(alternatives[name](cases[turn % len(cases)]))
    return results


def ratio(samples: Sequence[float], reference: Sequence[float]) -> Spread:
    """`samples` divided by `reference`, pair by pair: samples of one moment share the other load of the machine."""
    return Spread.of([one / other for one, other in zip(samples, reference, strict=True)])
