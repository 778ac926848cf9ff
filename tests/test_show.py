"""What `posedet data show` draws is what the network is trained on."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from posedet.commands.main import main
from posedet.config import Config, load_config
from posedet.data.annotations import AnnotatedPhoto, PhotoSet
from posedet.data.sources import read_photos
from posedet.errors import ConfigError, DataError
from posedet.model.build import build_network
from posedet.model.network import NetworkOutput, PoseDetNet, Proposals
from posedet.skeleton import BODY19, COCO, Skeleton
from posedet.training import show as show_module
from posedet.training.assignment import NOBODY, Selection, person_levels
from posedet.training.batches import Batch, PhotoStream
from posedet.training.loop import train
from posedet.training.show import LINE, TrainingSample, draw_sample, show, training_sample
from posedet.training.targets import Assigner, Targets

SIDE = 128
SETTINGS = [f"data.patch={SIDE}", "train.batch_size=2", "train.steps=1", "train.seed=3", "train.amp='none'"]
PRESETS = [("posedet-s", BODY19), ("dla34-coco", COCO)]


def annotated(photos: Path, skeleton: Skeleton) -> list[AnnotatedPhoto]:
    """Photos whose every patch shows somebody."""
    everything = read_photos(f"{photos}/truth.json:{photos}", skeleton)
    return [photo for photo in everything if photo.path.stem in ("tennis", "skiers", "child")]


class Seen:
    """What passes through a step of training."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[Batch] = []
        self.selections: list[Selection] = []
        self.targets: list[tuple[list[torch.Tensor], list[torch.Tensor]]] = []
        select, targets = Assigner.select, Assigner.targets

        def recorded(assigner: Assigner, proposals: Proposals, batch: Batch) -> Selection:
            self.batches.append(batch)
            self.selections.append(select(assigner, proposals, batch))
            return self.selections[-1]

        def recorded_targets(assigner: Assigner, output: NetworkOutput, batch: Batch, selection: Selection) -> Targets:
            found = targets(assigner, output, batch, selection)
            self.targets.append((found.heatmaps, found.heatmap_weights))
            return found

        monkeypatch.setattr(Assigner, "select", recorded)
        monkeypatch.setattr(Assigner, "targets", recorded_targets)


def shown(
    config: Config, skeleton: Skeleton, photos: list[AnnotatedPhoto], number: int
) -> tuple[TrainingSample, PoseDetNet]:
    stream = PhotoStream(PhotoSet(tuple(photos)), skeleton, config.data, config.train.seed)
    network = build_network(config.model, skeleton).train()
    return training_sample(network, stream, number, config), network


@pytest.mark.parametrize(("preset", "skeleton"), PRESETS)
def test_samples_are_those_of_training(
    preset: str, skeleton: Skeleton, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pixels, labels, positives and heatmaps of a real step, photo by photo."""
    config = load_config(preset, SETTINGS)
    people = annotated(photos, skeleton)
    with monkeypatch.context() as patch:
        seen = Seen(patch)
        train(config, PhotoSet(tuple(people)), tmp_path, skeleton=skeleton, workers=0)
    (batch,), (selection,), ((targets, masks),) = seen.batches, seen.selections, seen.targets
    num_positives = 0
    for number in range(2):
        drawn, _ = shown(config, skeleton, people, number)
        assert drawn.batch.sources == [batch.sources[number]]
        for ours, theirs in zip(drawn.batch[:-1], batch[:-1], strict=True):
            # Alone it is not padded to the persons of the other photo.
            torch.testing.assert_close(ours[0], theirs[number, : ours.shape[1]])
        torch.testing.assert_close(drawn.selection.owner[0], selection.owner[number])
        torch.testing.assert_close(drawn.selection.ignored[0], selection.ignored[number])
        num_positives += int((drawn.selection.owner != NOBODY).sum())
        for ours, theirs in zip(drawn.targets + drawn.masks, targets + masks, strict=True):
            torch.testing.assert_close(ours[0], theirs[number])
    assert num_positives > 0


def patch_of(sheet: Image.Image, zoom: int) -> np.ndarray:
    """The pixels of the patch in the panel of labels: the middle of each enlarged one."""
    panel = np.asarray(sheet)[LINE : LINE + SIDE * zoom, : SIDE * zoom]
    return panel[zoom // 2 :: zoom, zoom // 2 :: zoom]


def test_the_picture_holds_the_patch_and_draws_at_its_people_alone(photos: Path) -> None:
    config = load_config("posedet-s", [*SETTINGS, "data.mosaic=0.0"])
    people = annotated(photos, BODY19)
    numbers_with_people = 0
    for number in range(4):
        drawn, network = shown(config, BODY19, people, number)
        pixels = patch_of(draw_sample(drawn, network, BODY19, number), 5)
        original = drawn.batch.images[0].permute(1, 2, 0).numpy()
        free = np.ones((SIDE, SIDE), bool)
        boxes = [*drawn.batch.boxes[0].tolist(), *drawn.batch.ignored[0].clamp(min=-9).tolist()]
        labelled = drawn.selection.persons.labelled[0].any(1)
        points = drawn.batch.keypoints[0][labelled]
        boxes += [[*each.amin(0).tolist(), *each.amax(0).tolist()] for each in points]
        for x1, y1, x2, y2 in boxes:
            free[max(0, int(y1) - 3) : int(y2) + 4, max(0, int(x1) - 3) : int(x2) + 4] = False
        np.testing.assert_array_equal(pixels[free], original[free])
        if labelled.any():
            numbers_with_people += 1
            assert (pixels != original).any()
    assert numbers_with_people


def test_a_photo_without_people_is_shown_as_it_is(photos: Path) -> None:
    config = load_config("posedet-s", SETTINGS)
    nobody = [AnnotatedPhoto(1, photos / "food.jpg", (427, 640), (), only_main_person=False, crowd_index=None)]
    drawn, network = shown(config, BODY19, nobody, 0)
    pixels = patch_of(draw_sample(drawn, network, BODY19, 0), 5)
    np.testing.assert_array_equal(pixels, drawn.batch.images[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize(("preset", "skeleton"), PRESETS)
def test_captions_count_the_positives(
    preset: str, skeleton: Skeleton, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recounted person by person: each has so many cells on the level of its size, unless another is nearer."""
    config = load_config(preset, [*SETTINGS, "data.mosaic=0.0"])
    written: list[str] = []
    monkeypatch.setattr(show_module, "_write", lambda _, __, text, *rest, **more: written.append(text))
    people = annotated(photos, skeleton)
    total = 0
    for number in range(4):
        written.clear()
        drawn, network = shown(config, skeleton, people, number)
        draw_sample(drawn, network, skeleton, number)
        persons, owner = drawn.selection.persons, drawn.selection.owner[0]
        levels = person_levels(persons.sizes, network.geometry.strides)[0]
        counts = dict.fromkeys(network.geometry.strides, 0)
        for p in persons.valid[0].nonzero()[:, 0].tolist():
            mine = (owner == p).nonzero()[:, 0]
            assert len(mine) <= config.assign.positives
            assert set(drawn.proposals.strides[mine].tolist()) <= {network.geometry.strides[int(levels[p])]}
            counts[network.geometry.strides[int(levels[p])]] += len(mine)
        assert [text for text in written if "positives" in text and text.startswith("stride")] == [
            f"stride {stride}: {count} positives" for stride, count in counts.items()
        ]
        peaks = [int((target == 1).sum()) for target in drawn.targets]
        assert [text for text in written if text.startswith("heatmap")] == [
            f"heatmap targets, stride {stride}: {count} peaks"
            for stride, count in zip(network.geometry.heatmap_strides, peaks, strict=True)
        ]
        total += sum(counts.values())
    assert total > 0


def test_the_command_leaves_a_picture_for_each_sample(photos: Path, tmp_path: Path) -> None:
    data = f"{photos / 'truth.json'}:{photos}"
    settings = [part for each in SETTINGS for part in ("--set", each)]
    command = ["data", "show", "posedet-s", "--data", data, "--output", str(tmp_path / "a" / "b"), "--count", "2"]
    assert main([*command, *settings]) == 0
    files = sorted((tmp_path / "a" / "b").iterdir())
    assert [file.name for file in files] == ["sample-0000.png", "sample-0001.png"]
    config = load_config("posedet-s", SETTINGS)
    everybody = list(read_photos(f"{photos}/truth.json:{photos}", BODY19))
    drawn, network = shown(config, BODY19, everybody, 1)
    with Image.open(files[1]) as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(draw_sample(drawn, network, BODY19, 1)))


def test_nothing_to_show(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config("dla34-coco")
    nobody = [AnnotatedPhoto(1, photos / "food.jpg", (427, 640), (), only_main_person=False, crowd_index=None)]
    with pytest.raises(DataError, match=r"^there are no photos to train on$"):
        show(config, PhotoSet(tuple(nobody)), COCO, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file: cannot be created \(File exists\); choose another folder"):
        show(load_config("posedet-s"), PhotoSet(tuple(nobody)), BODY19, tmp_path / "file")
    data = f"{photos / 'truth.json'}:{photos}"
    command = ["data", "show", "posedet-s", "--data", data, "--output", str(tmp_path), "--count", "0"]
    assert main(command) == 2
    assert capsys.readouterr().err == "posedet: error: --count 0: expected at least 1\n"


def test_impossible_sizes_are_drawn_at_once(photos: Path) -> None:
    """A line of a thousand million pixels would take ten seconds."""
    config = load_config("posedet-s", SETTINGS)
    huge = [
        replace(photo, persons=tuple(replace(person, area=1e18) for person in photo.persons))
        for photo in annotated(photos, BODY19)
    ]
    drawn, network = shown(config, BODY19, huge, 0)
    began = time.process_time()
    draw_sample(drawn, network, BODY19, 0)
    assert time.process_time() - began < 3
