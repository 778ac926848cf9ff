"""What `posedet data show` draws is what the network is trained on."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from people import Labelled, Region
from people import patch_of as patch_with
from posedet.commands.main import main
from posedet.config import Config, load_config
from posedet.data.annotations import AnnotatedPhoto, PhotoSet
from posedet.data.augment import Patch
from posedet.data.sources import read_photos
from posedet.errors import ConfigError, DataError
from posedet.model.build import build_network
from posedet.model.network import NetworkOutput, PoseDetNet, Proposals
from posedet.skeleton import BODY19, COCO, Skeleton
from posedet.training import show as show_module
from posedet.training.assignment import NOBODY, Selection, person_levels
from posedet.training.batches import Batch, PhotoStream
from posedet.training.loop import train
from posedet.training.show import (
    GAP,
    INK,
    LEFT,
    LEVELS,
    LINE,
    MIDDLE,
    RIGHT,
    TrainingSample,
    draw_sample,
    show,
    training_sample,
)
from posedet.training.targets import Assigner, Targets

SIDE = 128
SETTINGS = [
    f"data.patch={SIDE}",
    "data.early_patch=0",
    "train.batch_size=2",
    "train.steps=1",
    "train.seed=3",
    "train.amp='none'",
]
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


@pytest.mark.slow
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


@pytest.mark.slow
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
    with pytest.raises(ConfigError, match=r"file: cannot be written to \(File exists\); choose another folder"):
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


# --- where things are drawn ------------------------------------------------------------------------------------------

TRIO = Skeleton("trio", ("nose", "left_eye", "right_eye"), (), ((1, 2),), (0.1, 0.1, 0.1))
ZOOM = 5


class OnePatch(PhotoStream):
    """The same two people on black, in every sample."""

    def __getitem__(self, number: int) -> Patch:
        first = Labelled([(30.25, 40), (60, 35), (45.5, 60)], visible=(1, 0, -1), box=(28, 30, 62, 64), area=1200)
        second = Labelled([(100, 90), (110, 120), (84, 110)], weights=(1, 0, 0.5), box=(80, 88, 112, 122), area=900)
        patch = patch_with([first, second], [Region((4, 96, 36, 124), crowd=True)], num_keypoints=3, side=SIDE)
        return patch._replace(image=np.zeros_like(patch.image))


@pytest.fixture(scope="module")
def drawn_by_hand() -> tuple[np.ndarray, TrainingSample, PoseDetNet]:
    """The sheet as pixels, what is drawn on it, and the network."""
    config = load_config("posedet-s", [*SETTINGS, "assign.min_keypoints=1"])
    network = build_network(config.model, TRIO).train()
    drawn = training_sample(network, OnePatch(PhotoSet(()), TRIO, config.data, 0), 0, config)
    return np.asarray(draw_sample(drawn, network, TRIO, 0)).astype(int), drawn, network


def panel_place(point: Sequence[float]) -> np.ndarray:
    """A place of the patch in a panel that is `ZOOM` times as large."""
    return (np.array(point) + 0.5) * ZOOM - 0.5


def test_labels_are_drawn_at_their_places_in_the_colour_of_their_side(
    drawn_by_hand: tuple[np.ndarray, TrainingSample, PoseDetNet],
) -> None:
    """Seen is a disc, hidden a ring, not known a square; half the weight is smaller, what is not labelled missing."""
    sheet, _, _ = drawn_by_hand
    panel = sheet[LINE : LINE + SIDE * ZOOM, : SIDE * ZOOM]
    sizes = {}
    for name, point, colour in (
        ("seen", (30.25, 40), MIDDLE),
        ("hidden", (60, 35), LEFT),
        ("not known", (45.5, 60), RIGHT),
        ("another's", (100, 90), MIDDLE),
        ("half", (84, 110), RIGHT),
    ):
        x, y = panel_place(point)
        left, top = int(x) - 9, int(y) - 9
        rows, columns = np.nonzero((panel[top : top + 20, left : left + 20] == colour).all(2))
        np.testing.assert_allclose((columns.mean() + left, rows.mean() + top), (x, y), atol=0.6, err_msg=name)
        sizes[name] = len(rows)
        centre = panel[round(y), round(x)].tolist()
        assert centre == ([0, 0, 0] if name == "hidden" else list(colour)), name
    assert sizes["not known"] > sizes["hidden"] and sizes["half"] < 0.7 * sizes["seen"] < 70
    x, y = panel_place((110, 120)).round().astype(int)
    assert not panel[y - 3 : y + 4, x - 3 : x + 4].any()
    x1, y1 = panel_place((28, 30)).round().astype(int)
    x2, y2 = panel_place((62, 64)).round().astype(int)
    for corner in ((y1, x1), (y1, x2), (y2, x1), (y2, x2)):
        assert panel[corner].tolist() == list(INK)


def test_positives_are_squares_of_their_cells_tied_to_their_person(
    drawn_by_hand: tuple[np.ndarray, TrainingSample, PoseDetNet],
) -> None:
    sheet, drawn, network = drawn_by_hand
    panel = sheet[LINE : LINE + SIDE * ZOOM, SIDE * ZOOM + GAP :]
    owner = drawn.selection.owner[0]
    assert {int(each) for each in owner} == {NOBODY, 0, 1}
    for m in (owner != NOBODY).nonzero()[:, 0].tolist():
        stride = int(drawn.proposals.strides[m])
        colours = {LEVELS[network.geometry.strides.index(stride)], INK, *LEVELS}
        x, y = panel_place(drawn.proposals.locations[m].tolist())
        half = stride * ZOOM / 2
        for offset in (-half, half):
            # Another square may lie over it; a line of either kind is there.
            for column, row in ((x + offset, y), (x, y + offset)):
                around = panel[max(0, int(row) - 2) : int(row) + 3, max(0, int(column) - 2) : int(column) + 3]
                if 2 < row < SIDE * ZOOM - 3 and 2 < column < SIDE * ZOOM - 3:
                    assert {tuple(pixel) for pixel in around.reshape(-1, 3).tolist()} & colours
    for p in range(2):
        x, y = panel_place(drawn.centres[0, p].tolist()).round().astype(int)
        assert {tuple(pixel) for pixel in panel[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).tolist()} & {*LEVELS}


def test_heatmaps_are_drawn_where_their_cells_lie(drawn_by_hand: tuple[np.ndarray, TrainingSample, PoseDetNet]) -> None:
    """Each peak in the level's colour, in the middle of its cell; where nothing is learnt it is red."""
    sheet, drawn, network = drawn_by_hand
    levels = len(drawn.targets)
    width = (2 * SIDE * ZOOM + GAP - (levels - 1) * GAP) // levels
    top = LINE + SIDE * ZOOM + 2 * LINE + GAP
    peaks = 0
    for place, (target, mask, stride) in enumerate(
        zip(drawn.targets, drawn.masks, network.geometry.heatmap_strides, strict=True)
    ):
        panel = sheet[top : top + width, place * (width + GAP) : place * (width + GAP) + width]

        def at(row: int, column: int, panel: np.ndarray = panel, stride: int = stride) -> list[int]:
            y, x = (int((cell + 0.5) * stride * width / SIDE) for cell in (row, column))
            return panel[y, x].tolist()

        for row, column in (target[0] == 1).any(0).nonzero().tolist():
            assert at(row, column) == list(LEVELS[place])
            peaks += 1
        heat, learnt = target[0].amax(0), mask[0, 0]
        for row, column in ((heat < 0.01) & (learnt == 1)).nonzero().tolist()[::7]:
            assert max(at(row, column)) <= 3
        for row, column in ((heat < 0.01) & (learnt == 0)).nonzero().tolist()[::7]:
            red, green, blue = at(row, column)
            assert 50 < red < 80 and green < 20 and blue < 20
    assert peaks == 5
