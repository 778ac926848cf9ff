"""Finding photos, naming pictures, and writing that is never seen half done."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posedet.errors import DataError, PoseDetError
from posedet.files import find_photos, one_line, picture_names, write_atomically


def touched(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


# --- finding ---------------------------------------------------------------------------------------------------------


def test_a_folder_gives_its_own_photos_sorted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    touched(tmp_path, "b.JPG", "a.png", "c.txt", "d.TXT", "e.mov", "noise", "deeper/d.jpg", ".hidden.jpg", ".0f.part")
    (tmp_path / "folder.jpg").mkdir()
    assert find_photos([str(tmp_path)]) == [tmp_path / "a.png", tmp_path / "b.JPG"]
    assert caplog.messages == [f"{tmp_path}: left out 2 .txt, 1 .mov, 1 without a suffix, 2 subfolders"]


def test_a_folder_of_photos_leaves_nothing_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    named = touched(tmp_path, "a.jfif", "b.jpe", "c.MPO", "d.heic", "e.HEIF")
    assert find_photos([str(tmp_path)]) == named and not caplog.messages


def test_patterns_paths_and_folders_mix_and_each_photo_is_named_once(tmp_path: Path) -> None:
    a, b, c = touched(tmp_path, "a.jpg", "b.jpg", "in/c.jpg")
    missing = tmp_path / "missing.jpg"
    asked = [str(b), str(missing), f"{tmp_path}/*.jpg", str(tmp_path), f"{tmp_path}/**/*.jpg", f"{tmp_path}/./in/c.jpg"]
    assert find_photos(asked) == [b, missing, a, c]


def test_a_name_that_looks_like_a_pattern_is_a_name_if_it_exists(tmp_path: Path) -> None:
    bracket, other = touched(tmp_path, "photo[1].jpg", "photo1.jpg")
    assert find_photos([str(bracket)]) == [bracket]
    assert find_photos([f"{tmp_path}/photo[12].jpg"]) == [other]


def test_a_folder_or_pattern_without_photos_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touched(tmp_path, "notes.txt", "deeper/d.jpg")
    with pytest.raises(DataError) as caught:
        find_photos([str(tmp_path)])
    suffixes = ".avif, .bmp, .gif, .heic, .heif, .jfif, .jpe, .jpeg, .jpg, .mpo, .png, .tif, .tiff, .webp"
    assert str(caught.value) == f"{tmp_path}: the folder contains no photos (supported: {suffixes})"
    with pytest.raises(DataError, match=r"/\*\.png: no file matches this pattern$"):
        find_photos([f"{tmp_path}/*.png"])

    def closed(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", closed)
    with pytest.raises(DataError, match=r": cannot be read \(Permission denied\)$"):
        find_photos([str(tmp_path)])


@pytest.mark.parametrize("name", ["", "x" * 5000, "a\0b", "no/such/folder/a.jpg"])
def test_impossible_names_are_left_to_the_reader(name: str) -> None:
    assert find_photos([name]) == [Path(name)]


# --- naming ----------------------------------------------------------------------------------------------------------


def test_pictures_of_the_same_name_are_numbered() -> None:
    photos = ["a.jpg", "x/a.jpg", "x/a-2.png", "y/A.PNG", "y/b.tar.gif", "none"]
    expected = ["a.jpg", "a-2.jpg", "a-2-2.jpg", "A-3.jpg", "b.tar.jpg", "none.jpg"]
    assert picture_names([Path(photo) for photo in photos]) == expected


@given(st.lists(st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1), max_size=12))
def test_every_picture_has_a_name_of_its_own_that_fits(names: list[str]) -> None:
    pictures = picture_names([Path("folder") / (name * 60) for name in names if name not in (".", "..")])
    assert len({name.casefold() for name in pictures}) == len(pictures)
    for name in pictures:
        assert name.endswith(".jpg") and "/" not in name
        assert len(os.fsencode(name)) < 255


def test_a_name_of_two_lines_is_shown_on_one() -> None:
    assert one_line("été.jpg") == "été.jpg"
    assert one_line(Path("two\nlines\x1b[2J")) == r"'two\nlines\x1b[2J'"
    assert one_line("\udcff") == r"'\udcff'"


# --- writing ---------------------------------------------------------------------------------------------------------


def test_what_is_written_is_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)  # as long as a name can be
    for content in (b"first", b"", b"third" * 100_000):
        write_atomically(path, content)
        assert path.read_bytes() == content
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
    assert {each.name for each in tmp_path.iterdir()} == {path.name, "plain"}


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    other, link = tmp_path / "other", tmp_path / "link"
    other.write_bytes(b"precious")
    link.symlink_to(other)
    write_atomically(link, b"new")
    assert (other.read_bytes(), link.read_bytes(), link.is_symlink()) == (b"precious", b"new", False)


@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), OSError("strange"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["write", "replace"])
def test_a_failure_leaves_the_earlier_file_alone(
    problem: BaseException, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "poses.json"
    path.write_bytes(b"earlier")

    def failing(*_: object) -> None:
        raise problem

    class HalfWritten:
        """A file that takes half of what it is given."""

        def __init__(self, path: Path) -> None:
            self.path = path

        def __enter__(self) -> "HalfWritten":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def write(self, content: bytes) -> None:
            with open(self.path, "wb") as file:
                file.write(content[: len(content) // 2])
            raise problem

    with monkeypatch.context() as patch:
        if where == "replace":
            patch.setattr(os, "replace", failing)
        else:
            patch.setattr(Path, "open", lambda self, mode: HalfWritten(self))
        if isinstance(problem, OSError):
            with pytest.raises(PoseDetError) as caught:
                write_atomically(path, b"content")
            assert str(caught.value) == f"{path}: could not be written ({problem.strerror or problem})"
        else:
            with pytest.raises(KeyboardInterrupt):
                write_atomically(path, b"content")
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path, reason in (
        (tmp_path / "none" / "a.jpg", "No such file or directory"),
        (tmp_path / "file" / "a.jpg", "Not a directory"),
        (tmp_path / "folder", "Is a directory"),
    ):
        with pytest.raises(PoseDetError) as caught:
            write_atomically(path, b"content")
        assert str(caught.value) == f"{path}: could not be written ({reason})"
    assert not any((tmp_path / "folder").iterdir())


def test_threads_that_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([i]) * 200_000 for i in range(16)]
    with ThreadPoolExecutor(16) as pool:
        for _ in range(5):
            list(pool.map(lambda content: write_atomically(path, content), contents))
            assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_never_meets_half_a_file_even_when_the_writer_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    code = f"""
from pathlib import Path
from posedet.files import write_atomically
while True:
    for letter in (b"a", b"b"):
        write_atomically(Path({str(path)!r}), letter * 5_000_000)
"""
    writer = subprocess.Popen([sys.executable, "-c", code])
    try:
        patience = time.monotonic() + 30
        while not path.exists() and time.monotonic() < patience:
            time.sleep(0.01)
        seen = set()
        for _ in range(60):
            content = path.read_bytes()
            assert content == content[:1] * 5_000_000
            seen.add(content[:1])
            time.sleep(0.003)
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert seen == {b"a", b"b"}
    assert len(path.read_bytes()) == 5_000_000
