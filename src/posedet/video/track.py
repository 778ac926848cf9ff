"""Poses with ids, frame by frame: decode, detect, track and smooth, on all cores."""

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from posedet.poses import Poses
from posedet.runtime.detector import PoseDet
from posedet.runtime.parallel import available_cores, in_order
from posedet.runtime.session import EMBEDDING
from posedet.tracking.smoothing import GapFiller, Smoother
from posedet.tracking.tracker import Tracker
from posedet.video.source import Frame, open_source

# Frames that are decoded ahead of the network.
DECODED_AHEAD = 4
# The tracker also uses poses that are too weak to be reported, down to this share of the detector's score threshold:
# they continue a track, but never begin one.
WEAK_SHARE = 0.55

Item = TypeVar("Item")


class TrackedFrame(NamedTuple):
    """A frame of a video, and the people in it."""

    number: int  # from 0; frames of a live source that were dropped count
    time: float  # seconds since the beginning
    image: NDArray[np.uint8]  # (H, W, 3) RGB, upright
    poses: Poses  # in pixels of the image; `poses.ids` says who is who


def track(
    source: str | os.PathLike[str] | bytes | BinaryIO,
    *,
    detector: PoseDet | None = None,
    tracker: Tracker | None = None,
    smooth: bool = True,
    frame_rate: float | None = None,
) -> Iterator[TrackedFrame]:
    """Find the people in each frame of a video and follow them.

    Args:
        source: Path of a video, its bytes, or a binary file that is open; folder or pattern of frames, camera,
            address, or `-`; see `open_source`.
        detector: Default: `posedet-s` with embeddings.
        tracker: Decides who is who. Default: poses above the detector's score threshold begin a track, and weaker ones
            can continue it. With a tracker of your own, the detector is used as it is.
        smooth: Smooth the keypoints of each person over time, see `Smoother`. False: as the network finds them.
        frame_rate: Frames a second of a folder of frames. Default: 30.

    Yields:
        The frames in order. Memory does not grow with their number.

    Raises:
        DataError: If the source cannot be read.
        ConfigError: If an optional package is missing.

    Examples:
        >>> for frame in track("clip.mp4"):
        ...     print(frame.time, frame.poses.ids)
    """
    with open_source(source, frame_rate=frame_rate) as opened:
        if detector is None:
            cores = 1 if opened.live else available_cores()
            detector = PoseDet(at_once=cores, embedding=True)
        if tracker is None:
            detector, tracker = with_tracker(detector)
        found = detected(opened, detector, detector.at_once, live=opened.live)
        for frame, poses in followed(found, tracker, Smoother() if smooth else None):
            yield TrackedFrame(*frame, poses)


def with_tracker(detector: PoseDet) -> tuple[PoseDet, Tracker]:
    """Return the detector with a lower score threshold, and a tracker that begins tracks at the previous one."""
    sure = detector.config.score_threshold
    return detector.adjusted(score_threshold=WEAK_SHARE * sure), Tracker(sure_score=sure)


def followed(
    found: Iterable[tuple[Frame, Poses]], tracker: Tracker, smoother: Smoother | None, filler: GapFiller | None = None
) -> Iterator[tuple[Frame, Poses]]:
    """Give poses their ids, smooth them, and fill gaps: frames then wait until no later one can fill them."""
    waiting: deque[Frame] = deque()
    for frame, poses in found:
        poses = tracker.update(poses, frame.time)
        if smoother is not None:
            poses = smoother.update(poses, frame.time)
        if filler is None:
            yield frame, poses
            continue
        waiting.append(frame)
        for _, complete in filler.add(poses, frame.time):
            yield waiting.popleft(), complete
    if filler is not None:
        for _, complete in filler.rest():
            yield waiting.popleft(), complete


def detected(
    frames: Iterable[Frame], detector: Callable[[NDArray[np.uint8]], Poses], at_once: int, *, live: bool
) -> Iterator[tuple[Frame, Poses]]:
    """Decode and detect concurrently, and yield in the order of the frames."""

    def find(frame: Frame) -> tuple[Frame, Poses]:
        poses = detector(frame.image)
        if EMBEDDING in poses.extra:
            # Two decimals are enough, and keep journals small.
            poses = replace(poses, extra={**poses.extra, EMBEDDING: poses.extra[EMBEDDING].round(2)})
        return frame, poses

    # A live source waits for nobody: its next frame is the latest one, and its poses are wanted at once.
    return in_order(find, frames if live else ahead(frames, DECODED_AHEAD), 1 if live else at_once)


def ahead(items: Iterable[Item], size: int) -> Iterator[Item]:
    """Iterate in a thread of its own, `size` items ahead. Errors are raised in their place."""
    waiting: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(size)
    stopped = threading.Event()

    def put(item: Item | None, error: BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                waiting.put((item, error), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            for item in items:
                if not put(item, None):
                    return
        except BaseException as error:
            put(None, error)
        else:
            put(None, StopIteration())

    thread = threading.Thread(target=read, name="posedet-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()
