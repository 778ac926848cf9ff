"""The claims of docs/lab/speed.md, as ratios and bounds that also apply to other machines, and their measurement."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np

from lab.speed.growth import people
from lab.speed.throughput import Work, over_network
from posedet.benchmark.comparison import Comparison, aligned
from posedet.benchmark.stages import TOTAL, Timed
from posedet.benchmark.timing import Clock, Spread, ratio
from posedet.benchmark.workers import Alternative, open_all
from posedet.errors import PoseDetError
from posedet.oks import oks_nms
from posedet.skeleton import COCO

NUM_CANDIDATES, NUM_PEOPLE = 1000, 100
MOST_OVER_NETWORK = 1.18  # 85 % of its throughput


class Claim(NamedTuple):
    """A measurement whose median must not exceed a limit."""

    what: str
    measured: Spread
    limit: float

    @property
    def holds(self) -> bool:
        return self.measured.median <= self.limit

    def to_dict(self) -> dict[str, Any]:
        return {"what": self.what, **self.measured._asdict(), "limit": self.limit, "holds": self.holds}


def against_peers(comparison: Comparison) -> list[Claim]:
    """Our time divided by that of each other alternative: from file to poses, and only the network."""
    ours, *others = comparison.samples
    claims = []
    for name in others:
        for what, stage, limit in (("file to poses", TOTAL, 1.0), ("network", "network", 1.0)):
            mine, theirs = comparison.ms(ours, [stage]), comparison.ms(name, [stage])
            if mine is not None and theirs is not None:
                claims.append(Claim(f"{what}, times that of {name}", ratio(mine, theirs), limit))
    return claims


def of_one_model(alternative: Alternative, photos: Sequence[str], rounds: int) -> list[Claim]:
    """Claims: the number of people does not matter, NMS is fast, and a single photo has a low latency."""
    with ExitStack() as stack:
        worker = open_all({"": alternative}, stack)[""]
        one, hundred = people(worker, photos, rounds, (1, NUM_PEOPLE)).points.values()
    return [
        Claim("100 people, times one person", ratio(hundred, one), 1.1),
        Claim(f"OKS-NMS of {NUM_CANDIDATES} candidates, ms", Spread.of(time_nms(10 * rounds)), 5.0),
        Claim("posedet predict of one photo, cold, s", Spread.of(time_predict(photos[0], rounds)), 1.5),
    ]


def of_a_folder(samples: dict[str, list[Timed]]) -> list[Claim]:
    """Claims: everything else that `posedet predict` does with many photos takes little time beside the network."""
    kinds: dict[Work, str] = {
        "poses": "a folder of photos to poses.json",
        "pictures": "the same with annotated pictures",
    }
    return [
        Claim(f"{what}, times the bare network", over_network(samples, work), MOST_OVER_NETWORK)
        for work, what in kinds.items()
    ]


def time_nms(runs: int) -> list[float]:
    """Milliseconds for the NMS of 1,000 candidates: 100 people in a photo of 640 x 480, with ten poses each."""
    generator = np.random.default_rng(0)
    centres = generator.uniform((0, 0), (640, 480), (NUM_PEOPLE, 1, 2))
    people_ = centres + generator.normal(0, (10, 25), (NUM_PEOPLE, COCO.num_keypoints, 2))
    several = np.repeat(people_, NUM_CANDIDATES // NUM_PEOPLE, axis=0)
    keypoints = (several + generator.normal(0, 2, several.shape)).astype(np.float32)
    scores = generator.uniform(0, 1, NUM_CANDIDATES).astype(np.float32)
    milliseconds = []
    for _ in range(runs):
        clock = Clock()
        oks_nms(keypoints, scores, np.array(COCO.sigmas), oks_threshold=0.3, min_area=256.0, max_poses=NUM_PEOPLE)
        clock.lap("nms")
        milliseconds.append(clock.ms["nms"])
    return milliseconds


def time_predict(photo: str, runs: int) -> list[float]:
    """Seconds for `posedet predict PHOTO`, including the start of Python and the loading of the model."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(runs):
            clock = Clock()
            command = [sys.executable, "-m", "posedet", "predict", photo, "--output", folder]
            run = subprocess.run(command, capture_output=True, text=True)
            clock.lap("all")
            if run.returncode:
                raise PoseDetError(run.stderr.strip().rpartition("\n")[2].removeprefix("posedet: error: "))
            seconds.append(clock.ms["all"] / 1000)
    return seconds


def claims_table(claims: Sequence[Claim]) -> str:
    """Plain text: the measurement, the limit and the verdict of each claim."""
    rows: list[tuple[str, list[str]]] = [("", ["measured", "at most", ""])]
    rows += [
        (claim.what, [str(claim.measured), f"{claim.limit:g}", "holds" if claim.holds else "DOES NOT HOLD"])
        for claim in claims
    ]
    return aligned(rows)
