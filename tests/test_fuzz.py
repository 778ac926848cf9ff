"""A short form of `make fuzz`, the inputs that it once found, and that it notices what it is there for."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

if sys.platform != "linux":
    pytest.skip("limits of memory and time are Linux's", allow_module_level=True)
pytest.importorskip("fastapi")

from fuzz.__main__ import KINDS, main, work
from fuzz.mutate import change_fields
from fuzz.targets import TARGETS
from fuzz.worker import CPU_SECONDS, HEADER, REGRESSIONS, outcome
from posedet.errors import DataError, PoseDetError

# What each input that once went wrong says now, after the name of its file.
FOUND = {
    "onnx-control-characters": "not a readable ONNX file (",
    "onnx-number-for-text": "not a readable ONNX file (damaged, cut off, or of another format)",
    "ochuman-long-file-name": "",  # read: annotations may name photos that are missing
    "poses-infinite-extra": "results: extra['id']: expected finite numbers",
    "preset-long-key": "unknown key 'data.xxxxxxxx",
    "safetensors-line-break": "not a safetensors file, or damaged (",
    "safetensors-long-value": "'loss.coarse' is [1, 1, 1, 1, 1, ",
    "safetensors-settings-no-table": "expected a table of settings",
    "tracks-rate-huge": "line 1: int too large to convert to float",
    "tracks-rate-list": "line 1: float() argument must be a string or a real number",
    "ultralytics-long-folder-name": "train: no folder ",
    "ultralytics-odd-character": "not a YAML file (",
    "ultralytics-odd-folder-name": "train: no folder '",
    "ultralytics-whole-disk": "train: / is the whole disk, expected a folder of photos",
    "video-huge-frame": "contains no frames; 1 damaged packets",
    "video-unknown-codec": "its video is in an unknown format; convert it, for example to H.264",
}


@pytest.mark.slow
def test_changed_inputs_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    """The same inputs each time, all in one process with the limits of `make fuzz`."""
    code = work(KINDS, "random", seed=1, start=0, inputs=60, seconds=60, folder=tmp_path)
    found = sorted(path.read_text() for path in tmp_path.glob("*.txt"))
    assert (code, found) == (0, []), (tmp_path / "log").read_text()


def test_the_kinds_are_all_listed() -> None:
    assert set(KINDS) == set(TARGETS)
    assert {path.name.rpartition("/")[2] for path in REGRESSIONS.iterdir()} == set(FOUND)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_good_inputs_are_good(kind: str) -> None:
    """Otherwise nothing behind the first check would ever be reached."""
    read = [outcome(TARGETS[kind].read, content) for content in TARGETS[kind].seeds()]
    refused = [place for place, result in enumerate(read) if result != (True, "")]
    assert refused == ([3] if kind == "ultralytics" else [])  # a set that stands for 10^12 names


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_once_is_refused_in_one_line(name: str) -> None:
    kind = max((kind for kind in KINDS if name.startswith(f"{kind}-")), key=len)
    content = (REGRESSIONS / name).read_bytes()
    assert outcome(TARGETS[kind].read, content) == (not FOUND[name], "")
    if not FOUND[name]:
        return
    with pytest.raises(PoseDetError, match=re.escape(FOUND[name])):
        TARGETS[kind].read(content)


# --- the watchman watched --------------------------------------------------------------------------------------------


def test_what_is_not_ours_is_noticed() -> None:
    def raises(error: BaseException) -> Callable[[bytes], object]:
        def read(_: bytes) -> None:
            raise error

        return read

    assert outcome(raises(DataError("a.json: one line")), b"") == (False, "")
    assert outcome(len, b"") == (True, "")
    assert outcome(raises(ValueError("odd")), b"")[1].endswith("ValueError: odd\n")
    for text in ("two\nlines", "", "x" * 3000, "\x1b[31mred"):
        assert outcome(raises(DataError(text)), b"")[1].startswith("DataError: a message that is not one short line: ")


def fate(read: str) -> int:
    """What became of a process that reads: its exit code, or the signal that killed it, below 0."""
    code = f"import os; from fuzz.worker import attempt, limit_memory; limit_memory(); _, wrong = attempt({read}, b'')"
    code += "; os._exit(7 if 'MemoryError' in wrong else 0)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, "-c", code], env=environment).returncode


@pytest.mark.slow
def test_limits_hold() -> None:
    assert CPU_SECONDS == 2
    assert fate("len") == 0
    assert fate("lambda _: any(iter(int, 1))") == -signal.SIGPROF
    assert fate("lambda _: bytearray(3 << 30)") == 7
    assert fate("lambda _: os.abort()") == -signal.SIGABRT


@pytest.mark.slow
def test_a_finding_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker whose process ends is one, and the run goes on behind the input that ended it."""
    starts = []

    def ended(kinds: list[str], how: str, *, start: int, folder: Path, **_: object) -> int:
        starts.append(start)
        (folder / "log").touch()
        if start == 0:
            (folder / "current").write_bytes(HEADER.pack(4, 1, 0, 0) + b"the bad one")
            return -signal.SIGSEGV
        (folder / "current").write_bytes(HEADER.pack(5, 2, 0, 0))
        return 0

    monkeypatch.setattr("fuzz.__main__.work", ended)
    assert main(["gif", "--inputs", "10", "--how", "random", "--output", str(tmp_path)]) == 1
    assert starts == [0, 5]
    (found,) = (path for path in tmp_path.glob("gif-*") if path.suffix == "")
    assert found.read_bytes() == b"the bad one" and "SIGSEGV" in found.with_suffix(".txt").read_text()
    assert "10 inputs, 1 findings" in capsys.readouterr().out


def test_protocol_buffers_stay_well_formed() -> None:
    from onnx import ModelProto

    (seed,) = TARGETS["onnx"].seeds()
    parsed = 0
    for number in range(50):
        try:
            ModelProto.FromString(change_fields(Random(number), seed, seed))
            parsed += 1
        except Exception:
            continue
    assert parsed > 30
