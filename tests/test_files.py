"""Finding photos, and showing names."""

from pathlib import Path

import pytest

from posedet.errors import DataError
from posedet.files import find_photos, one_line


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


def test_a_name_of_two_lines_is_shown_on_one() -> None:
    assert one_line("été.jpg") == "été.jpg"
    assert one_line(Path("two\nlines\x1b[2J")) == r"'two\nlines\x1b[2J'"
    assert one_line("\udcff") == r"'\udcff'"
