"""The callable for Ray Data, Spark and pools, and the programs of docs/use/cluster.md, run as printed."""

import os
import pickle
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posedet import PoseDet, cluster
from posedet.cluster import FindPoses
from posedet.errors import ConfigError, DataError
from posedet.image import read_photo

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "use" / "cluster.md").read_text()


@pytest.fixture(scope="module")
def find() -> FindPoses:
    return FindPoses(score_threshold=0.4)


# --- the callable ----------------------------------------------------------------------------------------------------


def test_a_row_for_each_person_and_for_each_photo_without_any(find: FindPoses, photos: Path) -> None:
    paths = [photos / "skiers.jpg", photos / "food.jpg", photos / "none.jpg"]
    table = find({"path": paths})
    poses = PoseDet(threads=1, score_threshold=0.4)(paths[0])
    rows = table.to_pylist()
    assert len(poses) == 2
    assert [(row["photo"], row["person"], row["error"]) for row in rows] == [
        (str(paths[0]), 0, None),
        (str(paths[0]), 1, None),
        (str(paths[1]), None, None),
        (str(paths[2]), None, f"{paths[2]}: no such file"),
    ]
    for name in ("scores", "keypoints", "keypoint_scores", "boxes"):
        column = {"scores": "score", "boxes": "box"}.get(name, name)
        np.testing.assert_array_equal([row[column] for row in rows[:2]], getattr(poses, name))
        assert [row[column] for row in rows[2:]] == [None, None]


@pytest.mark.parametrize("column", ["image", "bytes", "content"])
def test_the_forms_of_photos(column: str, find: FindPoses, photos: Path) -> None:
    """As columns of Ray (arrays of objects, or one array of photos of one size), and of pandas."""
    pandas = pytest.importorskip("pandas")
    path = photos / "skiers.jpg"
    photo = read_photo(path) if column == "image" else path.read_bytes()
    expected = find({"path": ["a"], column: [photo]})
    assert expected["person"].to_pylist() == [0, 1]
    objects = np.empty(1, object)
    objects[0] = photo
    assert find({"path": np.array(["a"]), column: objects}) == expected
    if column == "image":
        assert find({"path": np.array(["a"]), column: photo[None]}) == expected
    frame = find(pandas.DataFrame({"path": ["a"], column: objects}))
    assert isinstance(frame, pandas.DataFrame)
    assert pa.Table.from_pandas(frame, expected.schema, preserve_index=False).to_pylist() == expected.to_pylist()


def test_no_photo_stops_a_batch(find: FindPoses, photos: Path) -> None:
    contents = [None, b"", b"Dear diary", (photos / "skiers.jpg").read_bytes()[:999], np.zeros((4, 4)), 5]
    table = find({"path": list("abcdef"), "bytes": contents})
    assert table["photo"].to_pylist() == list("abcdef")
    errors = table["error"].to_pylist()
    assert all(errors) and not any("\n" in error for error in errors)


def test_every_batch_has_the_same_types(find: FindPoses, photos: Path) -> None:
    """Also one without people, so that parts of a result fit together."""
    schemas = [find({"path": paths}).schema for paths in ([], ["none.jpg"], [str(photos / "skiers.jpg")])]
    assert schemas[0] == schemas[1] == schemas[2]
    assert schemas[0].names == ["photo", "person", "score", "keypoints", "keypoint_scores", "box", "error"]


def test_a_batch_without_names(find: FindPoses) -> None:
    with pytest.raises(DataError, match=r"^batch: columns bytes, size; expected 'path', the photos' names$"):
        find({"bytes": [], "size": []})


def test_copies_in_one_process_share_a_model(find: FindPoses) -> None:
    sent = pickle.dumps(find)
    copies = [pickle.loads(sent) for _ in range(3)]
    assert copies[0] is copies[1] is copies[2] is not find
    assert copies[0].detector.config.score_threshold == 0.4


def test_pyarrow_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'install them with: pip install "posedet\[parquet\]"$'):
        FindPoses()


def test_no_engine_is_imported() -> None:
    code = f"import sys, {cluster.__name__}; print(*{{'ray', 'pyspark', 'pandas', 'pyarrow'}} & {{*sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


# --- the page --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `photos/`: 40 photos, one of them broken, and a file that is none. Scripts begin here."""
    (tmp_path / "photos").mkdir()
    shipped = sorted(photos.glob("*.jpg"))
    for number in range(39):
        shutil.copy(shipped[number % len(shipped)], tmp_path / "photos" / f"{number:02d}.jpg")
    (tmp_path / "photos" / "39.jpg").write_bytes(b"no photo")
    (tmp_path / "photos" / "credits.md").write_text("no photo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{os.environ.get('PYTHONPATH', '')}")
    return tmp_path


def script(word: str, folder: Path) -> list[str]:
    """The command that runs the page's program with this word in it, as printed."""
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if word in block]
    (folder / "find_poses.py").write_text(block)
    return [sys.executable, "find_poses.py"]


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def check(output: Path, find: FindPoses, folder: Path) -> None:
    """Whether Parquet has every photo exactly once, with the same people as here."""

    def rows(table: pa.Table) -> list[dict[str, Any]]:
        named = [row | {"photo": Path(row["photo"]).name} for row in table.to_pylist()]
        return sorted(named, key=lambda row: (row["photo"], row["person"] or 0))

    paths = [str(path) for path in sorted(folder.glob("photos/*.jpg"))]
    found, expected = rows(pq.read_table(output)), rows(find({"path": paths}))
    assert len({row["photo"] for row in expected}) == 40
    assert "not a photo" in found[-1].pop("error") and "not a photo" in expected[-1].pop("error")
    assert found == expected


def test_the_first_program_as_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    done: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)[0], done)
    assert {*done["table"]["photo"].to_pylist()} == {f"photos/{name}.jpg" for name in ("skiers", "child", "missing")}
    assert done["table"]["error"].to_pylist()[-1] == "photos/missing.jpg: no such file"


@pytest.mark.slow
def test_a_pool_as_printed(folder: Path, find: FindPoses) -> None:
    run(script("ProcessPoolExecutor", folder))
    check(folder / "poses.parquet", find, folder)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java, which is not installed")
@pytest.mark.skipif(find_spec("pyspark") is None, reason="PySpark is not installed")
def test_spark_as_printed(folder: Path, find: FindPoses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", "--master local[2] --conf spark.ui.enabled=false pyspark-shell")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    run(script("pyspark", folder))
    check(folder / "poses", find, folder)


def processes(session: int) -> dict[int, str]:
    """The command lines of the processes of a session."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if os.getsid(int(entry.name)) == session:
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


@contextmanager
def ray_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """`ray start --head`, small, on a free port; gives the session of its processes."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))  # so that nothing is written into the home folder
    ray = shutil.which("ray", path=str(Path(sys.executable).parent)) or "ray"
    # Not pytest's folder: its name is too long for the addresses of sockets.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as place:
        command = [ray, "start", "--head", "--port", "0", "--num-cpus", "2", "--object-store-memory", "100000000"]
        command += ["--include-dashboard", "false", "--temp-dir", place, "--block"]
        said = Path(place, "said")
        with said.open("w") as out:
            head = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        try:
            address = until(lambda: re.search(r"--address='([\d.:]+)'", said.read_text()), head)
            monkeypatch.setenv("RAY_ADDRESS", address[1])
            yield head.pid
        finally:
            while left := processes(head.pid):
                for process in left:
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
                head.poll()
                time.sleep(0.1)


def until(condition: Any, running: subprocess.Popen[Any]) -> Any:
    """Wait until the condition holds, as long as a process runs."""
    for _ in range(6000):
        if value := condition():
            return value
        assert running.poll() is None, f"{running.args!r} has ended too early"
        time.sleep(0.02)
    raise AssertionError("waited in vain")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds Ray's processes in /proc")
def test_ray_as_printed_survives_a_killed_worker(
    folder: Path, find: FindPoses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed when the first results are written, and others are on the way."""
    with ray_cluster(monkeypatch) as session, (folder / "out").open("w") as out:

        def workers() -> set[int]:
            return {pid for pid, name in processes(session).items() if name.startswith("ray::MapWorker")}

        job = subprocess.Popen(script("import ray", folder), stdout=out, stderr=out)
        try:
            until(lambda: list(folder.glob("poses/*.parquet")), job)
            before = workers()
            assert before
            for worker in before:
                os.kill(worker, signal.SIGKILL)
            new = until(lambda: workers() - before, job)
            assert job.wait(300) == 0 and new, (folder / "out").read_text()
        finally:
            job.kill()
            job.wait()
    check(folder / "poses", find, folder)
