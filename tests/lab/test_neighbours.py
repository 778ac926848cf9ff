"""The check of the neighbours says what is missing and what differs."""

from pathlib import Path

import pytest

from lab.neighbours import __main__ as command
from lab.neighbours.readers import READERS, annotated_photos


def test_the_people_have_keypoints_of_all_kinds() -> None:
    photos = annotated_photos()
    scores = {float(score) for photo in photos for score in photo.poses.keypoint_scores.ravel()}
    assert len(photos) == 8 and len(scores) == 3


def test_missing_and_differing_programs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def differs(folder: Path) -> str:
        assert folder.is_dir()
        raise AssertionError("1 is\n2")

    readers = {"numpy": ("numpy", differs), "no_such": ("no-such", differs)}
    monkeypatch.setattr(command, "READERS", readers)
    assert command.main([]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| numpy | ") and lines[2].endswith(" | differs: 1 is 2 |")
    assert lines[3] == "| no_such | - | not installed |"


@pytest.mark.parametrize("name", READERS)
def test_installed_programs_read_what_was_written(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([name]) == 0, capsys.readouterr().out
