"""The throughput of `posedet predict` on a folder of photos, compared with that of the bare network.

The bare network is a plain loop over prepared inputs, one after the other, each on all cores.
"""

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle, islice, product
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from posedet.benchmark.comparison import aligned
from posedet.benchmark.stages import TOTAL, Timed, peak_memory_mb
from posedet.benchmark.timing import Clock, Spread, interleaved, ratio
from posedet.benchmark.workers import Alternative, Worker
from posedet.errors import PhotoError
from posedet.image import read_image
from posedet.outputs import write_results
from posedet.runtime.bulk import GENERATOR, best_at_once, find_all, results
from posedet.runtime.detector import PoseDet
from posedet.runtime.session import Session

NUM_PHOTOS = 100  # per turn; the available photos are repeated
NUM_LARGE = 16  # per turn, of photos that are enlarged
GRAIN = 4  # standard deviation of the noise in an enlarged photo: without it, its file would be much too small

# The bare network; from files to poses.json; the same with annotated pictures.
Work = Literal["network", "poses", "pictures"]
PROCESSOR = "processor"  # processor time of all threads together


@dataclass(frozen=True)
class Many(Alternative):
    """An alternative that does some work on many photos."""

    work: Work = "network"

    def open(self) -> "_Opened":  # type: ignore[override]  # it measures a list of photos
        """Load the model. Raises ModelError or ConfigError if that is not possible."""
        at_once = 1 if self.work == "network" else best_at_once(NUM_PHOTOS, self.threads)
        return _Opened(self.session(at_once), at_once, self.work)


class _Opened:
    precision = ""

    def __init__(self, session: Session, at_once: int, work: Work) -> None:
        self._session, self._work = session, work
        self._detector = PoseDet(session, at_once=at_once)

    def measure(self, photos: Sequence[str]) -> Timed:
        """Milliseconds per photo, elapsed and of the processor, after an untimed run of the first photos."""
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
        write_results(folder / "poses.json", GENERATOR, entries)
        return watch.stop(len(entries))


class _Watch:
    """A stopwatch for the work on some photos; it starts when it is created."""

    def __init__(self, num_photos: int) -> None:
        self._num_photos = num_photos
        self._clock, self._processor = Clock(), time.process_time()

    def stop(self, num_people: int | None) -> Timed:
        self._clock.lap(TOTAL)
        processor = 1000 * (time.process_time() - self._processor)
        each = {TOTAL: self._clock.ms[TOTAL] / self._num_photos, PROCESSOR: processor / self._num_photos}
        return Timed(each, num_people, peak_memory_mb())


def enlarged(photos: Sequence[str], megapixels: int, folder: Path) -> list[str]:
    """Write JPEG files of so many megapixels, with grain, and return their paths."""
    grain = np.random.default_rng(0).normal(0, GRAIN, (512, 512, 3)).astype(np.float32)
    files = []
    for place, photo in enumerate(photos):
        image = read_image(photo)
        factor = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
        size = (round(image.width * factor), round(image.height * factor))
        pixels = np.array(image.resize(size, Image.Resampling.BICUBIC))
        for top, left in product(range(0, size[1], 512), range(0, size[0], 512)):
            part = pixels[top : top + 512, left : left + 512]
            part[...] = np.clip(part + grain[: len(part), : part.shape[1]], 0, 255)
        files.append(str(folder / f"{place}.jpg"))
        Image.fromarray(pixels).save(files[-1], quality=90)
    return files


def time_folder(
    alternative: Alternative, photos: Sequence[str], rounds: int, *, megapixels: int | None = None
) -> dict[str, list[Timed]]:
    """Time all three kinds of work in turns, `rounds` times on `NUM_PHOTOS` photos, or on `NUM_LARGE` enlarged ones."""
    if megapixels is not None:
        with tempfile.TemporaryDirectory() as folder:
            return _timed(alternative, enlarged(photos[:NUM_LARGE], megapixels, Path(folder)), rounds, NUM_LARGE)
    return _timed(alternative, photos, rounds, NUM_PHOTOS)


def _timed(alternative: Alternative, photos: Sequence[str], rounds: int, number: int) -> dict[str, list[Timed]]:
    some = list(islice(cycle(photos), number))
    works: tuple[Work, ...] = ("network", "poses", "pictures")
    with ExitStack() as stack:
        workers = {work: stack.enter_context(Worker(Many(**vars(alternative), work=work))) for work in works}
        return interleaved({work: worker.ask for work, worker in workers.items()}, [some], rounds)


def over_network(samples: dict[str, list[Timed]], work: Work, what: str = TOTAL) -> Spread:
    """The time of some work divided by that of the bare network, round by round; elapsed, or of the processor."""
    return ratio([timed.ms[what] for timed in samples[work]], [timed.ms[what] for timed in samples["network"]])


def folder_table(samples: dict[str, list[Timed]]) -> str:
    """Plain text: time and processor time per photo, and both divided by those of the bare network."""
    rows: list[tuple[str, Sequence[str]]] = [("", ("ms", "times network", "processor ms", "times network"))]
    for work in ("network", "poses", "pictures"):
        cells = []
        for what in (TOTAL, PROCESSOR):
            cells += [
                str(Spread.of([timed.ms[what] for timed in samples[work]])),
                str(over_network(samples, work, what)),
            ]
        rows.append((work, cells))
    return aligned(rows)
