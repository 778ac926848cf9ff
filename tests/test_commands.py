"""The command line as a user meets it: what it leaves, what it prints, what it says when something is wrong."""

import json
import os
import shutil
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from posedet import PoseDet, Poses, __version__, draw
from posedet.commands.main import main
from posedet.data.sources import Source
from posedet.errors import ConfigError, ModelError
from posedet.image import read_image, read_photo
from posedet.skeleton import COCO, CROWDPOSE

ONE_CORE = ("--threads", "1")
KEPT = "are kept; the same command resumes from there"


class Outcome:
    """A run of `posedet`: its exit code and the lines that it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out.splitlines(), err.splitlines()


@pytest.fixture
def posedet(capsys: pytest.CaptureFixture[str]):
    def run(*arguments: object) -> Outcome:
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return run


def in_a_process(*arguments: object, **options: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "posedet", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def poses_json(folder: Path) -> list[dict]:
    return json.loads((folder / "poses.json").read_text())


# --- predict: what it leaves -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_folder_of_photos(posedet, detector: PoseDet, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "deep" / "found"
    outcome = posedet("predict", photos, "--output", output, *ONE_CORE)
    assert outcome.code == 0
    assert outcome.err == []
    paths = sorted(photos.glob("*.jpg"))
    assert {path.name for path in output.iterdir()} == {path.name for path in paths} | {"poses.json"}
    results = poses_json(output)
    num_people = 0
    for image_id, path in enumerate(paths, start=1):
        mine = [result for result in results if result["image_id"] == image_id]
        assert {result.pop("file_name") for result in mine} <= {str(path)}
        expected = detector(path)
        np.testing.assert_array_equal(Poses.from_coco(mine, COCO).keypoints, expected.keypoints)
        num_people += len(expected)
        line = outcome.out[image_id - 1]
        assert line.startswith(f"{path} ")
        if len(expected):
            who = "person" if len(expected) == 1 else "people"
            assert line.endswith(f"  {len(expected)} {who}, best score {expected.scores[0]:.2f}")
        else:
            assert line.endswith("  0 people")
        drawn = draw(read_photo(path), expected).astype(int)
        assert np.abs(read_photo(output / path.name) - drawn).mean() < 3  # JPEG
    assert len(results) == num_people
    assert outcome.out[len(paths) :] == [f"8 photos, {num_people} people -> {output}"]


def test_poses_without_pictures(posedet, detector: PoseDet, photos: Path, tmp_path: Path) -> None:
    """The photos' own folder may take them: no picture can replace a photo."""
    for name in ("skiers.jpg", "food.jpg"):
        shutil.copy(photos / name, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    outcome = posedet("predict", tmp_path, "--output", tmp_path, "--no-pictures", *ONE_CORE)
    assert outcome.code == 0 and outcome.out[-1].endswith(f"people -> {tmp_path}")
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.jpg")} == before
    mine = [result for result in poses_json(tmp_path) if result["file_name"].endswith("skiers.jpg")]
    expected = detector(photos / "skiers.jpg")
    np.testing.assert_array_equal(
        Poses.from_coco([{**result, "file_name": None} for result in mine], COCO).keypoints, expected.keypoints
    )
    text = complaint(posedet("predict", tmp_path, "--output", tmp_path, "--no-pictures", "--scores"))
    assert text == "--scores does not go with --no-pictures: scores are written into the pictures"


def test_a_second_run_replaces_the_first(posedet, photos: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert posedet("predict", photos / "tennis.jpg", "--output", tmp_path, *ONE_CORE).code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"tennis.jpg", "poses.json"}


def test_a_pattern_and_two_photos_of_the_same_name(posedet, photos: Path, tmp_path: Path) -> None:
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
    shutil.copy(photos / "tennis.jpg", tmp_path / "first" / "photo.jpg")
    shutil.copy(photos / "skiers.jpg", tmp_path / "second" / "photo.jpg")
    output = tmp_path / "output"
    outcome = posedet("predict", f"{tmp_path}/*/photo.jpg", "--output", output, *ONE_CORE)
    assert outcome.code == 0
    assert read_photo(output / "photo.jpg").shape == read_photo(photos / "tennis.jpg").shape
    assert read_photo(output / "photo-2.jpg").shape == read_photo(photos / "skiers.jpg").shape
    assert {result["file_name"] for result in poses_json(output)} == {
        f"{tmp_path}/first/photo.jpg",
        f"{tmp_path}/second/photo.jpg",
    }


@pytest.mark.slow
def test_settings_arrive(posedet, photos: Path, tmp_path: Path) -> None:
    path = photos / "skiers.jpg"
    settings = ("--long-side", 256, "--score-threshold", 0.2)
    outcome = posedet("predict", path, "--output", tmp_path, *ONE_CORE, "--skeleton", "crowdpose", *settings)
    assert outcome.code == 0
    expected = PoseDet(threads=1, skeleton=CROWDPOSE, long_side=256, score_threshold=0.2)(path)
    results = [{key: value for key, value in each.items() if key != "file_name"} for each in poses_json(tmp_path)]
    np.testing.assert_array_equal(Poses.from_coco(results, CROWDPOSE).keypoints, expected.keypoints)
    plain = read_photo(tmp_path / "skiers.jpg")
    assert posedet("predict", path, "--output", tmp_path, *ONE_CORE, "--skeleton", "nose, left_eye").code == 0
    assert {len(result["keypoints"]) for result in poses_json(tmp_path)} == {6}
    assert posedet("predict", path, "--output", tmp_path, *ONE_CORE, "--runtime", "openvino", "--scores").code == 0
    assert (read_photo(tmp_path / "skiers.jpg") != plain).any()


def test_the_device_that_is_chosen_is_said(posedet, photos: Path, tmp_path: Path, caplog) -> None:
    small = ("--output", tmp_path, *ONE_CORE, "--long-side", 128)
    assert posedet("predict", photos / "skiers.jpg", *small, "--device", "auto").code == 0
    assert "device: cpu" in caplog.messages


# --- predict: every kind of photo ------------------------------------------------------------------------------------


def bomb(side: int) -> bytes:
    """A PNG of a KB that calls itself `side` x `side` pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )


@pytest.fixture
def good_and_bad(photos: Path, tmp_path: Path) -> Path:
    """A folder with a photo of every troublesome kind."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    with Image.open(photos / "tennis.jpg") as opened:
        photo = opened.convert("RGB")
    grey = np.asarray(photo.convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "16bit.png")
    photo.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    photo.save(folder / "moving.gif", save_all=True, append_images=[Image.new("RGB", photo.size)], duration=50)
    palette = photo.quantize(255)
    palette.save(folder / "palette.png", transparency=254)
    photo.resize((12_000, 300)).save(folder / "panorama.jpg")
    Image.new("RGB", (1, 1), "red").save(folder / "pixel.png")
    shutil.copy(photos / "tennis.jpg", folder / "whole.jpg")
    (folder / "bomb.png").write_bytes(bomb(60_000))
    (folder / "text.jpg").write_text("Dear diary,\ntoday")
    (folder / "cut.jpg").write_bytes((photos / "group.jpg").read_bytes()[:30_000])
    return folder


@pytest.mark.slow
def test_good_and_bad_photos_together(posedet, good_and_bad: Path, tmp_path: Path) -> None:
    output, missing = tmp_path / "output", tmp_path / "missing.jpg"
    outcome = posedet("predict", missing, good_and_bad, "--output", output, *ONE_CORE)
    assert outcome.code == 1
    good = ("16bit", "cmyk", "moving", "palette", "panorama", "pixel", "whole")
    assert {path.name for path in output.iterdir()} == {f"{name}.jpg" for name in good} | {"poses.json"}
    # One line for each bad one, and no other.
    complaints = {line.split(": ")[1]: line.split(": ", 2)[2] for line in outcome.err}
    assert all(line.startswith("posedet: ") for line in outcome.err)
    reasons = {Path(path).name: reason for path, reason in complaints.items()}
    assert reasons.pop("missing.jpg") == "no such file"
    assert reasons.pop("bomb.png") == "more than 178 million pixels; reduce its size first"
    assert reasons.pop("text.jpg").startswith("not a photo, or damaged (")
    assert reasons.pop("cut.jpg").startswith("damaged or truncated (")
    assert reasons == {}
    assert len(outcome.err) == 4
    assert [line.split()[0].rpartition("/")[2] for line in outcome.out if line.endswith("  failed")] == [
        "missing.jpg",
        "bomb.png",
        "cut.jpg",
        "text.jpg",
    ]
    assert outcome.out[-1].startswith("11 photos, ") and outcome.out[-1].endswith(f", 4 failed -> {output}")
    # Numbered by their place in the run; the player is found however the photo is stored.
    found = {Path(result["file_name"]).name: result["image_id"] for result in poses_json(output)}
    order = [missing, *sorted(good_and_bad.iterdir())]
    assert {"16bit.png", "cmyk.jpg", "moving.gif", "palette.png", "whole.jpg"} <= set(found)
    assert found == {name: 1 + [path.name for path in order].index(name) for name in found}


@pytest.mark.slow
def test_several_at_once_give_what_one_at_a_time_gives(posedet, good_and_bad: Path, tmp_path: Path) -> None:
    """Of a dozen photos, good and bad, in the same order; with two cores each has one."""
    outcomes = {
        cores: posedet("predict", good_and_bad, "--output", tmp_path / cores, "--threads", cores) for cores in "12"
    }
    one, two = (outcomes[cores] for cores in "12")
    assert two.code == one.code == 1
    assert two.err == one.err
    assert two.out[:-1] == one.out[:-1]
    assert {path.name: path.read_bytes() for path in (tmp_path / "2").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "1").iterdir()
    }


def test_only_bad_photos(posedet, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("Dear diary")
    outcome = posedet("predict", tmp_path / "text.jpg", "--output", tmp_path / "output", *ONE_CORE)
    assert outcome.code == 1
    assert outcome.out[-1] == f"1 photo, 0 people, 1 failed -> {tmp_path}/output"
    assert poses_json(tmp_path / "output") == []


def test_names_of_any_bytes(photos: Path, tmp_path: Path) -> None:
    """A line break, an escape sequence and a byte that is no text, on a terminal that knows ASCII alone."""
    folder = os.fsencode(tmp_path / "photos")
    os.mkdir(folder)
    for name in (b"two\nlines.jpg", b"clear\x1b[2J.jpg", b"byte \xff.jpg", "été.jpg".encode()):
        shutil.copy(photos / "tennis.jpg", os.path.join(folder, name))
    environment = os.environ | {"PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0"}
    run = in_a_process("predict", tmp_path / "photos", "--output", tmp_path / "out", *ONE_CORE, env=environment)
    assert (run.returncode, run.stderr) == (0, "")
    assert len(run.stdout.splitlines()) == 5
    assert "\x1b" not in run.stdout
    assert len(list((tmp_path / "out").iterdir())) == 5
    names = {result["file_name"].rpartition("/")[2] for result in poses_json(tmp_path / "out")}
    assert names == {"two\nlines.jpg", "clear\x1b[2J.jpg", r"byte \xff.jpg", "été.jpg"}


# --- predict: what cannot be done ------------------------------------------------------------------------------------


def complaint(outcome: Outcome) -> str:
    """The one line of a run that could do nothing."""
    assert outcome.code == 2
    assert outcome.out == []
    assert len(outcome.err) == 1
    return outcome.err[0].removeprefix("posedet: error: ")


def test_photos_that_are_not_there(posedet, tmp_path: Path) -> None:
    text = complaint(posedet("predict", tmp_path, "--output", tmp_path / "out"))
    assert text.startswith(f"{tmp_path}: the folder contains no photos (supported: ")
    text = complaint(posedet("predict", f"{tmp_path}/*.jpg", "--output", tmp_path / "out"))
    assert text == f"{tmp_path}/*.jpg: no file matches this pattern"
    assert not (tmp_path / "out").exists()


def test_outputs_that_cannot_be(posedet, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo, file = photos / "tennis.jpg", tmp_path / "file"
    file.touch()
    for output, reason in ((file, "File exists"), (file / "deeper", "Not a directory")):
        text = complaint(posedet("predict", photo, "--output", output, *ONE_CORE))
        assert text == f"{output}: cannot be written to ({reason}); choose another folder"

    opened = Path.open

    def read_only(self: Path, mode: str = "r", *more: object, **options: object) -> object:
        if "x" in mode:
            raise OSError(30, "Read-only file system")
        return opened(self, mode, *more, **options)

    monkeypatch.setattr(Path, "open", read_only)
    (tmp_path / "out").mkdir()
    text = complaint(posedet("predict", photo, "--output", tmp_path / "out", *ONE_CORE))
    assert text.endswith(f" (Read-only file system); 0 of 1 photos {KEPT}")
    assert not any((tmp_path / "out").iterdir())


def test_photos_are_never_overwritten(posedet, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(photos / "tennis.jpg", folder / "other.jpg")
    shutil.copy(photos / "tennis.jpg", folder / "tennis.jpg")
    (tmp_path / "link").symlink_to(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for output in (folder, tmp_path / "link", folder / "deeper" / ".."):
        text = complaint(posedet("predict", folder, "--output", output, *ONE_CORE))
        assert text == f"{output / 'other.jpg'}: is read by this command and never replaced; name another output"
        assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (("--model", "no/such.onnx"), "no/such.onnx: no such model file"),
        (("--skeleton", "nose,left_eey,"), "skeleton 'body19': unknown keypoint 'left_eey' (did you mean 'left_eye'?)"),
        (("--skeleton", "cocoo"), "unknown skeleton 'cocoo' (did you mean 'coco'?); built-in skeletons: "),
        (("--score-threshold", "2"), "score_threshold is 2.0, expected 0 or more and less than 1"),
        (("--long-side", "5"), "long_side is 5, expected 32 to 8192 pixels"),
        (("--threads", "0"), "--threads 0: expected at least 1"),
    ],
)
def test_settings_that_cannot_be(posedet, photos: Path, tmp_path: Path, settings: tuple, text: str) -> None:
    outcome = posedet("predict", photos / "tennis.jpg", "--output", tmp_path / "out", *settings)
    assert complaint(outcome).startswith(text)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [[], ["predict"], ["predict", "a.jpg", "--runtime", "x"], ["dance"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("posedet") and ": error: " in last


def test_a_traceback_only_when_asked_for(posedet) -> None:
    for arguments in (["--debug", "info", "none.onnx"], ["info", "none.onnx", "--debug"]):
        with pytest.raises(ModelError):
            main(arguments)
    assert complaint(posedet("info", "none.onnx")) == "none.onnx: no such model file"


def test_an_interruption_is_no_traceback(
    posedet, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    for cores in (1, 2):
        with monkeypatch.context() as patch:
            patch.setattr("posedet.runtime.bulk.read_image", interrupted)
            outcome = posedet("predict", photos, "--output", tmp_path, "--threads", cores)
        assert (outcome.code, outcome.out, outcome.err) == (130, [], [f"posedet: interrupted; 0 of 8 photos {KEPT}"])
        assert not any(tmp_path.iterdir())


def test_huge_photos_take_turns(posedet, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    present, most = [], []

    def read(path: Path) -> Image.Image:
        present.append(path)
        most.append(len(present))
        time.sleep(0.01)
        present.remove(path)
        return read_image(path)

    monkeypatch.setattr("posedet.runtime.bulk.HUGE_PIXELS", 1000)
    monkeypatch.setattr("posedet.runtime.bulk.read_image", read)
    assert posedet("predict", photos, "--output", tmp_path, "--threads", 2, "--long-side", 128).code == 0
    assert most == [1] * 8


def test_a_reader_that_leaves_is_no_traceback(photos: Path, tmp_path: Path) -> None:
    """As in `posedet predict ... | head -0`."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "posedet", "predict", photos / "tennis.jpg", "--output", tmp_path, *ONE_CORE]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with os.fdopen(write, "wb") as closed:
        run = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=120, env=environment)
    assert (run.returncode, run.stderr) == (1, "")


def test_what_the_system_refuses_is_no_traceback(posedet, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "/full/a")

    monkeypatch.setattr("posedet.runtime.model_files.available_file", refused)
    assert complaint(posedet("weights", "list")) == "[Errno 28] No space left on device: '/full/a'"
    with pytest.raises(OSError):
        main(["--debug", "weights", "list"])


def test_a_bug_is_not_taken_for_a_bad_photo(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("posedet.runtime.bulk.draw_on", broken)
    with pytest.raises(ZeroDivisionError):
        main(["predict", str(photos / "tennis.jpg"), "--output", str(tmp_path), *ONE_CORE])


# --- the terminal ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals of this kind")
def test_the_progress_bar_is_for_terminals_alone(photos: Path, tmp_path: Path) -> None:
    command = ["predict", photos / "tennis.jpg", photos / "food.jpg", "--output", tmp_path, *ONE_CORE]
    assert in_a_process(*command).stderr == ""
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    try:
        run = subprocess.run(
            [sys.executable, "-m", "posedet", *map(str, command)], stdout=subprocess.PIPE, stderr=theirs, timeout=120
        )
        shown = os.read(ours, 100_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert run.returncode == 0
    assert "2/2" in shown and "photo/s" in shown
    assert b"photo/s" not in run.stdout


@pytest.mark.slow
def test_help_answers_at_once() -> None:
    """Time of the processor, not of the clock: another program's work is not ours. The best of some, files cached."""
    durations_s = []
    for _ in range(4):
        before = os.times()
        run = in_a_process("--help")
        after = os.times()
        durations_s.append(sum(after[2:4]) - sum(before[2:4]))  # of the children
        assert run.returncode == 0
    assert min(durations_s) < 0.5
    for command in ("predict", "evaluate", "train", "export", "convert", "info"):
        assert f"\n    {command} " in run.stdout


@pytest.mark.parametrize("command", ["predict", "evaluate", "train", "export", "convert", "info"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert f"example: posedet {command} " in text
    assert "%(" not in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"posedet {__version__}\n"


# --- the other commands ----------------------------------------------------------------------------------------------


def test_info_of_the_shipped_model(posedet) -> None:
    outcome = posedet("info")
    assert outcome.code == 0
    assert outcome.out[0].startswith("posedet-s (posedet ") and outcome.out[0].endswith("): 19 keypoints, body19")
    assert json.loads("\n".join(outcome.out[1:]))["decode"]["skeleton"] == "coco"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/set.json", ("a/set.json", None, 1)),
        ("set.json.gz", ("set.json.gz", None, 1)),
        ("set.json:photos", ("set.json", "photos", 1)),
        ("set.json:photos*3", ("set.json", "photos", 3)),
        ("set.json*2", ("set.json", None, 2)),
        ("C:\\data\\set.json", ("C:\\data\\set.json", None, 1)),
        ("C:/data/set.json:D:/photos*3", ("C:/data/set.json", "D:/photos", 3)),
        ("C:/data/data.yaml:val", ("C:/data/data.yaml", "val", 1)),
    ],
)
def test_data_on_the_command_line(text: str, expected: tuple[str, str | None, int]) -> None:
    assert Source.parse(text) == Source(Path(expected[0]), *expected[1:])


@pytest.mark.parametrize("times", ["0", "", "-1", "x", "1.5", "²", "9" * 5000])
def test_data_that_cannot_be(times: str) -> None:
    with pytest.raises(ConfigError, match=r"^set.json\*.*: expected a whole number of at least 1 after the star$"):
        Source.parse(f"set.json*{times}")


def test_other_packages_do_not_chatter(tmp_path: Path) -> None:
    """Matplotlib, for example, logs that it made a list of fonts."""
    program = (
        "import logging; from posedet.commands.main import main; main(['weights', 'list'])\n"
        "for name in ('posedet.training', 'matplotlib.font_manager'): logging.getLogger(name).info(name)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert run.stderr == "posedet.training\n"
