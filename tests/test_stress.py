"""Altered photos: that truth and pixels go the same way, against hand-computed places and dots that are looked for."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from posedet.commands.main import main
from posedet.data.annotations import AnnotatedPhoto
from posedet.data.sources import read_photos
from posedet.diagnosis.alteration import (
    UNCHANGED,
    Change,
    blurred,
    compressed,
    cropped,
    darkened,
    mirrored,
    rotated,
    shrunk,
)
from posedet.diagnosis.stress import AlteredPhoto, cut_people, shown, small_people, stress, stress_card
from posedet.errors import ConfigError, DataError
from posedet.evaluation.protocols import COCO_PROTOCOL
from posedet.image import size_of
from posedet.poses import Poses
from posedet.skeleton import COCO as SKELETON

SIZE = (60, 80)  # height, width


def moved(change: Change, *points: tuple[float, float]) -> list[list[float]]:
    return change.points(np.array(points, float)).tolist()


@pytest.mark.parametrize(
    ("change", "before", "after"),
    [
        (mirrored(80), (0, 5), (79, 5)),
        (cropped((10, 20, 50, 60)), (10, 20), (0, 0)),
        # Half the size: the first two centres, 0 and 1, become the first one.
        (shrunk(SIZE, 0.5), (0.5, 0.5), (0, 0)),
        (shrunk(SIZE, 0.5), (79.5, 59.5), (39.5, 29.5)),
        # Anticlockwise: the top left corner goes to the bottom left, the top right one to the top left.
        (rotated(SIZE, 90), (0, 0), (0, 79)),
        (rotated(SIZE, 90), (79, 0), (0, 0)),
        (rotated(SIZE, 180), (0, 0), (79, 59)),
        # By 30 degrees: 80 cos + 60 sin = 99.3 wide, 60 cos + 80 sin = 91.96 high; the middle stays the middle.
        (rotated(SIZE, 30), (39.5, 29.5), (49.5, 45.5)),
        # 10 to the right of the middle: 10 cos 30 to the right, 10 sin 30 up.
        (rotated(SIZE, 30), (49.5, 29.5), (49.5 + 8.660254, 40.5)),
    ],
)
def test_places_computed_by_hand(change: Change, before: tuple[float, float], after: tuple[float, float]) -> None:
    assert_allclose(moved(change, before), [after], atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        UNCHANGED,
        mirrored(80),
        cropped((7, 3, 70, 55)),
        shrunk(SIZE, 0.5),
        shrunk(SIZE, 0.37),
        *(rotated(SIZE, angle) for angle in (15, 30, 90, 180)),
        blurred(2),
        darkened(2),
        compressed(10),
    ],
)
def test_pixels_go_where_points_go(change: Change) -> None:
    for x, y in ((20, 12), (61, 40), (40, 33)):
        empty = np.full((*SIZE, 3), 114, np.uint8)
        dotted = empty.copy()
        dotted[y - 2 : y + 3, x - 2 : x + 3] = 255
        light = change.pixels(dotted).astype(float).sum(axis=2) - change.pixels(empty).astype(float).sum(axis=2)
        light = np.maximum(light - 0.1 * light.max(), 0)  # not the faint blocks of JPEG
        rows, columns = np.indices(light.shape)
        centre = [(columns * light).sum() / light.sum(), (rows * light).sum() / light.sum()]
        assert_allclose([centre], moved(change, (x, y)), atol=0.15)


def test_pixels_computed_by_hand() -> None:
    photo = np.zeros((2, 3, 3), np.uint8)
    photo[0, 0] = 200
    assert mirrored(3).pixels(photo)[0, 2, 0] == 200
    assert rotated((2, 3), 90).pixels(photo).shape == (3, 2, 3) and rotated((2, 3), 90).pixels(photo)[2, 0, 0] == 200
    # Two stops are a quarter of the light: 0.25 ** (1 / 2.2) = 0.5325 of the pixel.
    assert darkened(2).pixels(photo)[0, 0, 0] == 107
    assert rotated(SIZE, 30).pixels(np.zeros((*SIZE, 3), np.uint8))[0, 0].tolist() == [114, 114, 114]
    small = shrunk(SIZE, 0.5).pixels(np.zeros((*SIZE, 3), np.uint8))
    assert small.shape == (*SIZE, 3) and not small[:30, :40].any() and (small[30:] == 114).all()


def dots(number: int) -> np.ndarray:
    """(17, 2) the keypoints of a person."""
    places = np.random.default_rng(number).permutation(240)[:17]
    return np.stack([60 + 100 * number + 5 * (places % 12), 40 + 7 * (places // 12)], axis=1)


@pytest.fixture
def photo_set(tmp_path: Path) -> Path:
    """Two photos of black; each person's keypoints are dots of 3 x 3 pixels, of one grey for each kind."""
    data: dict[str, Any] = {"images": [], "annotations": [], "categories": [CATEGORY]}
    (tmp_path / "set").mkdir()
    for image_id, people in ((5, 1), (9, 2)):
        photo = np.zeros((240, 320, 3), np.uint8)
        for number in range(people):
            points = dots(number)
            for k, (x, y) in enumerate(points):
                photo[y - 1 : y + 2, x - 1 : x + 2] = (100 + 5 * k, number, 0)
            low, high = points.min(axis=0), points.max(axis=0)
            data["annotations"].append(
                {
                    "id": len(data["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "keypoints": np.column_stack((points, np.full(17, 2))).ravel().tolist(),
                    "bbox": [*low.tolist(), *(high - low).tolist()],
                    "area": 6000.0,
                }
            )
        Image.fromarray(photo).save(tmp_path / "set" / f"{image_id}.png")
        data["images"].append({"id": image_id, "file_name": f"{image_id}.png", "width": 320, "height": 240})
    path = tmp_path / "set.json"
    path.write_text(json.dumps(data))
    return path


CATEGORY = {"id": 1, "name": "person", "keypoints": list(SKELETON.keypoints)}


def read(path: Path) -> tuple[AnnotatedPhoto, ...]:
    return read_photos(str(path), SKELETON)


def see_dots(photo: np.ndarray) -> Poses:
    """A detector that knows left from right by the colour alone, and finds nothing beyond the border."""
    keypoints, scores = [], []
    for number in range(2):
        points, seen = np.zeros((17, 2)), 0
        for k in range(17):
            rows, columns = np.nonzero((photo[..., 0] == 100 + 5 * k) & (photo[..., 1] == number))
            if len(rows):
                points[k], seen = (columns.mean(), rows.mean()), seen + 1
        if seen:
            keypoints.append(points)
            scores.append(seen / 17)
    shape = (len(scores), 17)
    return Poses(np.reshape(keypoints, (*shape, 2)), np.array(scores), np.ones(shape, np.float32), SKELETON)


def test_the_card_of_a_detector_that_sees_dots(photo_set: Path) -> None:
    rows = {(row.group, row.name): row for row in stress_card(see_dots, read(photo_set), COCO_PROTOCOL)}
    whole = {name: row for (group, name), row in rows.items() if group == "whole photos"}
    assert {row.num_people for row in whole.values()} == {3}
    for name in ("unaltered", "turned by 90 degrees", "turned by 180 degrees"):
        assert (whole[name].ap, whole[name].exchanged) == (pytest.approx(1), 0), name
    # The dots keep their colours in the mirror: what was left is right, all of it.
    assert whole["mirrored"].exchanged == 1 and whole["mirrored"].ap < 0.1
    assert whole["4 stops darker"].ap == 0 and whole["4 stops darker"].unaltered == pytest.approx(1)
    left = [row for (group, _), row in rows.items() if group == "people cut, what is left"]
    guessed = [row for (group, _), row in rows.items() if group == "people cut, guessed too"]
    assert len(left) == len(guessed) == 4 and {row.num_people for row in left + guessed} == {3}
    # A dot across the border is seen in part; all others are where they were.
    assert all(row.ap > 0.9 for row in left)
    assert guessed[0].ap == pytest.approx(1) and guessed[1].ap > guessed[2].ap > guessed[3].ap < 0.05


def test_views_of_single_people(photo_set: Path) -> None:
    photos = read(photo_set)
    small = small_people(photos)
    assert [view.person for view in small.unaltered] == [person for photo in photos for person in photo.persons]
    for wanted in (64, 32, 16):
        for view in small.altered[f"{wanted} px high"]:
            small_person = shown(view.person, view, COCO_PROTOCOL)
            assert np.ptp(small_person.box[1::2]) == pytest.approx(wanted, abs=0.3)
            assert small_person.area / view.person.area == pytest.approx(
                (wanted / np.ptp(view.person.box[1::2])) ** 2, rel=0.02
            )
            others = [shown(each, view, COCO_PROTOCOL).ignore for each in view.photo.persons if each is not view.person]
            assert all(others)
    seen, whole = cut_people(photos)
    for share in (0.25, 0.5, 0.75):
        for view, counted in zip(
            whole.altered[f"{100 * share:.0f} % cut off"], seen.altered[f"{100 * share:.0f} % cut off"], strict=True
        ):
            pixels = view.read()
            assert counted.limit == pixels.shape[:2]
            points = view.change.points(view.person.keypoints.astype(float))
            low, high = points.min(axis=0), points.max(axis=0)
            # Of one side, in whole pixels, so much is missing; keypoints stay where the photo shows them.
            outside = np.maximum(-0.5 - low, high + 0.5 - np.array(pixels.shape[1::-1])) / (high - low)
            assert outside.max() == pytest.approx(share, abs=0.02)
            inside = ((points > -0.5) & (points < np.array(pixels.shape[1::-1]) - 0.5)).all(axis=1)
            assert_array_equal(shown(counted.person, counted, COCO_PROTOCOL).labelled, inside)
            assert shown(view.person, view, COCO_PROTOCOL).labelled.sum() == 17


def test_truth_in_a_mirror_and_turned(photo_set: Path) -> None:
    photo = read(photo_set)[0]
    person = photo.persons[0]
    seen = shown(person, AlteredPhoto(photo, mirrored(320)), COCO_PROTOCOL)
    for left, right in SKELETON.pairs:
        assert seen.keypoints[left].tolist() == [319 - person.keypoints[right, 0], person.keypoints[right, 1]]
    x1, y1, x2, y2 = person.box.tolist()
    assert_allclose(seen.box, [320 - x2, y1, 320 - x1, y2], atol=1e-9)
    for angle in (15, 30, 90):
        seen = shown(person, AlteredPhoto(photo, rotated((240, 320), angle)), COCO_PROTOCOL)
        assert seen.area == pytest.approx(6000)
        assert (seen.box[2:] - seen.box[:2]).prod() == pytest.approx((x2 - x1) * (y2 - y1))
    assert seen.box[2:] - seen.box[:2] == pytest.approx([y2 - y1, x2 - x1])  # by 90 degrees


def test_a_photo_of_another_size_and_nobody_to_find(photo_set: Path) -> None:
    photos = read(photo_set)
    Image.new("RGB", (30, 20)).save(photo_set.parent / "set" / "9.png")
    with pytest.raises(DataError) as caught:
        stress_card(see_dots, photos, COCO_PROTOCOL)
    assert str(caught.value) == f"{photos[1].path}: 30 x 20 pixels, but its annotations say 320 x 240"
    with pytest.raises(DataError, match=r"^no photos, so there is nothing to evaluate$"):
        stress_card(see_dots, (), COCO_PROTOCOL)


@pytest.mark.slow
def test_files_are_the_same_each_time(photo_set: Path, tmp_path: Path) -> None:
    def run(name: str, count: int | None = None) -> tuple[str, dict]:
        text = stress(
            see_dots, read(photo_set), COCO_PROTOCOL, tmp_path / name, truth="\udce9.json", count=count, model="dots"
        )
        assert (tmp_path / name / "stress.md").read_text() == f"<!-- generator: posedet stress -->\n{text}\n"
        assert size_of(tmp_path / name / "stress.png")[1] > 500
        return text, json.loads((tmp_path / name / "stress.json").read_text())["results"]

    first, second = run("first", 1), run("second", 1)
    assert first == second
    text, results = first
    assert results["model"] == "dots" and results["num_photos"] == 1
    assert "| unaltered | 1 | 100.0 |  | 100.0 | 0.0 % |" in text.splitlines()
    with pytest.raises(ConfigError, match=r"^count is 0, expected at least 1 photo$"):
        run("fourth", count=0)


@pytest.mark.slow
def test_command_line(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads((photos / "truth.json").read_text())
    data["images"] = [image for image in data["images"] if image["file_name"] == "tennis.jpg"]
    data["annotations"] = [each for each in data["annotations"] if each["image_id"] == data["images"][0]["id"]][:1]
    truth = tmp_path / "tennis.json"
    truth.write_text(json.dumps(data))
    options = ["--photos", str(photos), "--threads", "1", "--output", str(tmp_path / "card")]
    assert main(["stress", str(truth), *options]) == 0
    assert "| mirrored | 1 |" in capsys.readouterr().out
    assert main(["stress", str(truth), *options, "--count", "0"]) == 2
    assert capsys.readouterr().err == "posedet: error: --count 0: expected at least 1\n"
    assert main(["stress", str(tmp_path / "no.json"), *options]) == 2
    assert capsys.readouterr().err == f"posedet: error: {tmp_path / 'no.json'}: no such file\n"


def test_flags_go_with_their_keypoints(photo_set: Path) -> None:
    """Also through the mirror; who is a crowd or ignored stays so."""
    photo = read(photo_set)[0]
    flags = (np.arange(17) % 3).astype(np.uint8)
    person = replace(photo.persons[0], visibility=flags)
    straight = np.arange(17)
    for change, order in ((UNCHANGED, straight), (mirrored(320), SKELETON.mirror), (rotated(photo.size, 15), straight)):
        seen = shown(person, AlteredPhoto(photo, change), COCO_PROTOCOL)
        assert_array_equal(seen.visibility, flags[order])
        assert (seen.is_crowd, seen.ignore) == (False, False)
    ignored = shown(replace(person, ignore=True), AlteredPhoto(photo, UNCHANGED), COCO_PROTOCOL)
    assert (ignored.is_crowd, ignored.ignore) == (False, True)
    crowd = shown(replace(person, ignore=True, is_crowd=True), AlteredPhoto(photo, UNCHANGED), COCO_PROTOCOL)
    assert (crowd.is_crowd, crowd.ignore) == (True, True)


def test_a_keypoint_counts_up_to_the_edges_of_the_outer_pixels(photo_set: Path) -> None:
    """A view of 50 x 100 pixels reaches from -0.5 to 49.5 and 99.5."""
    photo = read(photo_set)[0]
    places = [(-0.5, 10), (-0.6, 10), (49.4, 10), (49.6, 10), (10, -0.5), (10, -0.6), (10, 99.4), (10, 99.6)]
    points = np.concatenate([places, np.full((9, 2), 20)]).astype(np.float32)
    view = AlteredPhoto(photo, UNCHANGED, limit=(100, 50))
    seen = shown(replace(photo.persons[0], keypoints=points), view, COCO_PROTOCOL)
    assert (seen.visibility[:8] > 0).tolist() == [True, False] * 4


@pytest.mark.parametrize(
    "change", [mirrored(80), rotated(SIZE, 15), rotated(SIZE, 90), shrunk(SIZE, 0.5), blurred(2), compressed(95)]
)
def test_colours_stay_in_their_channels(change: Change) -> None:
    """An orange photo stays one where it is seen at all."""
    altered = change.pixels(np.full((*SIZE, 3), (250, 140, 20), np.uint8))
    x, y = moved(change, (39.5, 29.5))[0]
    assert_allclose(altered[round(y), round(x)].astype(int), (250, 140, 20), atol=3)
