"""`posedet track`: its throughput beside that of the bare network, and its memory and open files over many frames."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lab.speed import GENERATOR
from posedet.benchmark.comparison import aligned
from posedet.benchmark.timing import Spread, interleaved, ratio
from posedet.errors import PoseDetError
from posedet.image import read_photo
from posedet.runtime.detector import PoseDet
from posedet.video.run import follow
from posedet.video.source import Frame, open_source
from posedet.video.track import with_tracker
from posedet.video.writer import VideoWriter

FRAME_RATE = 25
HD = (720, 1280)  # height, width
SMALL = (128, 160)
NUM_FRAMES = 150  # of the clip whose throughput is measured
SETTLED = 1000  # frames after which memory should not grow


def make_clip(path: Path, photos: Sequence[str], size: tuple[int, int], num_frames: int) -> None:
    """Write a video in which the camera wanders over one photo after the other, four seconds each."""
    writer = VideoWriter(path, GENERATOR)
    pictures = [_enlarged(read_photo(photo), size) for photo in photos]
    for number in range(num_frames):
        picture = pictures[number // (4 * FRAME_RATE) % len(pictures)]
        room = np.array(picture.shape[:2]) - size
        phase = 2 * np.pi * number / (4 * FRAME_RATE)
        top, left = (room * (0.5 + 0.5 * np.array([np.sin(phase), np.cos(phase)]))).astype(int)
        part = np.ascontiguousarray(picture[top : top + size[0], left : left + size[1]])
        writer.add(Frame(number, number / FRAME_RATE, part), part)
    writer.close()


def _enlarged(photo: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The photo, a tenth larger than a frame."""
    factor = 1.1 * max(size[0] / photo.shape[0], size[1] / photo.shape[1])
    width, height = round(photo.shape[1] * factor), round(photo.shape[0] * factor)
    return np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.LANCZOS))


def time_video(photos: Sequence[str], rounds: int, threads: int) -> dict[str, list[float]]:
    """Milliseconds per frame of a 720p clip, in turns: the bare network, poses only, and with an annotated video.

    The bare network is a plain loop over the prepared frames, one after the other, each on all cores.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = folder / "clip.mp4"
        make_clip(clip, photos, HD, NUM_FRAMES)
        alone = PoseDet(threads=threads)
        with open_source(str(clip)) as source:
            inputs = [alone.prepared(frame.image)[1] for frame in source]
        detector = PoseDet(threads=threads, at_once=threads, embedding=True)

        def network(_: None) -> float:
            begin = time.perf_counter()
            for image in inputs:
                alone._session.run(image[None])
            return 1000 * (time.perf_counter() - begin) / len(inputs)

        def tracked(*, video: bool) -> float:
            begin = time.perf_counter()
            weak, tracker = with_tracker(detector)
            with open_source(str(clip)) as source:
                follow(
                    source,
                    folder / "found",
                    weak,
                    tracker,
                    settings={},
                    smooth=True,
                    fill=0.5,
                    video=video,
                    trails=False,
                    formats=(),
                    most_frames=None,
                    restart=True,
                )
            return 1000 * (time.perf_counter() - begin) / len(inputs)

        works = {"network": network, "poses": lambda _: tracked(video=False), "video": lambda _: tracked(video=True)}
        return interleaved(works, [None], rounds)


def video_table(samples: dict[str, list[float]]) -> str:
    """Plain text: times per frame, and throughput as a share of the bare network's."""
    rows = [("720p video", ["ms per frame", "share of the network's throughput"])]
    for work, ms in samples.items():
        rows.append((work, [str(Spread.of(ms)), str(ratio(samples["network"], ms))]))
    return aligned(rows)


class Moment(NamedTuple):
    """What a running command uses."""

    frames: int  # that it has written
    memory_mb: float
    files: int  # open


def endure(photos: Sequence[str], num_frames: int) -> list[Moment]:
    """Run `posedet track` on a long, small video, and look at its process every second. On Linux only.

    Raises PoseDetError if the command fails.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip, found = folder / "long.mp4", folder / "found"
        make_clip(clip, photos, SMALL, num_frames)
        command = [sys.executable, "-m", "posedet", "track", str(clip), "--output", str(found), "--long-side", "160"]
        moments = []
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
            for _ in count():
                if process.poll() is not None:
                    break
                moment = _look(process.pid, found / "long.jsonl")
                if moment is not None:
                    moments.append(moment)
                time.sleep(1)
        if process.returncode:
            raise PoseDetError(f"posedet track failed with exit code {process.returncode}")
        return moments


def _look(process: int, written: Path) -> Moment | None:
    """None before the first frame, and once the process has closed what it writes: it is about to end."""
    try:
        with written.open("rb") as file:
            file.seek(max(0, written.stat().st_size - 100_000))
            frames = json.loads(file.read().splitlines()[-2])["frame"] + 1
        status = Path(f"/proc/{process}/status").read_text("utf-8")
        memory = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        files = [file.readlink() for file in Path(f"/proc/{process}/fd").iterdir()]
        return Moment(frames, memory / 1024, len(files)) if written.resolve() in files else None
    except (OSError, StopIteration, IndexError, KeyError, ValueError):
        return None


def endurance(moments: Sequence[Moment]) -> dict[str, Any]:
    """How much memory and open files grew after the first thousand frames."""
    settled = next((moment for moment in moments if moment.frames >= SETTLED), None)
    if settled is None or moments[-1].frames <= settled.frames:
        raise PoseDetError("too few frames to tell; raise --frames")
    after = [moment for moment in moments if moment.frames >= settled.frames]
    return {
        "frames": moments[-1].frames,
        "memory after 1,000 frames, MB": round(settled.memory_mb, 1),
        "at the end, MB": round(after[-1].memory_mb, 1),
        "most, MB": round(max(moment.memory_mb for moment in after), 1),
        "open files, least and most": [min(moment.files for moment in after), max(moment.files for moment in after)],
    }
