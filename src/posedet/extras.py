"""What is not installed with every posedet: a command that needs more says which extra has it."""

import importlib.util
from collections.abc import Sequence

from posedet.errors import ConfigError


def needs(command: str, extra: str, modules: Sequence[str]) -> None:
    """Raise ConfigError, which names the `extra` to install, where one of `modules` cannot be imported."""
    if any(importlib.util.find_spec(module) is None for module in modules):
        raise ConfigError(f"'posedet {command}' needs more than running does: pip install \"posedet[{extra}]\"")
