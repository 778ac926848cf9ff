"""The comparison of trackers: scenes with truth, the poses made from it, and the figures."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab.tracking.__main__ import main
from lab.tracking.figures import _similarities, figures, smoothness
from lab.tracking.observed import SURE_ERRORS, Observed, with_errors
from lab.tracking.scenes import KINDS, SIZE, Material, Scene, Truth, read_material
from lab.tracking.trackers import byte_track, ours
from posedet.poses import Poses
from posedet.skeleton import COCO
from posedet.tracking import Smoother

# A person from head to foot, in a box of 40 x 100.
UPRIGHT = np.array(
    [
        *([20, 8], [22, 6], [18, 6], [25, 8], [15, 8], [30, 20], [10, 20], [34, 38], [6, 38], [36, 52], [4, 52]),
        *([26, 52], [14, 52], [27, 74], [13, 74], [28, 95], [12, 95]),
    ],
    float,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photos with one person of one colour each, and two backgrounds."""
    folder = tmp_path_factory.mktemp("tracking")
    (folder / "people").mkdir()
    (folder / "backgrounds").mkdir()
    images, annotations = [], []
    for number in range(24):
        corner = np.array([10, 12])
        image = Image.new("RGB", (60, 130), (0, 0, 0))
        image.paste((250, 10 * number, 0), (10, 12, 50, 112))
        image.save(folder / "people" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 60, "height": 130})
        keypoints = np.column_stack([UPRIGHT + corner, np.full(17, 2)])
        person = {"id": number, "image_id": number, "bbox": [10, 12, 40, 100], "area": 4000, "num_keypoints": 17}
        outline = [10, 12, 50, 12, 50, 112, 10, 112]
        annotations.append({**person, "keypoints": keypoints.ravel().tolist(), "segmentation": [outline]})
    for number in range(4):
        Image.new("RGB", (320, 200), (0, 60 * number, 200)).save(folder / "backgrounds" / f"{number}.png")
    (folder / "people.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return folder


@pytest.fixture(scope="module")
def material(folder: Path) -> Material:
    return read_material(folder / "people.json", folder / "backgrounds", "test")


def test_train_and_test_share_nothing(folder: Path, material: Material) -> None:
    train = read_material(folder / "people.json", folder / "backgrounds", "train")
    assert len(train.people) == len(material.people) == 12
    colours = [{each.picture.getpixel((20, 50)) for each in split.people} for split in (train, material)]
    assert not colours[0] & colours[1]
    assert not {*train.backgrounds} & {*material.backgrounds}


@pytest.mark.parametrize("kind", KINDS)
def test_a_scene_follows_from_its_seed(kind: str, material: Material) -> None:
    first, again, other = (list(islice(Scene(kind, seed, material).frames(images=False), 4)) for seed in (3, 3, 4))
    for one, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.truth.keypoints, same.truth.keypoints)
    assert first[0].truth.keypoints.shape != other[0].truth.keypoints.shape or not np.array_equal(
        first[0].truth.keypoints, other[0].truth.keypoints
    )


@pytest.mark.slow
def test_the_truth_lies_on_the_drawn_people(material: Material) -> None:
    """Hips that can be seen are on the person's colour, reddish; and some keypoints are covered by others."""
    scene = Scene("crossing", 0, material)
    frames = list(scene.frames(images=True))[::10]
    hidden = 0
    for frame in frames:
        assert frame.image is not None and frame.image.shape == (*SIZE, 3)
        hidden += (frame.truth.flags == 1).sum()
        for points, flags in zip(frame.truth.keypoints, frame.truth.flags, strict=True):
            for hip in (11, 12):
                if flags[hip] == 2:
                    x, y = points[hip].round().astype(int)
                    red, _, blue = frame.image[y, x].astype(int)
                    assert red > 150 and blue < 100
    assert hidden > 0


def frame_of(*places: float, ids: list[int], time: float = 0.0) -> tuple[Observed, Poses]:
    """People at places x; the tracker finds them exactly and calls them `ids`."""
    keypoints = UPRIGHT + np.array(places)[:, None, None] * [1, 0]
    count = len(places)
    truth = Truth(keypoints, np.full((count, 17), 2), np.full(count, 2000.0))
    poses = Poses(keypoints, np.ones(count), np.ones((count, 17)), COCO, {"id": np.array(ids)})
    return Observed(time, truth, poses), poses


def test_figures_by_hand() -> None:
    """Two people in four frames, whose ids are exchanged after two: two switches, and half of the ids are right."""
    pytest.importorskip("trackeval")
    frames = [frame_of(0, 200, ids=ids) for ids in ([1, 2], [1, 2], [2, 1], [2, 1])]
    observed, tracked = zip(*frames, strict=True)
    for similarity in ("oks", "iou"):
        result = figures([(observed, tracked)], similarity)
        # HOTA = sqrt(DetA AssA); each of the four pairs has 2 matches of 2 + 4 frames, less the 2 in common
        assert (result.switches, result.idf1) == (2, pytest.approx(50))
        assert result.hota == pytest.approx(100 * np.sqrt(1 * 2 / 6))
    perfect = [frame_of(0, 200, ids=[5, 9]) for _ in range(4)]
    result = figures([tuple(zip(*perfect, strict=True))], "oks")
    assert result == (pytest.approx(100), pytest.approx(100), 0)


def test_people_who_cannot_be_seen_need_not_be_found() -> None:
    pytest.importorskip("trackeval")
    observed, tracked = frame_of(0, 200, ids=[1, 2])
    flags = observed.truth.flags.copy()
    flags[1] = 1
    observed = observed._replace(truth=observed.truth._replace(flags=flags))
    assert figures([([observed], [tracked])], "oks").hota == pytest.approx(100)
    assert figures([([observed], [tracked[:1]])], "oks").hota == pytest.approx(100)


def test_overlap_of_boxes_by_hand() -> None:
    observed, poses = frame_of(0, ids=[1])
    moved = Poses(poses.keypoints + np.float32([16, 0]), poses.scores, poses.keypoint_scores, COCO)
    width = np.ptp(UPRIGHT[:, 0])
    assert _similarities(observed.truth, moved, "iou")[0, 0] == pytest.approx((width - 16) / (width + 16))


def test_jitter_and_lag_by_hand() -> None:
    """One person stands still and one walks; smoothing that delays by 0.1 s lags by 0.1 s."""
    generator = np.random.default_rng(0)
    observed, smoothed = [], []
    for frame in range(60):
        now, poses = frame_of(0, 200 + 2 * frame, ids=[1, 2], time=frame / 30)
        delayed = np.array(poses.keypoints)
        delayed[1] -= [6, 0]
        raw = poses.keypoints + generator.normal(0, 0.1, poses.keypoints.shape) * np.array([1, 0])[:, None, None]
        smoothed.append(Poses(delayed, poses.scores, poses.keypoint_scores, COCO, {**poses.extra, "keypoint_raw": raw}))
        observed.append(now)
    result = smoothness([(observed, smoothed)])
    assert result.jitter == pytest.approx(0, abs=1e-3) and result.raw_jitter > 0.1
    assert (result.raw_lag, result.lag) == (pytest.approx(0), pytest.approx(0.1))


@pytest.mark.slow
def test_poses_with_errors_are_tracked_better_than_boxes(material: Material) -> None:
    """Where people cross: at most half of ByteTrack's id switches, and no worse HOTA."""
    for package in ("trackeval", "trackers"):
        pytest.importorskip(package)
    scenes = [Scene(kind, seed, material) for kind in ("crossing", "meeting") for seed in range(4)]
    found = [with_errors(scene) for scene in scenes]
    results = [
        figures([(each, track(each, scene.fps, SURE_ERRORS)) for scene, each in zip(scenes, found, strict=True)], "oks")
        for track in (ours, byte_track)
    ]
    assert results[0].switches <= results[1].switches / 2 and results[0].hota >= results[1].hota


@pytest.mark.slow
def test_smoothing_of_scenes_keeps_the_bars(material: Material) -> None:
    scenes = [scene for seed in range(8) if (scene := Scene("crossing", seed, material)).fps >= 25][:2]
    pairs = []
    for scene in scenes:
        smoother = Smoother()
        observed = [
            frame._replace(poses=frame.poses[frame.poses.scores > 0.6])
            for frame in map(_nearly_true, with_errors(scene))
        ]
        tracked = ours(observed, scene.fps, SURE_ERRORS)
        pairs.append(
            (observed, [smoother.update(poses, frame.time) for poses, frame in zip(tracked, observed, strict=True)])
        )
    result = smoothness(pairs)
    assert result.jitter < result.raw_jitter / 3 and result.lag - result.raw_lag <= 0.04


def _nearly_true(frame: Observed) -> Observed:
    """The truth with noise of a hundredth of the person's size."""
    truth = frame.truth
    random = np.random.default_rng(round(1000 * frame.time))
    noise = random.normal(0, 0.01, truth.keypoints.shape) * np.sqrt(truth.areas)[:, None, None]
    shown = (truth.flags == 2).mean(axis=1)
    return frame._replace(poses=Poses(truth.keypoints + noise, shown, np.where(truth.flags == 2, 0.9, 0.1), COCO))


@pytest.mark.slow
def test_the_command_writes_its_table(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for package in ("trackeval", "trackers"):
        pytest.importorskip(package)
    options = ["--people", str(folder / "people.json"), "--backgrounds", str(folder / "backgrounds")]
    assert main(["table", *options, "--poses", "errors", "--scenes", "1", "--output", str(tmp_path)]) == 0
    assert (
        "| posedet | OKS |" in capsys.readouterr().out and "| ByteTrack | IoU |" in (tmp_path / "table.md").read_text()
    )
    results = json.loads((tmp_path / "table.json").read_text())["results"]
    assert results["posedet"]["oks"]["crossing"]["hota"] > 50


def test_missing_material_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--people", "nowhere.json", "--backgrounds", str(tmp_path), "--output", str(tmp_path)]
    assert main(["table", *options]) == 2
    assert capsys.readouterr().err.endswith("error: --people nowhere.json: not found\n")
