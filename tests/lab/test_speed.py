"""The claims of the speed page: what each is measured as, on numbers known beforehand and on real photos."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab.speed import claims, cluster, growth, throughput
from lab.speed.__main__ import main
from lab.speed.claims import (
    NUM_CANDIDATES,
    Claim,
    against_peers,
    claims_table,
    of_a_folder,
    time_nms,
    time_predict,
)
from lab.speed.growth import crowd, standing_person
from lab.speed.video import Moment, endurance, endure, time_video, video_table
from posedet import PoseDet
from posedet.benchmark.stages import TOTAL, Subject, Timed
from posedet.benchmark.timing import Spread
from posedet.benchmark.workers import Alternative
from posedet.errors import DataError, PhotoError, PoseDetError
from posedet.image import read_photo
from posedet.runtime.model_files import model_file
from timings import comparison

SHIPPED = str(model_file("posedet-s"))


class LocalWorker:
    """A worker without a process of its own."""

    def __init__(self, alternative) -> None:
        self.ask = alternative.open().measure

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_claims():
    claims = against_peers(comparison())
    assert [(claim.what, claim.measured.median, claim.limit, claim.holds) for claim in claims] == [
        ("file to poses, times that of peer", 0.5, 1.0, True),
        ("network, times that of peer", 0.5, 1.0, True),
        ("network, times that of other", pytest.approx(1 / 3), 1.0, True),
    ]
    late = Claim("late", Spread(1.2, 1.0, 1.3), 1.1)
    assert not late.holds and "DOES NOT HOLD" in claims_table([late]) and "1.20 (1.00-1.30)" in claims_table([late])


def test_suppression_is_timed_with_as_many_candidates_and_people(monkeypatch):
    kept = []
    real = claims.oks_nms
    monkeypatch.setattr(
        claims, "oks_nms", lambda keypoints, *rest, **more: kept.append((keypoints, real(keypoints, *rest, **more)))
    )
    assert len(time_nms(2)) == len(kept) == 2
    keypoints, best = kept[0]
    assert len(keypoints) == NUM_CANDIDATES and 80 <= len(best) <= 100


@pytest.mark.slow
def test_a_folder_beside_its_network(photos: Path, monkeypatch):
    """What is timed is the command's own work, and of the network alone nothing but that."""
    monkeypatch.setattr(throughput, "NUM_PHOTOS", 3)
    monkeypatch.setattr(throughput, "Worker", LocalWorker)
    written: dict[str, list] = {}
    real = throughput.write_results
    monkeypatch.setattr(
        throughput,
        "write_results",
        lambda path, generator, entries: (written.update({path.name: entries}), real(path, generator, entries)),
    )
    paths = [str(photos / "skiers.jpg"), str(photos / "group.jpg")]
    samples = throughput.time_folder(Alternative(SHIPPED, "onnxruntime", 2), paths, 1)
    assert [len(each) for each in samples.values()] == [1, 1, 1]
    wanted = [len(PoseDet(threads=1)(path)) for path in (*paths, paths[0])]
    assert [timed.num_people for timed in (*samples["poses"], *samples["pictures"])] == [sum(wanted)] * 2
    numbers = [entry["image_id"] for entry in written["poses.json"]]
    assert [numbers.count(place) for place in (1, 2, 3)] == wanted
    assert all(min(timed.ms.values()) > 0 for each in samples.values() for timed in each)


def test_a_folder_is_held_against_the_network_of_its_round():
    def timed(*ms: float) -> list[Timed]:
        return [Timed({TOTAL: each}, None, None) for each in ms]

    samples = {"network": timed(10, 100, 20), "poses": timed(11, 110, 30), "pictures": timed(13, 120, 30)}
    poses, pictures = of_a_folder(samples)
    assert poses.measured.median == pytest.approx(1.1) and poses.holds
    assert pictures.measured.median == pytest.approx(1.3) and not pictures.holds
    assert poses.what == "a folder of photos to poses.json, times the bare network"


def test_enlarged_photos_are_like_those_of_a_camera(photos: Path, tmp_path: Path):
    files = throughput.enlarged([str(photos / "skiers.jpg")], 2, tmp_path)
    (height, width), small = read_photo(files[0]).shape[:2], read_photo(photos / "skiers.jpg")
    assert height * width == pytest.approx(2e6, rel=0.01) and width / height == pytest.approx(640 / 480, abs=0.01)
    assert 0.1 < 8 * Path(files[0]).stat().st_size / (height * width) < 4  # bits per pixel
    assert np.abs(np.asarray(Image.open(files[0]).resize((640, 480))).astype(int) - small).mean() < 4


def test_the_table_of_a_folder():
    samples = {
        work: [Timed({TOTAL: ms, throughput.PROCESSOR: 2 * ms + 1}, None, None)]
        for work, ms in (("network", 10.0), ("poses", 12.0), ("pictures", 15.0))
    }
    rows = [line.split() for line in throughput.folder_table(samples).splitlines()[1:]]
    assert [row[0] for row in rows] == list(samples)
    assert rows[2][1::2] == ["15.0", "1.50", "31.0", "1.48"]


def test_a_folder_with_a_bad_photo_is_no_time(tmp_path):
    opened = throughput.Many(SHIPPED, "onnxruntime", 1, work="poses").open()
    with pytest.raises(PhotoError, match="no such file"):
        opened.measure([str(tmp_path / "missing.jpg")])


def test_a_failing_predict_is_no_time(tmp_path):
    with pytest.raises(PoseDetError, match="no such file"):
        time_predict(str(tmp_path / "missing.jpg"), 1)


# --- growth -----------------------------------------------------------------------------------------------------------


def test_crowds_have_so_many_people_of_one_size():
    person = np.zeros((200, 80, 3), np.uint8)
    grey = growth.GREY
    areas = [int((crowd(person, count) != grey).any(axis=2).sum()) for count in (0, 1, 7, 100)]
    assert areas == [0, areas[1], 7 * areas[1], 100 * areas[1]] and areas[1] > 100
    assert crowd(person, 1).shape == (960, 1280, 3)


@pytest.mark.slow
def test_a_person_to_make_crowds_of(photos: Path, detector: PoseDet, tmp_path):
    person = standing_person([str(photos / "food.jpg"), str(photos / "skiers.jpg")])
    assert person.shape[0] > 1.3 * person.shape[1]
    assert len(PoseDet(threads=1, long_side=growth.CROWD_LONG_SIDE)(crowd(person, 10))) >= 3
    Image.new("RGB", (64, 64)).save(tmp_path / "empty.png")
    with pytest.raises(DataError, match="no standing person is visible from head to foot"):
        standing_person([str(tmp_path / "empty.png")])


@contextmanager
def in_this_process(alternative: Alternative) -> Iterator[Subject]:
    yield alternative.open()


@pytest.mark.slow
def test_all_curves(photos: Path, monkeypatch, tmp_path):
    monkeypatch.setattr(growth, "PHOTO_SIDES", (64, 128))
    monkeypatch.setattr(growth, "INPUT_SIDES", (128, 256))
    monkeypatch.setattr(growth, "BATCHES", (1, 2))
    monkeypatch.setattr(growth, "CROWD_LONG_SIDE", 320)
    monkeypatch.setattr(growth, "PEOPLE", (1, 2))
    monkeypatch.setattr(growth, "standing_person", lambda _: np.zeros((20, 10, 3), np.uint8))
    monkeypatch.setattr(growth, "Worker", in_this_process)
    alternative = Alternative(SHIPPED, "onnxruntime", 2)
    curves = growth.measure_growth(alternative, [str(photos / "skiers.jpg")], 2)
    assert {curve.name: sorted(curve.points) for curve in curves} == {
        "photo": [64, 128],
        "input": [128, 256],
        "people": [1, 2],
        "batch": [1, 2],
        "threads": [1, 2],
    }
    assert all(len(ms) == 2 and min(ms) > 0 for curve in curves for ms in curve.points.values())
    shown = growth.growth_table(curves)
    assert "long side of the network's input, pixels" in shown and "people found" in shown
    growth.draw_growth(curves, tmp_path / "growth.png")
    assert read_photo(tmp_path / "growth.png").shape[1] > 500
    json.dumps([curve.to_dict() for curve in curves])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["growth", "photos", "--engines", "openvino,pytorch"],
            "--engines openvino,pytorch: growth needs exactly one engine",
        ),
        (["claims", "photos", "--rounds", "0"], "--rounds 0: expected at least 1"),
        (["sparse", "--threads", "0"], "--threads 0: expected at least 1"),
        (["first-stage", "missing.json"], "missing.json"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert main(arguments) == 2
    assert f"posedet: error: {said}" in capsys.readouterr().err


# --- video ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_tracking_needs_no_more_memory_with_more_frames(photos: Path) -> None:
    """The short form of `python -m lab.speed endurance`."""
    moments = endure([str(photos / "tennis.jpg"), str(photos / "food.jpg")], 1800)
    result = endurance(moments)
    assert result["frames"] > 1100
    assert result["most, MB"] - result["memory after 1,000 frames, MB"] < 10
    least, most = result["open files, least and most"]
    assert least == most > 3


def test_growth_is_told() -> None:
    moments = [Moment(200, 150.0, 7), Moment(1200, 160.0, 7), Moment(2000, 175.5, 9), Moment(3000, 170.0, 7)]
    assert endurance(moments) == {
        "frames": 3000,
        "memory after 1,000 frames, MB": 160.0,
        "at the end, MB": 170.0,
        "most, MB": 175.5,
        "open files, least and most": [7, 9],
    }
    with pytest.raises(PoseDetError, match=r"^too few frames to tell; raise --frames$"):
        endurance(moments[:1])


@pytest.mark.slow
def test_a_video_is_timed(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.speed.video.NUM_FRAMES", 4)
    samples = time_video([str(photos / "tennis.jpg")], 1, 1)
    assert samples.keys() == {"network", "poses", "video"} and all(ms > 0 for [ms] in samples.values())
    rows = video_table({"network": [20.0, 30.0], "poses": [25.0, 30.0], "video": [40.0, 60.0]}).splitlines()
    assert rows[2].split()[-2:] == ["0.90", "(0.85-0.95)"] and rows[3].split()[-2] == "0.50"


@pytest.mark.slow
def test_jobs_from_files_to_parquet(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one process and a pool, with as many photos as asked for; the others need their engines."""
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    samples = cluster.time_jobs([photos / "skiers.jpg", photos / "food.jpg"], (1, 3), 1)
    assert list(samples) == [cluster.ALONE, "pool of processes"] and all(len(each) == 2 for each in samples.values())
    table = cluster.jobs_table({cluster.ALONE: [1, 4, 1, 8], "other": [3, 6, 3, 12]}, (1, 3)).splitlines()
    assert table[-1] == "| other | 3.00 (3.00-3.00) | 9.00 (7.50-10.50) | 1.50 (1.50-1.50) |"


@pytest.mark.slow
def test_a_mosaic_gives_every_pose_back_to_its_photo(photos: Path, monkeypatch):
    """With tiles the small people of a canvas are found as if their photos were alone; without, they are too small."""
    from lab.speed import tiles
    from posedet.data.sources import Source, read_photos
    from posedet.skeleton import COCO

    monkeypatch.setattr(tiles, "GRIDS", (4,))
    monkeypatch.setattr(tiles, "CANVAS", (960, 1280))
    annotated = read_photos(Source(photos / "truth.json", str(photos)), COCO)
    (canvas, placed), *_ = tiles.canvases(annotated, 4)
    assert canvas.size == (1280, 960) and (placed[5].left, placed[5].top) == (320, 320)
    rows = tiles.measure_tiles(PoseDet(threads=1, long_side=320), annotated)
    assert [row.tiles for row in rows] == [None, 640, 320]
    assert rows[2].scores.ap > rows[0].scores.ap + 0.1
    assert tiles.tiles_table(rows).count("320 pixels") == 3
