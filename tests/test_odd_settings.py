"""Whatever the settings are, a run makes its first step and finds poses, or is refused in one line."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posedet import PoseDet
from posedet.config import MAX_NUMBER, SECTIONS, Range, config_from_dict, load_config
from posedet.data.sources import read_sets
from posedet.errors import PoseDetError
from posedet.skeleton import BODY19
from posedet.training.loop import _take_step
from posedet.training.setup import prepare_run
from posedet.weights.checkpoint import named_skeleton
from posedet.weights.torch_session import TorchSession
from sets import made_up_set

PRESETS = ("posedet-s", "dla34-coco", "dla34-coco-improved")
# What keeps a step small: settings, and the largest drawn value of some that take time or memory.
SMALL: dict[str, dict[str, Any]] = {
    "model": {"channels": 32, "tap_channels": 32, "embedding_channels": 16},
    "data": {"patch": 64},
    "train": {"batch_size": 4, "accumulate": 1, "frozen_blocks": 0},
}
MOST = {"channels": 70, "depth": 3, "refinements": 3, "patch": 140, "batch_size": 9, "accumulate": 9, "_side": 200}
TEXTS = ("coco", "crowdpose", "", "no", "no/such.toml", "no.safetensors", "a\0b")


def odd_values(key: str, hint: Any) -> st.SearchStrategy[Any]:
    """Values of the type of a setting, in its range, at its ends and outside."""
    kind, *notes = get_args(hint)
    limits = next((note for note in notes if isinstance(note, Range)), Range(-MAX_NUMBER, MAX_NUMBER))
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if get_origin(kind) is tuple:
        return st.lists(st.sampled_from((8, 16, 32, 64) if key == "strides" else (0.0, 0.5, 1.0, 2.0)), max_size=4)
    if kind is bool:
        return st.booleans()
    if kind is str:
        return st.sampled_from(TEXTS)
    if kind is float:
        return st.floats(0, 2) | st.sampled_from((*limits, -1.0, 1e-12, 1e9, 1e300, float("inf")))
    most = next((most for part, most in MOST.items() if part in key), limits.most)
    numbers = st.integers(int(limits.least) - 1, int(min(limits.least + 20, most))) | st.just(
        int(min(limits.most, most))
    )
    return numbers | st.none() if type(None) in get_args(kind) else numbers


ODD_VALUES = {
    (section, key): odd_values(key, hint)
    for section, kind in SECTIONS.items()
    for key, hint in get_type_hints(kind, include_extras=True).items()
}


@cache
def photo_set() -> tuple[TemporaryDirectory[str], str]:
    """Annotated photos, and the folder that holds them as long as the tests run."""
    folder = TemporaryDirectory()
    return folder, str(made_up_set(Path(folder.name) / "set.json", BODY19.keypoints, num_photos=2))


def first_step(preset: str, changes: dict[tuple[str, str], Any]) -> None:
    """Make the first step of a run, and find poses with its network. Raises PoseDetError if that is refused."""
    values = load_config(preset).to_dict()
    for section, table in SMALL.items():
        values[section] |= table
    for (section, key), value in changes.items():
        values[section][key] = value
    config = config_from_dict(values, "drawn")
    photos = read_sets([photo_set()[1]], named_skeleton(config.model.skeleton))
    with TemporaryDirectory() as folder:
        run = prepare_run(config, photos, Path(folder), workers=0)
        run.network.train()
        _take_step(run, 0)
    PoseDet(TorchSession(run.network, run.config, run.skeleton, "drawn"), long_side=128)(
        np.zeros((60, 90, 3), np.uint8)
    )


@pytest.mark.slow
@settings(max_examples=40)
@given(
    preset=st.sampled_from(PRESETS),
    names=st.lists(st.sampled_from([*ODD_VALUES]), min_size=1, max_size=3, unique=True),
    drawn=st.data(),
)
def test_a_run_begins_or_is_refused_in_one_line(
    preset: str, names: list[tuple[str, str]], drawn: st.DataObject
) -> None:
    try:
        first_step(preset, {name: drawn.draw(ODD_VALUES[name]) for name in names})
    except PoseDetError as refused:
        assert "\n" not in str(refused)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("posedet-s", {("train", "frozen_blocks"): 17}),
        ("dla34-coco", {("train", "batch_size"): 1, ("data", "patch"): 96}),
        ("posedet-s", {("data", "patch"): 65, ("data", "mosaic"): 0.0}),
    ],
)
def test_settings_at_their_ends_that_work(preset: str, changes: dict[tuple[str, str], Any]) -> None:
    first_step(preset, changes)
