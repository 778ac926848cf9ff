"""The tracker: gives the poses of every frame ids that stay with the people.

Each keypoint has a Kalman filter with a constant velocity, in which hidden keypoints count little. Predictions and
poses are compared by OKS, widened by the variance of the prediction: whoever is fast, or was not seen for a while, is
looked for in a wider area. Lengths are in sizes of the person and times in seconds, so that nothing depends on the
frame rate or the resolution.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posedet.errors import ConfigError, DataError
from posedet.poses import Poses

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

ACCELERATION = 10.0  # size^2 / s^3: how fast the variance of a velocity grows
START_SPEED = 1.5  # size / s: standard deviation of the velocity of a new person
LIMB_TIME, BODY_TIME = 0.25, 0.5  # s: an unseen keypoint soon moves with its body, and an unseen body soon stands
AVERAGED = np.array([[0.1], [0.2], [0.6]])  # s: over which time visibility, size and embedding are averaged
OUTLIER = 3.0  # standard deviations; what is further away moves a keypoint no more than that
LEAST_WEIGHT = 0.05  # of a hidden keypoint beside 1 for a visible one
OVERLAP = 0.3  # of the smaller box: from there on, embeddings may be those of the other person
FIRST_TIME = 0.3  # s: how long somebody is looked for who was seen only once


class Tracker:
    """Tracks the people of one stream: use one for each stream. Equal input gives equal ids.

    First the sure poses are matched with people, best pair first, then the weak ones with people of the last frame
    who are left. A sure pose that resembles nobody known is a new person. Memory is bounded by the people of the last
    seconds.

    Args:
        sure_score: Minimum score of a pose that starts a track or ends an absence.
        min_oks: Minimum similarity of a pose and a prediction, 0 to 1.
        keep: Seconds that a lost person is looked for where the motion leads, 0 to 3600; less for who was seen briefly.
        appearance: Weight of embeddings beside the similarity, 0 (none) to 100. It counts only where
            `poses.extra["embedding"]`, (N, D) and L2-normalised, exists.
        min_cosine: Minimum cosine of embeddings at which a lost person is found again in any place.
        remember: Seconds that a lost person is found again by the embedding, 0 to 3600; less for who was seen briefly.

    Raises:
        ConfigError: If an argument is out of range.
    """

    def __init__(
        self,
        *,
        sure_score: float = 0.35,
        min_oks: float = 0.25,
        keep: float = 2.0,
        appearance: float = 4.0,
        min_cosine: float = 0.8,
        remember: float = 30.0,
    ) -> None:
        shares = {"sure_score": sure_score, "min_oks": min_oks, "min_cosine": min_cosine}
        for name, value in shares.items():
            if not 0 < value <= 1:
                raise ConfigError(f"{name} is {value}, expected more than 0 and at most 1")
        for name, value in {"keep": keep, "appearance": appearance, "remember": remember}.items():
            most = 100 if name == "appearance" else 3600
            if not 0 <= value <= most:
                raise ConfigError(f"{name} is {value}, expected 0 to {most}")
        self.sure_score, self.min_oks, self.keep = sure_score, min_oks, keep
        self.appearance, self.min_cosine, self.remember = appearance, min_cosine, remember
        self._time = -math.inf
        self._next_id = 1
        self._tracks: _Tracks | None = None

    def update(self, poses: Poses, time: float) -> Poses:
        """Take the poses of the next frame.

        Args:
            poses: The poses of a frame, from any model; the same skeleton in every frame. Poses below `sure_score` help
                to keep people who are partly hidden, so lower the detector's `score_threshold`, to 0.25 for example.
            time: The time of the frame in seconds; it never falls.

        Returns:
            The poses that belong to somebody, in the given order, with `Poses.ids`. Ids count from 1. A weak pose that
            continues no track is left out, and so is a second pose of a person.

        Raises:
            DataError: If the time falls or is not finite, embeddings are not finite or of the wrong shape, or keypoints
                or embeddings are other than before.
        """
        last, self._time = self._time, checked_time("tracker", time, self._time)
        found = _measured(poses)
        if self._tracks is None or not len(self._tracks.ids):
            tracks = _started(found, np.zeros(0, np.intp), 0, time)
        else:
            tracks = self._tracks
            found = _checked_same(found, tracks)
        absent = time - tracks.seen
        known = tracks.seen - tracks.since
        near = absent <= np.minimum(self.keep, FIRST_TIME + 3 * known)
        alive = near | (absent <= np.minimum(self.remember, 10 * known)) if tracks.embeddings.size else near
        if not alive.all():
            tracks, near = tracks.chosen(alive), near[alive]
        tracks.predict(time - last)

        sure = poses.scores >= self.sure_score
        rows, columns, resembles = self._match(tracks, near, found, sure, last)
        ids = np.zeros(len(poses), np.int64)
        ids[columns] = tracks.ids[rows]
        new = np.flatnonzero(sure & ~resembles)
        if len(new):
            started = _started(found, new, self._next_id, time)
            self._next_id += len(new)
            ids[new] = started.ids
            tracks = tracks.joined(started)
        self._tracks = tracks
        kept = ids > 0
        extra = {name: array[kept] for name, array in {**poses.extra, "id": ids}.items()}
        return Poses(poses.keypoints[kept], poses.scores[kept], poses.keypoint_scores[kept], poses.skeleton, extra)

    def _match(
        self, tracks: "_Tracks", near: Bools, found: "_Found", sure: Bools, last: float
    ) -> tuple[Indices, Indices, Bools]:
        """Match poses with tracks, and correct these.

        near: (T,) the tracks that are looked for where their motion leads; the others only by their embeddings.

        Returns:
            The rows of the tracks and the columns of the poses that belong together, and which poses resemble a track.
        """
        rows, columns, fit = _compare(tracks, near, found, self.min_oks)
        resembles = np.bincount(columns, minlength=len(sure)) > 0
        recent = tracks.seen >= last
        with_embeddings = bool(tracks.embeddings.size)
        if with_embeddings:
            cosines = tracks.embeddings @ found.embeddings.T
            fit *= np.exp(self.appearance * (np.minimum(cosines[rows, columns], 1) - 1))
        free_rows, free_columns = np.ones(len(recent), bool), np.ones(len(sure), bool)
        is_sure = sure[columns]
        rank = np.where(is_sure, fit + 1, fit)  # sure poses first
        rank[~is_sure & ~recent[rows]] = 0
        taken = assign(rank, rows, columns, free_rows, free_columns)
        # A pose that fits several people says less about the one who gets it.
        share = fit[taken] / np.bincount(columns, fit, len(sure))[columns[taken]]
        rows, columns = rows[taken], columns[taken]
        tracks.correct(rows, found, columns, share, self._time)
        if not with_embeddings:
            return rows, columns, resembles

        # Who comes back elsewhere is found by the embedding alone, and continues from there.
        same = (cosines >= self.min_cosine) & (free_rows & ~recent)[:, None] & (free_columns & sure)
        if not same.any():
            return rows, columns, resembles
        lost, back = np.nonzero(same)
        taken = assign(cosines[lost, back], lost, back, free_rows, free_columns)
        lost, back = lost[taken], back[taken]
        tracks.restart(lost, _started(found, back, 0, self._time))
        resembles[back] = True
        return np.concatenate([rows, lost]), np.concatenate([columns, back]), resembles


class _Found(NamedTuple):
    """What a frame says of N poses."""

    planes: Floats  # (3, N, K): weight, x and y of each keypoint
    boxes: Floats  # (N, 4)
    sizes: Floats  # (N,)
    embeddings: NDArray[np.float32]  # (N, D); D is 0 without embeddings
    pure: Bools  # (N,): whether nobody else is in the box
    error: Floats  # (K,): variance of a visible keypoint, in size^2


@dataclass
class _Tracks:
    """T people. In planes, because numpy takes about as long for one array as for eight."""

    planes: Floats  # (8, T, K): weight, x, y, variance, covariance with the velocity, its variance, velocity x and y
    ids: NDArray[np.int64]  # (T,)
    since: Floats  # (T,) s
    seen: Floats  # (T,) s
    sizes: Floats  # (T,)
    embeddings: NDArray[np.float32]  # (T, D)

    def chosen(self, rows: Bools) -> "_Tracks":
        """Return some of the tracks."""
        since, seen, sizes = self.since[rows], self.seen[rows], self.sizes[rows]
        return _Tracks(self.planes[:, rows], self.ids[rows], since, seen, sizes, self.embeddings[rows])

    def joined(self, more: "_Tracks") -> "_Tracks":
        """Return these tracks and further ones."""
        return _Tracks(
            np.concatenate([self.planes, more.planes], axis=1),
            np.concatenate([self.ids, more.ids]),
            np.concatenate([self.since, more.since]),
            np.concatenate([self.seen, more.seen]),
            np.concatenate([self.sizes, more.sizes]),
            np.concatenate([self.embeddings, more.embeddings]),
        )

    def restart(self, rows: Indices, anew: "_Tracks") -> None:
        """Continue some tracks like new ones, as the people whom they are."""
        self.planes[:, rows] = anew.planes
        self.seen[rows], self.sizes[rows], self.embeddings[rows] = anew.seen, anew.sizes, anew.embeddings

    def predict(self, elapsed: float) -> None:
        """Move all on by `elapsed` seconds."""
        if not len(self.ids):
            return
        planes = self.planes
        weight, places, variances, velocity = planes[0], planes[1:3], planes[3:6], planes[6:]
        ones = np.ones(weight.shape[1])  # a product with it is faster than a sum over the last axis
        body = (weight * velocity) @ ones / (weight @ ones)
        body_stays, limb_stays = math.exp(-elapsed / BODY_TIME), math.exp(-elapsed / LIMB_TIME)
        places += elapsed * velocity
        velocity *= limb_stays
        velocity += ((body_stays - limb_stays) * body)[..., None]
        step = np.array([[1, 2 * elapsed, elapsed**2], [0, 1, elapsed], [0, 0, 1]])
        gained = ACCELERATION * np.array([[elapsed**3 / 3], [elapsed**2 / 2], [elapsed]])
        variances[:] = (step @ variances.reshape(3, -1) + gained).reshape(variances.shape)

    def correct(self, rows: Indices, found: _Found, columns: Indices, share: Floats, time: float) -> None:
        """Correct the tracks `rows` by the poses `columns`, each as far as it is theirs alone: `share`, 0 to 1."""
        planes, poses, sizes = self.planes.take(rows, 1), found.planes.take(columns, 1), self.sizes[rows]
        away = poses[1:] - planes[1:3]
        total = planes[3] + found.error / poses[0] / share[:, None]
        total = np.maximum(total, np.square(away).sum(axis=0) / np.square(OUTLIER * sizes)[:, None])
        gain, speed_gain = planes[3:5] / total
        planes[1:3] += gain * away
        planes[6:] += speed_gain * away
        planes[5] -= speed_gain * planes[4]
        planes[3:5] *= 1 - gain
        weight_share, size_share, look_share = 1 - np.exp((self.seen[rows] - time) / AVERAGED)
        planes[0] += weight_share[:, None] * (poses[0] - planes[0])
        self.planes[:, rows] = planes
        self.sizes[rows] = sizes + size_share * (found.sizes[columns] - sizes)
        self.seen[rows] = time
        if self.embeddings.size:
            mixed, look_share = self.embeddings.take(rows, 0), (look_share * found.pure[columns]).astype(np.float32)
            mixed += look_share[:, None] * (found.embeddings.take(columns, 0) - mixed)
            mixed /= np.maximum(np.sqrt(np.einsum("md,md->m", mixed, mixed)), 1e-9)[:, None]
            self.embeddings[rows] = mixed


def checked_time(who: str, time: float, last: float) -> float:
    """Return the time of a frame. Raises DataError if it is not finite or before the last one."""
    if not last <= time < math.inf:
        expected = (
            f"at least {last}, the time of the frame before" if last > -math.inf else "a finite number of seconds"
        )
        raise DataError(f"{who}: time is {time}, expected {expected}")
    return float(time)


def pose_sizes(boxes: NDArray[Any]) -> Floats:
    """(N,): the size of the person in each box (N, 4), half of its diagonal: about 1 m of an adult, at least 1 px."""
    return np.asarray(np.maximum(np.hypot(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]) / 2, 1))


def _measured(poses: Poses) -> _Found:
    boxes = poses.boxes.astype(np.float64)
    planes = np.empty((3, *poses.keypoint_scores.shape))
    np.maximum(poses.keypoint_scores, LEAST_WEIGHT, out=planes[0])
    planes[1:] = poses.keypoints.transpose(2, 0, 1)
    embeddings = np.asarray(poses.extra.get("embedding", np.zeros((len(poses), 0))), np.float32)
    if embeddings.ndim != 2 or not np.isfinite(embeddings).all():
        raise DataError(f"poses: extra['embedding']: shape {embeddings.shape}, expected finite numbers (N, D)")
    pure = ~_overlapping(boxes) if embeddings.size else np.ones(len(poses), bool)
    return _Found(planes, boxes, pose_sizes(boxes), embeddings, pure, np.square(np.array(poses.skeleton.sigmas)))


def _overlapping(boxes: Floats) -> Bools:
    """(N,): whether another box covers much of a box, or is much covered by it."""
    low, high = boxes.T.astype(np.float32, order="C").reshape(2, 2, -1)  # which takes half as long
    sides = np.minimum(high[..., None], high[:, None])
    sides -= np.maximum(low[..., None], low[:, None])
    np.maximum(sides, 0, out=sides)
    shared = sides[0] * sides[1]
    areas = OVERLAP * shared.diagonal()
    return np.asarray((shared > np.minimum(areas[:, None], areas)) @ np.ones(len(boxes), np.float32) > 1)


def _started(found: _Found, columns: Indices, first_id: int, time: float) -> _Tracks:
    """Tracks that start with these poses."""
    seen = found.planes[:, columns]
    variance = found.error / seen[0]
    nothing = np.zeros_like(variance)
    planes = np.stack([*seen, variance, nothing, np.full_like(variance, START_SPEED**2), nothing, nothing])
    ids, times = np.arange(first_id, first_id + len(columns)), np.full(len(columns), time)
    return _Tracks(planes, ids, times, times.copy(), found.sizes[columns], found.embeddings[columns])


def _checked_same(found: _Found, tracks: _Tracks) -> _Found:
    """Raise DataError if keypoints or embeddings are other than before. An empty frame may lack embeddings."""
    if not len(found.sizes):
        found = found._replace(embeddings=tracks.embeddings[:0])
    for what, now, before in (
        ("keypoints", found.planes.shape[2], tracks.planes.shape[2]),
        ("numbers in an embedding", found.embeddings.shape[1], tracks.embeddings.shape[1]),
    ):
        if now != before:
            raise DataError(f"tracker: {now} {what} after {before}; use one tracker for each model and stream")
    return found


def _compare(tracks: _Tracks, near: Bools, found: _Found, min_oks: float) -> tuple[Indices, Indices, Floats]:
    """Return the rows and columns of the pairs with at least `min_oks`, and how well each fits.

    The fit is the OKS, less for a prediction with a large variance: of two people, rather the one who was just seen.
    """
    tolerance = 4 * found.error  # as in OKS
    # Only boxes within reach: at least one keypoint must be near enough for the OKS.
    widest = (tolerance + tracks.planes[3]).max(axis=1)
    reach = tracks.sizes * np.sqrt(-2 * math.log(min_oks) * widest)
    places = np.ascontiguousarray(tracks.planes[1:3].transpose(0, 2, 1))  # twice as fast
    low, high = places.min(axis=1) - reach, places.max(axis=1) + reach
    found_low, found_high = found.boxes.T.reshape(2, 2, -1)
    gaps = np.abs((low + high)[..., None] - (found_low + found_high)[:, None])
    touching = gaps <= (high - low)[..., None] + (found_high - found_low)[:, None]
    rows, columns = np.nonzero(touching[0] & touching[1] & near[:, None])

    weight, x, y, variance = tracks.planes[:4].take(rows, 1)
    found_weight, found_x, found_y = found.planes.take(columns, 1)
    weight *= found_weight
    squared = np.square(x - found_x) + np.square(y - found_y)
    squared /= (-2 * np.square(tracks.sizes))[rows, None]
    variance += tolerance
    ones = np.ones_like(tolerance)
    oks = (weight * np.exp(squared / variance)) @ ones / (weight @ ones)
    certainty = (1 + tracks.planes[3] @ ones / tolerance.sum()) ** -0.25
    kept = oks >= min_oks
    rows, columns = rows[kept], columns[kept]
    return rows, columns, oks[kept] * certainty[rows]


def assign(
    fit: NDArray[np.floating[Any]], rows: Indices, columns: Indices, free_rows: Bools, free_columns: Bools
) -> Indices:
    """Return which pairs are taken: those that fit best first, each free row and column once; of equals the first.

    A fit of 0 is none. The rows and columns are marked as taken. The assignment with the best sum is no better; see
    docs/lab/tracking.md.
    """
    order = np.argsort(-fit, kind="stable")[: np.count_nonzero(fit)]
    taken = []
    for place, row, column in zip(order.tolist(), rows[order].tolist(), columns[order].tolist(), strict=True):
        if free_rows[row] and free_columns[column]:
            free_rows[row] = free_columns[column] = False
            taken.append(place)
    return np.array(taken, np.intp)
