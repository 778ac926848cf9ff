"""The identity embedding: what it reads, how it is trained, and that the exported file gives it on demand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from posedet import PoseDet
from posedet.config import load_config
from posedet.data.annotations import PhotoSet
from posedet.data.sources import read_photos
from posedet.errors import ConfigError, DataError
from posedet.model.embedding import TapTable
from posedet.model.identity import Identity
from posedet.runtime.model_files import model_file
from posedet.runtime.session import EMBEDDING
from posedet.skeleton import BODY19
from posedet.training.heads import Views
from posedet.training.identity import train_identity, views_of
from posedet.training.setup import prepare_run
from posedet.weights.checkpoint import load_tensors, load_weights, save_weights
from posedet.weights.export import export

WEIGHTS = model_file("posedet-s").with_suffix(".safetensors")
SHIPPED = "photos/truth.json:photos"
LIMBS = ((0, 1),)


def scene() -> tuple[torch.Tensor, TapTable]:
    """A photo of 64 x 64 pixels, and a map of 8 x 8 cells."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(1, 64, 3, generator=generator)
    geometry = torch.tensor([[0, 8, 8, 8]]).expand(64, -1)
    return torch.rand(1, 3, 64, 64, generator=generator) * 255, TapTable(rows, geometry, 0.5)


def test_only_seen_places_count() -> None:
    """A change of the photo at the hidden keypoint changes nothing; at the seen one, and between two seen, it does."""
    torch.manual_seed(0)
    identity = Identity(LIMBS, 2, 3, 4)
    images, table = scene()
    poses = torch.tensor([[[[12.0, 12.0], [52.0, 52.0]]]])  # their middle is at 32, 32

    def described(pixels: torch.Tensor, seen: list[float]) -> torch.Tensor:
        index = torch.zeros(1, 1, dtype=torch.int64)
        result: torch.Tensor = identity(identity.read(pixels, table, (8,), poses, torch.tensor([[seen]]), index))
        return result

    def darkened(first: int, last: int) -> torch.Tensor:
        pixels = images.clone()
        pixels[..., first:last, first:last] = 0
        return pixels

    before = described(images, [1.0, 0.0])
    assert before.norm().item() == pytest.approx(1)
    assert torch.equal(described(darkened(40, 64), [1.0, 0.0]), before)
    assert torch.equal(described(darkened(24, 40), [1.0, 0.0]), before)
    assert not torch.allclose(described(darkened(0, 24), [1.0, 0.0]), before)
    both = described(images, [1.0, 1.0])
    assert not torch.allclose(described(darkened(24, 40), [1.0, 1.0]), both)


def test_views_show_the_same_people() -> None:
    photos = read_photos(SHIPPED, BODY19)
    [group] = [photo for photo in photos if photo.path.stem == "group"]
    config = views_of(load_config("posedet-s").data)
    first, second = Views([group], BODY19, config, 2, spoiled=True)[3]
    assert not np.array_equal(first.image, second.image)
    shared = set(first.places) & set(second.places)
    assert len(shared) >= 2
    for view in (first, second):
        assert len(set(view.places)) == len(view.places)
        for place, weights in zip(view.places, view.weights, strict=True):
            assert not (weights[group.persons[int(place)].visibility[BODY19.mirror] == 0] > 0).all()
    again = Views([group], BODY19, config, 2, spoiled=True)[3]
    assert all(
        np.array_equal(one, other)
        for one, other in zip((first, second), again, strict=True)
        for one, other in [(one.image, other.image)]
    )


@pytest.fixture(scope="module")
def identified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped weights with an embedding of two steps."""
    photos = [photo for photo in read_photos(SHIPPED, BODY19) if len(photo.persons) >= 2]
    many = PhotoSet(tuple((photos * 16)[:16]))
    output = tmp_path_factory.mktemp("identity") / "identified.safetensors"
    train_identity(WEIGHTS, many, output, pairs=16, channels=8, workers=0)
    return output


@pytest.mark.slow
def test_training_changes_only_the_embedding(identified: Path) -> None:
    before, config, _ = load_weights(WEIGHTS)
    after, anew, _ = load_weights(identified)
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        of_identity = name.startswith("identity.")
        assert of_identity or torch.equal(after[name], tensor), name
    assert after["identity.output.bias"].shape == (8,)
    assert anew == replace(config, model=replace(config.model, identity_channels=8))


@pytest.mark.slow
def test_the_file_gives_the_embedding_on_demand(identified: Path, photos: Path, tmp_path: Path) -> None:
    """Equal in PyTorch (checked by the export), ONNX Runtime and OpenVINO; the poses do not depend on it."""
    path = tmp_path / "identified.onnx"
    export(identified, path)
    plain = PoseDet(path)(photos / "group.jpg")
    assert EMBEDDING not in plain.extra
    found = PoseDet(path, embedding=True)(photos / "group.jpg")
    vectors = found.extra[EMBEDDING]
    assert vectors.shape == (len(plain), 8)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(found.keypoints, plain.keypoints)
    assert np.ptp(vectors @ vectors.T) > 1e-3
    other = PoseDet(path, embedding=True, runtime="openvino")(photos / "group.jpg")
    np.testing.assert_allclose(other.extra[EMBEDDING], vectors, atol=0.02)
    assert EMBEDDING not in PoseDet(path, runtime="openvino")(photos / "group.jpg").extra


def test_a_model_without_embedding_gives_none(photos: Path, tmp_path: Path) -> None:
    model = onnx.load(WEIGHTS.with_suffix(".onnx"))
    del model.graph.output[[port.name for port in model.graph.output].index(EMBEDDING)]
    onnx.save(model, tmp_path / "without.onnx")
    poses = PoseDet(tmp_path / "without.onnx", embedding=True, threads=1)(photos / "tennis.jpg")
    assert len(poses) == 1 and EMBEDDING not in poses.extra


def test_refusals(tmp_path: Path) -> None:
    photos = PhotoSet(tuple(read_photos(SHIPPED, BODY19)))
    with pytest.raises(DataError, match=r"^\d photos have at least two labelled people, expected at least 16$"):
        train_identity(WEIGHTS, photos, tmp_path / "out.safetensors", pairs=16, channels=8, workers=0)
    with pytest.raises(ConfigError, match=r"^model.identity_channels: expected 0; `posedet identity` adds"):
        prepare_run(load_config("posedet-s", ["model.identity_channels=8"]), photos, tmp_path / "run")
    tensors, _ = load_tensors(WEIGHTS)
    config = load_weights(WEIGHTS)[1]
    blind = replace(config, model=replace(config.model, keypoint_scores=False))
    save_weights(tmp_path / "blind.safetensors", "posedet train", tensors, blind, BODY19, {})
    with pytest.raises(ConfigError, match=r"model.keypoint_scores is false, expected true"):
        train_identity(tmp_path / "blind.safetensors", photos, tmp_path / "out.safetensors", pairs=16, channels=8)
    assert not (tmp_path / "out.safetensors").exists()
