"""Cropped photos: what is cut, what is kept, and that the truth stays where it was."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from posedet.commands.main import main
from posedet.data.annotations import AnnotatedPhoto, fingerprint
from posedet.data.sources import read_photos
from posedet.errors import DataError
from posedet.evaluation.protocols import CROPPED_PROTOCOL
from posedet.evaluation.run import evaluate
from posedet.evaluation.truncation import CroppedPhoto, cropped_views
from posedet.poses import Poses
from posedet.skeleton import COCO
from sets import photos_of

CATEGORY = {"id": 1, "name": "person", "keypoints": list(COCO.keypoints)}


def person(number: int, image_id: int, points: np.ndarray, flags: Any = 2, **more: Any) -> dict[str, Any]:
    table = np.concatenate([points, np.broadcast_to(flags, 17)[:, None]], axis=1)
    low, high = points.min(axis=0), points.max(axis=0)
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "keypoints": table.ravel().tolist(),
        "num_keypoints": int((table[:, 2] > 0).sum()),
        "bbox": [*low.tolist(), *(high - low).tolist()],
        "area": float((high - low).prod() / 2),
        "iscrowd": 0,
        "segmentation": [[0, 0, 1, 1, 2, 2]],
        **more,
    }


def photo_set(num_photos: int) -> dict[str, Any]:
    random = np.random.default_rng(0)
    data: dict[str, Any] = {"images": [], "annotations": [], "categories": [CATEGORY]}
    for image_id in range(num_photos):
        data["images"].append({"id": image_id, "file_name": f"{image_id}.png", "width": 250, "height": 200})
        for _ in range(random.integers(1, 4)):
            points = random.uniform(0, (190, 140), 2) + random.uniform(0, 60, (17, 2))
            flags = random.choice([0, 1, 2], 17, p=[0.2, 0.2, 0.6])
            data["annotations"].append(person(len(data["annotations"]) + 1, image_id, points, flags))
    return data


def views_of(data: dict[str, Any]) -> dict[int, CroppedPhoto]:
    """Image id -> its view."""
    return {view.photo.image_id: view for view in cropped_views(photos_of(data, COCO))}


def test_the_laws_of_a_view() -> None:
    data = photo_set(60)
    photos = photos_of(data, COCO)
    before = copy.deepcopy(photos)
    views = cropped_views(photos)
    assert fingerprint(photos) == fingerprint(before)
    originals = {each.annotation_id: each for photo in photos for each in photo.persons}
    sides, someone_cut = [], 0
    for view in views:
        left, top, right, bottom = view.window
        height, width = view.photo.size
        assert (width, height) == (right - left, bottom - top) and view.whole_size == (200, 250)
        assert min(width, height) >= 64
        # One straight cut.
        borders = (left > 0, top > 0, right < 250, bottom < 200)
        assert sum(borders) == 1
        sides.append(borders.index(True))
        shares = []
        for shown in view.photo.persons:
            original = originals[shown.annotation_id]
            # The truth is where it was, also beyond the border; the whole person's size counts.
            now = shown.keypoints[shown.labelled]
            assert_allclose(now - (-left, -top), original.keypoints[original.labelled])
            assert_array_equal(shown.visibility, original.visibility)
            assert shown.area == original.area
            assert_allclose(original.box - (left, top, left, top), shown.box)
            x, y = now.T
            inside = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
            assert shown.ignore == (inside.sum() < 3)
            axis = 0 if borders[0] or borders[2] else 1
            values, extent = now[:, axis], np.ptp(now[:, axis])
            beyond = max(-values.min(), values.max() - (width, height)[axis])
            shares.append(beyond / extent)
        # Somebody lost a quarter to 60 %, to half a pixel.
        someone_cut += any(0.22 < share < 0.63 for share in shares)
    assert someone_cut == len(views) > 50
    assert {sides.count(side) > 5 for side in range(4)} == {True}


def test_windows_are_the_same_for_ever() -> None:
    """The first by hand from the SHA-256 of "0", 5feceb66 ffc86f38 d952786c...: the left, 0.4237 of the way to 60 %."""
    points = np.stack([np.linspace(100, 200, 17), np.linspace(80, 180, 17)], axis=1)
    data = {
        "images": [{"id": i, "file_name": "x.png", "width": 300, "height": 260} for i in (0, 1, 139, 2**40)],
        "annotations": [person(n, i, points) for n, i in enumerate((0, 1, 139, 2**40))],
        "categories": [CATEGORY],
    }
    views = views_of(data)
    assert {image_id: view.window for image_id, view in views.items()} == {
        0: (140, 0, 300, 260),
        1: (0, 0, 300, 144),
        139: (160, 0, 300, 260),
        2**40: (0, 0, 162, 260),
    }


def test_who_counts() -> None:
    """Cut by hand: whoever shows three keypoints is to be found, with fewer ignored, and nobody outside is kept."""
    main_points = np.stack([np.linspace(20, 280, 17), np.full(17, 100)], axis=1) + np.arange(34).reshape(17, 2) % 3
    data = {
        "images": [{"id": 5, "file_name": "x.png", "width": 300, "height": 200}],
        "annotations": [person(1, 5, main_points)],
        "categories": [CATEGORY],
    }
    views = views_of(data)
    left, top, right, bottom = views[5].window
    horizontal = (left, right) != (0, 300)
    line = {True: left or right, False: top or bottom}[horizontal]
    sign = 1 if left or top else -1  # where the view lies from the line

    def beside(inside: int) -> np.ndarray:
        """So many keypoints 10 pixels inside the view, the others outside; apart from each other along the line."""
        across = np.where(np.arange(17) < inside, line + sign * 10, line - sign * 10)
        along = 50 + np.arange(17)
        return np.stack([across, along] if horizontal else [along, across], axis=1).astype(float)

    two_labelled = np.arange(17) < 2
    data["annotations"] += [
        person(2, 5, beside(17), 0),  # nobody labelled the keypoints: as large as the box, and ignored before already
        person(3, 5, beside(3)),
        person(4, 5, beside(2)),
        person(5, 5, beside(0)),
        person(6, 5, beside(2), 2 * two_labelled),  # all that are labelled are seen
        person(7, 5, beside(1), 2 * two_labelled),
        person(8, 5, beside(17), iscrowd=1),
        person(9, 5, beside(17), ignore=1),
        person(10, 5, beside(17), num_keypoints=0),
    ]
    # Who is to be cut is drawn among those with six labelled keypoints: give the others fewer, but for the test's own.
    data["annotations"] = [data["annotations"][0], *map(_with_few_labels, data["annotations"][1:])]
    again = views_of(data)
    assert again[5].window == (left, top, right, bottom)
    kept = {each.annotation_id: each.ignore for each in again[5].photo.persons}
    assert kept == {1: 0, 2: 1, 3: 0, 4: 1, 6: 0, 7: 1, 8: 1, 9: 1, 10: 1}


def _with_few_labels(annotation: dict[str, Any]) -> dict[str, Any]:
    """The first five keypoints only."""
    keypoints = list(annotation["keypoints"])
    keypoints[2::3] = keypoints[2:15:3] + [0] * 12
    return {**annotation, "keypoints": keypoints}


@given(st.integers(0, 2**62), st.floats(-50, 280), st.floats(-50, 150), st.floats(5, 200))
def test_any_photo_has_a_sound_view_or_none(image_id: int, x: float, y: float, size: float) -> None:
    points = np.random.default_rng(1).uniform(0, size, (17, 2)) + np.array([x, y])
    data = {
        "images": [{"id": image_id, "file_name": "x.png", "width": 230, "height": 100}],
        "annotations": [person(1, image_id, points)],
        "categories": [CATEGORY],
    }
    try:
        views = views_of(data)
    except DataError as error:
        assert "can be cropped" in str(error)
    else:
        left, top, right, bottom = views[image_id].window
        assert 0 <= left < right <= 230 and 0 <= top < bottom <= 100 and (right - left) * (bottom - top) < 23000


@pytest.fixture
def set_on_disk(tmp_path: Path) -> Path:
    """Photos that show, in the value of each pixel, which photo it is and where."""
    data = photo_set(8)
    (tmp_path / "val.json").write_text(json.dumps(data))
    (tmp_path / "val").mkdir()
    ys, xs = np.mgrid[:200, :250]
    for image in data["images"]:
        pixels = np.stack([xs, ys, np.full_like(xs, image["id"])], axis=-1).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "val" / image["file_name"])
    return tmp_path


def test_evaluate_looks_at_the_cropped_photo(set_on_disk: Path) -> None:
    """Who knows the truth, and sees from the pixels which part of which photo this is, has AP 1."""
    data = json.loads((set_on_disk / "val.json").read_text())

    def knowing(view: np.ndarray) -> Poses:
        image_id, left, top = int(view[0, 0, 2]), int(view[0, 0, 0]), int(view[0, 0, 1])
        people = [each["keypoints"] for each in data["annotations"] if each["image_id"] == image_id]
        points = np.reshape(people, (-1, 17, 3))[..., :2] - (left, top)
        return Poses(points, np.ones(len(points)), np.ones((len(points), 17)), COCO)

    photos = read_photos(str(set_on_disk / "val.json"), COCO)
    scores = evaluate(knowing, photos, CROPPED_PROTOCOL, output=set_on_disk / "out")
    assert scores.ap50 == 1 and scores.num_photos == 8
    results = json.loads((set_on_disk / "out" / "results.json").read_text())
    assert min(min(each["keypoints"][0::3]) for each in results) < -1  # outside of the view

    def inside(view: np.ndarray) -> Poses:
        poses = knowing(view)
        limits = np.array([view.shape[1], view.shape[0]]) - 1
        return Poses(np.clip(poses.keypoints, 0, limits), poses.scores, poses.keypoint_scores, COCO)

    assert evaluate(inside, photos, CROPPED_PROTOCOL).ap < 0.8 * scores.ap


@pytest.mark.slow
def test_on_the_command_line(set_on_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", str(set_on_disk / "val.json"), "--protocol", "cropped", "--threads", "1"]
    assert main(command) == 0
    scored, _, table, *_ = capsys.readouterr().out.splitlines()
    assert scored == "scored 17 of 17 keypoints" and table.split()[:3] == ["|", "|", "AP"]


def test_a_view_reads_its_part_and_checks_the_size(set_on_disk: Path) -> None:
    path = set_on_disk / "val" / "3.png"
    view = CroppedPhoto(AnnotatedPhoto(3, path, (100, 130), ()), (200, 250), (100, 20, 230, 120)).read()
    assert view.shape == (100, 130, 3)
    assert view[0, 0].tolist() == [100, 20, 3] and view[-1, -1].tolist() == [229, 119, 3]
    with pytest.raises(DataError) as caught:
        CroppedPhoto(AnnotatedPhoto(3, path, (100, 100), ()), (300, 200), (0, 0, 100, 100)).read()
    assert str(caught.value) == f"{path}: 250 x 200 pixels, but its annotations say 200 x 300"


def test_nobody_to_cut() -> None:
    data = photo_set(1)
    data["annotations"] = [_with_few_labels(each) for each in data["annotations"]]
    with pytest.raises(DataError) as caught:
        views_of(data)
    assert str(caught.value) == "no person in 1 photos has 6 labelled keypoints and can be cropped"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda data: data["annotations"][0].update(bbox=[1, 2]),
            "truth: annotations[0].bbox: 2 numbers, expected 4 (x, y, width, height)",
        ),
        (lambda data: data["images"][0].pop("height"), "truth: images[0]: 'height' is missing"),
        (
            lambda data: data.pop("categories"),
            "truth: 'categories' is missing; is this a COCO-style keypoint file?",
        ),
    ],
)
def test_damage(change: Any, expected: str) -> None:
    data = photo_set(2)
    change(data)
    with pytest.raises(DataError) as caught:
        views_of(data)
    assert str(caught.value) == expected


def test_a_keypoint_is_seen_up_to_the_edges_of_the_outer_pixels() -> None:
    """The views of photos 0 and 1 that `test_windows_are_the_same_for_ever` has: from x 140 on, and up to y 143."""
    points = np.stack([np.linspace(100, 200, 17), np.linspace(80, 180, 17)], axis=1)
    three = 2 * (np.arange(17) < 3)
    data = {
        "images": [{"id": i, "file_name": "x.png", "width": 300, "height": 260} for i in (0, 1)],
        "annotations": [person(1, 0, points), person(2, 1, points)],
        "categories": [CATEGORY],
    }
    for number, (image_id, place) in enumerate(
        [(0, (139.5, 10)), (0, (139.4, 10)), (0, (299.4, 10)), (0, (299.5, 10)), (1, (10, 143.4)), (1, (10, 143.5))], 3
    ):
        beside = np.where(np.arange(17)[:, None] < 3, place, (200, 100))
        data["annotations"].append(person(number, image_id, beside, three, bbox=[0, 0, 300, 260]))
    views = views_of(data)
    assert [views[i].window for i in (0, 1)] == [(140, 0, 300, 260), (0, 0, 300, 144)]
    seen = {each.annotation_id: each.ignore for view in views.values() for each in view.photo.persons}
    assert {number: seen[number] for number in range(3, 9)} == {3: 0, 4: 1, 5: 0, 6: 1, 7: 0, 8: 1}
