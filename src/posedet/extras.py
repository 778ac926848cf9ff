"""Optional packages: check that they are installed, and name the extra that installs them."""

import importlib.util
from collections.abc import Sequence

from posedet.errors import ConfigError


def needs(command: str, extra: str, modules: Sequence[str]) -> None:
    """Raise ConfigError if one of `modules` cannot be imported. It names the `command` and the `extra` to install."""
    if any(importlib.util.find_spec(module) is None for module in modules):
        raise ConfigError(f"'{command}' needs optional packages; install them with: pip install \"posedet[{extra}]\"")
