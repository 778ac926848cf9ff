"""Outputs: whose file may be replaced, and writing that is never seen half done."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from posedet.commands.main import main
from posedet.errors import ConfigError, PoseDetError
from posedet.outputs import (
    ForeignFileError,
    LineFile,
    check_outputs,
    generator_of,
    write_atomically,
    write_json,
    write_results,
)

BY = "posedet predict"
MARK = json.dumps({"generator": BY}).encode()
ROOT = Path(__file__).parent.parent

# --- whose file it is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "generator"),
    [
        (b'[{"generator": "posedet predict", "image_id": 1}]', "posedet predict"),
        (b'{"generator": "lab.paper"}', "lab.paper"),
        (b"[\n]\n", "posedet"),  # nobody was found
        (b'{"step": 0, "loss": 2.5}\n', "posedet train"),
        (b'{"config": {"model": {"skeleton": "coco"}}}', "posedet train"),  # of version 0.1
        (b"[]", None),
        (b"", None),
        (b'[{"image_id": 1, "file_name": "posedet predict.jpg"}]', None),
        (b'{"images": [], "generator": "posedet predict"}', None),
        (b'{"note": {"generator": "posedet predict"}}', None),
        (b'{"generator": "somebody"}', None),
        (b"<!doctype html><title>posedet errors</title>", None),
        (b"posedet predict", None),
    ],
)
def test_a_mark_tells_the_command(content: bytes, generator: str | None, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert generator_of(path) == generator
    (tmp_path / "link").symlink_to(path)
    assert generator_of(tmp_path / "link") is None


def test_nothing_else_writes_files() -> None:
    """But downloads into the cache, which are named by their checksums, and FFmpeg, into a partial file of ours."""
    writing = re.compile(r"os\.(replace|rename)|write_(bytes|text)\(|savefig|shutil\.|\.open\([^)]*[\"'][wax]")
    writers = {
        path.relative_to(ROOT).as_posix()
        for folder in ("src", "lab")
        for path in (ROOT / folder).rglob("*.py")
        if writing.search(path.read_text().replace("shutil.which", ""))
    }
    assert writers == {f"src/posedet/{name}.py" for name in ("outputs", "runtime/download", "video/writer")}


def test_released_models_are_known_as_ours() -> None:
    released = ROOT / "src" / "posedet" / "released"
    assert generator_of(released / "posedet-s.onnx") == "posedet export"
    assert generator_of(released / "posedet-s.safetensors") == "posedet export"


def test_files_of_others_are_refused_and_may_be_given_up(tmp_path: Path) -> None:
    path = tmp_path / "poses.json"
    path.write_text('{"mine": 1}')
    text = f"{path}: exists, and `{BY}` did not write it; name another output"
    with pytest.raises(ForeignFileError) as caught:
        check_outputs([path], BY)
    assert str(caught.value) == text
    for write in (lambda: write_results(path, BY, []), lambda: LineFile(path, BY).add(1)):
        with pytest.raises(ForeignFileError) as caught:
            write()
        assert str(caught.value) == text
    assert path.read_text() == '{"mine": 1}'
    check_outputs([path], BY, overwrite=True)
    path.write_text('{"mine": 2}')  # changed since: this was not given up
    with pytest.raises(ForeignFileError):
        write_results(path, BY, [])
    check_outputs([path], BY, overwrite=True)
    for entries in ([], [{"image_id": 1}], []):  # and then it is the command's own
        write_results(path, BY, entries)
        assert [{"generator": BY, **entry} for entry in entries] == json.loads(path.read_text())
        check_outputs([path], BY)
    write_results(path, BY, [{"image_id": 1}])
    with pytest.raises(ForeignFileError, match="`posedet errors` did not write it"):
        check_outputs([path], "posedet errors")


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    other, link = tmp_path / "other", tmp_path / "link"
    other.write_bytes(MARK)
    link.symlink_to(other)
    with pytest.raises(ForeignFileError):
        check_outputs([link], BY)
    check_outputs([link], BY, overwrite=True)
    write_json(link, BY, {"new": 1})
    assert (other.read_bytes(), link.is_symlink()) == (MARK, False)
    link.unlink()
    link.symlink_to(other)
    check_outputs([link], BY, overwrite=True)
    with closing(LineFile(link, BY)) as lines:
        lines.add({"generator": BY})
    assert (other.read_bytes(), link.is_symlink()) == (MARK, False)


def test_what_is_read_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    photo = tmp_path / "in" / "a.jpg"
    photo.write_bytes(MARK)
    os.link(photo, tmp_path / "hard.jpg")
    (tmp_path / "soft.jpg").symlink_to(photo)
    (tmp_path / "folder").symlink_to(tmp_path / "in")
    spellings = [photo, tmp_path / "hard.jpg", tmp_path / "soft.jpg", tmp_path / "folder" / "a.jpg"]
    spellings += [tmp_path / "in" / ".." / "in" / "a.jpg", Path(os.path.relpath(photo))]
    for output in spellings:
        for overwrite in (False, True):
            with pytest.raises(ConfigError) as caught:
                check_outputs([tmp_path / "new", output], BY, reads=[tmp_path / "none", photo], overwrite=overwrite)
            assert str(caught.value) == f"{output}: is read by this command and never replaced; name another output"


def test_outputs_that_cannot_be_files(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, what in (("folder", "a folder"), ("pipe", "not a regular file")):
        with pytest.raises(ConfigError, match=f"/{name}: is {what}; name another output$"):
            check_outputs([tmp_path / name], BY, overwrite=True)
    for twin in ("A.json", "folder/../a.json"):
        with pytest.raises(ConfigError, match="would be written twice by this command; name another output"):
            check_outputs([tmp_path / "a.json", tmp_path / twin], BY)


# --- every command ---------------------------------------------------------------------------------------------------

SET = f"{ROOT}/photos/truth.json:{ROOT}/photos"
FAST = ("--long-side", "128", "--threads", "1")
TINY = ["train.steps=1", "train.batch_size=1", "data.patch=64", "train.warmup=0", "model.skeleton=coco"]
TRAIN = ("train", "posedet-s", "--data", SET, "--workers", "0", *(x for each in TINY for x in ("--set", each)))
WEIGHTS = ROOT / "src" / "posedet" / "released" / "posedet-s.safetensors"
# A command that writes into the current folder -> what it writes there.
COMMANDS = {
    f"predict {ROOT}/photos/tennis.jpg --output . --long-side 128 --threads 1": "poses.json tennis.jpg",
    f"evaluate {SET} --output . --long-side 128 --threads 1": "report.json results.json",
    f"errors {SET} --output a.html --long-side 128 --threads 1": "a.html",
    f"stress {SET} --output . --count 1 --long-side 128 --threads 1": "stress.json stress.md stress.png",
    f"calibrate {SET} --output . --model {WEIGHTS} --write c.safetensors --long-side 192": (
        "c.safetensors calibration.json calibration.png"
    ),
    f"benchmark {ROOT}/photos/tennis.jpg --output . --rounds 1 --batch 1 --engines onnxruntime": (
        "benchmark.json benchmark.png"
    ),
    " ".join((*TRAIN, "--run", ".")): "config.json log.jsonl state.safetensors weights.safetensors",
    f"data show posedet-s --data {SET} --output . --count 2 --set data.patch=64": "sample-0000.png sample-0001.png",
    "plot {run} --output a.png": "a.png",
    "plot {run} --output a.svg": "a.svg",
    "plot {run} --output a.pdf": "a.pdf",
    f"export {WEIGHTS} a.onnx --compact": "a.onnx a.safetensors",
    f"quantise {WEIGHTS.with_suffix('.onnx')} a.onnx --photos {ROOT}/photos/tennis.jpg": "a.onnx",
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split()[0])
def test_every_command_keeps_the_rule(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It replaces its own files, nobody else's unless it is told to, and never those that it reads."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").write_text('{"step": 0, "loss": 2.0, "rate": 0.1, "seconds": 1.0}\n')
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    arguments = command.format(run=tmp_path / "run").split()
    names = sorted(COMMANDS[command].split())
    Path(names[0]).write_text("mine")
    for more in (["--overwrite"], []):
        assert main([*arguments, *more]) == 0
        assert sorted(os.listdir()) == names
    assert {name: bool(generator_of(Path(name))) for name in names} == dict.fromkeys(names, True)
    written = {name: Path(name).read_bytes() for name in names}
    capsys.readouterr()
    for name in names:
        Path(name).write_text("mine")
        before = {each: Path(each).stat().st_mtime_ns for each in names}
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"posedet: error: {name}: exists, and `posedet {arguments[0]}")
        assert said.endswith("` did not write it; name another output, or replace it with --overwrite\n")
        assert said.count("\n") == 1
        assert {each: Path(each).stat().st_mtime_ns for each in names} == before
        Path(name).write_bytes(written[name])


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("predict in.jpg --output . --no-pictures", "poses.json"),
        ("evaluate in.json --output .", "report.json"),
        ("evaluate x.json --results in.jpg --output .", "report.json"),
        ("errors in.json --output out.html", "out.html"),
        ("errors x.json:photos --results in.jpg --output out.html", "out.html"),
        ("stress in.json --output .", "stress.png"),
        ("calibrate in.json --output .", "calibration.json"),
        (f"calibrate in.json --output . --model {WEIGHTS} --write in.json", "in.json"),
        ("benchmark in.jpg --output .", "benchmark.png"),
        ("benchmark x.jpg --against in.jpg --output .", "benchmark.png"),
        ("train posedet-s --data in.json*2 --run .", "weights.safetensors"),
        ("train posedet-s --data x.json --validate in.json:photos --run .", "log.jsonl"),
        ("train posedet-s --data x.json --start in.jpg --run .", "state.safetensors"),
        ("train posedet-s --data x.json --set model.skeleton=in.json --run .", "config.json"),
        ("data show posedet-s --data in.json --output .", "sample-0003.png"),
        ("plot .", "curves.png"),
        ("export in.json out.onnx", "out.onnx"),
        ("export in.json out.onnx --compact", "out.safetensors"),
        ("quantise in.json out.onnx --photos x.jpg", "out.onnx"),
        ("quantise x.onnx out.onnx --photos in.jpg", "out.onnx"),
        ("convert in.json out.safetensors --preset dla34-coco", "out.safetensors"),
    ],
)
def test_inputs_are_refused_before_any_work(
    command: str, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a hard link, also with --overwrite, and although nothing of it can be read."""
    monkeypatch.chdir(tmp_path)
    source = "log.jsonl" if command == "plot ." else "in.jpg" if "in.jpg" in command else "in.json"
    Path(source).write_text("damaged")
    if output != source:
        os.link(source, output)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for more in ([], ["--overwrite"]):
        assert main([*command.split(), *more]) == 2
        text = f"posedet: error: {output}: is read by this command and never replaced; name another output\n"
        assert capsys.readouterr().err == text
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("command", ["evaluate", "stress", "calibrate", "errors", "train", "data show"])
def test_annotated_photos_are_inputs_too(
    command: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "set").mkdir()
    for photo in photos.glob("*.jpg"):
        (tmp_path / "set" / photo.name).write_bytes(photo.read_bytes())
    (tmp_path / "set.json").write_text((photos / "truth.json").read_text())
    names = {
        "evaluate": "results.json",
        "stress": "stress.md",
        "calibrate": "calibration.png",
        "errors": "a.html",
        "train": "log.jsonl",
        "data show": "sample-0000.png",
    }
    output = tmp_path / "out" / names[command]
    os.link(tmp_path / "set" / "tennis.jpg", output)
    if command in ("train", "data show"):
        arguments = [*command.split(), "posedet-s", "--data", "set.json"]
        arguments += ["--run" if command == "train" else "--output", "out"]
    else:
        arguments = [command, "set.json", "--output", f"{output}" if command == "errors" else "out"]
    assert main([*arguments, "--overwrite"]) == 2
    shown = output if command == "errors" else output.relative_to(tmp_path)
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"posedet: error: {shown}: is read by this command and never replaced; name another output"
    )
    assert output.read_bytes() == (photos / "tennis.jpg").read_bytes()


# --- pictures --------------------------------------------------------------------------------------------------------


def test_two_photos_never_share_a_picture(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one call, and in calls one after the other; a photo keeps its picture."""
    monkeypatch.chdir(tmp_path)
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        with Image.open(photos / "tennis.jpg") as photo:
            photo.resize((64 + len(os.listdir()), 64)).save(tmp_path / name / "a.jpg")
    with Image.open(photos / "tennis.jpg") as photo:
        photo.resize((96, 64)).save("x/a.png")
    sizes = {}
    for asked in (["x/a.png"], ["x/a.jpg", "y/a.jpg"], ["y/a.jpg"], ["y/../x/a.jpg", "y/a.jpg", "x/a.png"]):
        assert main(["predict", *asked, "--output", "out", *FAST]) == 0
        found = {}
        for name in sorted(os.listdir("out")):
            if name.endswith(".jpg"):
                with Image.open(Path("out") / name) as picture:
                    found[name] = picture.width
        assert sizes.items() <= found.items()
        sizes = found
    assert sizes == {"a.jpg": 96, "a-2.jpg": 65, "a-3.jpg": 66}


# --- writing ---------------------------------------------------------------------------------------------------------


def test_what_is_written_is_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)  # as long as a name can be
    for content in (MARK, MARK + b"second", MARK + b"third" * 100_000):
        write_atomically(path, BY, content)
        assert path.read_bytes() == content
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
    assert {each.name for each in tmp_path.iterdir()} == {path.name, "plain"}


@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), OSError("strange"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["write", "replace"])
def test_a_failure_leaves_the_earlier_file_alone(
    problem: BaseException, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "poses.json"
    path.write_bytes(MARK + b"earlier")

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
            opened = Path.open
            patch.setattr(Path, "open", lambda self, mode: HalfWritten(self) if "x" in mode else opened(self, mode))
        if isinstance(problem, OSError):
            with pytest.raises(PoseDetError) as caught:
                write_atomically(path, BY, MARK)
            assert str(caught.value) == f"{path}: could not be written ({problem.strerror or problem})"
        else:
            with pytest.raises(KeyboardInterrupt):
                write_atomically(path, BY, MARK)
    assert path.read_bytes() == MARK + b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, reason in (
        (tmp_path / "none" / "a.jpg", "No such file or directory"),
        (tmp_path / "file" / "a.jpg", "Not a directory"),
    ):
        with pytest.raises(PoseDetError) as caught:
            write_atomically(path, BY, MARK)
        assert str(caught.value) == f"{path}: could not be written ({reason})"


def test_threads_that_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [MARK + bytes([i]) * 200_000 for i in range(16)]
    with ThreadPoolExecutor(16) as pool:
        for _ in range(5):
            list(pool.map(lambda content: write_atomically(path, BY, content), contents))
            assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_never_meets_half_a_file_even_when_the_writer_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    code = f"""
from pathlib import Path
from posedet.outputs import write_atomically
while True:
    for letter in (b"a", b"b"):
        write_atomically(Path({str(path)!r}), {BY!r}, {MARK!r} + letter * 5_000_000)
"""
    writer = subprocess.Popen([sys.executable, "-c", code])
    try:
        patience = time.monotonic() + 30
        while not path.exists() and time.monotonic() < patience:
            time.sleep(0.01)
        seen = set()
        for _ in range(60):
            content = path.read_bytes()
            assert content == MARK + content[-1:] * 5_000_000
            seen.add(content[-1:])
            time.sleep(0.003)
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert seen == {b"a", b"b"}
    assert len(path.read_bytes()) == len(MARK) + 5_000_000
