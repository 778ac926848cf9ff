"""PoseDet on real photos: every kind of photo, threads, both runtimes, PyTorch, and how good the shipped model is."""

import io
import json
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import ExifTags, Image

from posedet import PoseDet, Poses, draw
from posedet.errors import ConfigError, DataError, ModelError, PhotoError
from posedet.image import read_photo, write_photo
from posedet.oks import oks
from posedet.runtime.bulk import find_all
from posedet.skeleton import BODY19, COCO, CROWDPOSE, Skeleton
from posedet.weights.checkpoint import load_weights, save_weights, stored_skeleton
from posedet.weights.opening import open_model
from posedet.weights.torch_session import open_weights

WEIGHTS = Path(str(resources.files("posedet") / "released" / "posedet-s.safetensors"))
NAMES = ("baseball", "child", "food", "group", "hall", "skiers", "street", "tennis")


def assert_same(got: Poses, expected: Poses) -> None:
    assert got.skeleton == expected.skeleton
    for field in ("keypoints", "scores", "keypoint_scores"):
        assert_array_equal(getattr(got, field), getattr(expected, field), strict=True)


@pytest.fixture(scope="module")
def weak() -> PoseDet:
    """The shipped model with a low threshold: many poses to compare, whatever the model is worth."""
    return PoseDet(threads=1, score_threshold=0.1)


# --- what comes in, what comes out -----------------------------------------------------------------------------------


def test_path_image_and_array_give_the_same_poses(detector: PoseDet, photos: Path) -> None:
    path = photos / "tennis.jpg"
    poses = detector(path)
    assert isinstance(poses, Poses) and len(poses) > 0
    assert poses.skeleton == COCO
    with Image.open(path) as image:
        assert_same(detector(image), poses)
    assert_same(detector(str(path)), poses)
    array = read_photo(path)
    before = array.copy()
    assert_same(detector(array), poses)
    assert_array_equal(array, before)
    array.setflags(write=False)
    assert_same(detector(np.asfortranarray(array)), poses)


@pytest.mark.slow
def test_poses_are_best_first_above_the_threshold_and_around_the_photo(weak: PoseDet, photos: Path) -> None:
    for name in NAMES:
        poses = weak(photos / f"{name}.jpg")
        assert (np.diff(poses.scores) <= 0).all()
        assert (poses.scores > 0.1).all()
        assert np.abs(poses.keypoints).max(initial=0) < 2000
        strict = PoseDet(threads=1, score_threshold=0.5)(photos / f"{name}.jpg")
        # The strong ones are suppressed by none of the weak.
        assert_array_equal(strict.keypoints, poses.keypoints[poses.scores > 0.5])


def test_a_batch_is_a_list_equal_to_single_calls(weak: PoseDet, photos: Path) -> None:
    paths = [photos / f"{name}.jpg" for name in ("street", "tennis", "street", "group")]
    batch = weak.batch(iter([paths[0], read_photo(paths[1]), *paths[2:]]))
    assert isinstance(batch, list)
    assert len(batch) == 4
    for got, path in zip(batch, paths, strict=True):
        assert_same(got, weak(path))
    one = weak.batch([paths[0]])
    assert isinstance(one, list) and len(one) == 1
    assert weak.batch([]) == []


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_several_at_once_give_the_poses_of_a_series(weak: PoseDet, runtime: str, photos: Path) -> None:
    paths = [photos / f"{name}.jpg" for name in NAMES]
    batch = PoseDet(threads=2, at_once=2, score_threshold=0.1, runtime=runtime).batch(paths)
    for got, path in zip(batch, paths, strict=True):
        assert_close(got, weak(path))


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "pytorch"])
def test_photos_in_one_run_of_the_network_have_the_poses_of_single_calls(runtime: str, photos: Path) -> None:
    """Eight photos, of which four have the same input size; three share a run, at most."""
    settings: dict[str, Any] = {"long_side": 256, "score_threshold": 0.1}
    if runtime == "pytorch":
        detector = PoseDet(open_weights(WEIGHTS), **settings)
    else:
        detector = PoseDet(threads=1, runtime=runtime, **settings)
    grouped = list(detector.grouped(((name, photos / f"{name}.jpg") for name in NAMES), 3))
    assert sorted(name for name, _ in grouped) == sorted(NAMES) and [name for name, _ in grouped] != list(NAMES)
    for name, poses in grouped:
        assert_close(poses, detector(photos / f"{name}.jpg"))
    assert sum(len(poses) for _, poses in grouped) > 10


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1), (20, 12_000), (3, 4)])
def test_photos_of_odd_sizes_work(detector: PoseDet, size: tuple[int, int]) -> None:
    assert len(detector(np.full((*size, 3), 120, np.uint8))) == 0


@pytest.mark.slow
def test_people_are_found_in_a_panorama_brought_to_more_pixels(photos: Path) -> None:
    """A tennis player in the middle of 12,000 pixels of grass."""
    photo = read_photo(photos / "tennis.jpg")
    height, width = photo.shape[:2]
    panorama = np.empty((height, 12_000, 3), np.uint8)
    panorama[:] = photo[:, :1]
    panorama[:, 6000 : 6000 + width] = photo
    found = PoseDet(threads=1, long_side=8192)(panorama)
    alone = PoseDet(threads=1, long_side=448)(photo)  # in about the same size: 8192 / 12000 * 640
    distances = np.linalg.norm(found.keypoints - alone.keypoints[0] - (6000, 0), axis=2)
    assert np.median(distances, axis=1).min() < 10


@pytest.mark.slow
def test_all_eight_orientations_give_the_same_poses(weak: PoseDet, photos: Path, tmp_path: Path) -> None:
    upright = read_photo(photos / "skiers.jpg")
    expected = weak(upright)
    assert len(expected) >= 2
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }
    for orientation, stored in turned.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.png"
        Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, compress_level=1)
        assert_same(weak(path), expected)
        with Image.open(path) as image:
            assert_same(weak(image), expected)


def test_a_larger_copy_has_the_same_poses(detector: PoseDet, photos: Path) -> None:
    """In a photo of three times the pixels, joints lie at (x + 0.5) * 3 - 0.5."""
    photo = read_photo(photos / "tennis.jpg")
    large = photo.repeat(3, axis=0).repeat(3, axis=1)
    poses, enlarged = detector(photo), detector(large)
    assert len(poses) == len(enlarged) > 0
    # Smoothed differently on the way to the network, but not shifted.
    differences = (enlarged.keypoints[0] + 0.5) / 3 - 0.5 - poses.keypoints[0]
    assert np.abs(differences).mean() < 1.5
    assert np.abs(differences.mean(axis=0)).max() < 0.5


@pytest.mark.parametrize(
    ("photo", "text"),
    [
        (np.zeros((4, 5, 3)), "photo: an array of float64, expected uint8 RGB in 0..255"),
        (np.zeros((4, 5), np.uint8), "photo: an array of shape (4, 5), expected (height, width, 3) RGB"),
        (None, "photo: NoneType, expected a path, bytes, a binary file, a PIL image or an array (H, W, 3) uint8 RGB"),
        ("no/such.jpg", "no/such.jpg: no such file"),
    ],
)
def test_a_wrong_photo_says_so_alone_and_in_a_batch(detector: PoseDet, photo: Any, text: str) -> None:
    for call in (lambda: detector(photo), lambda: detector.batch([np.zeros((9, 9, 3), np.uint8), photo])):
        with pytest.raises(PhotoError) as caught:
            call()
        assert str(caught.value) == text


def test_a_batch_is_not_one_photo(detector: PoseDet) -> None:
    expected = "expected several photos; for one photo, call the detector itself"
    for photo in ("team.jpg", b"team", io.BytesIO(b"team")):
        with pytest.raises(PhotoError, match=rf"^photos: {re.escape(repr(photo))}, {expected}$"):
            detector.batch(photo)


def test_bytes_and_open_files_give_the_poses_of_their_file(weak: PoseDet, photos: Path, tmp_path: Path) -> None:
    path = photos / "food.jpg"
    expected = weak(path)
    content = path.read_bytes()
    with path.open("rb") as file:
        for poses in weak.batch([content, file]):
            assert_same(poses, expected)
        for poses in find_all(weak, [content, file, OnceOnly(content)], None):
            assert_same(poses, expected)
    pictures = [tmp_path / "1.jpg", tmp_path / "2.jpg"]
    with Image.open(path) as image:
        for poses in find_all(weak, [read_photo(path), image], pictures):
            assert_same(poses, weak(read_photo(path)))
    assert all(picture.is_file() for picture in pictures)


def test_a_picture_has_the_poses_of_its_photo_and_no_more_of_the_file(
    weak: PoseDet, photos: Path, tmp_path: Path
) -> None:
    """Drawn into the decoded photo itself, turned upright; a photo in memory stays as it is, and EXIF data stay out."""
    with Image.open(photos / "food.jpg") as image:
        turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Artist] = "somebody"
    turned.save(tmp_path / "turned.jpg", quality=95, exif=exif, comment="somebody's", icc_profile=b"somebody's")
    image = Image.fromarray(read_photo(tmp_path / "turned.jpg"))
    before = image.copy()
    given = [tmp_path / "turned.jpg", image, np.asarray(image)]
    pictures = [tmp_path / f"{place}.jpg" for place in range(3)]
    poses = list(find_all(weak, given, pictures, scores=True))
    assert image == before
    write_photo(tmp_path / "expected.jpg", draw(read_photo(given[0]), poses[0], scores=True))
    for found, picture in zip(poses, pictures, strict=True):
        assert_same(found, weak(np.asarray(image)))
        assert_array_equal(read_photo(picture), read_photo(tmp_path / "expected.jpg"))
        assert b"somebody" not in picture.read_bytes()


class OnceOnly(io.BytesIO):
    """A file that can be read once, like what comes from a network."""

    def seekable(self) -> bool:
        return False


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_pickled_detector_opens_its_model_again(runtime: str, photos: Path) -> None:
    detector = PoseDet(runtime=runtime, threads=1, score_threshold=0.1, long_side=192, skeleton="crowdpose")
    copy = pickle.loads(pickle.dumps(detector))
    assert (copy.config, copy.skeleton, copy.about) == (detector.config, detector.skeleton, detector.about)
    assert_same(copy(photos / "tennis.jpg"), detector(photos / "tennis.jpg"))


@pytest.mark.slow
def test_a_detector_goes_to_other_processes(weak: PoseDet, photos: Path) -> None:
    paths = [photos / "food.jpg", photos / "tennis.jpg"]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        for poses, path in zip(pool.map(weak, paths), paths, strict=True):
            assert_same(poses, weak(path))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows does not fork")
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_detector_lives_on_in_a_fork(runtime: str, photos: Path) -> None:
    """Whether it is used there or not: a fork has none of the threads of a runtime, and must not wait for them."""
    code = f"""
import os, sys
from posedet import PoseDet
detector = PoseDet(runtime={runtime!r}, threads=2, score_threshold=0.1, long_side=192)
before = detector({str(photos / "tennis.jpg")!r}).keypoints.tobytes()
for used in (False, True):
    child = os.fork()
    if child == 0:
        assert before and (not used or detector({str(photos / "tennis.jpg")!r}).keypoints.tobytes() == before)
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stderr) == (0, "")


def test_a_model_that_has_gone_is_one_line_when_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "gone.onnx"
    path.write_bytes(WEIGHTS.with_suffix(".onnx").read_bytes())
    pickled = pickle.dumps(PoseDet(path, threads=1))
    path.unlink()
    with pytest.raises(ModelError, match=r"gone\.onnx: no such model file$"):
        pickle.loads(pickled)


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_any_named_joints_can_be_asked_for(photos: Path, tmp_path: Path) -> None:
    path = photos / "skiers.jpg"
    whole = PoseDet(threads=1, skeleton="body19")(path)
    assert whole.skeleton == BODY19 and len(whole) > 0
    assert_same(PoseDet(threads=1, skeleton="crowdpose")(path), whole.select(CROWDPOSE))
    wrists = ["right_wrist", "left_wrist"]
    poses = PoseDet(threads=1, skeleton=wrists)(path)
    assert poses.skeleton.keypoints == tuple(wrists)
    assert_array_equal(poses.keypoints, whole.keypoints[:, [10, 9]])
    assert PoseDet(threads=1, skeleton="neck")(path).skeleton.keypoints == ("neck",)
    arm = Skeleton("arm", ("left_wrist", "left_shoulder"), ((0, 1),), (), (0.1, 0.1))
    (tmp_path / "arm.json").write_text(json.dumps(arm.to_dict()))
    assert PoseDet(threads=1, skeleton=tmp_path / "arm.json").skeleton == arm
    poses = PoseDet(threads=1, skeleton=arm)(path)
    assert poses.skeleton == arm
    assert_array_equal(poses.keypoints, whole.keypoints[:, [9, 5]])


def test_more_pixels_are_seen_when_asked_for(photos: Path) -> None:
    path = photos / "baseball.jpg"
    small, large = PoseDet(threads=1, long_side=128)(path), PoseDet(threads=1, long_side=640)(path)
    assert len(small) < len(large)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "kind", "text"),
    [
        ({"score_threshold": -0.1}, ConfigError, "score_threshold is -0.1, expected 0 or more and less than 1"),
        ({"score_threshold": 1.0}, ConfigError, "score_threshold is 1.0, expected 0 or more and less than 1"),
        ({"score_threshold": float("nan")}, ConfigError, "score_threshold is nan, expected 0 or more and less than 1"),
        ({"long_side": 31}, ConfigError, "long_side is 31, expected 32 to 8192 pixels"),
        ({"long_side": 9000}, ConfigError, "long_side is 9000, expected 32 to 8192 pixels"),
        ({"threads": 0}, ConfigError, "threads is 0, expected at least 1"),
        ({"at_once": 0}, ConfigError, "at_once is 0, expected at least 1"),
        ({"threads": 2, "at_once": 3}, ConfigError, "at_once is 3, but threads is 2; each photo needs a thread"),
        ({"runtime": "onnx"}, ConfigError, "runtime is 'onnx', expected 'onnxruntime' or 'openvino'"),
        ({"model": "no/such.onnx"}, ModelError, "no/such.onnx: no such model file"),
        (
            {"skeleton": "crowd"},
            DataError,
            "unknown skeleton 'crowd' (did you mean 'crowdpose'?); built-in skeletons: ",
        ),
        (
            {"skeleton": "left_wirst"},
            DataError,
            "unknown skeleton 'left_wirst' (did you mean 'left_wrist'?); built-in skeletons: ",
        ),
        (
            {"model": WEIGHTS},
            ModelError,
            f"{WEIGHTS}: PyTorch weights, expected an ONNX file; convert them with `posedet export`",
        ),
        ({"skeleton": ["nose", "tail"]}, DataError, "skeleton 'body19': unknown keypoint 'tail'"),
        ({"skeleton": []}, DataError, "skeleton 'body19-0': keypoints: (), expected a list of names"),
        ({"skeleton": "crowdpose15"}, DataError, "skeleton 'body19': unknown keypoint 'abdomen'"),
    ],
    ids=str,
)
def test_a_wrong_setting_says_so(settings: dict, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as caught:
        PoseDet(**{"threads": 1} | settings)
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("settings", [{"runtime": "openvino"}, {"device": "cpu"}, {"threads": 1}])
def test_an_open_session_takes_no_settings_of_a_runtime(weak: PoseDet, settings: dict) -> None:
    with pytest.raises(
        ConfigError,
        match=r"^runtime, device, threads, embedding and covariances are for opening a model file, but model is ",
    ):
        PoseDet(weak._session, **settings)


# --- threads, runtimes, PyTorch --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sixteen_threads_give_the_results_of_a_series(weak: PoseDet, photos: Path) -> None:
    paths = [photos / f"{name}.jpg" for name in NAMES]
    series = [weak(path) for path in paths]
    start = threading.Barrier(16)

    def look(place: int) -> Poses:
        start.wait()
        return weak(paths[place % 8])

    with ThreadPoolExecutor(16) as pool:
        for place, poses in enumerate(pool.map(look, range(16))):
            assert_same(poses, series[place % 8])


def assert_close(got: Poses, expected: Poses) -> None:
    """Every pose of either is also in the other, unless its score is so near the threshold that it may be missing."""
    for first, second in ((got, expected), (expected, got)):
        for pose in first[first.scores > 0.105]:
            assert len(second) > 0
            distances = np.abs(second.keypoints - pose.keypoints).max(axis=(1, 2))
            nearest = distances.argmin()
            assert distances[nearest] < 0.1
            assert abs(second.scores[nearest] - pose.scores[0]) < 1e-3
            assert_allclose(second.keypoint_scores[nearest], pose.keypoint_scores[0], atol=2e-3)


@pytest.mark.parametrize("wrong", ["missing", "unknown", "of another shape"])
def test_weights_that_do_not_fit_their_settings(wrong: str, tmp_path: Path) -> None:
    tensors, config, info = load_weights(WEIGHTS)
    name = "score.output.bias"
    changes = {
        "missing": {},
        "unknown": {name: tensors[name], "extra": tensors[name].clone()},
        "of another shape": {name: tensors[name][:1]},
    }
    changed = {key: x for key, x in tensors.items() if key != name} | changes[wrong]
    save_weights(tmp_path / "odd.safetensors", "posedet train", changed, config, stored_skeleton(info, WEIGHTS), {})
    with pytest.raises(ModelError, match=rf"odd\.safetensors: tensor '({name}|extra)': missing, unknown or of another"):
        open_weights(tmp_path / "odd.safetensors")


@pytest.mark.slow
def test_the_exported_file_gives_the_poses_of_pytorch(weak: PoseDet, photos: Path) -> None:
    network = PoseDet(open_weights(WEIGHTS), score_threshold=0.1)
    num_poses = 0
    for name in NAMES:
        expected = network(photos / f"{name}.jpg")
        assert_close(weak(photos / f"{name}.jpg"), expected)
        num_poses += len(expected)
    assert num_poses > 20


@pytest.mark.slow
def test_openvino_gives_the_poses_of_onnx_runtime(weak: PoseDet, photos: Path) -> None:
    other = PoseDet(threads=1, score_threshold=0.1, runtime="openvino")
    for name in NAMES:
        assert_close(other(photos / f"{name}.jpg"), weak(photos / f"{name}.jpg"))


# --- how good the shipped model is -----------------------------------------------------------------------------------

# Over the persons of photos/truth.json that are larger than 64 x 64 pixels and have at least ten labelled joints.
# Measured: 0.856 of 15 persons.
MEAN_OKS = 0.82
# The highest score where nobody is; below the shipped threshold of 0.35. Measured: 0.011, and 0.127 on a photo of food.
HIGHEST_ON_NOTHING, HIGHEST_ON_FOOD = 0.05, 0.2


def test_the_shipped_model_places_joints(detector: PoseDet, photos: Path) -> None:
    truth = json.loads((photos / "truth.json").read_text())
    similarities: list[float] = []
    for image in truth["images"]:
        persons = [
            person
            for person in truth["annotations"]
            if person["image_id"] == image["id"] and person["area"] > 64**2 and person["num_keypoints"] >= 10
        ]
        if not persons:
            continue
        labels = np.array([person["keypoints"] for person in persons], float).reshape(len(persons), 17, 3)
        poses = detector(photos / image["file_name"])
        similarity = oks(
            poses.keypoints,
            labels[..., :2],
            np.array(COCO.sigmas),
            areas=np.array([person["area"] for person in persons]),
            visible=labels[..., 2] > 0,
        )
        # A person nobody found counts as 0.
        similarities += similarity.max(axis=0, initial=0).tolist()
    assert len(similarities) == 15
    assert np.mean(similarities) > MEAN_OKS


@pytest.mark.slow
def test_the_shipped_model_finds_nobody_where_nobody_is(photos: Path) -> None:
    doubtful = PoseDet(threads=1, score_threshold=0.0)
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:240, :320]
    pictures = [np.full((240, 320, 3), colour, np.uint8) for colour in (0, 127, 255, (200, 30, 30), (30, 90, 200))]
    pictures += [generator.integers(0, limit, (240, 320, 3), np.uint8) for limit in (40, 256)]
    pictures += [np.kron(generator.integers(0, 256, (8, 10, 3), np.uint8), np.ones((30, 32, 1), np.uint8))]
    pictures += [np.stack([x * 255 / 319, y * 255 / 239, 0 * x + 90], axis=2).astype(np.uint8)]
    for picture in pictures:
        assert doubtful(picture).scores.max(initial=0) < HIGHEST_ON_NOTHING
    assert doubtful(photos / "food.jpg").scores.max(initial=0) < HIGHEST_ON_FOOD


# --- import ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_import_is_quick_and_silent() -> None:
    """Our own modules take no longer than NumPy and Pillow, which they need; in time of the processor."""
    code = """
import time
start = time.process_time()
import numpy, PIL.Image, PIL.ImageDraw, PIL.ImageFont
middle = time.process_time()
import posedet
print((time.process_time() - middle) / (middle - start))
"""
    shares = []
    for _ in range(4):
        run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
        assert run.stderr == ""
        shares.append(float(run.stdout))
    assert min(shares) < 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"runtime": "openvino"},
            "PyTorch weights, but 'openvino' needs an ONNX file; convert them with `posedet export`",
        ),
        ({"threads": -3}, "threads is -3, expected at least 1"),
        ({"threads": 1, "at_once": 2}, "threads is 1, expected at least 2"),
        ({"device": "abacus"}, "device 'abacus' is not available"),
    ],
)
def test_settings_that_do_not_go_with_weights(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        open_model(WEIGHTS, **options)


def test_weights_and_file_open_the_same_way(photos: Path) -> None:
    """By path or by name; PyTorch and ONNX Runtime see the same people."""
    found = [PoseDet(open_model(source, threads=1))(photos / "skiers.jpg") for source in (WEIGHTS, "posedet-s")]
    assert len(found[0]) == len(found[1]) == 2
    np.testing.assert_allclose(found[0].keypoints, found[1].keypoints, atol=0.05)


def test_an_adjusted_detector_shares_the_model(detector: PoseDet, photos: Path) -> None:
    photo = photos / "skiers.jpg"
    other = detector.adjusted(skeleton="crowdpose", long_side=256)
    assert other._session is detector._session
    assert_same(other(photo), PoseDet(threads=1, skeleton="crowdpose", long_side=256)(photo))
    again = other.adjusted(score_threshold=0.7)
    assert (again.skeleton, again.config.long_side, again.config.score_threshold) == (CROWDPOSE, 256, 0.7)
    assert_same(detector.find(*detector.prepared(photo)), detector(photo))
    with pytest.raises(ConfigError, match="long_side is 9999"):
        detector.adjusted(long_side=9999)
