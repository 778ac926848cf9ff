"""Sparse as dense on real photos, in PyTorch and in the exported graph; what the first stage keeps, counted by hand."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lab.speed import sparse
from posedet.config import load_config
from posedet.data.sources import read_photos
from posedet.errors import ModelError
from posedet.evaluation.protocols import COCO_PROTOCOL
from posedet.image import Letterbox, read_photo
from posedet.model.build import build_network
from posedet.model.network import rows_at
from posedet.runtime.model_files import model_file
from posedet.runtime.session import open_session
from posedet.weights.checkpoint import load_weights, save_weights, stored_skeleton
from test_network import SMALL, VARIANTS, small

ONNX = model_file("posedet-s")


@pytest.fixture(autouse=True)
def one_core():
    before = torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def photo_pixels(*paths: Path, long_side: int = 256) -> np.ndarray:
    """(B, h, w, 3) uint8: photos of one shape as the network takes them."""
    read = [read_photo(path) for path in paths]
    return np.stack([Letterbox.fit(photo.shape[:2], long_side=long_side).apply(photo) for photo in read])


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_sparse_is_dense_on_photos(variant, photos: Path, monkeypatch):
    """Every pose, score and visibility of the chosen locations, and none that is better is left out.

    Both as PyTorch samples the maps, and as the exported graph does.
    """
    network = small(*VARIANTS[variant]).eval()
    images = torch.from_numpy(photo_pixels(photos / "group.jpg", photos / "hall.jpg")).permute(0, 3, 1, 2).float()

    def choose(_, logits):
        return logits.topk(60, dim=1).indices

    with torch.inference_mode():
        dense = network(images)
        ranking = dense.logits if dense.proposals.presence is None else dense.proposals.presence
        for exporting in (False, True):
            monkeypatch.setattr(torch.compiler, "is_exporting", lambda exporting=exporting: exporting)
            found = network(images, choose)
            for b, chosen in enumerate(found.chosen):
                left = torch.ones(ranking.shape[1], dtype=torch.bool)
                left[chosen] = False
                assert ranking[b, chosen].min() > ranking[b, left].max() - 1e-4
                assert len(found.poses) == len(dense.poses)
                for pose, whole in zip(found.poses, dense.poses, strict=True):
                    torch.testing.assert_close(pose[b], whole[b, chosen], atol=2e-3, rtol=1e-4)
                torch.testing.assert_close(found.logits[b], dense.logits[b, chosen], atol=1e-3, rtol=1e-4)
                if dense.keypoint_logits is not None:
                    wanted = dense.keypoint_logits[b, chosen]
                    torch.testing.assert_close(found.keypoint_logits[b], wanted, atol=1e-3, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_shipped_file_is_dense_on_photos(runtime, photos: Path):
    """The shipped graph, which embeds only its best locations, against the shipped weights at all locations."""
    tensors, config, info = load_weights(ONNX.with_suffix(".safetensors"))
    network = build_network(config.model, stored_skeleton(info, ONNX)).eval()
    network.load_state_dict(tensors)
    images = photo_pixels(photos / "group.jpg", photos / "hall.jpg", long_side=320)
    scores, keypoints, keypoint_scores = open_session(ONNX, runtime=runtime, threads=1).run(images)[:3]
    with torch.inference_mode():
        dense = network(torch.from_numpy(images).permute(0, 3, 1, 2).float())
        presence = dense.proposals.presence
        chosen = presence.topk(config.decode.candidates, dim=1).indices
        seen = rows_at(dense.keypoint_logits.sigmoid(), chosen)
        poses = [rows_at(stage, chosen) for stage in dense.poses]
        learnt = (presence.sigmoid() * dense.logits.sigmoid()).sqrt().gather(1, chosen)
        strides = dense.proposals.strides[chosen]
        features = network.uncertainty.read(dense.table, poses, seen, learnt, strides, chosen)
        rated = network.uncertainty.score_logit(features).sigmoid()
    for b in range(len(images)):
        best = rated[b].argsort(descending=True)
        order = chosen[b, best]
        np.testing.assert_allclose(scores[b], rated[b, best], atol=1e-4)
        # Neighbours in the ranking may swap: each pose is looked for among the nearest few.
        for wanted, given in ((dense.poses[-1], keypoints), (dense.keypoint_logits.sigmoid(), keypoint_scores)):
            expected = wanted[b, order].numpy()
            near = [
                min(np.abs(given[b, place] - expected[n]).max() for n in range(max(0, place - 2), place + 3))
                for place in range(50)
            ]
            assert max(near) < 0.02


# --- what it saves ----------------------------------------------------------------------------------------------------


def test_refinement_is_timed_dense_and_sparse(monkeypatch):
    monkeypatch.setattr(sparse, "INPUT_SIZE", (128, 128))
    samples = sparse.time_refinement(1, 2, overrides=SMALL)
    assert set(samples) == {
        f"{part}, {form}" for part in ("refinement", "scores", "head", "network") for form in ("dense", "sparse")
    }
    assert all(len(ms) == 2 and min(ms) > 0 for ms in samples.values())
    assert np.median(samples["head, dense"]) < np.median(samples["network, dense"])
    table = sparse.refinement_table({"head, dense": [3.0, 6.0], "head, sparse": [1.0, 2.0]})
    assert table.splitlines()[1].split("  ")[-1].strip() == "3.00 (3.00-3.00)"


# --- the first stage --------------------------------------------------------------------------------------------------


@pytest.fixture
def one_photo(photos: Path, tmp_path):
    """Annotations of one photo, and its people with labelled keypoints."""
    truth = json.loads((photos / "truth.json").read_text())
    image = next(entry for entry in truth["images"] if entry["file_name"] == "skiers.jpg")
    path = tmp_path / "truth.json"
    path.write_text(
        json.dumps(
            {
                **truth,
                "images": [image],
                "annotations": [entry for entry in truth["annotations"] if entry["image_id"] == image["id"]],
            }
        )
    )
    (photo,) = read_photos(f"{path}:{photos}", COCO_PROTOCOL.skeleton)
    people = [person for person in photo.persons if not person.ignore and (person.visibility > 0).any()]
    assert len(people) == 2
    return photo, people


def test_first_stage_by_hand(one_photo, photos: Path, monkeypatch):
    """400 locations: the first person's true pose at rank 20, the other's at rank 350, and far away poses elsewhere."""
    photo, people = one_photo
    skeleton = stored_skeleton(load_weights(ONNX.with_suffix(".safetensors"))[2], ONNX)
    columns = [skeleton.index(name) for name in COCO_PROTOCOL.skeleton.keypoints]

    def ranked(_, photo, long_side):
        letterbox = Letterbox.fit(photo.size, long_side=long_side)
        keypoints = np.full((400, skeleton.num_keypoints, 2), 1e4, np.float32)
        for person, rank in zip(people, (20, 350), strict=True):
            places = letterbox.to_input(person.keypoints)
            keypoints[rank] = places[person.visibility > 0].mean(axis=0)  # what COCO does not have
            keypoints[rank, columns] = places
        return letterbox, np.full(400, 0.5, np.float32), keypoints, np.full((400, skeleton.num_keypoints), 0.5)

    monkeypatch.setattr(sparse, "_ranked", ranked)
    rows = sparse.first_stage(ONNX.with_suffix(".safetensors"), [photo])
    assert [row.candidates for row in rows] == [10, 30, 100, 300, None]
    for row, share in zip(rows, (0, 0.5, 0.5, 0.5, 1), strict=True):
        assert (row.best_kept, *row.found) == (share, share, share)
        assert row.mean_oks == pytest.approx(share, abs=1e-3)
    # All poses have one score: the far ones, of which one is left, come first. Recall has 101 steps.
    assert [rows[0].ap, rows[1].ap, rows[4].ap] == pytest.approx([0, 51 / 101 / 2, 2 / 3])
    assert sparse.first_stage_table(rows).splitlines()[-1].split()[:2] == ["all", "100.0"]


def test_first_stage_of_the_shipped_model(one_photo, photos: Path):
    rows = sparse.first_stage(ONNX.with_suffix(".safetensors"), one_photo[:1])
    for less, more in itertools.pairwise(rows):
        assert less.best_kept <= more.best_kept and less.mean_oks <= more.mean_oks + 1e-9
    assert rows[-1].best_kept == 1 and rows[-1].mean_oks > 0.5


def test_a_model_without_first_stage(tmp_path):
    path = tmp_path / "paper.safetensors"
    network = small("dla34-coco")
    save_weights(
        path, "posedet train", network.state_dict(), load_config("dla34-coco", SMALL), COCO_PROTOCOL.skeleton, {}
    )
    with pytest.raises(
        ModelError, match=r"paper\.safetensors: has no first stage, because 'model\.presence' is false$"
    ):
        sparse.first_stage(path, [])
