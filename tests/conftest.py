from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from posedet import PoseDet
from served import Server, serving

# A busy machine is no failure.
settings.register_profile("posedet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# `make mutants`: the same examples in every run, and no time for the smallest one that fails.
settings.register_profile(
    "mutants", settings.get_profile("posedet"), derandomize=True, phases=[Phase.explicit, Phase.generate]
)
settings.load_profile("posedet")


@pytest.fixture(scope="session")
def detector() -> PoseDet:
    """The shipped model as it comes, on one core."""
    return PoseDet(threads=1)


@pytest.fixture(scope="session")
def photos() -> Path:
    """The folder of the shipped photos."""
    return Path(__file__).parent.parent / "photos"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A web server, and a cache of downloads for this test alone, `cache` in its folder."""
    monkeypatch.setenv("POSEDET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("POSEDET_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    with serving() as server:
        yield server
