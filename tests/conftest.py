from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from posedet import PoseDet

# A busy machine is no failure.
settings.register_profile("posedet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("posedet")


@pytest.fixture(scope="session")
def detector() -> PoseDet:
    """The shipped model as it comes, on one core."""
    return PoseDet(threads=1)


@pytest.fixture(scope="session")
def photos() -> Path:
    """The folder of the shipped photos."""
    return Path(__file__).parent.parent / "photos"
