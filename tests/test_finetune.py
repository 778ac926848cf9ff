"""A network for other keypoints starts from what it shares by name; annotations are checked before they are used."""

import json
from pathlib import Path

import torch

from posedet.cli import main
from posedet.config import load_config
from posedet.model.network import build_network
from posedet.skeleton import BODY19
from posedet.training.checkpoint import load_start, save_weights

PHOTOS = Path(__file__).parent.parent / "photos"


def test_shared_keypoints_are_carried_over_by_name(tmp_path: Path) -> None:
    """Another order, a new keypoint, most left out: the coarse offsets of the shared ones stay the same."""
    torch.manual_seed(0)
    config = load_config("posedet-s")
    old = build_network(config.model, BODY19).eval()
    save_weights(tmp_path / "old.safetensors", old.state_dict(), config, BODY19, {})
    names = ["right_wrist", "nose", "left_wrist"]
    few = BODY19.subset(names)
    three = type(few)(
        name="three", keypoints=(*few.keypoints, "hat"), limbs=(), pairs=few.pairs, sigmas=(*few.sigmas, 0.079)
    )
    new = build_network(config.model, three).eval()
    report = load_start(new, tmp_path / "old.safetensors", three)
    assert "keypoints taken: right_wrist, nose, left_wrist; new: hat" in report
    images = torch.rand(1, 3, 128, 160) * 255
    with torch.no_grad():
        before, after = (network(images, lambda _, x: x.topk(5, 1).indices).proposals for network in (old, new))
    torch.testing.assert_close(after.coarse[:, :, :3], before.coarse[:, :, [BODY19.index(name) for name in names]])
    torch.testing.assert_close(after.presence, before.presence)
    for k, name in enumerate(names):
        torch.testing.assert_close(
            new.refinements[0].embedding.weight[k], old.refinements[0].embedding.weight[BODY19.index(name)]
        )


def test_check_finds_what_was_planted(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    truth = json.loads((PHOTOS / "truth.json").read_text())
    assert main(["data", "check", str(PHOTOS / "truth.json"), "--photos", str(PHOTOS)]) == 0
    capsys.readouterr()
    labelled = [i for i, person in enumerate(truth["annotations"]) if person["num_keypoints"] > 5]
    truth["annotations"][labelled[0]]["keypoints"][15:18] = [9000, 9000, 2]
    truth["annotations"][labelled[1]]["bbox"][2:] = [0, 0]
    truth["annotations"][labelled[2]]["id"] = truth["annotations"][labelled[0]]["id"]
    truth["images"][0]["file_name"] = "gone.jpg"
    (tmp_path / "bad.json").write_text(json.dumps(truth))
    assert main(["data", "check", str(tmp_path / "bad.json"), "--photos", str(PHOTOS)]) == 1
    printed = capsys.readouterr().out
    for planted in (f"annotations[{i}]" for i in labelled[:3]):
        assert planted in printed
    assert "gone.jpg" in printed


def test_show_and_plot_write_pictures(tmp_path: Path) -> None:
    data = f"{PHOTOS / 'truth.json'}:{PHOTOS}"
    assert main(["data", "show", "posedet-s", "--data", data, "--output", str(tmp_path), "--count", "1"]) == 0
    assert [path.suffix for path in tmp_path.iterdir()] == [".png"]
    lines = [
        {"step": step, "loss": 2.0, "gradient": 1.0, "coarse": 1.0, "rate": 0.1, "seconds": 0.5 * step}
        for step in range(9)
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["plot", str(tmp_path), "--output", str(tmp_path / "curves.png")]) == 0
    assert (tmp_path / "curves.png").stat().st_size > 10_000
