"""The settings that docs/lab/fidelity.md names exist, and have the values that it says."""

import re
import tomllib
from pathlib import Path

import pytest

from posedet.config import load_config, preset_names
from posedet.errors import ConfigError

PAGE = (Path(__file__).parent.parent / "docs" / "lab" / "fidelity.md").read_text()
IMPROVED = load_config("posedet-s").to_dict()


def rows(heading: str, column: int) -> list[str]:
    """A column of the table below a heading."""
    table = PAGE.split(f"\n## {heading}")[1].split("\n## ")[0]
    return [line.split(" | ")[column] for line in table.splitlines() if re.match(r"\| \d", line)]


SWITCHES = rows("Paper against code", 5)
SETTINGS = [cell.removesuffix(" |") for cell in rows("Weaknesses", 3)]


# Prose: keys with their section alone.
DEVIATIONS = re.findall(r"`(?:model|data|assign|loss|train|decode)\.[^`]+`", PAGE.split("\n## Deviations")[1])


def settings_in(cell: str) -> list[tuple[str, str, str]]:
    """(section, key, TOML value or "") of each `section.key = value`; a bare `key` has the section before it."""
    found = []
    section = ""
    for quoted in re.findall(r"`([^`]+)`", cell):
        match = re.fullmatch(r"(?:(model|data|assign|loss|train|decode)\.)?(\w+)(?: = (.+))?", quoted)
        if match is None:
            continue  # a command
        section = match[1] or section
        if section:
            found.append((section, match[2], match[3] or ""))
    return found


def test_the_tables_are_whole() -> None:
    assert len(SWITCHES) == 41 and len(SETTINGS) == 26
    assert sum(len(settings_in(cell)) for cell in SWITCHES + SETTINGS) > 70


@pytest.mark.slow
@pytest.mark.parametrize("cell", [*SWITCHES, *SETTINGS, *DEVIATIONS])
def test_settings_exist(cell: str) -> None:
    """Each value is one that some preset of the paper can be given."""
    for section, key, value in settings_in(cell):
        if not value:
            assert key in IMPROVED[section], f"{section}.{key}"
            continue
        refusals = []
        for preset in preset_names():
            try:
                config = load_config(preset, [f"{section}.{key}={value}"])
            except ConfigError as error:
                refusals.append(str(error))
            else:
                untouched = load_config(preset).to_dict()
                untouched[section][key] = tomllib.loads(f"x = {value}")["x"]
                assert config.to_dict() == untouched
        assert len(refusals) < len(preset_names()), refusals[0]


def test_what_posedet_s_is_said_to_have() -> None:
    for cell in SETTINGS:
        for section, key, value in settings_in(cell):
            if value:
                assert IMPROVED[section][key] == tomllib.loads(f"x = {value}")["x"], f"{section}.{key}"
