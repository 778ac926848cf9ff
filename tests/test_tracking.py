"""Ids that stay with people, and smooth keypoints: of any poses, without a network."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from posedet.errors import ConfigError, DataError
from posedet.poses import Poses
from posedet.skeleton import COCO
from posedet.tracking import GapFiller, Smoother, Tracker

BODY = np.random.default_rng(3).uniform(0, 1, (17, 2)) * [40, 110]


def people(*places: tuple[float, float], score: float = 0.9, visible: float = 0.9, looks: Any = None) -> Poses:
    """People of one shape at places (x, y), and an embedding for each if `looks` has them."""
    keypoints = np.array(places, float).reshape(-1, 1, 2) + BODY
    count = len(keypoints)
    extra = {} if looks is None else {"embedding": np.array(looks, np.float32).reshape(count, -1)}
    return Poses(keypoints, np.full(count, score), np.full((count, 17), visible), COCO, extra)


def ids_of(frames: list[Poses], *, fps: float = 30, tracker: Tracker | None = None) -> list[list[int]]:
    tracker = tracker or Tracker()
    return [tracker.update(poses, place / fps).ids.tolist() for place, poses in enumerate(frames)]


# --- ids -------------------------------------------------------------------------------------------------------------


def test_ids_of_poses() -> None:
    tracked = Tracker().update(people((0, 0), (100, 0)), 0.0)
    assert tracked.ids.tolist() == [1, 2] and tracked.ids.dtype == np.int64
    assert Poses.from_dict(tracked.to_dict()).ids.tolist() == [1, 2]
    assert tracked[1].ids.tolist() == [2]
    assert Poses.empty(COCO).ids.shape == (0,)


@pytest.mark.parametrize("extra", [{}, {"id": np.array([0.5])}, {"id": np.array([[1, 2]])}])
def test_poses_without_ids_say_where_ids_come_from(extra: dict[str, Any]) -> None:
    pose = people((0, 0))
    with pytest.raises(DataError, match=r"^poses: no ids; Tracker\.update of posedet\.tracking gives poses with ids$"):
        _ = Poses(pose.keypoints, pose.scores, pose.keypoint_scores, COCO, extra).ids


@pytest.mark.parametrize("fps", [5, 15, 30, 60])
def test_ids_stay_while_people_pass_each_other(fps: int) -> None:
    """Also at a low frame rate, and where poses come in another order each time. They walk at two sizes a second."""
    frames = []
    for frame in range(2 * fps):
        moved = 120 * frame / fps
        both = people((moved, 0), (240 - moved, 12))
        frames.append(both if frame % 2 else both[::-1])
    ids = ids_of(frames, fps=fps)
    assert all(pair == ([1, 2] if frame % 2 == 0 else [2, 1]) for frame, pair in enumerate(ids))


def test_a_person_who_is_hidden_in_a_crossing_keeps_the_id() -> None:
    """The person behind is not found for a third of a second, and is then where the motion leads."""
    frames = []
    for frame in range(60):
        moved = 6 * frame
        both = people((moved, 0), (300 - moved, 12))
        frames.append(both[:1] if 20 <= frame < 30 else both)
    assert ids_of(frames)[-1] == [1, 2]


def test_hidden_keypoints_count_little() -> None:
    """A person whose hidden half is found anywhere keeps the id; with all keypoints visible it is another one."""
    scattered = np.array(BODY)
    scattered[::2] += [300, 0]
    for visible, expected in ((0.0, 1), (0.9, 2)):
        seen = np.where(np.arange(17) % 2 == 0, visible, 0.9)
        second = Poses(scattered[None], [0.9], seen[None], COCO)
        tracker = Tracker(min_oks=0.6)
        tracker.update(people((0, 0)), 0.0)
        ids = tracker.update(second, 1 / 30).ids.tolist()
        assert ids == [expected]


def test_weak_poses_continue_a_track_but_start_none() -> None:
    weak = people((2, 0), (200, 0), score=0.3)
    assert ids_of([people((0, 0)), weak, weak]) == [[1], [1], [1]]
    assert ids_of([weak, people((2, 0))]) == [[], [1]]


def test_a_second_pose_of_a_person_is_left_out() -> None:
    assert ids_of([people((0, 0)), people((0, 0), (4, 3))]) == [[1], [1]]


def test_lost_people_are_kept_for_a_stated_time() -> None:
    seen = [people((0, 0))] * 31
    for missing, expected in ((25, 1), (40, 2)):
        frames = [*seen, *[Poses.empty(COCO)] * missing, people((0, 0))]
        assert ids_of(frames, tracker=Tracker(keep=1.0))[-1] == [expected]


def test_one_glance_is_soon_forgotten() -> None:
    frames = [people((0, 0)), *[Poses.empty(COCO)] * 15, people((0, 0))]
    assert ids_of(frames)[-1] == [2]


def test_memory_is_bounded() -> None:
    tracker = Tracker(keep=0.5)
    for frame in range(300):
        tracker.update(people((0, 400 * frame), (300, 400 * frame)), frame / 30)
    assert tracker._tracks is not None and len(tracker._tracks.ids) < 40


def test_equal_input_gives_equal_ids_beside_another_stream() -> None:
    random = np.random.default_rng(0)
    frames = [people(*random.uniform(0, 400, (8, 2))) for _ in range(40)]
    alone = ids_of(frames)
    tracker, other = Tracker(), Tracker()
    both = []
    for place, poses in enumerate(frames):
        both.append(tracker.update(poses, place / 30).ids.tolist())
        other.update(poses[::-1], place / 10)
    assert both == alone


# --- appearance ------------------------------------------------------------------------------------------------------

RED, BLUE = [1.0, 0.0], [0.0, 1.0]


def turned_back(looks: tuple[Any, Any] | None) -> list[Poses]:
    """Two people meet, are one pose for a while, and walk back where they came from."""
    frames = []
    for frame in range(80):
        near = min(abs(frame - 40), 30) * 5
        both = people((150 - near, 0), (150 + near, 4), looks=looks)
        frames.append(both[:1] if 36 < frame < 44 else both)
    return frames


def test_appearance_decides_where_the_motion_misleads() -> None:
    assert ids_of(turned_back((RED, BLUE)))[-1] == [1, 2]


def test_somebody_who_comes_back_elsewhere_is_known_by_the_embedding() -> None:
    away = [people((600, 0), looks=[BLUE])] * 90
    frames = [*[people((0, 0), (600, 0), looks=[RED, BLUE])] * 30, *away]
    assert ids_of([*frames, people((300, 200), (600, 0), looks=[RED, BLUE])])[-1] == [1, 2]
    assert ids_of([*frames, people((300, 200), (600, 0), looks=[[0.7, 0.71], BLUE])])[-1] == [3, 2]
    assert ids_of([*frames, people((300, 200), (600, 0), looks=[RED, BLUE])], tracker=Tracker(remember=1))[-1] == [3, 2]


def test_appearance_is_not_learned_from_a_crossing() -> None:
    """While boxes overlap, the embedding may be that of the other person."""
    apart = [people((0, 0), (300, 0), looks=[RED, BLUE])] * 30
    near = [people((0, 0), (12, 0), looks=[BLUE, BLUE])] * 60
    tracker = Tracker()
    ids_of([*apart, *near], tracker=tracker)
    assert tracker._tracks is not None
    np.testing.assert_allclose(tracker._tracks.embeddings[0], RED, atol=1e-6)


def test_empty_frames_need_no_embeddings() -> None:
    frames = [Poses.empty(COCO), people((0, 0), looks=[RED]), Poses.empty(COCO), people((0, 0), looks=[RED])]
    assert ids_of(frames) == [[], [1], [], [1]]


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("second", "time", "message"),
    [
        (people((0, 0)), 0.5, "tracker: time is 0.5, expected at least 1.0, the time of the frame before"),
        (people((0, 0)), np.nan, "tracker: time is nan, expected at least 1.0, the time of the frame before"),
        (
            people((0, 0)).select(["nose", "left_hip"]),
            2,
            "tracker: 2 keypoints after 17; use one tracker for each model and stream",
        ),
        (
            people((0, 0), looks=[RED]),
            2,
            "tracker: 2 numbers in an embedding after 0; use one tracker for each model and stream",
        ),
    ],
)
def test_frames_that_do_not_follow_are_refused(second: Poses, time: float, message: str) -> None:
    tracker = Tracker()
    tracker.update(people((0, 0)), 1.0)
    with pytest.raises(DataError) as caught:
        tracker.update(second, time)
    assert str(caught.value) == message


def test_the_first_time_is_finite() -> None:
    with pytest.raises(DataError, match=r"^tracker: time is inf, expected a finite number of seconds$"):
        Tracker().update(people((0, 0)), np.inf)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tracker(min_oks=0), "min_oks is 0, expected more than 0 and at most 1"),
        (lambda: Tracker(keep=np.inf), "keep is inf, expected 0 to 3600"),
        (lambda: Tracker(appearance=-1), "appearance is -1, expected 0 to 100"),
        (lambda: Smoother(min_cutoff=0), "min_cutoff is 0, expected a finite number above 0"),
        (lambda: Smoother(speed_gain=-1), "speed_gain is -1, expected 0 or more"),
        (lambda: GapFiller(np.nan), "longest is nan, expected a finite number of seconds above 0"),
    ],
)
def test_arguments_out_of_range_are_named(make: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value) == message


@pytest.mark.parametrize(("looks", "shape"), [([np.nan, 0], "(1, 2)"), ([[1, 0]], "(1, 1, 2)")])
def test_embeddings_are_checked(looks: Any, shape: str) -> None:
    pose = people((0, 0))
    pose = Poses(pose.keypoints, pose.scores, pose.keypoint_scores, COCO, {"embedding": np.array([looks])})
    with pytest.raises(DataError) as caught:
        Tracker().update(pose, 0.0)
    assert str(caught.value) == f"poses: extra['embedding']: shape {shape}, expected finite numbers (N, D)"


def test_huge_coordinates_are_no_error() -> None:
    far = people((0, 0))
    far = Poses(far.keypoints * np.float32(1e36), far.scores, far.keypoint_scores, COCO)
    assert ids_of([people((0, 0)), far, people((0, 0)), far])[0] == [1]


# --- smoothing -------------------------------------------------------------------------------------------------------


def smoothed(places: np.ndarray, *, fps: float = 30, smoother: Smoother | None = None) -> np.ndarray:
    """The smooth way (F, 2) of the first keypoint of a person whose size is 1 at places (F, 2) in sizes."""
    tracker, smoother = Tracker(), smoother or Smoother()
    size = float(np.hypot(*np.ptp(BODY, axis=0)) / 2)
    way = []
    for frame, place in enumerate(places):
        poses = smoother.update(tracker.update(people(tuple(place * size)), frame / fps), frame / fps)
        assert poses.ids.tolist() == [1]
        way.append((poses.keypoints[0, 0] - BODY[0]) / size)
    return np.array(way)


def test_what_stands_still_stays_exactly() -> None:
    way = smoothed(np.full((60, 2), 0.37))
    assert (way == way[0]).all()


def test_raw_keypoints_are_kept() -> None:
    smoother = Smoother()
    tracker = Tracker()
    for frame in range(5):
        poses = tracker.update(people((5 * frame, 0)), frame / 30)
        smooth = smoother.update(poses, frame / 30)
    np.testing.assert_array_equal(smooth.extra["keypoint_raw"], poses.keypoints)
    assert np.abs(smooth.keypoints - poses.keypoints).max() > 0.5


@pytest.mark.parametrize("speed", [0.5, 0.9, 3.0])
def test_what_moves_lags_less_than_40_ms(speed: float) -> None:
    """Steady motion in sizes of the person per second, at 30 frames a second."""
    times = np.arange(90) / 30
    way = smoothed(np.stack([speed * times, 0 * times], axis=1))
    assert 0 < times[-1] - way[-1, 0] / speed < 0.04


def test_no_lag_is_more_than_a_40th_of_the_size() -> None:
    for speed in (0.05, 0.3, 2.0):
        times = np.arange(300) / 30
        assert speed * times[-1] - smoothed(np.stack([speed * times, 0 * times], axis=1))[-1, 0] < 1 / 40


def test_jitter_is_less_than_a_third() -> None:
    """Of a keypoint that stands still, with noise of 1 % of the size."""
    raw = np.random.default_rng(0).normal(0, 0.01, (300, 2))
    way = smoothed(raw)
    acceleration = [np.linalg.norm(np.diff(each, 2, axis=0), axis=1).mean() for each in (raw, way)]
    assert acceleration[1] < acceleration[0] / 3


def test_small_and_large_people_are_smoothed_alike() -> None:
    random = np.random.default_rng(0)
    noise = random.normal(0, 1, (30, 17, 2))
    ways = []
    for scale in (1, 8):
        smoother = Smoother()
        tracked = [
            Poses((BODY + noise[frame])[None] * scale, [0.9], np.ones((1, 17)), COCO, {"id": np.array([1])})
            for frame in range(30)
        ]
        ways.append([smoother.update(poses, frame / 30).keypoints / scale for frame, poses in enumerate(tracked)])
    np.testing.assert_allclose(ways[0], ways[1], atol=1e-4)


def test_ids_do_not_mix_and_start_anew_after_an_absence() -> None:
    smoother = Smoother(forget=0.5)

    def update(ids: list[int], places: list[tuple[float, float]], time: float) -> np.ndarray:
        poses = people(*places)
        extra = {"id": np.array(ids)}
        return smoother.update(Poses(poses.keypoints, poses.scores, poses.keypoint_scores, COCO, extra), time).keypoints

    update([7, 3], [(0, 0), (100, 0)], 0.0)
    swapped = update([3, 7], [(101, 0), (1, 0)], 1 / 30)
    assert abs(swapped[0, 0, 0] - BODY[0, 0] - 100) < 1 > abs(swapped[1, 0, 0] - BODY[0, 0])
    back = update([3], [(400, 0)], 1.0)
    np.testing.assert_allclose(back[0], BODY + np.array([400, 0]), rtol=1e-6)
    assert smoother._states["id"].tolist() == [3]


# --- gaps ------------------------------------------------------------------------------------------------------------


def with_ids(poses: Poses, *ids: int) -> Poses:
    extra = {**poses.extra, "id": np.array(ids, np.int64)}
    return Poses(poses.keypoints, poses.scores, poses.keypoint_scores, poses.skeleton, extra)


def test_short_gaps_are_filled_and_marked() -> None:
    filler = GapFiller(longest=0.5)
    given = [
        with_ids(people((0, 0), (50, 0), score=0.8), 1, 2),
        with_ids(people((50, 0)), 2),
        Poses.empty(COCO),
        with_ids(people((30, 0), score=0.6), 1),
        with_ids(people((40, 0)), 1),
    ]
    complete = [frame for place, poses in enumerate(given) for frame in filler.add(poses, place / 10)]
    complete += filler.rest()
    assert [round(10 * time) for time, _ in complete] == [0, 1, 2, 3, 4]
    assert [poses.ids.tolist() for _, poses in complete] == [[1, 2], [2, 1], [1], [1], [1]]
    marks = [poses.extra["filled"].tolist() for _, poses in complete]
    assert marks == [[False, False], [False, True], [True], [False], [False]]
    np.testing.assert_allclose(complete[1][1].keypoints[1], BODY + np.array([10, 0]), rtol=1e-5)
    np.testing.assert_allclose(complete[2][1].keypoints[0], BODY + np.array([20, 0]), rtol=1e-5)
    assert complete[2][1].scores.tolist() == pytest.approx([0.6])


def test_long_gaps_stay_and_frames_wait_no_longer_than_stated() -> None:
    filler = GapFiller(longest=0.3)
    delays = []
    for place in range(20):
        found = with_ids(people((place, 0)), 1) if place in (0, 6) else Poses.empty(COCO)
        for time, poses in filler.add(found, place / 10):
            delays.append(place / 10 - time)
            assert len(poses) == (1 if round(10 * time) in (0, 6) else 0)
    assert max(delays) < 0.45 and len(filler._waiting) <= 4 and not filler._last


def test_tracking_needs_only_numpy() -> None:
    heavy = {"onnxruntime", "PIL", "scipy", "torch", "cv2", "tqdm"}
    code = f"""
import importlib.util, sys, types
package = types.ModuleType("posedet")
package.__path__ = importlib.util.find_spec("posedet").submodule_search_locations
sys.modules["posedet"] = package
import posedet.tracking
print(*({heavy!r} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
