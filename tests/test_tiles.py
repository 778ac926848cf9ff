"""Tiles of large photos: every person is whole in one, nobody is found twice, and small people are found at all."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from posedet import PoseDet, Poses
from posedet.commands.main import main
from posedet.errors import ConfigError
from posedet.image import GREY
from posedet.runtime.detector import TILES_PER_RUN
from posedet.runtime.tiles import MARGIN, Tile, joined, tiles_of
from posedet.runtime.tta import Augmented
from posedet.serve.app import Limits, create_app
from posedet.skeleton import Skeleton

ROD = Skeleton("rod", ("top", "bottom"), ((0, 1),), (), (0.1, 0.1))
NAMES = ("skiers", "tennis", "baseball", "child")
SIZE = (960, 1280)


@pytest.fixture(scope="module")
def config():
    return PoseDet(threads=1).config


@pytest.fixture(scope="module")
def small() -> PoseDet:
    return PoseDet(threads=1, long_side=320, score_threshold=0.45)


def by_size(tiles: list[Tile]) -> list[list[Tile]]:
    sizes = sorted({tile.size for tile in tiles}, reverse=True)
    return [[tile for tile in tiles if tile.size == size] for size in sizes]


@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(128, 4000))
def test_tiles_of_every_size_cover_the_photo(height: int, width: int, side: int) -> None:
    tiles = tiles_of((height, width), side)
    assert tiles[0] == (0, 0, width, height)
    if max(height, width) < 1.41 * side:
        assert len(tiles) == 1
        return
    assert max(tiles[-1].size) == side
    for larger, smaller in pairwise(by_size(tiles)):
        assert 1.4 < max(larger[0].size) / max(smaller[0].size) < 2.9
    for same in by_size(tiles):
        assert same[-1].right == width and same[-1].bottom == height
        for low, high, length in ((0, 2, width), (1, 3, height)):
            spans = sorted({(tile[low], tile[high]) for tile in same})
            assert spans[0][0] == 0 and spans[-1][1] == length
            for one, other in pairwise(spans):
                assert one[1] - other[0] >= 0.25 * (one[1] - one[0]) - 1
        assert len(same) == len({tile.left for tile in same}) * len({tile.top for tile in same})


@given(st.floats(0, 1), st.floats(0, 1), st.integers(6, 400))
def test_every_person_is_uncut_in_a_tile_that_is_not_too_large(x: float, y: float, size: int) -> None:
    """A fifth of a tile is enough to be whole in it. So it is never seen smaller than half that."""
    tiles = tiles_of((3000, 4000), 500)
    left, top = x * (4000 - size), y * (3000 - size)
    seen = [
        tile
        for tile in tiles
        if (left - tile.left >= MARGIN * size or tile.left == 0)
        and (top - tile.top >= MARGIN * size or tile.top == 0)
        and (tile.right - 1 - left - size >= MARGIN * size or tile.right == 4000)
        and (tile.bottom - 1 - top - size >= MARGIN * size or tile.bottom == 3000)
    ]
    assert min(max(tile.size) for tile in seen) <= max(500, 2 * 5.2 * size)


def rods(*rows: tuple[float, float, float, float, float]) -> Poses:
    """Poses from the x and y of both ends, and the score."""
    table = np.array(rows, np.float32).reshape(-1, 5)
    points, numbers = table[:, :4].reshape(-1, 2, 2), np.arange(len(table))
    return Poses(points, table[:, 4], np.ones((len(table), 2)), ROD, {"number": numbers})


def test_the_whole_person_beats_the_one_that_a_border_cuts(config) -> None:
    whole, left, right = Tile(0, 0, 300, 100), Tile(0, 0, 100, 100), Tile(75, 0, 175, 100)
    found = [
        (whole, rods()),
        (left, rods((98, 10, 98, 50, 0.99), (50, 20, 50, 97, 0.7))),  # one at the border, one at that of the photo
        (right, rods((24, 10, 24, 50, 0.6), (-3, 60, 10, 70, 0.9))),  # the first is the one that was cut
    ]
    poses = joined(found, (100, 300), config)
    assert_allclose(poses.keypoints, [[(50, 20), (50, 97)], [(99, 10), (99, 50)]])
    assert_allclose(poses.scores, [0.7, 0.6])
    assert poses.extra["number"].tolist() == [1, 0]


def test_of_duplicates_the_one_that_was_seen_larger_stays(config) -> None:
    whole, tile = Tile(0, 0, 400, 200), Tile(100, 0, 300, 200)
    for score, kept in ((0.5, (151.0, 0.5)), (0.4, (150.0, 0.9))):
        found = [(whole, rods((150, 50, 150, 110, 0.9))), (tile, rods((51, 50, 51, 110, score)))]
        poses = joined(found, (200, 400), config)
        assert (poses.keypoints[0, 0, 0], poses.scores[0]) == pytest.approx(kept)
        assert len(poses) == 1


def test_a_small_person_is_looked_for_in_small_tiles(config) -> None:
    """They show everybody up to a fifth of their side whole, and larger."""
    whole, tile = Tile(0, 0, 400, 200), Tile(100, 0, 300, 200)
    for length, count in ((39, 0), (41, 1)):
        assert len(joined([(whole, rods((50, 50, 50, 50 + length, 0.9))), (tile, rods())], (200, 400), config)) == count


def test_a_part_of_somebody_is_not_a_person(config) -> None:
    """Legs that look like a person, in a tile that shows only them; a real child is whole in a tile with its parent."""
    whole, tile = Tile(0, 0, 200, 400), Tile(0, 200, 200, 400)
    adult, legs, child = (60, 100, 120, 380, 0.9), (70, 60, 80, 150, 0.6), (70, 260, 80, 350, 0.6)
    assert_allclose(joined([(whole, rods(adult)), (tile, rods(legs))], (400, 200), config).scores, [0.9])
    assert_allclose(joined([(whole, rods(adult, child)), (tile, rods())], (400, 200), config).scores, [0.9, 0.6])
    # Better than the larger one, which is not believed that much.
    assert len(joined([(whole, rods(adult)), (tile, rods((*legs[:4], 0.95)))], (400, 200), config)) == 2


def test_more_people_than_one_input_holds(config) -> None:
    tile = Tile(0, 0, 4000, 4000)
    many = rods(*((x, y, x, y + 20, 0.9) for x in range(10, 4000, 200) for y in range(10, 4000, 200)))
    assert len(joined([(tile, many)], (4000, 4000), config)) == 400
    assert len(joined([(tile, rods())], (4000, 4000), config)) == 0


# --- real people, small in a large photo -----------------------------------------------------------------------------


def canvas_of(photos: Path) -> tuple[np.ndarray, list[tuple[Image.Image, int, int]]]:
    """A grey photo with small photos pasted so that the borders of tiles run through them; and where each lies."""
    canvas = Image.new("RGB", SIZE[::-1], (GREY,) * 3)
    pasted = []
    for place in range(12):
        with Image.open(photos / f"{NAMES[place % 4]}.jpg") as image:
            part = image.reduce(3 if place % 2 else 2)
        x, y = 5 + 316 * (place % 4), 10 + 315 * (place // 4)
        canvas.paste(part, (x, y))
        pasted.append((part, x, y))
    return np.array(canvas), pasted


@pytest.mark.slow
def test_small_people_across_the_seams_are_found_once(small: PoseDet, photos: Path) -> None:
    canvas, pasted = canvas_of(photos)
    alone = [small(part) for part, *_ in pasted]
    in_tiles = small.adjusted(tiles=320)(canvas)
    whole = small(canvas)
    found = 0
    for poses, (part, x, y) in zip(alone, pasted, strict=True):
        middles = (in_tiles.boxes[:, :2] + in_tiles.boxes[:, 2:]) / 2 - (x, y)
        here = in_tiles[((middles > 0) & (middles < part.size)).all(axis=1)]
        # As many as in the small photo alone, up to one that is uncertain: nobody is there twice.
        assert abs(len(here) - len(poses)) <= 1, (x, y)
        for pose in poses:
            size = (pose.boxes[0, 2:] - pose.boxes[0, :2]).max()
            distance = np.linalg.norm(here.keypoints - (x, y) - pose.keypoints[0], axis=2).mean(axis=1)
            found += int((distance < 0.1 * size).sum() == 1)
    wanted = sum(map(len, alone))
    assert found >= 0.9 * wanted
    assert len(whole) <= 0.5 * wanted


def test_a_photo_that_needs_no_tiles(small: PoseDet, photos: Path) -> None:
    poses = small(photos / "skiers.jpg")
    for photo in (photos / "skiers.jpg", (photos / "skiers.jpg").read_bytes()):
        found = small.adjusted(tiles=640)(photo)
        assert_array_equal(found.keypoints, poses.keypoints)
        assert_array_equal(found.scores, poses.scores)


@pytest.mark.slow
def test_tiles_go_everywhere_that_photos_go(small: PoseDet, photos: Path, tmp_path: Path, capsys) -> None:
    """A call, a batch, groups, other keypoints, and the command, all alike."""
    detector = small.adjusted(tiles=256, skeleton="crowdpose")
    photo = photos / "hall.jpg"
    poses = detector(photo)
    assert len(poses) > len(small(photo)) and poses.skeleton == detector.skeleton
    for same in (*detector.batch([photo]), *(found for _, found in detector.grouped([("hall", photo)], TILES_PER_RUN))):
        assert_array_equal(same.keypoints, poses.keypoints)
    for _, near in detector.grouped([("hall", photo)], 1):
        assert_allclose(near.keypoints, poses.keypoints, atol=0.1)

    command = ["predict", str(photo), "--output", str(tmp_path), "--threads", "1", "--long-side", "320"]
    command += ["--score-threshold", "0.45"]
    assert main([*command, "--tiles", "256", "--skeleton", "crowdpose", "--no-pictures"]) == 0
    entries = json.loads((tmp_path / "poses.json").read_text())
    assert_allclose([entry["score"] for entry in entries], poses.scores, atol=1e-6)
    assert f"{len(poses)} people" in capsys.readouterr().out


@pytest.mark.slow
def test_evaluation_with_tiles(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", str(photos / "truth.json"), "--photos", str(photos), "--threads", "1", "--long-side", "160"]
    assert main([*command, "--tiles", "320", "--output", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["results"]["settings"]["tiles"] == 320
    assert main([*command, "--output", str(tmp_path / "whole")]) == 0
    whole = json.loads((tmp_path / "whole" / "report.json").read_text())
    assert report["results"]["ap_medium"] > whole["results"]["ap_medium"]


def test_tiles_that_cannot_be(small: PoseDet, capsys: pytest.CaptureFixture[str]) -> None:
    for tiles in (127, 0, -5, True):
        with pytest.raises(ConfigError, match=f"^tiles is {tiles}, expected at least 128 pixels$"):
            small.adjusted(tiles=tiles)
    assert main(["predict", "a.jpg", "--tiles", "100"]) == 2
    assert capsys.readouterr().err == "posedet: error: --tiles 100: expected at least 128\n"
    with pytest.raises(ConfigError, match=r"^tiles do not go with test-time augmentation"):
        Augmented(small.adjusted(tiles=640))
    with pytest.raises(ConfigError, match=r"^tiles is 640, but the server looks at whole photos only$"):
        create_app(small.adjusted(tiles=640), Limits())


@pytest.mark.slow
def test_memory_for_fifty_megapixels(tmp_path: Path) -> None:
    """The pixels are there twice for a moment; the tiles add next to nothing, however many there are."""
    file = tmp_path / "large.jpg"
    Image.new("RGB", (8660, 5774), (90, 120, 60)).save(file)
    code = (
        "import re, sys; from posedet import PoseDet\n"
        "PoseDet(threads=1, long_side=128, tiles=int(sys.argv[1]))(sys.argv[2])\n"
        # Not ru_maxrss: that of a new process begins with its parent's.
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    peaks = []
    for tiles in (4000, 700):
        run = subprocess.run([sys.executable, "-c", code, str(tiles), str(file)], capture_output=True, check=True)
        peaks.append(int(run.stdout) / 1024)
    assert peaks[1] < 800
    assert peaks[1] - peaks[0] < 50
