"""Ultralytics' pose format: photos, text files, and a data.yaml."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from posedet.data.ultralytics import read_ultralytics
from posedet.errors import DataError
from posedet.skeleton import COCO

THREE = COCO.subset(["nose", "left_wrist", "right_wrist"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (640, 400)).save(tmp_path / "images" / f"{name}.jpg")
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.4 0.8 0.5 0.25 2 0.25 0.5 1 0 0 0\n")
    (tmp_path / "data.yaml").write_text(
        "path: .\ntrain: images\nkpt_shape: [3, 3]\nnames: {0: person}\nflip_idx: [0, 2, 1]\n"
    )
    return tmp_path


def test_shares_become_pixels(folder: Path) -> None:
    labelled, empty = read_ultralytics(folder / "data.yaml", THREE)
    assert labelled.size == (400, 640) and empty.persons == ()
    (person,) = labelled.persons
    np.testing.assert_allclose(person.keypoints[:2], [[320, 100], [160, 200]])
    assert person.visibility.tolist() == [2, 1, 0]
    np.testing.assert_allclose(person.box, [192, 40, 448, 360])


def test_a_line_of_the_wrong_length_is_named(folder: Path) -> None:
    (folder / "labels" / "b.txt").write_text("0 0.5 0.5 0.4 0.8 0.5 0.25\n")
    with pytest.raises(DataError, match=r"b\.txt") as error:
        read_ultralytics(folder, THREE)
    assert "\n" not in str(error.value)
