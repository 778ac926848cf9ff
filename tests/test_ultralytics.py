"""Ultralytics' pose format: the same people as in COCO's file, and every mistake named with its file and line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from posedet.data.annotations import AnnotatedPhoto
from posedet.data.formats import ultralytics
from posedet.data.formats.format import AnnotationFile
from posedet.data.formats.ultralytics import MAX_YAML_BYTES, labels_of, skeleton_of
from posedet.data.sources import Source, read_photos, read_sets
from posedet.errors import DataError, PhotoError
from posedet.image import PHOTO_FORMATS, size_of
from posedet.skeleton import BODY19, COCO, Skeleton
from sets import as_ultralytics

THREE = COCO.subset(["nose", "left_wrist", "right_wrist"])
YAML = "path: .\ntrain: images\nkpt_shape: [3, 3]\nnames: {0: person}\nflip_idx: [0, 2, 1]\n"


def read_ultralytics(path: Path, skeleton: Skeleton, part: str | None = None) -> tuple[AnnotatedPhoto, ...]:
    return read_photos(Source(path, part), skeleton)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (640, 400)).save(tmp_path / "images" / f"{name}.jpg")
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.4 0.8 0.5 0.25 2 0.25 0.5 1 0 0 0\n")
    (tmp_path / "data.yaml").write_text(YAML)
    return tmp_path


def test_shares_become_pixels(folder: Path) -> None:
    labelled, empty = read_ultralytics(folder / "data.yaml", THREE)
    assert labelled.size == (400, 640) and empty.persons == ()
    (person,) = labelled.persons
    np.testing.assert_allclose(person.keypoints[:2], [[320, 100], [160, 200]])
    assert person.visibility.tolist() == [2, 1, 0]
    assert person.visible.tolist() == [1, -1, -1]  # wrists are never seen in this set: its flags do not tell
    np.testing.assert_allclose(person.box, [192, 40, 448, 360])
    assert person.area == pytest.approx(0.53 * 256 * 320)
    assert not person.ignore


def test_all_fields(folder: Path) -> None:
    (folder / "labels" / "b.txt").write_text("\n1 10 -10 0 10 -10 10 2 0 0 1 0 0 0\n" + "0 0 0 0 0" + " 0 0 0" * 3)
    photos = read_ultralytics(folder, THREE)
    assert [(photo.image_id, photo.file_name, photo.place) for photo in photos] == [
        (number, f"{name}.jpg", f"{folder}/images/{name}.jpg") for number, name in ((1, "a"), (2, "b"))
    ]
    assert [photo.categories for photo in photos] == [{1: THREE.keypoints}] * 2
    first, second = photos[1].persons
    np.testing.assert_array_equal(first.keypoints, np.array([[-6400, 4000.0], [0, 0], [0, 0]]), strict=True)
    np.testing.assert_array_equal(first.visible, np.array([1, -1, -1], np.int8), strict=True)
    np.testing.assert_array_equal(first.visibility, np.array([2, 1, 0], np.uint8), strict=True)
    np.testing.assert_array_equal(first.keypoint_weights, np.ones(3, np.float32), strict=True)
    assert first.box.tolist() == [6400, -6000, 6400, -2000] and first.area == 6400 * 4000
    assert (first.score, first.is_crowd, first.ignore, second.ignore) == (1.0, False, False, True)
    assert [(each.annotation_id, each.place) for each in (first, second)] == [
        (number, f"{folder}/labels/b.txt: line {number}") for number in (2, 3)
    ]


def test_every_mistake_is_reported_with_its_kind_and_the_rest_is_read(folder: Path) -> None:
    (folder / "labels" / "a.txt").write_text("0 1\n0 0.5 0.5 0.4 0.8" + " 0.5 0.25 2" * 3)
    (folder / "labels" / "b.txt").write_bytes(b"\xff\xfe")
    (folder / "labels" / "c.txt").write_text("")
    (folder / "images" / "d.jpg").write_bytes(b"no photo")
    for name in ("classes", "train", "val", "test", "others"):
        (folder / "labels" / f"{name}.txt").write_text("a list")
    found: list[tuple[str, str]] = []

    def photos() -> list[tuple[str, int]]:
        found.clear()
        read = ultralytics.read(
            AnnotationFile(folder), "train", THREE, lambda kind, problem: found.append((kind, str(problem)))
        )
        return [(photo.path.name, len(photo.persons)) for photo in read]

    unused = "no photo of this name, so these labels are not used"
    assert photos() == [("a.jpg", 1), ("b.jpg", 0)]
    assert [(kind, text.removeprefix(f"{folder}/")) for kind, text in found] == [
        ("label line", "labels/a.txt: line 1: 2 numbers, expected 14 (5 + 3 x 3)"),
        ("label file", "labels/b.txt: not a text file"),
        ("photo", f"images/d.jpg: not a photo, or damaged (supported: {', '.join(PHOTO_FORMATS)})"),
        ("unused label file", f"labels/c.txt: {unused}"),
        ("unused label file", f"labels/others.txt: {unused}"),
    ]
    (folder / "labels" / "a.txt").write_text("")
    photos()
    said = f"data.yaml: train: 3 photos, none with labels such as {folder}/labels/a.txt"
    assert ("label file", f"{folder}/{said}") in found


def test_a_folder_may_have_one_yaml_file_of_any_name(folder: Path) -> None:
    for name in ("other.yaml", "other.yml"):
        (folder / "data.yaml").rename(folder / name)
        assert len(read_ultralytics(folder, THREE)) == 2
        assert len(read_ultralytics(folder / name, THREE)) == 2
        (folder / name).rename(folder / "data.yaml")
    for name in ("a.yaml", "b.yaml"):
        (folder / name).write_text(YAML)
    assert len(read_ultralytics(folder, THREE)) == 2
    (folder / "data.yaml").unlink()
    with pytest.raises(DataError, match=r": a folder without data\.yaml, which a set in Ultralytics' format has$"):
        read_ultralytics(folder, THREE)


def test_a_file_of_labels_may_be_as_long_as_the_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (folder / "labels" / "a.txt").stat().st_size
    monkeypatch.setattr(ultralytics, "MAX_TEXT_BYTES", size)
    assert len(read_ultralytics(folder, THREE)[0].persons) == 1
    monkeypatch.setattr(ultralytics, "MAX_TEXT_BYTES", size - 1)
    with pytest.raises(DataError, match=rf"labels/a\.txt: larger than {size - 1} bytes$"):
        read_ultralytics(folder, THREE)


@pytest.mark.parametrize("count", [1, 1000])
def test_skeletons_of_one_to_a_thousand_keypoints(tmp_path: Path, count: int) -> None:
    (tmp_path / "data.yaml").write_text(f"kpt_shape: [{count}, 2]\n")
    skeleton = skeleton_of(tmp_path / "data.yaml")
    assert skeleton.name == "data" and skeleton.keypoints == tuple(f"keypoint {k}" for k in range(count))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kpt_shape: [0, 2]", "kpt_shape: [0, 2], expected [number of keypoints, 2 or 3]"),
        ("kpt_shape: [1001, 2]", "kpt_shape: [1001, 2], expected [number of keypoints, 2 or 3]"),
        ("kpt_shape: [3, 2]\nflip_idx: [0, 0, 1]", "flip_idx: [0, 0, 1], expected each of 0 to 2 once"),
        ("kpt_shape: [3, 2]\nflip_idx: [1, 2, 0]", "flip_idx[0] is 1, but flip_idx[1] is 2, expected 0"),
        (
            "kpt_shape: [1, 2]\nkpt_names: [3]",
            "kpt_names: skeleton 'data': keypoints[0]: 3, expected 1 to 100 printable characters",
        ),
        (
            "kpt_shape: [1, 2]\nkpt_names: {0: [a], 1: [b]}\nnames: [cat, dog]",
            "kpt_names: classes with different keypoints: cat (0), dog (1); choose one category",
        ),
    ],
)
def test_a_skeleton_that_cannot_be_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError) as caught:
        skeleton_of(tmp_path / "data.yaml")
    assert str(caught.value) == f"{tmp_path}/data.yaml: {message}"


def test_a_skeleton_has_the_names_of_its_file(tmp_path: Path) -> None:
    for names in ("[nose, tail]", "{0: [nose, tail], 1: [Nose, tail]}"):
        (tmp_path / "cat.yaml").write_text(f"kpt_shape: [2, 2]\nkpt_names: {names}\nnames: [cat, dog]")
        skeleton = skeleton_of(tmp_path / "cat.yaml")
        assert (skeleton.name, skeleton.keypoints) == ("cat", ("nose", "tail"))


def test_what_is_assumed_is_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    (folder / "data.yaml").write_text(YAML.replace("names: {0: person}", "names: [person, player]"))
    read_ultralytics(folder, THREE)
    assert caplog.messages == [
        f"{folder}/data.yaml: classes with the same keypoints, read together: person (0), player (1)",
        f"{folder}/data.yaml names no keypoints; assuming those of 'coco-3', in its order",
    ]
    caplog.clear()
    (folder / "data.yaml").write_text(YAML)
    read_ultralytics(folder, THREE)
    assert len(caplog.messages) == 1


def test_a_class_has_its_own_keypoints(folder: Path) -> None:
    names = "{0: [paw, horn, tail], 1: [nose, left_wrist, right_wrist]}"
    (folder / "data.yaml").write_text(f"{YAML.replace('0: person', '0: cow, 1: person')}kpt_names: {names}\n")
    (folder / "labels" / "a.txt").write_text(
        "".join(f"{each} 0.5 0.5 0.4 0.8" + " 0.5 0.25 2" * 3 + "\n" for each in (0, 1))
    )
    for category in ("person", "1"):
        (person,) = read_photos(Source(folder, category=category), THREE)[0].persons
        assert person.labelled.all() and person.annotation_id == 2
    (folder / "data.yaml").write_text("train: images\nkpt_shape: [3, 3]\n")
    with pytest.raises(DataError, match=r"data\.yaml: names: 0 are 'person', expected one of none$"):
        read_photos(Source(folder, category="person"), THREE)
    with pytest.raises(DataError, match=r"data\.yaml/x\.yaml: cannot be read \(Not a directory\)$"):
        skeleton_of(folder / "data.yaml" / "x.yaml")


def test_it_reads_what_coco_annotations_say(photos: Path, tmp_path: Path) -> None:
    """The shipped labels, written in this format as Ultralytics' own converter does it: divided by the sides."""
    as_ultralytics(json.loads((photos / "truth.json").read_text()), photos, tmp_path)
    flip = COCO.mirror.tolist()
    (tmp_path / "data.yaml").write_text(
        f"# as published\npath: ../datasets/none\ntrain: images/train\nval: images/val\ntest:\n\nkpt_shape: [17, 3]\n"
        f"flip_idx: {flip}\nnames:\n  0: person\ndownload: |\n  import os\n  [not, yaml: at all\n"
    )
    found = {photo.path.name: photo for photo in read_ultralytics(tmp_path, COCO, "val")}
    for photo in read_photos(f"{photos}/truth.json:{photos}", COCO):
        other = found[photo.path.name]
        assert other.size == photo.size
        people = [person for person in photo.persons if not person.is_crowd]
        assert len(other.persons) == len(people)
        for person, twin in zip(people, other.persons, strict=True):
            labelled = person.visibility > 0
            np.testing.assert_array_equal(twin.visibility, person.visibility)
            np.testing.assert_array_equal(twin.visible, person.visible)
            np.testing.assert_allclose(twin.keypoints[labelled], person.keypoints[labelled], atol=1e-3)
            np.testing.assert_allclose(twin.box, person.box, atol=1e-3)
            assert twin.ignore == person.ignore


def test_without_flags(folder: Path) -> None:
    """Missing is what lies at (0, 0) or below 0; a keypoint on the photo's edge is none of these."""
    (folder / "data.yaml").write_text(YAML.replace("[3, 3]", "[3, 2]"))
    (folder / "labels" / "a.txt").write_text(
        "0 0.5 0.5 0.4 0.8 0 0.25 0 0 -1 0.5\n0 0.5 0.5 0.4 0.8 0.5 0.25 0.1 0 1 1\n"
    )
    first, second = read_ultralytics(folder, THREE)[0].persons
    assert first.visibility.tolist() == [1, 0, 0]
    assert second.visibility.tolist() == [1, 1, 1]
    assert first.visible.tolist() == [-1, -1, -1]


@pytest.mark.parametrize("names", ["{0: [right_wrist, Nose, hat]}", "[right_wrist, Nose, hat]"])
def test_names_of_the_file_are_found_in_any_order(folder: Path, names: str) -> None:
    (folder / "data.yaml").write_text(YAML.replace("flip_idx: [0, 2, 1]\n", f"kpt_names: {names}\n"))
    person = read_ultralytics(folder, BODY19)[0].persons[0]
    assert np.flatnonzero(person.visibility).tolist() == [0, 10]
    np.testing.assert_allclose(person.keypoints[[0, 10, 1]], [[160, 200], [320, 100], [0, 0]])


def test_folders_lists_and_roots(folder: Path) -> None:
    """A folder, a list of folders, a text file of photos; `path` beside the file or not there; one `../` too many."""
    (folder / "more" / "images" / "deep").mkdir(parents=True)
    Image.new("RGB", (10, 10)).save(folder / "more" / "images" / "deep" / "c.png")
    (folder / "list.txt").write_text("./images/b.jpg\n\nimages/a.jpg\n")

    def names(train: str, root: str = ".") -> list[str]:
        text = f"path: {root}\n" if root else ""
        (folder / "data.yaml").write_text(text + YAML.partition("\n")[2].replace("train: images", f"train: {train}"))
        return [photo.path.name for photo in read_ultralytics(folder, THREE)]

    assert names("images") == names("images", "../datasets/none") == names("images", "") == ["a.jpg", "b.jpg"]
    assert names("../images") == names(str(folder / "images")) == ["a.jpg", "b.jpg"]
    assert names("images", str(folder)) == ["a.jpg", "b.jpg"]
    assert names("[images, more/images, images]") == ["a.jpg", "b.jpg", "c.png"]
    assert names("list.txt") == ["b.jpg", "a.jpg"]


def test_the_root_goes_before_the_folder_of_the_file(folder: Path) -> None:
    (folder / "sub" / "images").mkdir(parents=True)
    for name in ("c.png", ".hidden.png"):
        Image.new("RGB", (10, 10)).save(folder / "sub" / "images" / name)
    (folder / "list.txt").write_text("images/b.jpg")

    def names(train: str, root: str) -> list[str]:
        (folder / "data.yaml").write_text(f"path: {root}\ntrain: {train}\nkpt_shape: [3, 3]\n")
        return [photo.path.name for photo in ultralytics.read(AnnotationFile(folder), None, THREE, lambda *_: None)]

    assert names("images", "sub") == ["c.png"]
    assert names("images", "5") == names("images", '"a\\0b"') == ["a.jpg", "b.jpg"]
    assert names("[images, list.txt, sub/images]", "") == ["a.jpg", "b.jpg", "c.png"]
    for train, root, said in (
        ("none", "sub", f"no folder {folder}/sub/none"),
        ('"a\\0b"', "sub", "'a\\x00b', expected a folder of photos"),
        ("[]", "sub", "[], expected a folder of photos"),
        ("/", "sub", "/ is the whole disk, expected a folder of photos"),
    ):
        with pytest.raises(DataError) as caught:
            names(train, root)
        assert str(caught.value) == f"{folder}/data.yaml: train: {said}"


def test_unused_labels_of_every_folder_are_named(folder: Path) -> None:
    for part in ("one", "two"):
        for name in ("images", "labels"):
            (folder / part / name).mkdir(parents=True)
        Image.new("RGB", (10, 10)).save(folder / part / "images" / "c.png")
        (folder / part / "labels" / "d.txt").write_text("")
    (folder / "data.yaml").write_text(YAML.replace("train: images", "train: [one/images, images, two/images]"))
    found: list[str] = []
    ultralytics.read(AnnotationFile(folder), None, THREE, lambda kind, text: found.append(f"{kind}: {text}"))
    said = "no photo of this name, so these labels are not used"
    assert found == [f"unused label file: {folder}/{part}/labels/d.txt: {said}" for part in ("one", "two")]


def test_an_empty_box_has_the_area_of_its_labelled_keypoints(folder: Path) -> None:
    (folder / "labels" / "a.txt").write_text("0 0.5 0.5 0 0 0.1 0.1 2 0.3 0.2 1 0.9 0.9 0")
    assert read_ultralytics(folder, THREE)[0].persons[0].area == pytest.approx(0.2 * 640 * 0.1 * 400)


def test_where_labels_lie() -> None:
    assert labels_of(Path("/x/images/images/train/a.b.jpg")) == Path("/x/images/labels/train/a.b.txt")
    assert labels_of(Path("train/images/a.jpg")) == Path("train/labels/a.txt")
    assert labels_of(Path("x/images.jpg")) == Path("x/images.txt")


def test_data_of_the_command_line(folder: Path) -> None:
    assert Source.parse(f"{folder}*2") == Source(folder, None, 2)
    assert Source.parse("a/data.yaml:val") == Source(Path("a/data.yaml"), "val")
    photos = read_sets([f"{folder}*3", str(folder / "data.yaml")], THREE)
    assert [photo.path.name for photo in photos.photos] == ["a.jpg", "b.jpg"] * 2
    assert photos.repeats == (3, 3, 1, 1) and photos.epoch_length == 8


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.4 0.8 0.5 0.25", "7 numbers, expected 14 (5 + 3 x 3)"),
        ("0 0.5 0.5 0.4 0.8" + " 0.5 0.5 x" * 3, "'0 0.5 0.5 0....5 x 0.5 0.5 x', expected numbers"),
        ("0 0.5 0.5 0.4 nan" + " 0.5 0.5 2" * 3, "'0 0.5 0.5 0....5 2 0.5 0.5 2', expected finite numbers"),
        ("0 0.5 0.5 0.4 0.8" + " 0.5 0.5 12" * 3, "flags [12.0], expected 0, 1 or 2 after each x and y"),
        ("0 0.5 0.5 0.4 0.8" + " 0.5 1e999 2" * 3, "expected finite numbers"),
        ("0 0.5 0.5 0.4 0.8" + " 0.5 0.5 3" * 3, "flags [3.0], expected 0, 1 or 2 after each x and y"),
        ("0 0.5 0.5 0.4 0.8" + " 320 200 2" * 3, "a keypoint at 320, expected shares of the photo's sides"),
        ("0 0.5 0.5 0.4 0.8" + " 0.5 10.5 2" * 3, "a keypoint at 10.5, expected shares of the photo's sides"),
        ("0 10.5 0.5 0.1 0.1" + " 0.5 0.5 2" * 3, "box [10.5, 0.5, 0.1, 0.1], expected shares"),
        ("0 0.5 0.5 0.1 -0.1" + " 0.5 0.5 2" * 3, "box [0.5, 0.5, 0.1, -0.1], expected shares"),
        ("-1 0.5 0.5 0.1 0.1" + " 0.5 0.5 2" * 3, "class -1, expected a whole number from 0"),
        ("0 320 200 100 100" + " 0.5 0.5 2" * 3, "box [320.0, 200.0, 100.0, 100.0], expected shares"),
        ("0 0.5 0.5 -0.1 0.1" + " 0.5 0.5 2" * 3, "box [0.5, 0.5, -0.1, 0.1], expected shares"),
        ("0.5 0.5 0.5 0.1 0.1" + " 0.5 0.5 2" * 3, "class 0.5, expected a whole number from 0"),
    ],
)
def test_a_bad_line_is_named(folder: Path, line: str, message: str) -> None:
    (folder / "labels" / "b.txt").write_text(f"\n{line}\n")
    with pytest.raises(DataError) as caught:
        read_ultralytics(folder, THREE)
    text = str(caught.value)
    assert text.startswith(f"{folder}/labels/b.txt: line 2: ") and message in text
    assert len(text.splitlines()) == 1


BOMB = "a: &a [x, x]\n" + "".join(
    f"{c}: &{c} [{', '.join([f'*{p}'] * 9)}]\n" for p, c in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "None, expected train, val, kpt_shape, names"),
        ("- 1", "[1], expected train, val, kpt_shape, names"),
        ("a: [", "not a YAML file"),
        pytest.param("[" * 50_000, "not a YAML file", marks=pytest.mark.slow),
        ("a: !!python/object/apply:os.system [ls]", "not a YAML file"),
        (BOMB, "not a YAML file (a reference with *"),
        ("x: " + "y" * MAX_YAML_BYTES, f"larger than {MAX_YAML_BYTES} bytes"),
        (YAML.replace("[3, 3]", "[3]"), "kpt_shape: [3], expected [number of keypoints, 2 or 3]"),
        (YAML.replace("[3, 3]", "[3, 4]"), "kpt_shape: [3, 4], expected"),
        (YAML.replace("[3, 3]", "[1000000000, 3]"), "kpt_shape: [1000000000, 3], expected"),
        (YAML.replace("kpt_shape", "kpt_shap"), "kpt_shape: None, expected"),
        (YAML.replace("train: images", "train: none"), "train: no folder "),
        (YAML.replace("train: images", "train: labels"), "train: no photos in 'labels'"),
        (YAML.replace("train: images", "train:"), "train: None, expected a folder of photos"),
        (YAML.replace("train: images", "train: [1]"), "train: [1], expected a folder of photos"),
        (YAML + "kpt_names: [a, b]\n", "kpt_names: 2 names, kpt_shape says 3"),
        (YAML + "kpt_names: [a, b, c]\n", "kpt_names: none is a keypoint of skeleton 'coco-3'"),
        (YAML + "kpt_names: {0: 5}\n", "kpt_names: 5, expected a list of names"),
        (YAML.replace("[0, 2, 1]", "[0, 1, 2]"), "flip_idx[1] is 1, but 'left_wrist' mirrors 'right_wrist'"),
        (YAML.replace("[0, 2, 1]", "[0, 2, 2]"), "flip_idx: [0, 2, 2], expected each of 0 to 2 once"),
        (YAML.replace("[0, 2, 1]", "[0, [1], 2]"), "flip_idx: [0, [1], 2], expected each of 0 to 2 once"),
    ],
)
def test_a_bad_data_yaml_is_one_line(folder: Path, content: str, message: str) -> None:
    (folder / "data.yaml").write_text(content)
    with pytest.raises(DataError) as caught:
        read_ultralytics(folder, THREE)
    assert str(caught.value).startswith(f"{folder}/data.yaml: {message}")
    assert len(str(caught.value).splitlines()) == 1


def test_another_number_of_keypoints_says_what_to_do(folder: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_ultralytics(folder, BODY19)
    assert str(caught.value) == (
        f"{folder}/data.yaml: kpt_shape: 3 keypoints without names (kpt_names), skeleton 'body19' has 19; "
        "set model.skeleton to one of 3"
    )


def test_other_mistakes(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(DataError, match=r"a folder without data\.yaml"):
        read_ultralytics(tmp_path_factory.mktemp("empty"), THREE)
    with pytest.raises(DataError, match=r"none\.yaml: no such file"):
        read_ultralytics(folder / "none.yaml", THREE)
    (folder / "labels" / "a.txt").rename(folder / "labels" / "c.txt")
    with pytest.raises(DataError, match=r"train: 2 photos, none with labels such as .*/labels/a\.txt$"):
        read_ultralytics(folder, THREE)
    (folder / "images" / "b.jpg").write_bytes(b"no photo")
    with pytest.raises(PhotoError, match=r"b\.jpg: not a photo"):
        read_ultralytics(folder, THREE)


def test_a_folder_that_cannot_be_listed_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def vanished(self: Path, _: str) -> list[Path]:
        raise FileNotFoundError(2, "No such file or directory", str(self / "gone"))

    monkeypatch.setattr(Path, "rglob", vanished)
    with pytest.raises(DataError, match=r"data\.yaml: train: .*/gone cannot be read \(No such file or directory\)$"):
        read_ultralytics(folder, THREE)


def test_a_skeleton_without_pairs_needs_no_flip(folder: Path) -> None:
    plain = Skeleton("plain", ("a", "b", "c"), (), (), (0.1,) * 3)
    (folder / "data.yaml").write_text(YAML.replace("[0, 2, 1]", "[0, 1, 2]"))
    assert len(read_ultralytics(folder, plain)[0].persons) == 1


def test_the_size_of_a_turned_photo(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 30))
    for orientation in range(1, 9):
        exif = image.getexif()
        exif[0x0112] = orientation
        image.save(tmp_path / "a.jpg", exif=exif)
        assert size_of(tmp_path / "a.jpg") == ((30, 40) if orientation < 5 else (40, 30))
    with pytest.raises(PhotoError, match=r"none\.jpg: no such file"):
        size_of(tmp_path / "none.jpg")
