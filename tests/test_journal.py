"""Long commands that are interrupted in every way: what was found is kept, and the same command resumes."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from posedet import PoseDet, Poses
from posedet.commands.main import main
from posedet.errors import DataError, PoseDetError
from posedet.journal import Journal
from posedet.outputs import LineFile
from posedet.skeleton import COCO

BY = "posedet predict"
LEFT_OUT = f"{Path(__file__).parent.parent / 'photos'}: left out 1 .md, 1 .json\n"
SLOWLY = ("--threads", "1", "--long-side", "1600")  # so that a signal comes in time on a busy machine
KEPT = "photos are kept; the same command resumes from there"


def journal(folder: Path, **settings: object) -> Journal:
    return Journal(folder / "poses", BY, settings, 3)


def test_results_are_there_for_the_same_settings_alone(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match=f"^2 of 3 {KEPT}$"), journal(tmp_path, model="a") as begun:
        begun.keep("x", [1])
        begun.keep(7, {"y": 2})
        raise KeyboardInterrupt
    assert journal(tmp_path, model="b").kept == {}
    with journal(tmp_path, model="a") as resumed:
        assert resumed.kept == {"x": [1], 7: {"y": 2}}
        resumed.keep("z", None)
    assert list(tmp_path.iterdir()) == []


def test_errors_say_what_is_kept(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"^bad photo; 1 of 3 {KEPT}$"), journal(tmp_path) as begun:
        begun.keep("x", 1)
        raise DataError("bad photo")
    with pytest.raises(PoseDetError, match=rf"No space left on device; 1 of 3 {KEPT}$"), journal(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(BrokenPipeError), journal(tmp_path):
        raise BrokenPipeError
    with pytest.raises(ZeroDivisionError), journal(tmp_path):
        raise ZeroDivisionError


def test_a_line_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), journal(tmp_path) as begun:
        begun.keep("x", 1)
        begun.keep("y", 2)
        raise KeyboardInterrupt
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(KeyboardInterrupt), journal(tmp_path) as resumed:
        assert resumed.kept == {"x": 1}
        resumed.keep("z", 3)
        raise KeyboardInterrupt
    assert journal(tmp_path).kept == {"x": 1, "z": 3}


@pytest.mark.parametrize("line", [b"[1]", b"\xff", b"[[1], 2]", b"[" * 10_000, b"7"])
def test_a_damaged_journal_is_refused(line: bytes, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), journal(tmp_path) as begun:
        begun.keep("x", 1)
        raise KeyboardInterrupt
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes() + line + b"\n")
    with pytest.raises(DataError, match="not a valid journal of an interrupted run; delete it to start again"):
        _ = journal(tmp_path).kept
    file.write_text("mine")
    with pytest.raises(PoseDetError, match=f"exists, but is no journal of `{BY}`; remove it$"):
        journal(tmp_path)


def test_a_line_that_does_not_fit_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PoseDetError, match=r"gone/a\.jsonl: could not be written \(No such file or directory\)$"):
        LineFile(tmp_path / "gone" / "a.jsonl", BY).add(1)
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom posedet.outputs import LineFile\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        f"LineFile(Path(sys.argv[1]), {BY!r}).add({{'generator': {BY!r}, 'long': 100 * 'x'}})"
    )
    run = subprocess.run([sys.executable, "-c", code, tmp_path / "a"], capture_output=True, text=True)
    assert run.stderr.splitlines()[-1].endswith("/a: could not be written (File too large)")
    assert not (tmp_path / "a").exists()


# --- posedet predict -------------------------------------------------------------------------------------------------


def predict(photos: Path, output: Path, *more: object, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "posedet", "predict", photos, "--output", output, *SLOWLY, *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(list(map(str, command)), text=True, **{**pipes, **options})


def num_kept(output: Path) -> int:
    return sum(len(path.read_text().splitlines()) - 1 for path in output.glob("poses-*.jsonl"))


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run without interruptions leaves."""
    output = tmp_path_factory.mktemp("whole")
    assert main(["predict", str(photos), "--output", str(output), *SLOWLY]) == 0
    return output


def check_whole(output: Path, whole: Path) -> None:
    assert sorted(path.name for path in output.iterdir()) == sorted(path.name for path in whole.iterdir())
    for path in output.iterdir():
        assert path.read_bytes() == (whole / path.name).read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
def test_whatever_ends_it_the_same_command_resumes(photos: Path, whole: Path, tmp_path: Path) -> None:
    before = 0
    ends = ((signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated"), (signal.SIGKILL, -9, None))
    for number, code, said in ends:
        run = predict(photos, tmp_path)
        while num_kept(tmp_path) <= before and run.poll() is None:
            time.sleep(0.001)
        run.send_signal(number)
        out, err = run.communicate(timeout=60)
        before = num_kept(tmp_path)
        assert (run.returncode, out) == (code, "")
        assert err.removeprefix(LEFT_OUT) == (f"posedet: {said}; {before} of 8 {KEPT}\n" if said else "")
        assert 0 < before < 8
        assert not (tmp_path / "poses.json").exists()
        for leftover in tmp_path.glob(".*.part"):  # of a picture that was being written
            leftover.unlink()
    command = ["predict", str(photos), "--output", str(tmp_path), *SLOWLY]
    kept_pictures = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.jpg")}
    assert main(command) == 0
    check_whole(tmp_path, whole)
    unchanged = sum(path.stat().st_mtime_ns == time_ns for path, time_ns in kept_pictures.items())
    assert unchanged >= before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limits")
def test_a_full_disk_loses_nothing(photos: Path, tmp_path: Path) -> None:
    import resource

    def no_file_above_8_kb() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))

    for more in (("--no-pictures",), ()):  # the journal and a picture do not fit
        output = tmp_path / f"out{len(more)}"
        run = predict(photos, output, *more, preexec_fn=no_file_above_8_kb)
        _, err = run.communicate(timeout=60)
        kept = num_kept(output)
        assert run.returncode == 2 and kept < 8
        assert err.removeprefix(LEFT_OUT).count("\n") == 1 and err.endswith(
            f": could not be written (File too large); {kept} of 8 {KEPT}\n"
        )
    assert num_kept(tmp_path / "out1") > 0
    command = ["predict", str(photos), "--output", str(tmp_path / "out1"), *SLOWLY, "--no-pictures"]
    assert main(command) == 0
    assert [path.name for path in (tmp_path / "out1").iterdir()] == ["poses.json"]


def interrupted_at(place: int, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Interrupt a command at the photo of this place, and return how many photos it saw."""
    seen = []

    def counted(self: PoseDet, photo: object) -> Poses:
        seen.append(photo)
        if len(seen) == place:
            raise KeyboardInterrupt
        return Poses.empty(COCO)

    with monkeypatch.context() as patch:
        patch.setattr(PoseDet, "__call__", counted)
        assert main(list(map(str, arguments))) == (130 if len(seen) == place else 0)
    return len(seen)


def test_only_what_is_the_same_is_kept(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not the poses of other settings or photos, nor those whose pictures are gone or were drawn anew."""
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for photo in photos.glob("*.jpg"):
        (folder / photo.name).write_bytes(photo.read_bytes())
    command = ("predict", folder, "--output", output, "--threads", 1)

    def seen(place: int, *more: object) -> int:
        return interrupted_at(place, monkeypatch, *command, *more)

    assert seen(6) == 6 and num_kept(output) == 5
    assert seen(1, "--score-threshold", 0.5) == 1
    assert seen(3, "--scores") == 3  # draws two of the pictures anew
    os.utime(folder / "food.jpg", (0, 0))
    (output / "group.jpg").unlink()
    names = sorted(path.name for path in folder.iterdir())
    capsys.readouterr()
    assert seen(1) == 1
    assert capsys.readouterr().err == f"posedet: interrupted; 1 of 8 {KEPT}\n"  # of hall.jpg
    assert names[:5] == ["baseball.jpg", "child.jpg", "food.jpg", "group.jpg", "hall.jpg"]
    assert seen(9) == 7  # all but hall.jpg
    assert json.loads((output / "poses.json").read_text()) == []
    assert seen(9) == 8


def test_a_damaged_result_is_found_again(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("predict", photos, "--output", tmp_path, "--threads", 1)
    assert interrupted_at(4, monkeypatch, *command) == 4
    (file,) = tmp_path.glob("*.jsonl")
    file.write_text(file.read_text().replace("[]]", '[{"keypoints": [1], "score": 2}]]', 1))
    assert interrupted_at(9, monkeypatch, *command) == 8 - 3 + 1


# --- standard output and error that are missing ----------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="needs a Unix shell")
@pytest.mark.parametrize("closed", [">&- 2>&-", "<&- >&- 2>&-", ">&-", "2>&-"])
def test_everything_works_without_streams(closed: str, photos: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("no photo")  # would be a message
    command = f'"{sys.executable}" -m posedet predict "$0" "$1" --output "$2" --threads 1 {closed}'
    run = subprocess.run(
        ["sh", "-c", command, photos / "tennis.jpg", text, tmp_path / "out"], capture_output=True, timeout=60
    )
    assert run.returncode == 1
    assert ((run.stdout == b"") or ">&-" not in closed.split()) and ((run.stderr == b"") or "2>&-" not in closed)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["poses.json", "tennis.jpg"]
    assert len(json.loads((tmp_path / "out" / "poses.json").read_text())) == 1


@pytest.mark.parametrize("missing", ["None", "open(os.devnull, 'w'); sys.stdout.close(); sys.stderr.close()"])
def test_streams_of_pythonw(missing: str, photos: Path, tmp_path: Path) -> None:
    """Also in the library, which would draw progress bars."""
    code = f"""
import os, sys
sys.stdout = sys.stderr = {missing}
from pathlib import Path
from posedet import PoseDet
from posedet.commands.main import main
from posedet.data.sources import read_photos
from posedet.evaluation.protocols import COCO_PROTOCOL
from posedet.evaluation.run import evaluate
photos = read_photos(r"{photos / "truth.json"}:{photos}", COCO_PROTOCOL.skeleton)
found = evaluate(PoseDet(threads=1, long_side=64, skeleton="coco"), photos, COCO_PROTOCOL)
sys.exit(main(["weights", "list"]) + main(["info", "none.onnx"]) + (100 if found.num_photos == 8 else 0))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (102, b"", b"")
