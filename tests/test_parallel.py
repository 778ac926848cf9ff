"""Work done side by side: in order, not too far ahead, and ended in time."""

import threading
import time
from collections.abc import Iterator

import pytest

from posedet.runtime.parallel import available_cores, in_order


def test_the_results_are_in_order_whoever_is_first() -> None:
    def slowest_first(number: int) -> int:
        time.sleep(0.02 if number % 5 == 0 else 0.0)
        return number * number

    for at_once in (1, 2, 3, 8):
        assert list(in_order(slowest_first, range(23), at_once)) == [number * number for number in range(23)]
        assert list(in_order(slowest_first, [], at_once)) == []


def test_as_many_at_once_as_asked_for() -> None:
    for at_once in (2, 4):
        together = threading.Barrier(at_once, timeout=10)
        # Each waits until all of them are at work.
        assert len(list(in_order(lambda _, together=together: together.wait(), range(2 * at_once), at_once))) > 0
    present, most = [], []

    def count(number: int) -> None:
        present.append(number)
        most.append(len(present))
        time.sleep(0.002)
        present.remove(number)

    list(in_order(count, range(30), 3))
    assert max(most) <= 3


def test_items_are_taken_as_they_are_needed() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    for place, _ in enumerate(in_order(str, items(), 3)):
        assert len(taken) <= place + 6
        if place == 20:
            break


def test_an_error_comes_at_its_turn_and_ends_the_work() -> None:
    begun, results = [], []

    def work(number: int) -> int:
        begun.append(number)
        time.sleep(0.002)
        if number == 4:
            raise KeyboardInterrupt
        return number

    for at_once in (1, 2):
        begun.clear()
        results.clear()
        with pytest.raises(KeyboardInterrupt):
            for result in in_order(work, range(1000), at_once):
                results.append(result)
        assert results == [0, 1, 2, 3]
        assert max(begun) <= 4 + 2 * at_once
    assert threading.active_count() < 10  # the workers are gone


def test_cores_are_counted() -> None:
    assert available_cores() >= 1
