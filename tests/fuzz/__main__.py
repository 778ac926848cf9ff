"""Read changed inputs of every kind, and tell what is neither read nor refused in one line.

Each kind runs in processes of its own, first changed at random, then, if atheris is installed, guided by the coverage
of posedet's code. An input may take 2 s of processor time and 1 GB of memory.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from random import randrange

from fuzz.worker import CPU_SECONDS, HEADER, Count, note

ROOT = Path(__file__).parents[2]
KINDS = (
    *("jpeg", "png", "webp", "avif", "gif", "tiff", "bmp", "coco", "crowdpose", "ochuman", "ultralytics", "results"),
    *("poses", "tracks", "skeleton-toml", "skeleton-json", "preset", "safetensors", "onnx", "video", "http"),
)


def work(kinds: Sequence[str], how: str, *, seed: int, start: int, inputs: int, seconds: float, folder: Path) -> int:
    """Run `fuzz.worker` in a process whose files are all in a folder; return its exit code."""
    command = [sys.executable, "-m", "fuzz.worker", ",".join(kinds), how]
    command += map(str, (seed, start, inputs, seconds, folder))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT / "src"), str(ROOT)]),
        "MALLOC_ARENA_MAX": "2",
        "OMP_NUM_THREADS": "1",
        "POSEDET_OFFLINE": "1",
        "TMPDIR": str(folder),
    }
    with (folder / "log").open("wb") as log:
        return subprocess.run(command, stdout=log, stderr=log, env=environment).returncode


def fuzz(kind: str, how: str, *, seed: int, inputs: int, seconds: float, output: Path) -> Count:
    """Run one kind, in a new process after every crash; return what was done in all."""
    total, until = Count(), time.monotonic() + seconds
    while total.inputs < inputs and (left := until - time.monotonic()) > 0:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            code = work(
                [kind], how, seed=seed, start=total.inputs, inputs=inputs - total.inputs, seconds=left, folder=folder
            )
            current = folder / "current"
            content = current.read_bytes() if current.exists() else b""
            if code and len(content) < HEADER.size:
                raise RuntimeError((folder / "log").read_text(errors="replace"))
            count = Count(*HEADER.unpack_from(content))
            if code:
                reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                reason = f"more than {CPU_SECONDS} s of processor time" if -code == signal.SIGPROF else reason
                last = (folder / "log").read_text(errors="replace")[-2000:]
                digest = hash(content[HEADER.size :]) & 0xFFFF
                note(folder, kind, f"{last}\n{reason} {digest}", content[HEADER.size :])
                count = count._replace(inputs=count.inputs + 1)
            for found in folder.glob(f"{kind}-*"):
                output.mkdir(parents=True, exist_ok=True)
                if not (output / found.name).exists():
                    shutil.copy(found, output)
            total = Count(
                total.inputs + count.inputs,
                total.accepted + count.accepted,
                max(total.slowest_us, count.slowest_us),
                max(total.memory_kb, count.memory_kb),
            )
            if how == "coverage" and not code:
                break
    return total


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"default: all of {', '.join(KINDS)}")
    parser.add_argument("--seconds", type=float, default=1e9, help="for all kinds together")
    parser.add_argument("--inputs", type=int, default=10**9, help="of each kind, in each of the two ways")
    parser.add_argument("--seed", type=int, default=randrange(10**6), help="default: another one each time")
    parser.add_argument(
        "--how", choices=("random", "coverage"), nargs="*", help="default: both, if atheris is installed"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "fuzz", help="folder of the findings")
    options = parser.parse_args(arguments)
    kinds = options.kinds or KINDS
    ways = options.how or ["random", *(["coverage"] if find_spec("atheris") else [])]
    print(f"seed {options.seed}; {' and '.join(ways)}")
    print(f"{'kind':14} {'how':9} {'inputs':>8} {'accepted':>9} {'slowest':>9} {'memory':>8}")
    number = 0
    for kind in kinds:
        for how in ways:
            seconds = options.seconds / len(kinds) / len(ways)
            count = fuzz(kind, how, seed=options.seed, inputs=options.inputs, seconds=seconds, output=options.output)
            number += count.inputs
            slowest, memory = f"{count.slowest_us / 1e6:.2f} s", f"{count.memory_kb / 1024:.0f} MB"
            print(f"{kind:14} {how:9} {count.inputs:8} {count.accepted:9} {slowest:>9} {memory:>8}", flush=True)
    findings = sorted(options.output.glob("*.txt")) if options.output.exists() else []
    for finding in findings:
        *_, last = finding.read_text().splitlines()
        print(f"{finding.with_suffix('')}: {last[:200]}")
    print(f"{number} inputs, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
