"""The time of one photo in posedet, stage by stage."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from posedet.benchmark.timing import Clock
from posedet.image import Letterbox, Photo, read_photo
from posedet.runtime.decode import best, candidates
from posedet.runtime.detector import PoseDet
from posedet.runtime.session import Session

# In order. The times of an alternative lack the stages that it does not have.
STAGES = ("decode", "preprocess", "network", "poses", "nms")
TOTAL = "total"  # the whole call, from file to poses: the latency for a user
MODEL_STAGES = ("network", "poses", "nms")  # the speed of a model as papers report it

QUANTISED = "int8 + float32"  # precision of a partly quantised model


class Timed(NamedTuple):
    """The measurements of one run."""

    ms: dict[str, float]  # milliseconds by stage
    num_people: int | None  # None: the format of the output is unknown
    peak_memory_mb: float | None  # peak of the process so far; None: not available on this system


class Subject(Protocol):
    """A model whose speed is measured."""

    precision: str

    def measure(self, photo: Photo, long_side: int | None = None, batch: int = 1) -> Timed:
        """Time one photo, after an untimed warm-up run: other alternatives have used the machine in between.

        With a batch above 1 the photo is repeated, and only the network is timed, in milliseconds per photo.
        """


class Ours:
    """A posedet model, timed stage by stage."""

    def __init__(self, session: Session, precision: str) -> None:
        self.precision = precision
        self._session = session

    def measure(self, photo: Photo, long_side: int | None = None, batch: int = 1) -> Timed:
        detector = PoseDet(self._session, long_side=long_side)
        if batch > 1:
            images = np.repeat(detector.prepared(photo)[1][None], batch, axis=0)
            self._session.run(images)
            clock = Clock()
            self._session.run(images)
            clock.lap("network")
            return Timed({"network": clock.ms["network"] / batch}, None, peak_memory_mb())
        detector(photo)
        clock = Clock()
        detector(photo)
        clock.lap(TOTAL)
        letterbox, image = timed_input(detector.prepared, photo, clock)
        images = image[None]
        clock.skip()
        outputs = self._session.run(images).one(0)
        clock.lap("network")
        found = candidates(outputs, letterbox, detector.about.skeleton, detector.config)
        clock.lap("poses")
        poses = found[best(found, letterbox.photo_size, detector.config)].select(detector.skeleton)
        clock.lap("nms")
        return Timed(clock.ms, len(poses), peak_memory_mb())


def timed_input(
    prepare: Callable[[Photo], tuple[Letterbox, NDArray[np.uint8]]], photo: Photo, clock: Clock
) -> tuple[Letterbox, NDArray[np.uint8]]:
    """The result of `prepare` for a photo, with its time split into two stages that add up to the whole.

    The stages overlap, because a large file is decoded at reduced size. So `preprocess` is the time for pixels that
    are already in memory, and `decode` is the additional time for a file.
    """
    if not isinstance(photo, np.ndarray):
        pixels = read_photo(photo)
        prepare(pixels)
        clock.skip()
        prepare(pixels)
        clock.lap("preprocess")
    prepared = prepare(photo)
    clock.lap("decode")
    whole = clock.ms["decode"]
    clock.ms["preprocess"] = min(whole, clock.ms.get("preprocess", whole))
    clock.ms["decode"] = whole - clock.ms["preprocess"]
    return prepared


def totals(samples: Sequence[Timed], stages: Sequence[str]) -> list[float] | None:
    """The sum of some stages for each run; None if the first of them was not timed."""
    if not samples or stages[0] not in samples[0].ms:
        return None
    return [sum(timed.ms.get(stage, 0) for stage in stages) for timed in samples]


def peak_memory_mb() -> float | None:
    """Peak memory of this process, on Linux; None on other systems."""
    # Not getrusage: its peak is inherited from the parent process.
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    except OSError:
        return None
    peaks = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(peaks[0]) / 1024 if peaks else None
