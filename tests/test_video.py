"""Annotated videos, tables and the command: the same times and sound, every frame once, also after a kill."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from posedet.commands.main import main
from posedet.commands.track import FORMATS as COMMAND_FORMATS
from posedet.errors import DataError, PoseDetError
from posedet.outputs import generator_of
from posedet.poses import Poses
from posedet.runtime.detector import PoseDet
from posedet.skeleton import COCO
from posedet.video.source import Frame, open_source
from posedet.video.tables import FORMATS, GENERATOR, Tracks, TrackWriter, write_csv, write_openpose, write_trc
from posedet.video.track import ahead, track, with_tracker
from posedet.video.writer import VideoWriter

av: Any = pytest.importorskip("av")
from clips import picture, write_clip  # noqa: E402

PHOTOS = Path(__file__).parent.parent / "photos"


def people(*ids: int, shift: float = 0) -> Poses:
    """People whose keypoint k is at (10 k + 100 id, 5 k)."""
    places = np.arange(17)[:, None] * np.array([10, 5])
    keypoints = np.array([places + np.array([100 * number + shift, 0]) for number in ids], np.float32).reshape(
        -1, 17, 2
    )
    extra = {"id": np.array(ids, np.int64)}
    return Poses(keypoints, np.full(len(ids), 0.75), np.full((len(ids), 17), 0.5), COCO, extra)


# --- videos ----------------------------------------------------------------------------------------------------------


def written(path: Path, times: list[float], size: tuple[int, int] = (96, 128), sound: Path | None = None) -> None:
    writer = VideoWriter(path, GENERATOR, sound=sound)
    for number, moment in enumerate(times):
        pixels = picture(number, *size)
        writer.add(Frame(number, moment, pixels), pixels)
    writer.close()


def test_times_and_pictures_are_kept(tmp_path: Path) -> None:
    times = [0, 0.04, 0.1, 0.5, 0.52, 2.0]
    written(tmp_path / "a.mp4", times)
    with open_source(str(tmp_path / "a.mp4")) as source:
        frames = list(source)
    np.testing.assert_allclose([frame.time for frame in frames], times, atol=1e-4)
    for frame in frames:
        assert np.abs(frame.image.astype(int) - picture(frame.number)).mean() < 6
    with av.open(str(tmp_path / "a.mp4")) as file:
        # The last frame is shown as long as the one before.
        assert float(file.streams.video[0].duration * file.streams.video[0].time_base) == pytest.approx(3.48, abs=0.01)
    assert generator_of(tmp_path / "a.mp4") == GENERATOR
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_odd_sizes_get_a_row_and_a_column(tmp_path: Path) -> None:
    written(tmp_path / "a.mp4", [0, 0.04], (97, 129))
    with open_source(str(tmp_path / "a.mp4")) as source:
        assert next(iter(source)).image.shape == (98, 130, 3)


@pytest.mark.parametrize(("name", "sound", "kept"), [("a.mp4", "aac", "aac"), ("a.mkv", "pcm_s16le", "aac")])
def test_sound_is_kept(name: str, sound: str, kept: str, tmp_path: Path) -> None:
    source = write_clip(tmp_path / name, 25, codec="mpeg4", sound=sound)
    written(tmp_path / "out.mp4", [number / 25 for number in range(25)], sound=source)
    with av.open(str(tmp_path / "out.mp4")) as file:
        (stream,) = file.streams.audio
        assert stream.codec_context.name == kept
        samples = np.concatenate([frame.to_ndarray() for frame in file.decode(stream)], axis=1)[0]
    assert samples.size == pytest.approx(44_100, abs=3000)
    spectrum = np.abs(np.fft.rfft(samples[4000:40_000]))
    assert np.argmax(spectrum) * 44_100 / 36_000 == pytest.approx(440, abs=3)


def test_a_full_disk_is_one_line_and_leaves_no_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", GENERATOR)
    writer.add(Frame(0, 0.0, picture(0)), picture(0))

    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "_mux", full)
    with pytest.raises(PoseDetError, match=r"a\.mp4: could not be written \(No space left on device\)$"):
        writer.close()
    assert list(tmp_path.iterdir()) == []


# --- tables ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tracks(tmp_path: Path) -> Tracks:
    """Person 1 in frames 0 and 2, person 4 in frame 0 alone."""
    writer = TrackWriter(tmp_path / "a.jsonl", "clip.mp4", COCO, 25.0)
    for number, poses in enumerate([people(1, 4), people(), people(1, shift=0.125)]):
        writer.add(number, number / 25, poses)
    writer.close()
    return Tracks(tmp_path / "a.jsonl")


def test_tracks_are_read_as_they_were_written(tracks: Tracks) -> None:
    assert (tracks.source, tracks.frame_rate, tracks.skeleton) == ("clip.mp4", 25.0, COCO)
    first, second, third = tracks
    assert [first.number, second.number, third.number] == [0, 1, 2] and third.time == 0.08
    np.testing.assert_array_equal(first.poses.ids, [1, 4])
    np.testing.assert_array_equal(third.poses.keypoints, people(1, shift=0.125).keypoints)
    assert len(second.poses) == 0 and len(list(tracks)) == 3


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not valid JSON"),
        ("[]", "list indices must be integers or slices, not str"),
        ('{"frame": 3, "time": 1, "poses": [{"score": 1}]}', "poses[0].keypoints: None, expected 51 (17 x 3) numbers"),
    ],
)
def test_damaged_tracks_name_the_line(line: str, reason: str, tracks: Tracks) -> None:
    with tracks.path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(DataError) as caught:
        list(tracks)
    assert str(caught.value) == f"{tracks.path}: line 5: {reason}"
    tracks.path.write_text("{}\n")
    with pytest.raises(DataError, match="line 1: not tracks that `posedet track` wrote"):
        Tracks(tracks.path)


def test_csv(tracks: Tracks, tmp_path: Path) -> None:
    write_csv(tracks, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["frame"], row["time"], row["id"]) for row in rows] == [
        ("0", "0.0", "1"),
        ("0", "0.0", "4"),
        ("2", "0.08", "1"),
    ]
    assert rows[2]["left_eye_x"] == "110.125" and rows[2]["left_eye_score"] == "0.5" and rows[1]["x1"] == "400.0"
    assert generator_of(tmp_path / "a.csv") == GENERATOR


def test_parquet(tracks: Tracks, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    FORMATS["parquet"].write(tracks, tmp_path / "a.parquet")
    table = parquet.read_table(tmp_path / "a.parquet")
    assert table.column("id").to_pylist() == [1, 4, 1] and table.column("nose_x").to_pylist() == [100, 400, 100.125]
    assert generator_of(tmp_path / "a.parquet") == GENERATOR


def test_openpose(tracks: Tracks, tmp_path: Path) -> None:
    write_openpose(tracks, tmp_path / "a")
    files = sorted((tmp_path / "a").iterdir())
    assert [file.name for file in files] == [f"a_{number:012d}_keypoints.json" for number in range(3)]
    first = json.loads(files[0].read_text())["people"][1]
    body = np.reshape(first["pose_keypoints_2d"], (25, 3))
    assert first["person_id"] == [4]
    np.testing.assert_allclose(body[0], [400, 0, 0.5])
    shoulders = people(4).keypoints[0][[5, 6]]
    np.testing.assert_allclose(body[1, :2], shoulders.mean(0))  # the neck
    np.testing.assert_allclose(body[[5, 2], :2], shoulders)
    np.testing.assert_allclose(body[19:], 0)  # feet
    assert json.loads(files[1].read_text())["people"] == []


def test_trc(tracks: Tracks, tmp_path: Path) -> None:
    write_trc(tracks, tmp_path / "a")
    assert sorted(path.name for path in tmp_path.glob("*.trc")) == ["a-1.trc", "a-4.trc"]
    lines = [line.split("\t") for line in (tmp_path / "a-1.trc").read_text().splitlines()]
    assert lines[2][:5] == ["25", "25", "3", "17", "px"] and len(lines) == 9
    assert lines[3][2] == "nose" and lines[4][2:5] == ["X1", "Y1", "Z1"]
    assert lines[8][:5] == ["3", "0.080000", "100.125", "-0.000", "0.000"] and set(lines[7][2:]) == {""}


# --- the pipeline ----------------------------------------------------------------------------------------------------


def test_reading_ahead_keeps_order_errors_and_ends() -> None:
    def items() -> Any:
        yield from range(5)
        raise DataError("broken")

    found = []
    with pytest.raises(DataError, match="broken"):
        for item in ahead(items(), 2):
            found.append(item)
    assert found == [0, 1, 2, 3, 4]
    assert list(ahead(range(100), 3)) == list(range(100))
    before = len(os.listdir("/proc/self/task"))
    for _ in range(5):
        assert next(ahead(iter(range(10**9)), 2)) == 0
    time.sleep(0.3)
    assert len(os.listdir("/proc/self/task")) <= before


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds in which a window moves over a photo with three people."""
    photo = Image.open(next(iter(sorted(PHOTOS.glob("*.jpg"))))).convert("RGB")
    width, height = photo.width * 3 // 4 // 2 * 2, photo.height * 3 // 4 // 2 * 2
    pictures = []
    for number in range(20):
        left = (photo.width - width) * number // 19
        part = photo.crop((left, photo.height - height, left + width, photo.height))
        pictures.append(np.asarray(part.resize((width // 4 * 2, height // 4 * 2))))
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", pictures, sound="aac")


def test_in_python(clip: Path) -> None:
    numbers, ids = [], set()
    for frame in track(str(clip)):
        numbers.append(frame.number)
        ids |= set(frame.poses.ids.tolist())
        assert frame.image.dtype == np.uint8 and frame.time == pytest.approx(frame.number / 25, abs=1e-3)
    assert numbers == list(range(20)) and ids


def test_tracks_begin_at_the_score_threshold_and_continue_below_it(photos: Path) -> None:
    sure = PoseDet(score_threshold=0.6, threads=1)
    weak, tracker = with_tracker(sure)
    strong, more = sure(photos / "baseball.jpg"), weak(photos / "baseball.jpg")
    assert 0 < len(strong) < len(more) and more.scores.min() > 0.33
    assert len(tracker.update(more, 0.0)) == len(strong)
    faded = replace(more, scores=more.scores * np.float32(0.59))
    assert len(tracker.update(faded, 0.04)) == len(strong)


@pytest.mark.slow
def test_the_command(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["track", str(clip), "--output", str(out)]
    assert main([*command, "--format", "csv", "--trails"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["clip.csv", "clip.jsonl", "clip.mp4"]
    printed = capsys.readouterr().out
    found = list(Tracks(out / "clip.jsonl"))
    ids = {number for each in found for number in each.poses.ids.tolist()}
    assert printed == f"{clip}: 20 frames, {len(ids)} people -> {out / 'clip'}.*\n"
    with av.open(str(clip)) as before, av.open(str(out / "clip.mp4")) as after:
        assert after.duration == pytest.approx(before.duration, abs=50_000)
        assert len(after.streams.audio) == 1
        counts = [sum(1 for _ in file.decode(video=0)) for file in (before, after)]
    assert counts == [20, 20]
    # It replaces what it wrote itself, but nothing else.
    (out / "clip.mp4").write_bytes(b"mine")
    assert main(command) == 2
    assert "did not write it" in capsys.readouterr().err
    assert main(["track", str(clip), "--output", str(clip.parent)]) == 2
    assert "is read by this command and never replaced" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_run_resumes(clip: Path, tmp_path: Path) -> None:
    """The files are those of a run that nobody disturbed."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert main(["track", str(clip), "--output", str(whole)]) == 0
    command = [sys.executable, "-m", "posedet", "track", str(clip), "--output", str(out), "--threads", "1"]
    for sign in (signal.SIGKILL, signal.SIGTERM):
        before = sum(path.stat().st_size for path in out.glob("clip-*.jsonl"))
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for _ in range(600):
            time.sleep(0.05)
            if sum(path.stat().st_size for path in out.glob("clip-*.jsonl")) > before + 6000:
                break
        process.send_signal(sign)
        _, errors = process.communicate(timeout=60)
        if sign == signal.SIGKILL:
            assert not (out / "clip.mp4").exists()  # never a broken one
        else:
            assert process.returncode in (0, 143), errors
    assert main(["track", str(clip), "--output", str(out)]) == 0
    assert (out / "clip.jsonl").read_bytes() == (whole / "clip.jsonl").read_bytes()
    assert not list(out.glob("clip-*.jsonl"))


def test_mistakes_are_one_line(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, reason in (
        ([str(clip), "--no-video", "--trails"], "--trails does not go with --no-video"),
        ([str(clip), "--frame-rate", "25"], "only for a folder of frames"),
        (["--frame-rate", "0", str(tmp_path)], "--frame-rate 0: expected 0.01 to 1000 frames a second"),
        ([str(tmp_path / "none.mp4")], "none.mp4: cannot be opened (No such file or directory)"),
    ):
        assert main(["track", *arguments, "--output", str(tmp_path / "out")]) == 2
        errors = capsys.readouterr().err
        assert errors.count("\n") == 1 and reason in errors
    assert main(["predict", str(clip), "--output", str(tmp_path / "out")]) == 2
    assert "clip.mp4: a video, expected photos; use `posedet track`" in capsys.readouterr().err
    assert tuple(FORMATS) == COMMAND_FORMATS
