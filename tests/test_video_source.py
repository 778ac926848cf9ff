"""Frames of every kind of source: upright, whole, with their times; what cannot be read is one line."""

import io
import os
import socket
import struct
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from posedet.errors import ConfigError, DataError
from posedet.video import source as module
from posedet.video.source import Frame, is_video, open_source, source_name

pytest.importorskip("av")
from clips import RATE, picture, write_clip


def frames_of(text: str | Path) -> tuple[list[Frame], list[str]]:
    with open_source(str(text)) as source:
        return list(source), source.notes


def assert_pictures(frames: list[Frame], *, tolerance: int = 12) -> None:
    """The frames are those of `picture`, apart from compression."""
    for frame in frames:
        expected = picture(frame.number, *frame.image.shape[:2])
        for rows in (slice(8, 30), slice(60, 80)):
            for columns in (slice(8, 40), slice(80, 110)):
                found, wanted = (pixels[rows, columns].mean((0, 1)) for pixels in (frame.image, expected))
                np.testing.assert_allclose(found, wanted, atol=tolerance)


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mkv", "ffv1", "yuv420p10le"),
        ("a.mkv", "ffv1", "yuv444p"),
        ("a.mkv", "ffv1", "bgra"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.ts", "libx264", "yuv420p"),
        ("a.mov", "mpeg4", "yuv420p"),
    ],
)
def test_containers_codecs_and_pixels(name: str, codec: str, pixels: str, tmp_path: Path) -> None:
    frames, notes = frames_of(write_clip(tmp_path / name, codec=codec, pixels=pixels))
    assert [frame.number for frame in frames] == list(range(8)) and notes == []
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(8) / RATE, atol=1e-3)
    assert_pictures(frames)


def test_odd_sizes(tmp_path: Path) -> None:
    pictures = [picture(number, 97, 129) for number in range(3)]
    frames, _ = frames_of(write_clip(tmp_path / "a.mkv", pictures, codec="ffv1", pixels="yuv444p"))
    assert frames[0].image.shape == (97, 129, 3)
    assert_pictures(frames)


def test_times_of_variable_frame_rates_are_kept(tmp_path: Path) -> None:
    times = [0, 0.04, 0.1, 0.5, 0.52, 2.0]
    frames, _ = frames_of(write_clip(tmp_path / "a.mp4", 6, times=times))
    np.testing.assert_allclose([frame.time for frame in frames], times, atol=1e-3)


@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), -1), ((0, -1, 1, 0), 1), ((-1, 0, 0, -1), 2)])
def test_turned_videos_come_upright(matrix: tuple[int, int, int, int], turns: int, tmp_path: Path) -> None:
    """The file says how a player turns the picture, as telephones write it. turns: quarters to the left."""
    path = write_clip(tmp_path / "a.mp4", [picture(3)] * 2)
    content = bytearray(path.read_bytes())
    a, b, c, d = (number << 16 for number in matrix)
    place = content.index(b"tkhd") + 44
    assert struct.unpack(">9i", content[place : place + 36]) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    frames, _ = frames_of(path)
    upright = np.rot90(picture(3), turns)
    assert frames[0].image.shape == upright.shape
    assert np.abs(frames[0].image.astype(int) - upright).mean() < 10


def test_interlaced_frames_become_whole_pictures(tmp_path: Path) -> None:
    """Every second row is a moment later: the combs must go."""
    fields = [np.zeros((96, 128, 3), np.uint8) for _ in range(12)]
    for moment, field in enumerate(fields):
        field[:, 6 * moment : 6 * moment + 40] = 200
    woven = []
    for early, late in zip(fields[::2], fields[1::2], strict=True):
        woven.append(early.copy())
        woven[-1][1::2] = late[1::2]
    options = {"flags": "+ilme+ildct", "b": "4M"}
    frames, _ = frames_of(write_clip(tmp_path / "a.ts", woven, codec="mpeg2video", options=options))
    assert len(frames) == 6

    def comb(pixels: np.ndarray) -> float:
        return float(np.abs(np.diff(pixels[..., 0].astype(float), axis=0)).mean())

    assert comb(frames[3].image) < 0.3 * comb(woven[3])


def test_what_is_cut_off_or_damaged_gives_the_frames_that_are_left(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "a.ts", 40, options={"g": "5"}).read_bytes()
    (tmp_path / "cut.ts").write_bytes(whole[: len(whole) // 2])
    frames, _ = frames_of(tmp_path / "cut.ts")
    assert 5 < len(frames) < 40
    damaged = bytearray(whole)
    place = len(whole) // 4
    damaged[place : place + 2000] = np.random.default_rng(0).bytes(2000)
    (tmp_path / "damaged.ts").write_bytes(damaged)
    frames, notes = frames_of(tmp_path / "damaged.ts")
    assert 20 < len(frames) <= 40
    assert any("damaged" in note for note in notes)
    assert np.all(np.diff([frame.time for frame in frames]) > 0)


@pytest.mark.parametrize(("suffix", "codec", "pixels"), [(".mp4", "libx264", "yuv420p"), (".gif", "gif", "rgb8")])
def test_huge_frames_are_refused_before_they_are_decoded(
    suffix: str, codec: str, pixels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_clip(tmp_path / f"a{suffix}", codec=codec, pixels=pixels)
    monkeypatch.setattr(module, "MAX_FRAME_PIXELS", 128 * 96)
    assert len(frames_of(clip)[0]) > 0
    monkeypatch.setattr(module, "MAX_FRAME_PIXELS", 128 * 96 - 1)
    with pytest.raises(DataError, match=rf"a\{suffix}: contains no frames; \d+ damaged packets$"):
        frames_of(clip)


def test_what_is_no_video_is_one_line(tmp_path: Path) -> None:
    write_clip(tmp_path / "good.mp4")
    content = (tmp_path / "good.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])  # the index is at the end
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("hello " * 100)
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile good.mp4\n")
    (tmp_path / "photo.jpg").write_bytes(b"")
    expected = {
        "cut.mp4": "cannot be opened (Invalid data found when processing input; not a video, or cut off)",
        "empty.mp4": "cannot be opened (Invalid data found when processing input; not a video, or cut off)",
        "text.mp4": "cannot be opened (Invalid data found when processing input; not a video, or cut off)",
        "list.mp4": "cannot be opened (Invalid argument)",
        "missing.mp4": "cannot be opened (No such file or directory)",
        "photo.jpg": "a photo, expected a video or a folder of frames; use `posedet predict`",
    }
    for name, reason in expected.items():
        with pytest.raises(DataError) as caught:
            open_source(str(tmp_path / name))
        assert str(caught.value) == f"{tmp_path / name}: {reason}"


def test_sound_without_pictures(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as output:
        stream = output.add_stream("aac", rate=44_100)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 44_100
        output.mux(stream.encode(samples))
        output.mux(stream.encode(None))
    with pytest.raises(DataError, match=r"a\.mp4: contains no video$"):
        open_source(str(tmp_path / "a.mp4"))


def test_a_folder_of_frames(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        Image.new("RGB", (30, 20), (number, 0, 0)).save(tmp_path / f"frame{number}.png")
    with open_source(str(tmp_path), frame_rate=10) as source:
        frames = list(source)
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [1, 2, 10]  # not 1, 10, 2
    np.testing.assert_allclose([frame.time for frame in frames], [0, 0.1, 0.2])
    assert len(frames_of(tmp_path / "*.png")[0]) == 3
    with pytest.raises(ConfigError, match="only for a folder of frames"):
        open_source(str(write_clip(tmp_path / "a.mp4")), frame_rate=10)


def test_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with write_clip(tmp_path / "a.ts").open("rb") as file:
        monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": file}))
        frames, _ = frames_of("-")
    assert_pictures(frames)
    assert len(frames) == 8


def test_bytes_and_open_files(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4")
    with path.open("rb") as file:
        for source in (path, path.read_bytes(), file):
            with open_source(source) as opened:
                frames = list(opened)
            assert_pictures(frames)
            assert len(frames) == 8
    for bad in (b"", b"Dear diary", io.StringIO("Dear diary")):
        with pytest.raises(DataError, match=r"^video: cannot be opened"):
            open_source(bad)


@pytest.mark.parametrize(
    ("text", "video", "name"),
    [
        ("clip.MP4", True, "clip"),
        ("0", True, "camera-0"),
        ("/dev/video2", True, "camera-2"),
        ("rtsp://user:secret@camera/1", True, "stream"),
        ("photo.jpg", False, "photo"),
        ("-", False, "stdin"),
        ("shots/*.png", False, "frames"),
    ],
)
def test_names(text: str, video: bool, name: str) -> None:
    assert is_video(text) == video and source_name(text) == name


def test_passwords_are_not_shown() -> None:
    with pytest.raises(DataError) as caught:
        open_source("tcp://user:secret@127.0.0.1:9/x")
    assert str(caught.value).startswith("tcp://127.0.0.1:9/x: cannot be opened (")


class Sender:
    """A camera on the network: each connection gets a whole stream, the last one stays."""

    def __init__(self, content: bytes, connections: int) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.content, self.connections, self.made = content, connections, 0
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        for _ in range(self.connections):
            connection, _ = self.server.accept()
            self.made += 1
            with connection:
                connection.sendall(self.content)
        self.server.close()

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.server.getsockname()[1]}"


def test_a_broken_live_source_is_connected_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_SECONDS", (0.05, 0.1))
    sender = Sender(write_clip(tmp_path / "a.ts", 12).read_bytes(), connections=3)
    with open_source(sender.address) as source:
        assert source.live
        frames = list(source)
    assert sender.made == 3
    assert len({frame.number for frame in frames}) == len(frames)
    assert source.notes[0] == "the connection broke and could not be made again"
    assert "2 times reconnected" in source.notes


def test_frames_that_come_too_fast_are_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_SECONDS", ())
    sender = Sender(write_clip(tmp_path / "a.ts", 60).read_bytes(), connections=1)
    numbers = []
    with open_source(sender.address) as source:
        for frame in source:
            numbers.append(frame.number)
            time.sleep(0.05)
    assert numbers == sorted(numbers) and len(numbers) < 60
    (note,) = [note for note in source.notes if "dropped" in note]
    assert int(note.split()[0]) == 60 - len(numbers)


def test_files_stay_open_no_longer_than_needed(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with open_source(str(path)) as source:
            next(iter(source))
    assert len(os.listdir("/proc/self/fd")) == before
