"""What a pool of processes, Ray Data and Spark add to the time of one process, from a folder of photos to Parquet.

Each has one worker with one core, and the same class finds the poses. A job of few photos shows what it takes to begin,
a job of many what each photo takes. Ray's cluster and Spark's session run already, as they do where jobs follow jobs.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from posedet.benchmark.timing import Spread, interleaved, ratio
from posedet.cluster import FindPoses

ALONE = "one process"
BATCH = 16
Job = Callable[[Path, Path], object]  # from a folder of photos to a file or folder of Parquet


def _batches(folder: Path) -> list[dict[str, list[str]]]:
    photos = [str(path) for path in sorted(folder.iterdir())]
    return [{"path": photos[start : start + BATCH]} for start in range(0, len(photos), BATCH)]


def _alone(photos: Path, output: Path) -> None:
    pq.write_table(pa.concat_tables(map(FindPoses(), _batches(photos))), output)


def _pool(photos: Path, output: Path) -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pq.write_table(pa.concat_tables(pool.map(FindPoses(), _batches(photos))), output)


@contextmanager
def _ray() -> Iterator[Job]:
    import ray

    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000)
    ray.data.DataContext.get_current().enable_progress_bars = False

    def job(photos: Path, output: Path) -> None:
        read = ray.data.read_binary_files(str(photos), include_paths=True)
        workers = ray.data.ActorPoolStrategy(size=1)
        read.map_batches(FindPoses, batch_size=BATCH, compute=workers, num_cpus=1).write_parquet(str(output))

    yield job
    ray.shutdown()


@contextmanager
def _spark() -> Iterator[Job]:
    from pyspark.sql import SparkSession

    spark: Any = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", BATCH)
    columns = "photo string, person int, score float, keypoints array<array<float>>, keypoint_scores array<float>"
    columns += ", box array<float>, error string"
    find = FindPoses()

    def job(photos: Path, output: Path) -> None:
        read = spark.read.format("binaryFile").load(str(photos)).select("path", "content")
        read.mapInPandas(lambda batches: map(find, batches), columns).write.parquet(str(output))

    yield job
    spark.stop()


def time_jobs(photos: Sequence[Path], counts: tuple[int, int], rounds: int) -> dict[str, list[float]]:
    """Seconds of jobs of few and of many photos in turns, by engine; an untimed job of few photos goes before.

    photos: repeated as often as needed. Engines that are not installed are left out.
    """
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        folders = []
        for count in counts:
            folders.append(Path(place, str(count)))
            folders[-1].mkdir()
            for number, photo in enumerate(islice(cycle(photos), count)):
                (folders[-1] / f"{number:05d}.jpg").symlink_to(photo.absolute())
        jobs: dict[str, Job] = {ALONE: _alone, "pool of processes": _pool}
        if find_spec("ray"):
            jobs["Ray Data"] = stack.enter_context(_ray())
        if find_spec("pyspark") and shutil.which("java"):
            jobs["Spark"] = stack.enter_context(_spark())

        def timed(job: Job, folder: Path) -> float:
            output = Path(tempfile.mkdtemp(dir=place)) / "poses"
            begin = time.perf_counter()
            job(folder, output)
            seconds = time.perf_counter() - begin
            people = pq.read_table(output)["photo"].to_pylist()
            assert len({Path(name).name for name in people}) == len(list(folder.iterdir()))
            return seconds

        for job in jobs.values():
            timed(job, folders[0])
        return interleaved({name: partial(timed, job) for name, job in jobs.items()}, folders, rounds)


def jobs_table(samples: Mapping[str, Sequence[float]], counts: tuple[int, int]) -> str:
    """Markdown: seconds of a job of few photos, and the time of one of many relative to one process."""
    few, many = counts
    lines = [f"| | {few} photos, s | {many} photos, s | relative to one process |", "|---|---|---|---|"]
    for name, seconds in samples.items():
        compared = ratio(seconds[1::2], samples[ALONE][1::2])
        lines.append(f"| {name} | {Spread.of(seconds[::2])} | {Spread.of(seconds[1::2])} | {compared} |")
    return "\n".join(lines)
