"""One photo through posedet, stage by stage."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from posedet.benchmark.timing import Clock
from posedet.image import Letterbox, read_photo
from posedet.runtime.decode import best, candidates
from posedet.runtime.detector import PoseDet
from posedet.runtime.session import Session

# In order; a stage that an alternative does not have is missing among its times.
STAGES = ("decode", "preprocess", "network", "poses", "nms")
TOTAL = "total"  # of the whole call, file to poses: what a user waits for
MODEL_STAGES = ("network", "poses", "nms")  # what papers call the speed of a model

QUANTISED = "int8 + float32"  # the arithmetic of a model that is quantised in part

Photo = str | NDArray[np.uint8]


class Timed(NamedTuple):
    """What one run took, in milliseconds, by stage."""

    ms: dict[str, float]
    num_people: int | None  # None: the output is not understood
    peak_memory_mb: float | None  # of the process until now; None: the system does not tell


class Subject(Protocol):
    """Something whose speed is measured."""

    precision: str

    def measure(self, photo: Photo, long_side: int | None = None, batch: int = 1) -> Timed:
        """Time one photo, a path or (H, W, 3) uint8 RGB, after an untimed run of the same: others had their turn.

        A batch of more than one holds the same photo several times; then only the network is timed, for each photo.
        """


class Ours:
    """A posedet model."""

    def __init__(self, session: Session, precision: str) -> None:
        self.precision = precision
        self._session = session

    def measure(self, photo: Photo, long_side: int | None = None, batch: int = 1) -> Timed:
        detector = PoseDet(self._session, long_side=long_side)
        if batch > 1:
            images = np.repeat(detector.prepared(photo)[1][None], batch, axis=0)
            return Timed({"network": self._batch_ms(images)}, None, peak_memory_mb())
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

    def _batch_ms(self, images: NDArray[np.uint8]) -> float:
        """Milliseconds of the network for each image of (B, h, w, 3)."""
        self._session.run(images)
        clock = Clock()
        self._session.run(images)
        clock.lap("all")
        return clock.ms["all"] / len(images)


def timed_input(
    prepare: Callable[[Photo], tuple[Letterbox, NDArray[np.uint8]]], photo: Photo, clock: Clock
) -> tuple[Letterbox, NDArray[np.uint8]]:
    """What `prepare` makes of a photo, with its time as two stages that add up to the whole.

    A large file is decoded no larger than needed, so the two cannot be told apart: `preprocess` is what the pixels
    take that are in memory already, and `decode` what a file takes beyond that.
    """
    if isinstance(photo, str):
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
    """The sum of some stages, run by run; None where the first of them was not timed."""
    if not samples or stages[0] not in samples[0].ms:
        return None
    return [sum(timed.ms.get(stage, 0) for stage in stages) for timed in samples]


def peak_memory_mb() -> float | None:
    """The most memory that this process has held, as Linux tells."""
    # Not getrusage: its peak is inherited from whoever started the process.
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    peaks = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(peaks[0]) / 1024 if peaks else None
