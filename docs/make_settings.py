"""Write docs/settings.md from the fields of `posedet.config`: `python docs/make_settings.py`."""

from importlib import resources
from pathlib import Path

from posedet.config import SECTIONS, load_config, settings

PAGE = Path(__file__).with_name("settings.md")
# Recipe -> the preset that is the recipe as it stands.
RECIPES = {"paper": "dla34-coco", "improved": "dla34-coco-improved", "posedet-s": "posedet-s"}

INTRODUCTION = """\
# Settings

Generated from `src/posedet/config.py` by `python docs/make_settings.py`.

A preset is a complete recipe, or a variant of one. `paper` is the preset `dla34-coco`, and `improved` is
`dla34-coco-improved`; [fidelity](lab/fidelity.md) compares them. `posedet train PRESET --show` prints all settings of
any preset as TOML, which you can save, change, and train as `posedet train mine.toml`.
"""


def page() -> str:
    presets = {recipe: load_config(preset).to_dict() for recipe, preset in RECIPES.items()}
    variants = (resources.files("posedet") / "presets" / "variants.toml").read_text(encoding="utf-8")
    lines = [INTRODUCTION, "## Variants", "", "```toml", variants.strip(), "```"]
    for section, kind in SECTIONS.items():
        lines += ["", f"## {section}", "", str(kind.__doc__), ""]
        lines += [f"| key | meaning | value | {' | '.join(RECIPES)} |", f"|---|---|---|{'---|' * len(RECIPES)}"]
        for setting in settings():
            if setting.name.startswith(f"{section}."):
                key = setting.name.partition(".")[2]
                values = [shown(preset[section][key]) for preset in presets.values()]
                meaning = setting.meaning.replace("*", r"\*")
                lines.append(f"| `{key}` | {meaning} | {setting.expected} | {' | '.join(values)} |")
    return "\n".join(lines) + "\n"


def shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(f"{item:.4g}" for item in value)
    return "-" if value is None else str(value)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
