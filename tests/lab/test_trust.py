"""The long checks of docs/lab/trust.md, in short."""

import mmap
import sys
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest

from lab.trust import detecting, mutants
from lab.trust.__main__ import main
from lab.trust.detecting import many_photos, memory_over, threads_against_series
from posedet import PoseDet, Poses
from posedet.errors import PoseDetError
from posedet.skeleton import COCO


def test_photos_are_all_different(photos: Path) -> None:
    files = sorted(photos.glob("*.jpg"))
    some = list(islice(many_photos(files), 200))
    assert len({photo.tobytes() for photo in some}) == 200
    assert all(photo.dtype == np.uint8 and photo.shape[2] == 3 and min(photo.shape[:2]) > 100 for photo in some)


def found(number: float) -> Poses:
    return Poses(np.full((1, 17, 2), number), np.full(1, 0.5), np.full((1, 17), 0.5), COCO)


def test_the_slightest_difference_is_counted() -> None:
    seen = count()

    def shaky(photo: np.ndarray) -> Poses:
        return found(np.nextafter(np.float32(1), np.float32(2)) if next(seen) == 7 else 1)

    photos = [np.zeros((8, 8, 3), np.uint8)] * 6
    assert threads_against_series(shaky, photos, 4) == (6, 6, 1)


@pytest.mark.slow
@pytest.mark.parametrize("cores", [1, 4])
def test_thirty_two_threads_find_the_poses_of_a_series(cores: int, photos: Path) -> None:
    detector = PoseDet(long_side=128, score_threshold=0.1, threads=cores, embedding=True)
    compared = threads_against_series(detector, islice(many_photos(sorted(photos.glob("*.jpg"))), 64), 32)
    assert compared.num_poses > 64 and compared == (64, compared.num_poses, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_that_grows_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[mmap.mmap] = []

    def leaking(photo: np.ndarray) -> None:
        kept.append(mmap.mmap(-1, 4_000_000))  # memory that the process did not have before, and freed
        kept[-1].write(bytes(4_000_000))

    monkeypatch.setattr(detecting, "SETTLED", 3)
    photos = [np.zeros((8, 8, 3), np.uint8)] * 8
    assert memory_over(leaking, photos, 8).grown > 15
    assert memory_over(lambda photo: None, photos, 8).grown < 5
    with pytest.raises(PoseDetError, match=r"^--photos 3: expected more than 3, after which memory is compared$"):
        memory_over(lambda photo: None, photos, 3)


def test_the_commands_fail_if_a_claim_does_not_hold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results: dict[str, Callable[..., object]] = {
        "threads_against_series": lambda *_: detecting.Compared(2, 3, 1),
        "memory_over": lambda *_: detecting.Growth(100, 112, 105),
    }
    for name, result in results.items():
        monkeypatch.setattr(detecting, name, result)
    assert main(["threads", "--photos", "2"]) == main(["memory"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "32 threads, 1 of the runtime, 2 photos, 3 poses: 1 photos differ from a series",
        "32 threads, 4 of the runtime, 2 photos, 3 poses: 1 photos differ from a series",
        "20000 photos: 100.0 MB after 500, 112.0 at most, 105.0 at the end: grown by 12.0 MB",
    ]


LISTED = """
    posedet.oks.x_oks__mutmut_1: killed
    posedet.oks.x_oks__mutmut_2: survived
    posedet.oks.x_oks__mutmut_3: timeout
    posedet.image.xǁLetterboxǁfit__mutmut_1: killed
    posedet.image.xǁLetterboxǁfit__mutmut_2: no tests
"""


def test_mutants_that_no_test_notices_are_listed_and_too_many_are_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = mutants.statuses(LISTED.splitlines())
    monkeypatch.setattr(mutants, "mutants", lambda jobs: found)
    assert main(["mutants"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "posedet.oks.x_oks__mutmut_2: survived",
        "posedet.image.xǁLetterboxǁfit__mutmut_2: no tests",
        "",
        "| module | mutants | noticed | |",
        "|---|---|---|---|",
        "| `posedet.image` | 2 | 1 | 50.0 % |",
        "| `posedet.oks` | 3 | 2 | 66.7 % |",
    ]
    monkeypatch.setattr("lab.trust.__main__.LEAST_PERCENT", 50)
    assert main(["mutants"]) == 0
