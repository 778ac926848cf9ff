"""Read changed inputs in a process of its own: `python -m fuzz.worker KINDS HOW SEED START INPUTS SECONDS OUTPUT`.

Each input gets 2 s of processor time and 1 GB of memory. Whoever started the process finds in OUTPUT/current how far it
came and the last input, so that a crash can be told, and in OUTPUT a file for each finding. Linux only.
"""

import hashlib
import os
import re
import resource
import signal
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

CPU_SECONDS = 2.0
MAX_BYTES = 1 << 30
WALL_SECONDS = 120  # for what waits without working, also on a busy machine
MAX_MESSAGE = 2000
REGRESSIONS = Path(__file__).parent / "regressions"  # inputs that went wrong in the past: KIND-WHAT


class Count(NamedTuple):
    """What a process did so far."""

    inputs: int = 0
    accepted: int = 0
    slowest_us: int = 0  # processor time of an input
    memory_kb: int = 0  # the most that was used beyond the memory at the beginning


HEADER = struct.Struct("<4q")


def outcome(read: Callable[[bytes], object], content: bytes) -> tuple[bool, str]:
    """Return whether an input was accepted, and what went wrong with it: an exception that is not ours, or a message
    that is not one line."""
    from posedet.errors import PoseDetError

    try:
        read(content)
        return True, ""
    except PoseDetError as error:
        text = str(error)
        wrong = not text or not text.isprintable() or len(text) > MAX_MESSAGE
        return False, f"{type(error).__name__}: a message that is not one short line: {text[:500]!r}" if wrong else ""
    except BaseException as error:
        return False, "".join(traceback.format_exception(error, limit=-12))


def attempt(read: Callable[[bytes], object], content: bytes) -> tuple[bool, str]:
    """Return the outcome; too much time kills the process."""
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
    try:
        return outcome(read, content)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _peak_kb() -> int:
    """The largest memory of this process so far. Its ru_maxrss begins with that of the process that started it."""
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert peak is not None
    return int(peak[1])


class Run:
    """Reads one input after the other, counts, and writes down what went wrong, each place in the code once."""

    def __init__(self, kind: str, read: Callable[[bytes], object], output: Path, count: Count) -> None:
        self._kind, self._read, self._output = kind, read, output
        self.count = count
        self._current = (output / "current").open("wb", buffering=0)
        self._begin_kb = _peak_kb()

    def one(self, content: bytes) -> None:
        self._current.seek(0)
        self._current.write(HEADER.pack(*self.count) + content)
        self._current.truncate()
        begin = time.process_time()
        accepted, wrong = attempt(self._read, content)
        spent = round((time.process_time() - begin) * 1e6)
        inputs, good, slowest, memory = self.count
        memory = max(memory, _peak_kb() - self._begin_kb)
        self.count = Count(inputs + 1, good + accepted, max(slowest, spent), memory)
        if wrong:
            note(self._output, self._kind, wrong, content)

    def close(self) -> None:
        self._current.seek(0)
        self._current.write(HEADER.pack(*self.count))
        self._current.truncate()


def note(output: Path, kind: str, wrong: str, content: bytes) -> None:
    """Write down a finding, unless the same place in the code went wrong before."""
    lines = [line for line in wrong.splitlines() if line.startswith("  File ")]
    key = "".join([kind, *lines[-2:], wrong.splitlines()[-1].partition(":")[0]])
    path = output / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"
    if not path.exists():
        path.write_bytes(content)
        path.with_suffix(".txt").write_text(wrong, errors="backslashreplace")


def limit_memory() -> None:
    """Let this process have 1 GB more than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + MAX_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


class Plan(NamedTuple):
    """How much to do for each kind, and where to write it down."""

    seed: int
    start: int  # the number of the first input
    inputs: int
    seconds: float
    output: Path


def at_random(run: Run, target: Any, seeds: list[bytes], kind: str, plan: Plan) -> None:
    """Change good inputs at random; each depends on the seed and its number only."""
    until = time.monotonic() + plan.seconds
    while run.count.inputs < plan.inputs and time.monotonic() < until:
        rng = Random(f"{kind} {plan.seed} {plan.start + run.count.inputs}")
        content = rng.choice(seeds)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            content = rng.choice(target.mutators)(rng, content, rng.choice(seeds))
        run.one(content)
    run.close()


def by_coverage(run: Run, target: Any, seeds: list[bytes], kind: str, plan: Plan) -> None:
    """Change inputs that reached new code; it ends the process."""
    import atheris

    until = time.monotonic() + plan.seconds
    corpus = plan.output / f"corpus-{kind}"
    corpus.mkdir()
    for number, content in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(content)

    def one(content: bytes) -> None:
        run.one(content)
        if run.count.inputs >= plan.inputs or time.monotonic() > until:
            run.close()
            os._exit(0)

    def changed(content: bytes, _: int, number: int) -> bytes:
        rng = Random(number)
        return rng.choice(target.mutators)(rng, content, rng.choice(seeds))

    # The limits are ours: libFuzzer counts time that passes, and memory from the beginning.
    options = ["-max_len=131072", "-timeout=3600", "-rss_limit_mb=0", "-verbosity=0", f"-artifact_prefix={corpus}/"]
    options += [f"-seed={plan.seed + plan.start + 1}", str(corpus)]
    atheris.Setup([sys.argv[0], *options], one, custom_mutator=changed)
    atheris.Fuzz()


def main(kinds: list[str], how: str, plan: Plan) -> None:
    if how == "coverage":
        import atheris

        with atheris.instrument_imports(include=["posedet"]):
            from fuzz import targets
    else:
        from fuzz import targets
    warnings.simplefilter("ignore")
    seeds = {kind: targets.TARGETS[kind].seeds() for kind in kinds}
    for kind in kinds:
        seeds[kind] += [path.read_bytes() for path in sorted(REGRESSIONS.glob(f"{kind}-*"))]
        for content in seeds[kind]:
            outcome(targets.TARGETS[kind].read, content)  # imports what it needs
    limit_memory()
    for kind in kinds:
        target = targets.TARGETS[kind]
        run = Run(kind, target.read, plan.output, Count())
        (by_coverage if how == "coverage" else at_random)(run, target, seeds[kind], kind, plan)


if __name__ == "__main__":
    kinds, how, seed, start, inputs, seconds, output = sys.argv[1:]
    main(kinds.split(","), how, Plan(int(seed), int(start), int(inputs), float(seconds), Path(output)))
