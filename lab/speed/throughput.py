"""A folder of photos through all that `posedet predict` does, beside the bare network: what is lost before and after.

The bare network is a plain loop: prepared inputs, one after the other, all cores for each.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Literal

from posedet.benchmark.stages import TOTAL, Timed, peak_memory_mb
from posedet.benchmark.timing import Clock, Spread, interleaved, ratio
from posedet.benchmark.workers import Alternative, Worker
from posedet.errors import PhotoError
from posedet.files import write_atomically
from posedet.runtime.bulk import best_at_once, find_all, results
from posedet.runtime.detector import PoseDet
from posedet.runtime.session import Session

NUM_PHOTOS = 100  # in a turn; those at hand are repeated

# The bare network; from files to poses.json; the same with annotated pictures.
Work = Literal["network", "poses", "pictures"]
PROCESSOR = "processor"  # the time that all threads together took of the processor


@dataclass(frozen=True)
class Many:
    """Some work on many photos, as a worker opens it."""

    alternative: Alternative
    work: Work

    @property
    def name(self) -> str:
        return self.alternative.name

    def open(self) -> "_Opened":
        """Make it ready. Raises ModelError or ConfigError naming what is wrong."""
        at_once = 1 if self.work == "network" else best_at_once(NUM_PHOTOS, self.alternative.threads)
        return _Opened(self.alternative.session(at_once), at_once, self.work)


class _Opened:
    precision = ""

    def __init__(self, session: Session, at_once: int, work: Work) -> None:
        self._session, self._work = session, work
        self._detector = PoseDet(session, at_once=at_once)

    def measure(self, photos: Sequence[str]) -> Timed:
        """Milliseconds for each photo, of the clock and of the processor, after an untimed run of the first ones."""
        paths = [Path(photo) for photo in photos]
        with tempfile.TemporaryDirectory() as folder:
            begin = self._loop if self._work == "network" else self._command
            begin(paths[: 2 * self._detector.at_once], Path(folder))
            return begin(paths, Path(folder))

    def _loop(self, photos: Sequence[Path], _: Path) -> Timed:
        inputs = [self._detector.prepared(photo)[1][None] for photo in photos]
        watch = _Watch(len(photos))
        for image in inputs:
            self._session.run(image)
        return watch.stop(None)

    def _command(self, photos: Sequence[Path], folder: Path) -> Timed:
        drawn = [folder / f"{place}.jpg" for place in range(len(photos))] if self._work == "pictures" else None
        watch = _Watch(len(photos))
        entries = []
        for place, poses in enumerate(find_all(self._detector, photos, drawn)):
            if isinstance(poses, PhotoError):
                raise poses
            entries += results(poses, place + 1, photos[place])
        write_atomically(folder / "poses.json", json.dumps(entries).encode())
        return watch.stop(len(entries))


class _Watch:
    """Times the work on some photos from its making on."""

    def __init__(self, num_photos: int) -> None:
        self._num_photos = num_photos
        self._clock, self._processor = Clock(), time.process_time()

    def stop(self, num_people: int | None) -> Timed:
        self._clock.lap(TOTAL)
        processor = 1000 * (time.process_time() - self._processor)
        each = {TOTAL: self._clock.ms[TOTAL] / self._num_photos, PROCESSOR: processor / self._num_photos}
        return Timed(each, num_people, peak_memory_mb())


def time_folder(alternative: Alternative, photos: Sequence[str], rounds: int) -> dict[str, list[Timed]]:
    """All three kinds of work in turns, `rounds` times `NUM_PHOTOS` photos each."""
    some = list(islice(cycle(photos), NUM_PHOTOS))
    works: tuple[Work, ...] = ("network", "poses", "pictures")
    with ExitStack() as stack:
        workers = {work: stack.enter_context(Worker(Many(alternative, work))) for work in works}
        return interleaved({work: worker.ask for work, worker in workers.items()}, [some], rounds)


def over_network(samples: dict[str, list[Timed]], work: Work, what: str = TOTAL) -> Spread:
    """How many times the bare network's time, round by round; of the clock, or of the processor."""
    return ratio([timed.ms[what] for timed in samples[work]], [timed.ms[what] for timed in samples["network"]])
