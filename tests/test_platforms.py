"""What is peculiar to Windows, macOS and some disks and locales, as far as Linux can show it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

import pytest
from PIL import Image

from posedet.commands.main import main
from posedet.data.sources import Source
from posedet.errors import ConfigError
from posedet.outputs import check_outputs, plain_name
from posedet.runtime.bulk import picture_paths
from posedet.skeleton import BODY19
from posedet.video.source import ADDRESS, source_name
from sets import made_up_set

FAST = ["--long-side", "64", "--threads", "1"]
ROOT = Path(__file__).parent.parent


@pytest.fixture
def small(photos: Path, tmp_path: Path) -> Path:
    """A folder of two photos whose names only differ in case."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("A.jpg", "a.JPG"):
        with Image.open(photos / "tennis.jpg") as photo:
            photo.resize((64, 64)).save(folder / name, "jpeg")
    return folder


def mounted(folder: Path, command: list[str]) -> Iterator[Path]:
    """A disk of its own, where this may be made."""
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which(command[0]) is None:
        pytest.skip(f"needs Linux, root and {command[0]}")
    done = subprocess.run([*command, folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{command[0]} is not allowed here: {done.stderr}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def ntfs(tmp_path: Path) -> Iterator[Path]:
    """A disk of Windows: names that differ in case are the same file, and some names cannot be."""
    if shutil.which("mkntfs") is None:
        pytest.skip("needs ntfs-3g")
    image = tmp_path / "image"
    image.write_bytes(bytes(8 << 20))
    subprocess.run(["mkntfs", "--force", "--quick", "--quiet", image], check=True, capture_output=True)
    yield from mounted(tmp_path / "disk", ["lowntfs-3g", "-o", "ignore_case,windows_names", str(image)])


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "disk", ["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs"])


@pytest.mark.slow
def test_a_disk_that_ignores_case(ntfs: Path, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["predict", str(small), "--output", str(ntfs / "out"), *FAST]
    for _ in range(2):
        assert main(command) == 0
        assert {name.lower() for name in os.listdir(ntfs / "out")} == {"a.jpg", "a-2.jpg", "poses.json"}
    inputs = ntfs / "In"
    inputs.mkdir()
    (inputs / "Photo.jpg").write_bytes((small / "A.jpg").read_bytes())
    capsys.readouterr()
    assert main(["predict", str(inputs / "Photo.jpg"), "--output", str(ntfs / "IN"), *FAST, "--overwrite"]) == 2
    assert "is read by this command and never replaced; name another output" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="is read by this command"):
        check_outputs([ntfs / "IN" / "PHOTO.JPG"], "posedet predict", reads=[inputs / "Photo.jpg"])


@pytest.mark.slow
def test_a_full_disk(tiny_disk: Path, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny_disk / "poses.json").write_text('[{"generator": "posedet predict"}]')
    (tiny_disk / "fill").write_bytes(bytes(16_384))
    assert main(["predict", str(small), "--output", str(tiny_disk), *FAST]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "(No space left on device)" in err
    assert json.loads((tiny_disk / "poses.json").read_text()) == [{"generator": "posedet predict"}]
    assert not list(tiny_disk.glob(".*"))


@pytest.mark.slow
def test_a_disk_that_cannot_be_written(tiny_disk: Path, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run(["mount", "-o", "remount,ro", tiny_disk], check=True)
    assert main(["predict", str(small), "--output", str(tiny_disk / "out"), *FAST]) == 2
    assert capsys.readouterr().err == (
        f"posedet: error: {tiny_disk / 'out'}: cannot be written to (Read-only file system); choose another folder\n"
    )


LOCALES = {
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "Latin-1": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "latin-1"},
    "code page of Windows": {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "0", "PYTHONIOENCODING": "cp1252"},
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has code pages")
@pytest.mark.parametrize("locale", LOCALES)
def test_other_locales(locale: str, photos: Path, tmp_path: Path) -> None:
    """Names and texts are UTF-8 in files, whatever the locale; no text file is opened in the encoding of the locale."""
    name = "Zürich ❄ 人.jpg"
    shutil.copy(photos / "tennis.jpg", tmp_path / name)
    (tmp_path / "hände.toml").write_text('name = "hände"\nkeypoints = ["nose", "left_eye"]\n', encoding="utf-8")
    strict = ["-X", "warn_default_encoding", "-W", "error::EncodingWarning"]
    command = [sys.executable, *strict, "-m", "posedet", "predict", name, "--skeleton", "hände.toml", *FAST]
    run = subprocess.run(command, cwd=tmp_path, env=os.environ | LOCALES[locale], capture_output=True)
    assert (run.returncode, run.stderr) == (0, b"")
    (entry,) = json.loads((tmp_path / "poses" / "poses.json").read_text(encoding="utf-8"))[:1]
    assert entry["file_name"] == name
    assert (tmp_path / "poses" / name).is_file()


def test_text_files_have_an_encoding() -> None:
    """Windows would take that of the country."""
    ours = [path for folder in ("src", "lab") for path in (ROOT / folder).rglob("*.py")]
    careless = [path for path in ours if ".read_text()" in path.read_text(encoding="utf-8")]
    assert careless == []


def test_names_that_are_one_file_elsewhere(tmp_path: Path) -> None:
    """Windows ignores case, and macOS also how letters are composed."""
    composed, apart = "\u00e9.jpg", "e\u0301.jpg"
    assert plain_name(composed) == plain_name(apart) == plain_name(composed.upper())
    photos = [tmp_path / "one" / composed, tmp_path / "two" / apart, tmp_path / "two" / composed.upper()]
    assert len({plain_name(path.name) for path in picture_paths(photos, tmp_path)}) == 3
    with pytest.raises(ConfigError, match="would be written twice by this command"):
        check_outputs([tmp_path / composed, tmp_path / apart], "posedet predict")


def test_the_colon_of_a_drive_separates_nothing() -> None:
    for drive in (r"C:\sets", "c:/sets"):
        path = f"{drive}/a.json"
        assert Source.parse(f"{path}:{drive}/photos*2") == Source(Path(path), f"{drive}/photos", 2)
        assert Source.parse(path) == Source(Path(path))
        assert not ADDRESS.match(f"{drive}/clip.mp4")
    for address in ("rtsp://camera:554/a", "http://host:80/b?c=d", "0", "/dev/video1", "-"):
        assert not PureWindowsPath(source_name(address)).is_reserved()
        assert not set('<>:"/\\|?*') & set(source_name(address))


@pytest.mark.slow
def test_training_in_spawned_processes(tmp_path: Path) -> None:
    """As on Windows and macOS, where nothing is inherited: what a worker needs is pickled."""
    annotations = made_up_set(tmp_path / "set.json", BODY19.keypoints, num_photos=4)
    code = f"""
import multiprocessing
from posedet.commands.main import main

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    arguments = ["train", "posedet-s", "--data", {str(annotations)!r}, "--run", "run", "--workers", "1"]
    arguments += ["--set", "train.steps=2", "--set", "train.batch_size=2", "--set", "data.patch=64"]
    raise SystemExit(main(arguments))
"""
    script = tmp_path / "script.py"
    script.write_text(code, encoding="utf-8")
    run = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "run" / "weights.safetensors").is_file()
