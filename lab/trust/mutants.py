"""Mutation tests: how many changes of the code do the tests notice? By mutmut, whose settings are in pyproject.toml."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from posedet.extras import needs_package

ROOT = Path(__file__).parents[2]
# A test fails, does not end any more, or takes the interpreter with it.
NOTICED = {"killed", "timeout", "segfault"}
MOST_MEMORY = 8 << 30  # bytes of addresses of a process: some changes ask for all that there is


class Counted(NamedTuple):
    """The mutants of a module."""

    module: str
    total: int
    noticed: int

    @property
    def percent(self) -> float:
        """The share that a test noticed."""
        return 100 * self.noticed / self.total


def mutants(jobs: int) -> dict[str, str]:
    """Test every mutant that was not tested before; return what became of each, by its name. On Linux only.

    Raises ConfigError if mutmut is not installed.
    """
    needs_package("python -m lab.trust mutants", "mutmut>=3.8")
    tool = shutil.which("mutmut", path=str(Path(sys.executable).parent)) or "mutmut"
    # More threads would wait for each other.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [tool, "run", "--max-children", str(jobs)], cwd=ROOT, env=environment, preexec_fn=_limit_memory, check=True
    )
    listed = subprocess.run([tool, "results", "--all", "1"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return statuses(listed.stdout.splitlines())


def _limit_memory() -> None:
    import resource  # which Windows does not have

    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))


def statuses(lines: Iterable[str]) -> dict[str, str]:
    """Read lines such as `    posedet.oks.x_oks__mutmut_1: killed`."""
    return dict(line.strip().rsplit(": ", 1) for line in lines if "__mutmut_" in line)


def by_module(found: dict[str, str]) -> list[Counted]:
    """Count the mutants of each module."""
    total = Counter(name.rpartition(".")[0] for name in found)
    noticed = Counter(name.rpartition(".")[0] for name, status in found.items() if status in NOTICED)
    return [Counted(module, total[module], noticed[module]) for module in sorted(total)]
