"""Times as medians with their spread, and as ratios of alternatives that took turns."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

Case = TypeVar("Case")
Result = TypeVar("Result")


class Spread(NamedTuple):
    """The middle of some samples and the quartiles about it."""

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
        """Leave out the time since the last lap."""
        self._last = time.perf_counter()


def interleaved(
    alternatives: Mapping[str, Callable[[Case], Result]], cases: Sequence[Case], rounds: int
) -> dict[str, list[Result]]:
    """What each alternative says of each case, round by round: sample i of all belongs to the same moment and case.

    On every case all take their turn before the next case; who begins changes, so none always follows the same other.
    """
    results: dict[str, list[Result]] = {name: [] for name in alternatives}
    names = list(alternatives)
    for turn in range(rounds * len(cases)):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            results[name].append(alternatives[name](cases[turn % len(cases)]))
    return results


def ratio(samples: Sequence[float], reference: Sequence[float]) -> Spread:
    """`samples` over `reference`, one by one: samples of the same moment share what else the machine was doing."""
    return Spread.of([one / other for one, other in zip(samples, reference, strict=True)])
