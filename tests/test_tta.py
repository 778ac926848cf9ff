"""Test-time augmentation: mirrored coordinates right at every size, duplicates merged as said."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from posedet import PoseDet, Poses
from posedet.commands.main import main
from posedet.config import DecodeConfig
from posedet.errors import ConfigError
from posedet.image import Letterbox, read_photo
from posedet.oks import oks
from posedet.runtime.decode import best, candidates
from posedet.runtime.session import About, Outputs
from posedet.runtime.tta import PAPER_SIZES, Augmented, averaged, mirrored_poses
from posedet.skeleton import COCO, Skeleton

FACE = Skeleton("face", ("nose", "left_eye", "right_eye"), (), ((1, 2),), (0.3, 0.3, 0.3))
DECODE = DecodeConfig(
    long_side=512,
    short_side=None,
    candidates=100,
    score_threshold=0.3,
    nms="oks",
    nms_threshold=0.5,
    min_area=1.0,
    clamp=False,
    skeleton="face",
)


class Faces:
    """A network that finds one face: a red nose, and green eyes, of which the one further right is the left eye."""

    about = About("faces", "1", FACE, DECODE, {})

    def run(self, images: np.ndarray) -> Outputs:
        poses = []
        for image in images.astype(float):
            ys, xs = np.mgrid[: image.shape[0], : image.shape[1]]
            red, green = (np.clip(image[..., c] - image[..., 2] - 20, 0, None) for c in (0, 1))
            middle = (xs * green).sum() / green.sum()
            spots = [red, green * (xs > middle), green * (xs <= middle)]
            poses.append([((xs * spot).sum() / spot.sum(), (ys * spot).sum() / spot.sum()) for spot in spots])
        keypoints = np.array(poses, np.float32)[:, None]
        count = len(images)
        # Eyes are scored apart, so that scores must travel with them.
        scores = np.tile(np.float32([0.5, 0.9, 0.7]), (count, 1, 1))
        return Outputs(np.full((count, 1), 0.8, np.float32), keypoints, scores)


def face_at(size: tuple[int, int], spots: dict[str, tuple[float, float]]) -> np.ndarray:
    """Round soft spots on grey."""
    ys, xs = np.mgrid[: size[0], : size[1]]
    photo = np.full((*size, 3), 60.0)
    for name, (x, y) in spots.items():
        spot = 190 * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * 6**2))
        photo[..., 0 if name == "nose" else 1] += spot
    return photo.round().astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("merge", ["paper", "merged"])
def test_poses_lie_where_the_person_is_at_every_size_also_in_mirrored_passes(merge: str) -> None:
    """640 is no size that is asked for: a mirror about the resized photo's width would be tens of pixels off."""
    where = {"nose": (100.0, 120.0), "left_eye": (140.0, 80.0), "right_eye": (70.0, 90.0)}
    photo = face_at((480, 640), where)
    detector = PoseDet(Faces())
    for size in PAPER_SIZES:
        poses = Augmented(detector, merge=merge, sizes=[size])(photo)
        assert len(poses) == 1
        assert_allclose(poses.keypoints[0], [where[name] for name in FACE.keypoints], atol=0.25)
        # Mirrored, a left eye looks like a right one: its score of 0.9 comes from the other side there.
        expected = [0.5, 0.9, 0.7] if merge == "paper" else [0.5, 0.8, 0.8]
        assert_allclose(poses.keypoint_scores[0], expected, atol=0.01)
    assert_allclose(Augmented(detector, merge=merge)(photo).keypoints[0], list(where.values()), atol=0.1)


def test_mirrored_by_hand() -> None:
    poses = Poses([[(100, 5), (0, 6), (639, 7)]], [0.5], [(0.1, 0.2, 0.3)], FACE)
    before = poses.keypoints.copy()
    turned = mirrored_poses(poses, 640)
    assert turned.keypoints.tolist() == [[[539, 5], [0, 7], [639, 6]]]
    assert_allclose(turned.keypoint_scores, [[0.1, 0.3, 0.2]])
    assert_array_equal(poses.keypoints, before)
    assert_array_equal(mirrored_poses(turned, 640).keypoints, before)


@pytest.mark.parametrize("merge", ["paper", "merged"])
def test_a_mirrored_photo_gives_the_mirrored_poses(merge: str, photos: Path) -> None:
    photo = read_photo(photos / "tennis.jpg")
    look = Augmented(PoseDet(threads=1, score_threshold=0.02), merge=merge, sizes=[(256, 256), (333, 333)])
    poses, seen = look(photo), look(photo[:, ::-1])
    assert len(poses) > 0 and poses.skeleton == COCO
    order = [
        COCO.index(name.replace("left", "?").replace("right", "left").replace("?", "right")) for name in COCO.keypoints
    ]
    expected = poses.keypoints[:, order] * (-1, 1) + (photo.shape[1] - 1, 0)
    # Equal scores may change places.
    rank, other = np.argsort(expected[:, 0, 0]), np.argsort(seen.keypoints[:, 0, 0])
    assert_allclose(seen.keypoints[other], expected[rank], atol=1e-2)
    assert_allclose(seen.scores[other], poses.scores[rank], atol=1e-5)
    assert_allclose(seen.keypoint_scores[other], poses.keypoint_scores[rank][:, order], atol=1e-4)


def test_a_real_network_agrees_with_its_mirrored_pass(photos: Path) -> None:
    """No shift between what it sees as it is and mirrored, beyond what left and right differ by in the network."""
    photo = read_photo(photos / "tennis.jpg")
    detector = PoseDet(threads=1)
    straight = detector.candidates(photo, long_side=512)
    turned = mirrored_poses(detector.candidates(photo[:, ::-1], long_side=512), photo.shape[1])
    first, second = (each[int(each.scores.argmax())] for each in (straight, turned))
    shift = (second.keypoints - first.keypoints)[0]
    size = np.ptp(first.keypoints[0], axis=0).max()
    assert np.abs(np.median(shift, axis=0)).max() < 0.02 * size
    wrong = mirrored_poses(second, photo.shape[1]).keypoints[0, second.skeleton.mirror]  # left and right not exchanged
    assert np.abs(shift).mean() < np.abs(wrong - first.keypoints[0]).mean() / 2


def random_passes(seed: int) -> list[Poses]:
    """Three people seen in four passes, each with chance misses and chance repeats."""
    random = np.random.default_rng(seed)
    people = random.uniform(0, 300, (3, 1, 2)) + random.uniform(-40, 40, (3, 3, 2))
    passes = []
    for _ in range(4):
        chosen = people[random.integers(0, 3, random.integers(0, 6))]
        noise = random.normal(0, 4, chosen.shape)
        count = len(chosen)
        keypoint_scores = random.uniform(0, 1, (count, 3)) * (random.uniform(size=(count, 3)) > 0.2)
        passes.append(Poses(chosen + noise, random.uniform(0.01, 1, count), keypoint_scores, FACE))
    return passes


@pytest.mark.parametrize("seed", range(8))
def test_averaged_equals_the_slow_way(seed: int) -> None:
    passes = random_passes(seed)
    found = Poses.joined(passes)
    source = [n for n, each in enumerate(passes) for _ in range(len(each))]
    config = replace(DECODE, min_area=900.0)
    floor = 900.0 * (400 / 640) ** 2

    def likeness(a: int, b: int) -> float:
        areas = [max(np.ptp(found.keypoints[i], axis=0).prod(), floor) for i in (a, b)]
        squared = ((found.keypoints[a] - found.keypoints[b]).astype(float) ** 2).sum(axis=1)
        return float(np.exp(-squared / (4 * 0.3**2 * np.mean(areas))).mean())

    waiting = sorted(range(len(found)), key=lambda i: -found.scores[i])
    kept: list[int] = []
    for i in waiting:
        if all(likeness(i, j) <= 0.5 for j in kept):
            kept.append(i)
    expected = []
    for k in kept:
        members = {i: likeness(i, k) * found.scores[i] for i in waiting if max(kept, key=lambda j: likeness(i, j)) == k}
        score = sum(max([w for i, w in members.items() if source[i] == n], default=0) for n in range(4)) / 4
        places = []
        for joint in range(3):
            shares = {i: w * max(found.keypoint_scores[i, joint], 1e-6) for i, w in members.items()}
            places.append(sum(s * found.keypoints[i, joint] for i, s in shares.items()) / sum(shares.values()))
        mean_scores = sum(w * found.keypoint_scores[i] for i, w in members.items()) / sum(members.values())
        expected.append((score, np.array(places), mean_scores))
    expected.sort(key=lambda each: -each[0])

    merged = averaged(passes, (300, 400), config)
    assert len(merged) == len(expected)
    for got, (score, places, mean_scores) in zip(merged, expected, strict=True):
        assert_allclose(got.scores[0], score, rtol=1e-4)
        assert_allclose(got.keypoints[0], places, atol=1e-2)
        assert_allclose(got.keypoint_scores[0], mean_scores, atol=1e-4)


def test_averaging_does_not_let_a_repeat_inherit_the_score() -> None:
    """Two poses that suppression both keeps, one seen in every pass, the other once."""
    pose = np.float32([[(0, 0), (30, 0), (0, 30)]])
    passes = [Poses(pose, [0.9], np.ones((1, 3)), FACE) for _ in range(3)]
    passes[1] = Poses(np.concatenate([pose, pose + 14]), [0.9, 0.6], np.ones((2, 3)), FACE)
    config = replace(DECODE, nms_threshold=0.6)
    assert 0.2 < oks(pose, pose + 14, FACE.sigmas, 900 / 2) < 0.6
    assert_allclose(averaged(passes, (640, 640), config).scores, [0.9, 0.2], atol=1e-6)
    # Twice the same point without extent: box overlap keeps both, and each still has a group of its own.
    points = [Poses(np.zeros((2, 3, 2)), [0.9, 0.6], np.zeros((2, 3)), FACE)]
    twins = averaged(points, (640, 640), replace(config, nms="iou"))
    assert_allclose(twins.scores, [0.9, 0.6])
    assert not twins.keypoints.any()


def test_the_papers_merging_is_suppression_over_all_passes(photos: Path) -> None:
    photo = read_photo(photos / "group.jpg")
    detector = PoseDet(threads=1, score_threshold=0.05, skeleton="crowdpose")
    sizes = [(320, 256), (256, 128)]
    found = []
    for long_side, short_side in sizes:
        letterbox = Letterbox.fit(photo.shape[:2], long_side=long_side, short_side=short_side)
        for image in (photo, np.ascontiguousarray(photo[:, ::-1])):
            outputs = detector._session.run(letterbox.apply(image)[None]).one(0)
            config = replace(detector.config, score_threshold=0.05)
            poses = candidates(outputs, letterbox, detector.about.skeleton, config)
            found.append(poses if image is photo else mirrored_poses(poses, photo.shape[1]))
    everything = Poses.joined(found)
    expected = everything[best(everything, photo.shape[:2], detector.config)].select(detector.skeleton)
    got = Augmented(detector, merge="paper", sizes=sizes)(photo)
    assert len(got) > 0 and got.skeleton.num_keypoints == 14
    assert_array_equal(got.keypoints, expected.keypoints)
    assert_array_equal(got.scores, expected.scores)


@pytest.mark.parametrize("merge", ["paper", "merged"])
def test_nobody(merge: str) -> None:
    class Nobody(Faces):
        def run(self, images: np.ndarray) -> Outputs:
            nothing = np.zeros((len(images), 5), np.float32)
            keypoints, scores = np.zeros((len(images), 5, 3, 2)), np.zeros((len(images), 5, 3))
            return Outputs(nothing, keypoints.astype(np.float32), scores.astype(np.float32))

    poses = Augmented(PoseDet(Nobody()), merge=merge)(np.zeros((1, 1, 3), np.uint8))
    assert len(poses) == 0 and poses.skeleton == FACE


def test_weak_merged_poses_are_left_out() -> None:
    photo = face_at((200, 200), {"nose": (100.0, 120.0), "left_eye": (140.0, 80.0), "right_eye": (70.0, 90.0)})
    for threshold, count in ((0.7, 1), (0.81, 0)):
        for merge in ("paper", "merged"):
            assert len(Augmented(PoseDet(Faces(), score_threshold=threshold), merge=merge)(photo)) == count


def test_wrong_settings() -> None:
    detector = PoseDet(Faces())
    with pytest.raises(ConfigError, match=r"^merge is 'mean', expected 'paper' or 'merged'$"):
        Augmented(detector, merge="mean")
    for sizes in ((), ((300, 520),), ((520, 10),), ((9000, 300),)):
        with pytest.raises(ConfigError, match=r"^sizes is .*, expected pairs \(long, short\) of 32 to 8192 pixels$"):
            Augmented(detector, sizes=sizes)


@pytest.mark.slow
def test_on_the_command_line(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The mean of many views finds at least what one view finds, on the demo photo with the fewest pixels to run."""
    truth = json.loads((photos / "truth.json").read_text())
    image = next(each for each in truth["images"] if each["file_name"] == "child.jpg")
    truth["images"] = [image]
    truth["annotations"] = [each for each in truth["annotations"] if each["image_id"] == image["id"]]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    command = ["evaluate", str(tmp_path / "truth.json"), "--photos", str(photos), "--threads", "1", "--tta", "merged"]
    assert main([*command, "--output", str(tmp_path / "report")]) == 0
    assert "AP50" in capsys.readouterr().out
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    expected = Augmented(PoseDet(threads=1, score_threshold=0.01, skeleton="coco"))(photos / "child.jpg")
    assert [each["score"] for each in results] == pytest.approx(expected.scores.tolist())
    assert main([*command, "--long-side", "512"]) == 2
    assert "--long-side does not go with --tta, which has six sizes of its own" in capsys.readouterr().err
