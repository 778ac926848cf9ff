"""A fault at each file operation in turn: every output is afterwards the old file or the new one, whole."""

import builtins
import errno
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from posedet import PoseDet, Poses
from posedet.commands.main import main
from posedet.errors import PoseDetError
from posedet.image import write_photo
from posedet.outputs import LineFile, write_atomically, write_figure, write_json, write_markdown, write_results
from posedet.runtime import download
from posedet.runtime.session import open_session
from posedet.skeleton import COCO
from posedet.weights import opening
from served import Answer, Server

BY = "posedet predict"
WRITES = set("wxa+")
# A killed process closes nothing.
KILLED = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Killed(BaseException):
    """The process has been killed. What it would do after that has no effect."""


class Faults:
    """Fails at one file operation, with a full disk or a kill; an interrupted write has written half."""

    def __init__(self, at: int | None, kill: bool) -> None:
        self.at, self.kill, self.count, self.dead = at, kill, 0, False

    def step(self) -> None:
        self.count += 1
        if self.dead:
            raise Killed
        if self.count == self.at:
            self.dead = self.kill
            raise Killed if self.kill else OSError(errno.ENOSPC, "No space left on device")

    def before(self, operation: Callable[..., Any], applies: Callable[..., bool]) -> Callable[..., Any]:
        def faulty(*arguments: Any, **options: Any) -> Any:
            if applies(*arguments, **options):
                self.step()
                done = operation(*arguments, **options)
                return _File(done, self) if hasattr(done, "write") else done
            return operation(*arguments, **options)

        return faulty


class _File:
    """An open file whose operations may fail."""

    def __init__(self, file: Any, faults: Faults) -> None:
        self._file, self._faults = file, faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, content: bytes) -> int:
        try:
            self._faults.step()
        except (OSError, Killed):
            if self._faults.count == self._faults.at:
                self._file.write(content[: len(content) // 2])
            raise
        return self._file.write(content)

    def truncate(self, size: int) -> int:
        self._faults.step()
        return self._file.truncate(size)

    def close(self) -> None:
        self._file.close()
        self._faults.step()

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def faults(at: int | None = None, *, kill: bool = False) -> Iterator[Faults]:
    """Count the file operations that change something, and fail at the one of this number."""
    found = Faults(at, kill)
    opens = found.before(io.open, lambda file, mode="r", *_, **__: bool(WRITES & set(mode)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "open", opens)
        patch.setattr(builtins, "open", opens)
        patch.setattr(os, "open", found.before(os.open, lambda path, flags, *_, **__: bool(flags & os.O_CREAT)))
        for name in ("replace", "unlink", "rmdir", "mkdir", "fsync"):
            patch.setattr(os, name, found.before(getattr(os, name), lambda *_, **__: True))
        yield found


def contents(folder: Path) -> dict[str, bytes]:
    """Of all files but those that a killed process leaves behind, whose names begin with a dot. Without times."""
    files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return {path.name: re.sub(rb'"time": "[^"]*"', b"", path.read_bytes()) for path in files}


def whole(name: str, content: bytes, old: bytes | None, new: bytes) -> bool:
    """Whether it is the old file or the new one; of a file that grows by lines, whole lines of it."""
    if name.endswith(".jsonl"):
        return content == old or new.startswith(content[: content.rfind(b"\n") + 1])
    return content in (old, new)


def check_every_fault(write: Callable[[Path, int], object], folder: Path) -> None:
    """Fail at each operation of `write(folder, 2)`, where `write(folder, 1)` has been before; then repeat it."""
    old, new = folder / "old", folder / "new"
    old.mkdir()
    write(old, 1)
    shutil.copytree(old, new)
    with faults() as counted:
        write(new, 2)
    before, after = contents(old), contents(new)
    assert before.keys() <= after.keys() and before != after and counted.count >= 3
    for kill in (False, True):
        for at in range(1, counted.count + 1):
            tried = folder / f"{at} {kill}"
            shutil.copytree(old, tried)
            with faults(at, kill=kill) as fault:
                if kill:
                    with pytest.raises(Killed):
                        write(tried, 2)
                else:
                    try:
                        write(tried, 2)
                    except PoseDetError as error:
                        assert "No space left on device" in str(error) and "\n" not in str(error)
            assert fault.count >= at
            for name, content in contents(tried).items():
                if name in after:  # and not a journal
                    assert whole(name, content, before.get(name), after[name]), (name, at, kill)
            assert before.keys() <= contents(tried).keys()
            write(tried, 2)
            assert contents(tried) == after, (at, kill)
            shutil.rmtree(tried)


def _figure(path: Path, version: int) -> None:
    figures = pytest.importorskip("matplotlib.figure")
    figure = figures.Figure(figsize=(1, 1))
    figure.text(0, 0, str(version))
    write_figure(path, BY, figure)


def _weights(path: Path, version: int) -> None:
    torch = pytest.importorskip("torch")
    from posedet.weights.checkpoint import save_tensors

    save_tensors(path, BY, {"a": torch.full((9,), version)}, {"generator": BY})


def _video(path: Path, version: int) -> None:
    pytest.importorskip("av")
    from posedet.video.source import Frame
    from posedet.video.writer import VideoWriter

    picture = np.full((64, 64, 3), 50 * version, np.uint8)
    writer = VideoWriter(path, BY)
    for number in range(3):
        writer.add(Frame(number, number / 30, picture), picture)
    writer.close()


MARK = f'{{"generator": "{BY}", "version": '
KINDS: dict[str, Callable[[Path, int], object]] = {
    "whole": lambda path, version: write_atomically(path, BY, f"{MARK}{version}".encode()),
    "parts": lambda path, version: write_atomically(path, BY, iter([MARK.encode(), b"%d" % version, b"}"])),
    "a.json": lambda path, version: write_json(path, BY, {"version": version}),
    "results.json": lambda path, version: write_results(path, BY, [{"image_id": version}]),
    "a.md": lambda path, version: write_markdown(path, BY, str(version)),
    "a.jpg": lambda path, version: write_photo(path, np.full((16, 16, 3), version, np.uint8), generator=BY),
    "a.png": _figure,
    "a.safetensors": _weights,
    "a.mp4": _video,
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_output(name: str, tmp_path: Path) -> None:
    check_every_fault(lambda folder, version: KINDS[name](folder / name, version), tmp_path)


@KILLED
@pytest.mark.parametrize("anew", [False, True])
def test_lines(anew: bool, tmp_path: Path) -> None:
    """Each `write` adds what is missing, as a command that resumes does, or writes the file anew."""

    def write(folder: Path, version: int) -> None:
        path = folder / "a.jsonl"
        there = path.read_bytes().count(b"\n") if path.exists() and not anew else 0
        lines = LineFile(path, BY, anew=anew)
        try:
            for number in range(there, 3 * version):
                lines.add({"generator": BY, "number": number})
        finally:
            lines.close()

    check_every_fault(write, tmp_path)


def test_downloads(server: Server, tmp_path: Path) -> None:
    server.answers["a"] = Answer(b"model" * 1000)
    url, _, checksum = server.url("a", b"model" * 1000).partition("#sha256=")

    def write(folder: Path, version: int) -> None:
        if version == 2:
            download.download(url, checksum, folder / "cache", 10_000)

    check_every_fault(write, tmp_path)


def found(version: int) -> Poses:
    keypoints = np.full((1, 17, 2), 10 * version) + np.arange(34).reshape(17, 2)
    return Poses(keypoints, np.full(1, 0.5), np.full((1, 17), 0.9), COCO)


@pytest.mark.slow
@KILLED
@pytest.mark.parametrize(
    "command",
    [
        ["predict", "in", "--output", "."],
        ["predict", "in", "--output", ".", "--no-pictures"],
        ["track", "in", "--output", ".", "--no-video", "--restart"],  # an interrupted video ends where it was
        ["evaluate", "in.json", "--output", "."],
    ],
    ids=lambda command: command[0],
)
def test_whole_commands(
    command: list[str],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    inputs = tmp_path / "in"
    inputs.mkdir()
    with Image.open(photos / "tennis.jpg") as photo:
        photo.resize((64, 64)).save(inputs / "a.jpg")
    person = {"keypoints": [20, 20, 2] * 17, "num_keypoints": 17, "area": 400, "bbox": [10, 10, 20, 20], "iscrowd": 0}
    annotations = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 64, "width": 64}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, **person}],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.keypoints)}],
    }
    (tmp_path / "in.json").write_text(json.dumps(annotations), "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(opening, "open_session", cache(open_session))

    def write(folder: Path, version: int) -> None:
        arguments = [str(folder) if each == "." else each for each in command]
        with monkeypatch.context() as patch:
            patch.setattr(PoseDet, "_decoded", lambda *_: found(version))
            capsys.readouterr()
            if main([*arguments, "--threads", "1"]) != 0:
                raise PoseDetError(capsys.readouterr().err.strip())

    (tmp_path / "runs").mkdir()
    check_every_fault(write, tmp_path / "runs")
