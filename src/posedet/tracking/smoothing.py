"""Smoothing of tracked poses, and filling of gaps.

The One-Euro filter (Casiez, Roussel and Vogel, CHI 2012) is a low-pass filter whose cutoff frequency rises with the
speed: what stands still does not tremble, and what moves hardly lags. Speeds are in sizes of the person per second, so
that small and large people are treated alike.
"""

import math
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posedet.errors import ConfigError
from posedet.poses import Poses
from posedet.tracking.tracker import checked_time, pose_sizes


class Smoother:
    """Smooths the keypoints of each id; use one for each stream.

    A keypoint that moves steadily lags 1 / (2 pi cutoff) behind, with cutoff = `min_cutoff` + `speed_gain` x speed. By
    default that is less than 40 ms above half a size of the person per second, a slow walk, and at any speed less than
    1/40 of the size. A keypoint that does not move stays exactly where it is.

    Args:
        min_cutoff: Cutoff in Hz for what stands still. Lower: less jitter.
        speed_gain: How fast the cutoff rises, in Hz per size / s. Higher: less lag.
        speed_cutoff: Cutoff in Hz for the speed itself.
        forget: Seconds after which an id that was not seen starts anew.

    Raises:
        ConfigError: If an argument is not a finite number above 0; `speed_gain` may be 0.
    """

    def __init__(
        self, *, min_cutoff: float = 0.5, speed_gain: float = 7.0, speed_cutoff: float = 1.0, forget: float = 0.5
    ) -> None:
        for name, value in {"min_cutoff": min_cutoff, "speed_cutoff": speed_cutoff, "forget": forget}.items():
            if not 0 < value < math.inf:
                raise ConfigError(f"{name} is {value}, expected a finite number above 0")
        if not 0 <= speed_gain < math.inf:
            raise ConfigError(f"speed_gain is {speed_gain}, expected 0 or more")
        self.min_cutoff, self.speed_gain, self.speed_cutoff, self.forget = min_cutoff, speed_gain, speed_cutoff, forget
        self._time = -math.inf
        self._states: dict[str, NDArray[Any]] = {}  # rows in order of rising id

    def update(self, poses: Poses, time: float) -> Poses:
        """Smooth the poses of the next frame.

        Args:
            poses: Poses with ids, see `Tracker.update`.
            time: The time of the frame in seconds; it never falls.

        Returns:
            The same poses with smooth keypoints; `extra["keypoint_raw"]`, (N, K, 2) float32, has those given.

        Raises:
            DataError: If the poses have no ids, or the time falls or is not finite.
        """
        self._time = checked_time("smoother", time, self._time)
        ids, raw = poses.ids, poses.keypoints
        if not self._states:
            self._states = {"id": ids[:0], "seen": np.zeros(0), "raw": raw[:0], "speed": raw[:0], "smooth": raw[:0]}
        states = self._states
        rows = np.searchsorted(states["id"], ids)
        known = np.zeros(len(ids), bool)
        inside = rows < len(states["id"])
        known[inside] = (states["id"][rows[inside]] == ids[inside]) & (
            time - states["seen"][rows[inside]] <= self.forget
        )
        # An id that is not known starts where it is.
        last_raw, speed, smooth, elapsed = raw.copy(), np.zeros_like(raw), raw.copy(), np.zeros((len(ids), 1, 1))
        rows = rows[known]
        last_raw[known], speed[known], smooth[known] = (states[name][rows] for name in ("raw", "speed", "smooth"))
        elapsed[known, 0, 0] = time - states["seen"][rows]

        speed += (raw - last_raw - speed * elapsed) / (elapsed + 1 / (2 * np.pi * self.speed_cutoff))
        in_sizes = np.hypot(speed[..., :1], speed[..., 1:]) / pose_sizes(poses.boxes)[:, None, None]
        delay = 1 / (2 * np.pi * (self.min_cutoff + self.speed_gain * in_sizes))
        smooth += elapsed / (elapsed + delay) * (raw - smooth)

        now = {"id": ids, "seen": np.full(len(ids), float(time)), "raw": raw, "speed": speed, "smooth": smooth}
        absent = ~np.isin(states["id"], ids) & (time - states["seen"] <= self.forget)
        joined = {name: np.concatenate([states[name][absent], now[name]]) for name in now}
        order = np.argsort(joined["id"], kind="stable")
        self._states = {name: array[order] for name, array in joined.items()}
        extra = {**poses.extra, "keypoint_raw": raw}
        return Poses(smooth, poses.scores, poses.keypoint_scores, poses.skeleton, extra)


class GapFiller:
    """Fills the frames in which an id is missing for a short time. This needs the future, so it delays the frames.

    Frames go in one by one, and come out complete as soon as no later frame can fill them, `longest` seconds later;
    `rest` returns the last ones. The order is kept. Between, only these frames are held.

    Args:
        longest: The longest gap in seconds from the last pose before it to the first after it.
    """

    def __init__(self, longest: float = 0.5) -> None:
        if not 0 < longest < math.inf:
            raise ConfigError(f"longest is {longest}, expected a finite number of seconds above 0")
        self.longest = longest
        self._time = -math.inf
        self._waiting: deque[tuple[float, list[Poses]]] = deque()
        self._last: dict[int, tuple[float, Poses]] = {}  # when each id was last seen, and its pose

    def add(self, poses: Poses, time: float) -> list[tuple[float, Poses]]:
        """Take the next frame, and return the frames that are complete, often none or one.

        Args:
            poses: Poses with ids. Their scores and `extra` are filled as well.
            time: The time of the frame in seconds; it never falls.

        Returns:
            (time, poses) of complete frames. `extra["filled"]`, (N,) bool, marks the poses that were not found but lie
            on the straight way between two that were; their scores are the lower ones of the two.

        Raises:
            DataError: If the poses have no ids, or the time falls or is not finite.
        """
        self._time = checked_time("gap filler", time, self._time)
        for id_, pose in zip(poses.ids.tolist(), poses, strict=True):
            before, last = self._last.get(id_, (-math.inf, pose))
            if time - before <= self.longest:
                for moment, parts in self._waiting:
                    if before < moment < time:
                        parts.append(_between(last, pose, (moment - before) / (time - before)))
            self._last[id_] = time, pose
        self._waiting.append((time, [_marked(poses, filled=False)]))
        self._last = {id_: entry for id_, entry in self._last.items() if time - entry[0] <= self.longest}
        complete = []
        while time - self._waiting[0][0] >= self.longest:
            complete.append(self._next())
        return complete

    def rest(self) -> list[tuple[float, Poses]]:
        """Return the frames that are still held, at the end of the stream."""
        return [self._next() for _ in range(len(self._waiting))]

    def _next(self) -> tuple[float, Poses]:
        time, (found, *filled) = self._waiting.popleft()
        # Poses of an empty frame may lack the extra data of the others.
        return time, Poses.joined([found, *filled] if len(found) or not filled else filled)


def _marked(poses: Poses, *, filled: bool) -> Poses:
    extra = {**poses.extra, "filled": np.full(len(poses), filled)}
    return Poses(poses.keypoints, poses.scores, poses.keypoint_scores, poses.skeleton, extra)


def _between(first: Poses, second: Poses, share: float) -> Poses:
    """The pose at a share of the way from one to another; what is no float is the first's."""
    extra = {
        name: array + np.asarray(share, array.dtype) * (second.extra[name] - array)
        if array.dtype.kind == "f"
        else array
        for name, array in first.extra.items()
        if name in second.extra
    }
    between = Poses(
        first.keypoints + np.float32(share) * (second.keypoints - first.keypoints),
        np.minimum(first.scores, second.scores),
        np.minimum(first.keypoint_scores, second.keypoint_scores),
        first.skeleton,
        extra,
    )
    return _marked(between, filled=True)
