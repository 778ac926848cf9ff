"""How the time grows with the size of photo and network input, the number of people, the batch and the threads."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lab.speed import GENERATOR
from posedet.benchmark.comparison import aligned
from posedet.benchmark.stages import TOTAL, Timed
from posedet.benchmark.timing import Spread, interleaved
from posedet.benchmark.workers import Alternative, Worker
from posedet.errors import DataError
from posedet.image import GREY, read_photo
from posedet.outputs import write_figure
from posedet.runtime.detector import PoseDet

PHOTO_SIDES = (320, 640, 1280, 2560, 5120)
INPUT_SIDES = (320, 448, 576, 800, 1152)
PEOPLE = (1, 2, 5, 10, 20, 50, 100)
BATCHES = (1, 2, 4, 8)

CROWD_SIZE = (960, 1280)  # photo of a crowd, (height, width)
CROWD_GRID = (8, 13)  # positions of people: rows, columns
CROWD_LONG_SIDE = 1152  # network input: at the default size, these people are too small


@dataclass(frozen=True)
class Growth:
    """Times as a function of one quantity."""

    name: str
    quantity: str
    measured: str  # what was timed
    points: dict[float, list[float]]  # the quantity -> milliseconds, run by run
    found: dict[float, int | None]  # people in the last run

    def to_dict(self) -> dict[str, Any]:
        return {
            "quantity": self.quantity,
            "measured": self.measured,
            "points": [
                {"at": at, **Spread.of(ms)._asdict(), "num_people": self.found[at], "samples": ms}
                for at, ms in self.points.items()
            ],
        }


def measure_growth(alternative: Alternative, photos: Sequence[str], rounds: int) -> list[Growth]:
    """Measure all five curves; the points of a curve take turns.

    The first of `photos` is resized; the person for the crowds is cut out of any of them.
    """
    photo = photos[0]
    with Worker(alternative) as worker, tempfile.TemporaryDirectory() as folder:
        enlarged = {float(side): str(_resized(photo, side, Path(folder))) for side in PHOTO_SIDES}
        curves = [
            _curve("photo", "long side of the photo file, pixels", TOTAL, rounds, enlarged, worker.measure),
            _curve(
                "input",
                "long side of the network's input, pixels",
                TOTAL,
                rounds,
                {float(side): side for side in INPUT_SIDES},
                lambda side: worker.measure(photo, side),
            ),
            people(worker, photos, rounds, PEOPLE),
            _curve(
                "batch",
                "photos at once",
                "network",
                rounds,
                {float(batch): batch for batch in BATCHES},
                lambda batch: worker.measure(photo, batch=batch),
            ),
        ]
    with ExitStack() as stack:
        cores = [count for count in (1, 2, 4, 8, 16, 32) if count <= alternative.threads]
        by_cores = {float(count): stack.enter_context(Worker(replace(alternative, threads=count))) for count in cores}
        curves.append(_curve("threads", "threads", TOTAL, rounds, by_cores, lambda each: each.measure(photo)))
    return curves


def people(worker: Worker, photos: Sequence[str], rounds: int, counts: Sequence[int]) -> Growth:
    """The time for `counts` copies of one person, all of the same size, in photos of the same size.

    The photos are in memory, so decoding a file is not included.
    """
    person = standing_person(photos)
    crowds = {float(count): crowd(person, count) for count in counts}
    return _curve(
        "people", "people in the photo", TOTAL, rounds, crowds, lambda photo: worker.measure(photo, CROWD_LONG_SIDE)
    )


def _curve(
    name: str, quantity: str, stage: str, rounds: int, cases: dict[float, Any], measure: Callable[[Any], Timed]
) -> Growth:
    calls = {str(at): partial(lambda case, _: measure(case), case) for at, case in cases.items()}
    samples = interleaved(calls, [None], rounds)
    timed = {at: samples[str(at)] for at in cases}
    measured = {TOTAL: "from photo to poses", "network": "the network, per photo"}[stage]
    return Growth(
        name,
        quantity,
        measured,
        {at: [one.ms[stage] for one in each] for at, each in timed.items()},
        {at: each[-1].num_people for at, each in timed.items()},
    )


def standing_person(photos: Sequence[str]) -> NDArray[np.uint8]:
    """The crop (h, w, 3) with the highest-scoring person who stands upright and is visible from head to foot."""
    detector = PoseDet()
    surest, part = 0.0, None
    for path in photos:
        photo = read_photo(path)
        for pose in detector(photo):
            x1, y1, x2, y2 = pose.boxes[0]
            width, height = x2 - x1, y2 - y1
            # The keypoints end at eyes and ankles.
            low = np.maximum([x1 - 0.15 * width, y1 - 0.1 * height], 0).astype(int)
            high = np.array([x2 + 0.15 * width, y2 + 0.08 * height]).astype(int)
            inside = min(x1, y1) > 0 and x2 < photo.shape[1] - 1 and y2 < photo.shape[0] - 1
            if inside and height > 100 and 1.5 * width < height < 4 * width and pose.scores[0] > surest:
                surest, part = float(pose.scores[0]), photo[low[1] : high[1], low[0] : high[0]]
    if part is None:
        raise DataError(
            "photos: no standing person is visible from head to foot, which crowds are made of; name more photos"
        )
    return part


def crowd(person: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """A photo (960, 1280, 3) with `count` copies of a person (at most 104); their size does not depend on `count`."""
    rows, columns = CROWD_GRID
    height, width = CROWD_SIZE[0] // rows, CROWD_SIZE[1] // columns
    factor = min(height / person.shape[0], width / person.shape[1])
    size = (max(1, int(person.shape[1] * factor)), max(1, int(person.shape[0] * factor)))
    small = np.asarray(Image.fromarray(person).resize(size, Image.Resampling.LANCZOS))
    photo = np.full((*CROWD_SIZE, 3), GREY, np.uint8)
    for place in np.random.default_rng(0).permutation(rows * columns)[:count]:
        top, left = place // columns * height, place % columns * width
        photo[top : top + small.shape[0], left : left + small.shape[1]] = small
    return photo


def _resized(photo: str, side: int, folder: Path) -> Path:
    """Save the photo as a JPEG with a long side of `side` pixels."""
    image = Image.fromarray(read_photo(photo))
    factor = side / max(image.size)
    path = folder / f"{side}.jpg"
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    image.resize(size, Image.Resampling.LANCZOS).save(path, quality=90)
    return path


def growth_table(curves: Sequence[Growth]) -> str:
    """Plain text: a block for each curve."""
    blocks = []
    for curve in curves:
        rows = [(curve.quantity, [f"{at:g}" for at in curve.points])]
        rows.append((f"ms {curve.measured}", [str(Spread.of(ms)) for ms in curve.points.values()]))
        if all(count is not None for count in curve.found.values()):
            rows.append(("people found", [str(count) for count in curve.found.values()]))
        blocks.append(aligned(rows))
    return "\n\n".join(blocks)


def draw_growth(curves: Sequence[Growth], path: Path) -> None:
    """Write a PNG with a panel for each curve, with quartiles."""
    from matplotlib.figure import Figure

    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(3 * columns, 2.5 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, curve in zip(panels, curves, strict=False):
        places = list(curve.points)
        spreads = [Spread.of(ms) for ms in curve.points.values()]
        axis.plot(places, [spread.median for spread in spreads], marker=".")
        axis.fill_between(
            places, [spread.low for spread in spreads], [spread.high for spread in spreads], alpha=0.2, linewidth=0
        )
        axis.set_xscale("log")
        axis.set_xticks(places, [f"{place:g}" for place in places])
        axis.set_xticks([], minor=True)
        axis.set_ylim(0, 1.1 * max(spread.high for spread in spreads))
        axis.set_xlabel(curve.quantity)
        axis.set_title(f"ms {curve.measured}", fontsize="medium")
        axis.grid(alpha=0.3)
    for axis in panels[len(curves) :]:
        axis.set_axis_off()
    write_figure(path, GENERATOR, figure)
