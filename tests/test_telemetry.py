"""No runtime reports its use: no name is looked up, and nothing is written outside the output."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PHOTO = Path(__file__).parent.parent / "photos" / "food.jpg"
PREDICT = (
    f"from posedet.commands.main import main; assert main(['predict', {str(PHOTO)!r}, '--output', 'out'{{}}]) == 0"
)
PROGRAMS = {
    "predict": PREDICT.format(""),
    "openvino": PREDICT.format(", '--runtime', 'openvino'"),
    "benchmark": "from posedet.commands.main import main; assert main(['benchmark', "
    f"{str(PHOTO)!r}, '--engines', 'onnxruntime', '--rounds', '1', '--output', 'out']) == 0",
    "runtimes imported by the user": "import posedet, onnxruntime, openvino; posedet.PoseDet()",
}
# Native code looks names up as well, so it is the C library that has to tell. ONNX Runtime waits for 9 s.
WAIT = 12
TELL_NAMES = """
#include <fcntl.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int getaddrinfo(const char *name, const char *port, const struct addrinfo *hints, struct addrinfo **found) {
    int file = open(getenv("ASKED"), O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (name && write(file, name, strlen(name)) < 0) abort();
    close(file);
    return EAI_NONAME;
}
"""


def run(program: str, home: Path, folder: Path, **variables: str) -> None:
    """Run a program in `folder` that finds no setting of this machine but where Python's packages are."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "SYSTEMROOT", "TEMP") if name in os.environ}
    homes = dict.fromkeys(("HOME", "USERPROFILE", "LOCALAPPDATA"), str(home))
    environment = {**kept, **homes, "POSEDET_OFFLINE": "1", **variables}
    done = subprocess.run(
        [sys.executable, "-B", "-c", program], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def needs_openvino(name: str) -> None:
    if ("openvino" in PROGRAMS[name]) and find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed")


@pytest.mark.parametrize("name", ["predict", "openvino", "runtimes imported by the user"])
def test_nothing_is_written_outside_the_output(name: str, tmp_path: Path) -> None:
    needs_openvino(name)
    for folder in ("home", "work"):
        (tmp_path / folder).mkdir()
    run(PROGRAMS[name], tmp_path / "home", tmp_path / "work")
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {Path(path).parts[:2] for path in written} <= {("work", "out")}


@pytest.mark.parametrize("name", ["predict", "openvino"])
def test_a_home_folder_that_cannot_be_written_is_enough(name: str, tmp_path: Path) -> None:
    needs_openvino(name)
    no_folder = tmp_path / "home"
    no_folder.write_text("")
    run(PROGRAMS[name], no_folder, tmp_path)
    assert no_folder.read_text() == ""
    assert (tmp_path / "out" / "poses.json").is_file()


@pytest.fixture(scope="module")
def tell_names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that appends each name that a program looks up to the file ASKED, and finds none."""
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("this test needs Linux and a C compiler")
    folder = tmp_path_factory.mktemp("names")
    (folder / "names.c").write_text(TELL_NAMES)
    library = folder / "names.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(folder / "names.c")], check=True)
    return library


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_no_name_is_looked_up(name: str, tell_names: Path, tmp_path: Path) -> None:
    needs_openvino(name)
    asked = tmp_path / "asked"
    program = f"{PROGRAMS[name]}\nimport time; time.sleep({WAIT})"
    run(program, tmp_path, tmp_path, LD_PRELOAD=str(tell_names), ASKED=str(asked))
    assert not asked.exists(), asked.read_text()


@pytest.mark.slow
def test_a_name_that_is_looked_up_is_noticed(tell_names: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    program = "import socket\ntry: socket.getaddrinfo('posedet.invalid', 80)\nexcept OSError: pass"
    run(program, tmp_path, tmp_path, LD_PRELOAD=str(tell_names), ASKED=str(asked))
    assert asked.read_text() == "posedet.invalid"
