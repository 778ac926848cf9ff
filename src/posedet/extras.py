"""Optional packages: check that they are installed, and name the extra that installs them."""

import importlib.util
from collections.abc import Sequence

from posedet.errors import ConfigError


def needs(command: str, extra: str, modules: Sequence[str]) -> None:
    """Raise ConfigError if one of `modules` cannot be imported. It names the `command` and the `extra` to install."""
    if any(importlib.util.find_spec(module) is None for module in modules):
        raise ConfigError(f"'{command}' needs optional packages; install them with: pip install \"posedet[{extra}]\"")


def needs_package(what: str, requirement: str) -> None:
    """Raise ConfigError if a package that is in no extra cannot be imported; `requirement` is what pip takes."""
    if importlib.util.find_spec(requirement.partition(">=")[0]) is None:
        raise ConfigError(f"'{what}' needs another package; install it with: pip install \"{requirement}\"")
