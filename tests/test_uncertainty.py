"""Covariances of keypoints: what they say, how they are trained and calibrated, and that they come on demand."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from posedet import PoseDet, Poses
from posedet.commands.main import main
from posedet.config import load_config
from posedet.data.annotations import PhotoSet
from posedet.data.sources import read_photos
from posedet.errors import ConfigError, DataError, ModelError
from posedet.image import Letterbox
from posedet.model.embedding import TapTable
from posedet.model.uncertainty import Uncertainty
from posedet.poses import COVARIANCES
from posedet.runtime.decode import candidates
from posedet.runtime.model_files import model_file
from posedet.runtime.session import Outputs
from posedet.runtime.tta import averaged, mirrored_poses
from posedet.skeleton import BODY19, Skeleton
from posedet.training.setup import prepare_run
from posedet.training.uncertainty import RADIUS, SHARE, Errors, calibrate, new_threshold, train
from posedet.weights.checkpoint import load_weights, save_weights, stored_skeleton
from posedet.weights.export import export

WEIGHTS = model_file("posedet-s").with_suffix(".safetensors")
SHIPPED = "photos/truth.json:photos"
PAIR = Skeleton("pair", ("left_hand", "right_hand"), ((0, 1),), ((0, 1),), (0.1, 0.1))
SLANTED = np.array([[4.0, 1.5], [1.5, 1.0]], np.float32)


def pair(covariances: object = None, *, x: float = 10.0) -> Poses:
    extra = {} if covariances is None else {COVARIANCES: np.asarray(covariances, np.float32)}
    return Poses(np.array([[[x, 10], [x + 40, 30]]]), np.array([0.9]), np.array([[0.9, 0.3]]), PAIR, extra)


# --- the head --------------------------------------------------------------------------------------------------------


def made_up(count: int) -> tuple[Uncertainty, Errors]:
    """Two keypoints of `count` people: large people, and those with the first feature, err more."""
    torch.manual_seed(0)
    head = Uncertainty(2, 1, 1, 16)
    features = torch.randn(count, head.look.in_features)
    features[:, -1] = torch.linspace(math.log(20), math.log(300), count)
    size = features[:, -1].exp()[:, None, None]
    spread = torch.where(features[:, 0] > 0, 0.2, 0.05)[:, None, None]
    root = torch.tensor([[1.0, 0.0], [0.8, 0.6]])  # x and y vary together
    errors = size.sqrt() * 4 * spread * (torch.randn(count, 2, 2) @ root.T)
    # The score that is read says nothing about the OKS, but the second feature does.
    similarity = torch.where(features[:, 1] > 0, 0.9, 0.2)
    return head, Errors(features.half(), errors, torch.rand(count, 2) > 0.3, similarity)


def shares_of(head: Uncertainty, errors: Errors, groups: int) -> list[float]:
    """How many errors lie in the ellipses, in groups of people in the order of their size; by solving equations."""
    with torch.no_grad():
        covariances = head(errors.features.float()).double().numpy()
    each = errors.errors.double().numpy()
    inside = (np.linalg.solve(covariances, each[..., None])[..., 0] * each).sum(-1) <= RADIUS
    known = errors.labelled.numpy()
    return [float(inside[rows][known[rows]].mean()) for rows in np.array_split(np.arange(len(each)), groups)]


def test_the_head_learns_shapes_and_is_calibrated() -> None:
    head, errors = made_up(4000)
    assert abs(shares_of(head, errors, 1)[0] - SHARE) > 0.1
    train(head, errors, epochs=30)
    # Photos held out, on which errors are twice as large as where it was trained.
    _, unseen = made_up(4000)
    unseen = unseen._replace(errors=2 * unseen.errors)
    assert shares_of(head, unseen, 1)[0] < 0.8
    calibrate(head, unseen)
    assert shares_of(head, unseen, 1)[0] == pytest.approx(SHARE, abs=0.001)
    with torch.no_grad():
        covariances = head(errors.features.float())
    assert covariances.shape == (4000, 2, 2, 2)
    assert torch.equal(covariances, covariances.mT)
    x, xy, _, y = covariances.flatten(2).unbind(-1)
    assert (xy / (x * y).sqrt()).median().item() == pytest.approx(0.8, abs=0.1)
    wide = errors.features[:, 0] > 0
    assert 4 < (x[wide].median() / x[~wide].median()).item() < 32


def test_scores_become_the_expected_oks() -> None:
    head, errors = made_up(4000)
    read = (4 * errors.features[:, -3].float()).sigmoid()
    assert torch.equal(head.score_logit(errors.features.float()).sigmoid(), read)
    train(head, errors, epochs=30)
    with torch.no_grad():
        scores = head.score_logit(errors.features.float()).sigmoid()
    for similarity in (0.9, 0.2):
        assert scores[errors.oks == similarity].mean().item() == pytest.approx(similarity, abs=0.15)
    threshold = new_threshold(head, errors, 0.45)
    assert (scores > threshold).sum().item() == pytest.approx((read > 0.45).sum().item(), abs=100)


def test_too_few_people_held_out() -> None:
    head, errors = made_up(39)
    errors = errors._replace(labelled=torch.ones(39, 2, dtype=torch.bool))
    with pytest.raises(
        DataError, match=r"^people were found 39 times in 2 views of each photo held out, expected at least 40$"
    ):
        calibrate(head, errors)


def test_what_the_head_reads() -> None:
    """The features at the keypoints, how far they moved, what is seen, the score, and the size."""
    head = Uncertainty(2, 3, 1, 16)
    rows = torch.rand(1, 64, 3, generator=torch.Generator().manual_seed(0))
    table = TapTable(rows, torch.tensor([[0, 8, 8, 8]]).expand(64, -1), 0.5)
    poses = torch.tensor([[[[3.5, 3.5], [43.5, 13.5]]]])
    stages = [poses - torch.tensor([2.0, 0.0]), poses]
    seen, scores, index = torch.tensor([[[0.5, 0.9]]]), torch.tensor([[0.5]]), torch.zeros(1, 1, dtype=torch.int64)
    features = head.read(table, stages, seen, scores, torch.tensor([[8.0]]), index)[0, 0]
    assert features.shape == (head.look.in_features,)
    size = math.sqrt(40 * 10)
    assert_allclose(features[:3], rows[0, 0], atol=1e-6)  # the middle of the first cell
    assert_allclose(features[6:8], [math.log(2 / size + 1e-3) / 4] * 2, atol=1e-5)
    assert_allclose(features[8:10], [0, math.log(9) / 4], atol=1e-5)
    assert_allclose(features[10:], [0, math.log(size / 8), math.log(size)], atol=1e-5)


# --- in poses --------------------------------------------------------------------------------------------------------


def test_covariances_travel_with_the_keypoints() -> None:
    assert pair().covariances is None
    poses = Poses.joined([pair([[SLANTED, 2 * SLANTED]]), pair([[3 * SLANTED, 4 * SLANTED]])])
    assert_array_equal(poses[1].covariances, [[3 * SLANTED, 4 * SLANTED]])
    assert_array_equal(poses.select(["right_hand"]).covariances, [[2 * SLANTED], [4 * SLANTED]])
    assert_array_equal(Poses.from_dict(json.loads(json.dumps(poses.to_dict()))).covariances, poses.covariances)
    [first, _] = poses.to_coco(7)
    assert first["extra"]["keypoint_covariances"] == [SLANTED.tolist(), (2 * SLANTED).tolist()]


@pytest.mark.parametrize(
    ("covariances", "message"),
    [
        (np.ones((1, 2, 3)), r"float32 of shape \(1, 2, 3\), expected numbers of shape \(1, 2, 2, 2\)"),
        ([[SLANTED, [[1, 2], [2, 1]]]], r"no ellipse has the matrix at \[0, 1\]"),
        ([[SLANTED, [[1, 0.5], [0.4, 1]]]], r"no ellipse has the matrix at \[0, 1\]"),
        ([[[[np.nan, 0], [0, 1]], SLANTED]], r"no ellipse has the matrix at \[0, 0\]"),
        ([[[[0, 0], [0, 0]], SLANTED]], r"no ellipse has the matrix at \[0, 0\]"),
    ],
)
def test_covariances_are_checked(covariances: object, message: str) -> None:
    with pytest.raises(DataError, match=rf"^poses: extra\['keypoint_covariances'\]: {message}$"):
        pair(covariances).covariances  # noqa: B018


def test_covariances_come_in_pixels_of_the_photo() -> None:
    """The panorama is squeezed more in y than in x, as whole pixels require."""
    letterbox = Letterbox.fit((37, 1000), long_side=128)
    generator = np.random.default_rng(0)
    points = generator.multivariate_normal([60, 2], SLANTED, 20_000)
    expected = np.cov(letterbox.to_photo(points).T)
    assert_allclose(letterbox.covariances_to_photo(np.cov(points.T)), expected, rtol=1e-9)
    outputs = Outputs(
        np.array([0.9], np.float32),
        np.array([[[60, 2], [70, 2]]], np.float32),
        np.ones((1, 2), np.float32),
        {COVARIANCES: np.tile(SLANTED, (1, 2, 1, 1))},
    )
    decoded = candidates(outputs, letterbox, PAIR, replace(load_config("posedet-s").decode, score_threshold=0.1))
    assert decoded.covariances is not None
    assert_allclose(decoded.covariances[0], [letterbox.covariances_to_photo(SLANTED)] * 2, rtol=1e-6)


def test_mirrored_and_averaged() -> None:
    poses = pair([[SLANTED, 9 * SLANTED]])
    mirrored = mirrored_poses(poses, 100)
    assert_array_equal(mirrored.covariances[0, 1], [[4, -1.5], [-1.5, 1]])
    assert_array_equal(mirrored_poses(mirrored, 100).covariances, poses.covariances)
    config = replace(load_config("posedet-s").decode, min_area=1.0)
    mean = averaged([poses, pair([[3 * SLANTED, 9 * SLANTED]])], (100, 100), config)
    assert_allclose(mean.covariances, [[2 * SLANTED, 9 * SLANTED]], rtol=1e-5)


# --- the commands ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unsure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped weights without their head."""
    path = tmp_path_factory.mktemp("uncertainty") / "unsure.safetensors"
    tensors, config, info = load_weights(WEIGHTS)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("uncertainty.")}
    config = replace(config, model=replace(config.model, uncertainty_channels=0))
    save_weights(path, "posedet train", kept, config, stored_skeleton(info, WEIGHTS), {})
    return path


@pytest.fixture(scope="module")
def sure(unsure: Path) -> Path:
    """The same with a head of a few views."""
    output = unsure.with_name("sure.safetensors")
    command = ["uncertainty", str(unsure), str(output), "--data", SHIPPED, "--held-out", SHIPPED]
    assert main([*command, "--views", "16", "--channels", "8", "--workers", "0"]) == 0
    return output


@pytest.fixture(scope="module")
def exported(sure: Path) -> Path:
    export(sure, sure.with_suffix(".onnx"))
    return sure.with_suffix(".onnx")


@pytest.mark.slow
def test_training_changes_only_the_head(unsure: Path, sure: Path) -> None:
    before, config, _ = load_weights(unsure)
    after, anew, _ = load_weights(sure)
    assert {name for name in after if name not in before} == {
        f"uncertainty.{name}"
        for name in (
            "log_scale",
            *(f"{layer}.{part}" for layer in ("look", "shapes", "correction") for part in ("weight", "bias")),
        )
    }
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert after["uncertainty.log_scale"].abs().min() > 0
    anew = replace(anew, decode=replace(anew.decode, score_threshold=config.decode.score_threshold))
    assert anew == replace(config, model=replace(config.model, uncertainty_channels=8))


@pytest.mark.slow
def test_the_file_gives_covariances_on_demand(exported: Path, photos: Path) -> None:
    """Equal in PyTorch (checked by the export), ONNX Runtime and OpenVINO; the poses do not depend on them."""
    plain = PoseDet(exported)(photos / "group.jpg")
    assert plain.covariances is None
    found = PoseDet(exported, covariances=True)(photos / "group.jpg")
    assert found.covariances is not None and found.covariances.shape == (len(plain), 17, 2, 2)
    assert_array_equal(found.keypoints, plain.keypoints)
    deviations = np.sqrt(np.linalg.eigvalsh(found.covariances))
    sizes = np.sqrt(np.prod(found.boxes[:, 2:] - found.boxes[:, :2], axis=1))[:, None, None]
    assert 0.005 < np.median(deviations / sizes) < 0.5
    other = PoseDet(exported, covariances=True, runtime="openvino")(photos / "group.jpg")
    assert_allclose(other.covariances, found.covariances, rtol=0.05, atol=0.05)
    assert PoseDet(exported, runtime="openvino")(photos / "group.jpg").covariances is None
    both = PoseDet(exported, covariances=True, embedding=True)(photos / "group.jpg")
    assert set(both.extra) == {"keypoint_covariances", "embedding"}


@pytest.mark.slow
def test_predict_writes_and_draws_them(exported: Path, photos: Path, tmp_path: Path) -> None:
    common = ["predict", str(photos / "tennis.jpg"), "--model", str(exported), "--threads", "1"]
    for options in ([], ["--covariances"], ["--covariances"]):  # the last one finds everything done
        assert main([*common, "--output", str(tmp_path / "-".join(["out", *options])), *options]) == 0
    plain, told = (json.loads((tmp_path / name / "poses.json").read_text()) for name in ("out", "out---covariances"))
    assert "extra" not in plain[0]
    assert told[0].pop("extra").keys() == {"keypoint_covariances"}
    assert told == plain
    pictures = [(tmp_path / name / "tennis.jpg").read_bytes() for name in ("out", "out---covariances")]
    assert pictures[0] != pictures[1]


@pytest.mark.slow
def test_calibrate_measures_them(sure: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["calibrate", str(photos / "truth.json"), "--photos", str(photos), "--output", str(tmp_path)]
    assert main([*command, "--model", str(sure), "--covariances", "--score-threshold", "0.1"]) == 0
    everybody = json.loads((tmp_path / "calibration.json").read_text())["results"]["ellipses"][0]
    assert everybody["num_keypoints"] > 200 and everybody["below"] is None
    # Measured on the people of the calibration.
    assert everybody["shares"][1] == pytest.approx(0.9, abs=0.04)
    line = f"people of 0 pixels and more: {everybody['num_keypoints']} labelled keypoints, in ellipses "
    assert line in capsys.readouterr().out


def test_refusals(unsure: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without = tmp_path / "without.onnx"
    model = onnx.load(WEIGHTS.with_suffix(".onnx"))
    del model.graph.output[[port.name for port in model.graph.output].index(COVARIANCES)]
    onnx.save(model, without)
    photos = PhotoSet(tuple(read_photos(SHIPPED, BODY19)))
    with pytest.raises(ConfigError, match=r"^model.uncertainty_channels: expected 0; `posedet uncertainty` adds"):
        prepare_run(load_config("posedet-s", ["model.uncertainty_channels=8"]), photos, tmp_path / "run")
    for path in (without, unsure):
        options = ["--model", str(path), "--covariances", "--output", str(tmp_path / "out")]
        assert main(["predict", "photos/tennis.jpg", *options]) == 2
        error = capsys.readouterr().err
        assert error.endswith("does not know covariances of keypoints; `posedet uncertainty` adds them to weights\n")
        assert error.count("\n") == 1
    with pytest.raises(ModelError, match=r"does not know covariances of keypoints"):
        PoseDet(without, covariances=True, runtime="openvino")
