"""Settings from TOML: what is accepted, and the one line that is said of what is not."""

import dataclasses
import json
import math
import runpy
import tomllib
from importlib import resources
from pathlib import Path

import pytest

from posedet.commands.main import main
from posedet.config import (
    OLD_FILES,
    Config,
    config_from_dict,
    decode_config_from_dict,
    load_config,
    preset_names,
    settings,
    to_toml,
)
from posedet.errors import ConfigError
from posedet.skeleton import find_skeleton


@pytest.fixture
def values() -> dict:
    return load_config("posedet-s").to_dict()


def write(path, values: dict) -> str:
    """`values` as TOML; enough of it for settings."""
    lines = []
    for section, table in values.items():
        lines.append(f"[{section}]")
        for key, value in table.items():
            if value is not None:
                lines.append(f"{key} = {json.dumps(value)}")
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_names_of_presets():
    backbones, sets = ("dla34", "hrnet-w32", "hrnet-w48"), ("coco", "crowdpose")
    published = {f"{backbone}-{photos}" for backbone in backbones for photos in sets}
    assert set(preset_names()) == {"posedet-s"} | published | {f"{name}-improved" for name in published}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.strides=[8, 16]", "'model.strides' is [8, 16], expected [8, 16, 32] or [8, 16, 32, 64]"),
        ("model.pyramid='hrfpn'", "'model.fine_taps' is True, expected false with the pyramid 'hrfpn'"),
        ("model.strides=[8, 16, 32, 64]", "'model.fine_taps' is True, expected false with four levels"),
        ("model.branch_depth=0", "'model.tap_channels' is 48, expected 96 as model.channels"),
        ("model.refinements=-1", "'model.refinements' is -1, expected 0 to 100"),
        ("train.batch_size=0", "'train.batch_size' is 0, expected 1 to 100000"),
        ("train.learning_rate=nan", "'train.learning_rate' is nan, expected a number"),
        ("data.flip=2", "'data.flip' is 2, expected 0 to 1"),
        ("train.frozen_blocks=18", "'train.frozen_blocks' is 18, expected 0 to 17"),
        ("train.ema=1.5", "'train.ema' is 1.5, expected 0 to 1"),
        ("data.zoom=[2.0, 1.0]", "'data.zoom' is [2.0, 1.0], expected two numbers above 0, the smaller one first"),
        ("data.zoom=[1, inf]", "'data.zoom[1]' is inf, expected at most 1e+12"),
        ("data.zoom=[0, 1]", "'data.zoom' is [0.0, 1.0], expected two numbers above 0"),
        ("data.zoom=[nan, 1]", "'data.zoom[0]' is nan, expected a number"),
        ("train.decay=[]", "'train.decay' is [], expected one share of all steps, 0 up to 1 ('cosine')"),
        ("train.decay=[0.5, 0.9]", "'train.decay' is [0.5, 0.9], expected one share of all steps"),
        ("train.decay=[1.0]", "'train.decay' is [1.0], expected one share of all steps"),
        ("loss.heatmap_sigma=0", "'loss.heatmap_sigma' is 0, expected at least 0.001"),
        ("decode.candidates=0", "'decode.candidates' is 0, expected at least 1"),
        ("data.patch=65", "'data.patch' is 65, expected an even number, because data.mosaic halves it"),
        ("data.patch=8193", "'data.patch' is 8193, expected 64 to 8192"),
        ("data.rotation_deg=inf", "'data.rotation_deg' is inf, expected 0 to 180"),
        ("model.heatmap_bias=nan", "'model.heatmap_bias' is nan, expected a number"),
        ("model.channels=100000", "'model.channels' is 100000, expected 1 to 4096"),
        ("model.refinements=1000", "'model.refinements' is 1000, expected 0 to 100"),
        ("train.batch_size=1000000", "'train.batch_size' is 1000000, expected 1 to 100000"),
        ("train.accumulate=3", "'train.batch_size' is 32, expected a multiple of 3, the parts of train.accumulate"),
        ("train.seed=18446744073709", "'train.seed' is 18446744073709, expected at most 1e+12"),
        ("train.clip=0", "'train.clip' is 0, expected at least 1e-09"),
        (f"loss.coarse=1{'0' * 400}", f"'loss.coarse' is 1{'0' * 39}, expected at most 1e+12"),
        ("decode.score_threshold=inf", "'decode.score_threshold' is inf, expected 0 to 1"),
        ("decode.short_side=0", "'decode.short_side' is 0, expected at least 32"),
        ("loss.heatmap_sigma=1e300", "'loss.heatmap_sigma' is 1e+300, expected at most 1e+12"),
        ("model.heatmap_bias=-inf", "'model.heatmap_bias' is -inf, expected at least -1e+12"),
        (
            "model.backbone=hrnet",
            "'model.backbone' is 'hrnet', expected 'mobilenetv2' or 'dla34' or 'hrnet-w32' or 'hr",
        ),
        ("decode.score_threshold=1", "'decode.score_threshold' is 1.0, expected less than 1, which no score exceeds"),
        ("assign.selected=0", "'assign.selected' is 0, expected at least 1 with model.presence"),
    ],
)
def test_settings_that_cannot_be(change, message):
    with pytest.raises(ConfigError) as error:
        load_config("posedet-s", [change])
    assert message in str(error.value)


def test_group_norm_needs_multiples_of_32():
    with pytest.raises(ConfigError, match=r"'model\.channels' is 100, expected a multiple of 32"):
        load_config("posedet-s", ["model.norm='group'", "model.channels=100"])


@pytest.mark.parametrize("preset", ["dla34-coco", "hrnet-w32-coco-improved"])
def test_patches_of_backbones_that_merge_their_maps(preset):
    message = rf"'data\.patch' is 200, expected a multiple of 32, the largest stride of the backbone '{preset[:5]}"
    with pytest.raises(ConfigError, match=message):
        load_config(preset, ["data.patch=200"])


def test_clipping_may_have_no_limit():
    assert load_config("posedet-s", ["train.clip=inf"]).train.clip == math.inf
    assert load_config("posedet-s", [f"train.clip=1{'0' * 400}"]).train.clip > 1e300


def test_only_mobilenet_can_be_partly_frozen():
    message = r"'train\.frozen_blocks' is 3, expected 0 with the backbone 'dla34', which cannot be partly frozen$"
    with pytest.raises(ConfigError, match=message):
        load_config("dla34-coco", ["train.frozen_blocks=3"])


def test_one_cell_of_one_patch_is_refused():
    one_cell = ["data.patch=64", "train.batch_size=2", "train.accumulate=2"]
    message = r"'data\.patch' is 64, expected more than 64: one cell of one patch at a time cannot be normalised$"
    with pytest.raises(ConfigError, match=message):
        load_config("dla34-coco", one_cell)
    load_config("dla34-coco", [*one_cell, "train.batch_size=4"])


@pytest.mark.parametrize("name", preset_names())
def test_presets_load(name, tmp_path):
    config = load_config(name)
    assert isinstance(config, Config)
    trained, reported = find_skeleton(config.model.skeleton), find_skeleton(config.decode.skeleton)
    assert set(reported.keypoints) <= set(trained.keypoints)
    assert config.data.patch % max(config.model.strides) == 0
    path = tmp_path / "copy.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    assert load_config(str(path)) == config


@pytest.mark.parametrize("name", preset_names())
def test_round_trip(name):
    config = load_config(name)
    assert config_from_dict(config.to_dict(), "here") == config
    through_json = json.loads(json.dumps(config.to_dict()))
    assert config_from_dict(through_json, "here") == config
    assert decode_config_from_dict(through_json["decode"], "here") == config.decode


@pytest.mark.parametrize("name", [name for name in preset_names() if name.endswith(("-coco", "-crowdpose"))])
def test_paper_presets_hold_the_published_settings(name):
    """What all of them share; sections 4 to 9 of the facts."""
    config = load_config(name)
    backbone, _, data = name.rpartition("-")
    crowded, dla = data == "crowdpose", backbone == "dla34"
    assert (config.model.backbone, config.model.skeleton) == (backbone, data)
    assert config.model.strides == ((8, 16, 32, 64) if dla else (8, 16, 32))
    assert (
        config.model.channels == config.model.tap_channels == config.model.embedding_channels == (128 if dla else 256)
    )
    assert (config.model.bypass_depth, config.model.branch_depth) == (3, 2)
    assert (config.model.mixing_depth, config.model.refinements, config.model.score_at) == (1, 1, "coarse")
    assert (config.model.norm, config.model.location, config.model.pyramid) == (
        "group",
        "corner",
        "fpn" if dla else "hrfpn",
    )
    off = (config.model.presence, config.model.share_towers, config.model.fine_taps, config.model.keypoint_scores)
    assert not any(off)
    assert (config.assign.min_keypoints, config.assign.positives) == (3, 1)
    assert (config.assign.refine_oks, config.assign.rescue_oks) == (0.7, 0.52)
    assert (config.loss.coarse, config.loss.refined, config.loss.heatmap) == (0.1, 0.2, 0.1)
    assert (config.loss.oks, config.loss.presence, config.loss.keypoint_score) == (0, 0, 0)
    assert (config.data.zoom, config.data.flip, config.data.rotation_deg) == ((0.5, 1.5), 0.5, 0)
    assert (config.train.optimiser, config.train.learning_rate, config.train.weight_decay) == ("adam", 1e-4, 0)
    assert (config.train.clip, config.train.warmup, config.train.batch_size) == (35, 5, 48)
    assert [round(210 * share, 4) for share in config.train.decay] == [180, 200]
    assert (config.decode.nms, config.decode.nms_threshold) == ("oks", 0.3 if crowded else 0.2)
    assert (config.decode.score_threshold, config.decode.min_area) == (0.05, 1024)
    assert config.data.patch == 512
    long_and_short = (1000, 640) if backbone == "hrnet-w48" else (800, 512)
    assert (config.decode.long_side, config.decode.short_side) == long_and_short


def test_unknown_key_names_the_nearest(values, tmp_path):
    values["train"]["batchsize"] = 3
    with pytest.raises(ConfigError) as error:
        load_config(write(tmp_path / "mine.toml", values))
    expected = f"{tmp_path}/mine.toml: unknown key 'train.batchsize' (did you mean 'train.batch_size'?)"
    assert str(error.value) == expected


def test_unknown_section_names_the_nearest(values):
    values["lose"] = values.pop("loss")
    with pytest.raises(ConfigError, match=r"^here: unknown key 'lose' \(did you mean 'loss'\?\)$"):
        config_from_dict(values, "here")


@pytest.mark.parametrize("section", [field.name for field in dataclasses.fields(Config)])
def test_every_missing_key_is_named(section, values):
    assert_missing(section, {key: table for key, table in values.items() if key != section})
    for key in values[section]:
        if key == "short_side" or f"{section}.{key}" in OLD_FILES:  # may be absent: not limited, or newer than the file
            continue
        table = {name: value for name, value in values[section].items() if name != key}
        assert_missing(f"{section}.{key}", {**values, section: table})


def assert_missing(key: str, values: dict) -> None:
    with pytest.raises(ConfigError) as error:
        config_from_dict(values, "here")
    assert str(error.value) == f"here: missing key '{key}'"


def test_a_file_may_be_older_than_a_setting(values):
    values["assign"]["least_side"] = 0.3
    assert config_from_dict(values, "here").assign.least_side == 0.3
    del values["assign"]["least_side"]
    assert config_from_dict(values, "here").assign.least_side == 0.0


def test_a_file_may_have_settings_that_no_longer_exist(values):
    config = config_from_dict(values, "here")
    values["assign"] |= {"level_divisor": 4.0, "positive_oks": 0.6, "negative_oks": 0.5}
    values["loss"]["score"] = 1
    values["decode"]["max_poses"] = 100
    assert config_from_dict(values, "here") == config
    assert decode_config_from_dict(values["decode"], "here") == config.decode
    assert values["decode"]["max_poses"] == 100  # what was given is not changed


@pytest.mark.parametrize("override", ["loss.score=2.0", "decode.max_poses=20"])
def test_the_value_of_such_a_setting_is_fixed(override):
    name, _, value = override.partition("=")
    with pytest.raises(
        ConfigError, match=rf"^posedet-s: '{name}' is {value}; this setting was removed and is now always 1"
    ):
        load_config("posedet-s", [override])


@pytest.mark.parametrize("name", ["posedet-s.onnx", "posedet-s-int8.onnx", "posedet-s.safetensors"])
def test_files_that_were_released_still_load(name):
    from posedet.runtime.session import open_session
    from posedet.weights.checkpoint import load_info

    path = Path(str(resources.files("posedet") / "released" / name))
    if path.suffix == ".onnx":
        about = open_session(path).about
        stored, decode = about.config, about.decode
    else:
        stored = load_info(path)["config"]
        decode = config_from_dict(stored, name).decode
    config = config_from_dict(stored, name)
    heads = ["model.identity_channels=32", "model.uncertainty_channels=128", "decode.score_threshold=0.35"]
    preset = load_config("posedet-s", heads)
    assert config.model == preset.model
    assert config.decode == decode == preset.decode


def test_short_side_may_be_absent(values):
    del values["decode"]["short_side"]
    assert config_from_dict(values, "here").decode.short_side is None


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        ("train", "batch_size", "16", "a whole number"),
        ("train", "batch_size", 16.0, "a whole number"),
        ("train", "batch_size", True, "a whole number"),
        ("train", "learning_rate", "fast", "a number"),
        ("train", "learning_rate", False, "a number"),
        ("train", "learning_rate", None, "a number"),
        ("model", "presence", 1, "true or false"),
        ("model", "presence", "true", "true or false"),
        ("model", "skeleton", 17, "a string"),
        ("model", "norm", "layer", "'batch' or 'group'"),
        ("model", "norm", ["batch"], "'batch' or 'group'"),
        ("model", "strides", 8, "a list"),
        ("model", "strides", "8", "a list"),
        ("data", "zoom", [1.0], "a list of 2"),
        ("data", "zoom", [1.0, 2.0, 3.0], "a list of 2"),
        ("decode", "short_side", "none", "a whole number"),
    ],
)
def test_wrong_types(values, section, key, value, expected):
    values[section][key] = value
    with pytest.raises(ConfigError) as error:
        config_from_dict(values, "here")
    assert str(error.value) == f"here: '{section}.{key}' is {value!r}, expected {expected}"


def test_wrong_type_inside_a_list(values):
    values["model"]["strides"] = [8, "16"]
    with pytest.raises(ConfigError, match=r"^here: 'model\.strides\[1\]' is '16', expected a whole number$"):
        config_from_dict(values, "here")


@pytest.mark.parametrize("wrong", [3, [], "x", None])
def test_a_section_must_be_a_table(values, wrong):
    values["train"] = wrong
    with pytest.raises(ConfigError, match=r"^here: train must be a table$"):
        config_from_dict(values, "here")


@pytest.mark.parametrize("wrong", [[], "decode", None])
def test_decode_section_of_a_model_file_must_be_a_table(wrong):
    with pytest.raises(ConfigError, match=r"^model\.onnx: decode must be a table$"):
        decode_config_from_dict(wrong, "model.onnx")


def test_whole_numbers_are_numbers(values):
    values["train"]["clip"] = 35
    clip = config_from_dict(values, "here").train.clip
    assert clip == 35.0 and isinstance(clip, float)


def test_overrides_are_typed():
    config = load_config(
        "dla34-coco",
        [
            "train.batch_size=16",
            "train.learning_rate = 3e-4",
            "model.presence=true",
            "model.norm=batch",
            'model.location="centre"',
            "model.strides=[8, 16, 32]",
            "assign.selected=20",
            "data.zoom=[1, 2]",
            "train.batch_size=24",  # the last one counts
        ],
    )
    assert config.train.batch_size == 24
    assert config.train.learning_rate == 3e-4
    assert config.model.presence is True
    assert (config.model.norm, config.model.location) == ("batch", "centre")
    assert config.model.strides == (8, 16, 32)
    assert config.data.zoom == (1.0, 2.0)
    untouched = load_config("dla34-coco")
    assert config.loss == untouched.loss and config.decode == untouched.decode


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.batch_size", "train.batch_size: expected section.key=value, for example train.batch_size=16"),
        ("batch_size=16", "batch_size=16: expected section.key=value, for example train.batch_size=16"),
        ("train.batchsize=16", "posedet-s: unknown key 'train.batchsize' (did you mean 'train.batch_size'?)"),
        ("train.batch_size=many", "posedet-s: 'train.batch_size' is 'many', expected a whole number"),
        ("train.batch_size=", "posedet-s: 'train.batch_size' is '', expected a whole number"),
        ("train.batch_size='16'", "posedet-s: 'train.batch_size' is '16', expected a whole number"),
        ("trian.batch_size=16", "posedet-s: unknown key 'trian' (did you mean 'train'?)"),
    ],
)
def test_wrong_overrides(override, message):
    with pytest.raises(ConfigError) as error:
        load_config("posedet-s", [override])
    assert str(error.value) == message


def test_override_is_never_run_as_code():
    with pytest.raises(ConfigError, match="expected a whole number"):
        load_config("posedet-s", ["train.seed=__import__('os').getpid()"])


@pytest.mark.parametrize("number", ["9" * 10_000, "[" * 10_000])
def test_endless_overrides(number):
    with pytest.raises(ConfigError, match=r"^posedet-s: 'train\.seed' is "):
        load_config("posedet-s", [f"train.seed={number}"])


def test_override_below_what_is_no_table(tmp_path):
    path = tmp_path / "flat.toml"
    path.write_text("train = 3")
    with pytest.raises(ConfigError, match=r"^train\.seed=1: 'train' is not a table$"):
        load_config(str(path), ["train.seed=1"])


def test_unknown_preset():
    with pytest.raises(ConfigError, match=r"^no preset named 'posedet-x'; presets: dla34-coco, .*posedet-s$"):
        load_config("posedet-x")


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml: no such file$"):
        load_config(str(tmp_path / "none.toml"))
    folder = tmp_path / "folder.toml"
    folder.mkdir()
    with pytest.raises(ConfigError, match=r"folder\.toml: no such file$"):
        load_config(str(folder))


def test_file_too_large(tmp_path):
    path = tmp_path / "large.toml"
    path.write_bytes(b"#" * 1_000_001)
    with pytest.raises(ConfigError, match=r"large\.toml: larger than 1000000 bytes; expected a preset in TOML$"):
        load_config(str(path))


@pytest.mark.parametrize(
    "content",
    [
        b"[model",
        b"a = 1\na = 2",
        b"\xff\xfe\x00",
        b"a = " + b"[" * 100_000,  # deeper than Python's stack
        b"a = " + b"9" * 10_000,  # longer than Python's numbers from text
    ],
    ids=["cut off", "twice", "not text", "deep", "long number"],
)
def test_invalid_toml(tmp_path, content):
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.toml: not valid TOML: ") as error:
        load_config(str(path))
    assert "\n" not in str(error.value)


def test_settings_cannot_be_changed():
    config = load_config("posedet-s")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.train.seed = 1


def shipped(name: str) -> dict:
    return tomllib.loads((resources.files("posedet") / "presets" / f"{name}.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("recipe", ["paper", "improved", "posedet-s"])
def test_recipes_are_complete(recipe):
    """`diff` of two recipes is the difference of the experiments: no key may hide in a default."""
    written = {f"{section}.{key}" for section, table in shipped(recipe).items() for key in table}
    assert {setting.name for setting in settings()} - written <= {"decode.short_side"}


def test_every_piece_of_a_variant_changes_something():
    variants = shipped("variants")
    presets = variants.pop("presets")
    assert {piece for _, *pieces in presets.values() for piece in pieces} == set(variants)
    for name, (recipe, *pieces) in presets.items():
        whole, values = load_config(name), shipped(recipe)
        assert (whole == config_from_dict(values, recipe)) == (not pieces)


def test_every_setting_has_a_meaning():
    assert all(setting.meaning and "|" not in setting.meaning for setting in settings())


def test_show_prints_a_preset_of_what_would_run(tmp_path, capsys):
    assert main(["train", "hrnet-w48-crowdpose", "--set", "train.seed=3", "--set", "data.zoom=[1, 2]", "--show"]) == 0
    printed = capsys.readouterr().out
    assert "patch = 512  # side of the square training patch, in pixels" in printed.splitlines()
    (tmp_path / "x.toml").write_text(printed, encoding="utf-8")
    expected = load_config("hrnet-w48-crowdpose", ["train.seed=3", "data.zoom=[1, 2]"])
    assert load_config(str(tmp_path / "x.toml")) == expected


def test_settings_that_json_would_write_otherwise(tmp_path):
    odd = ["train.clip=inf", "train.weight_decay=1e-300", "train.decay=[]", "train.schedule=step"]
    config = load_config("posedet-s", [*odd, """model.skeleton='a "b" \\ é.toml'"""])
    (tmp_path / "x.toml").write_text(to_toml(config), encoding="utf-8")
    assert load_config(str(tmp_path / "x.toml")) == config


@pytest.mark.parametrize("given", [(), ("--data", "a.json"), ("--run", "a")])
def test_training_needs_data_and_a_run(given, capsys):
    assert main(["train", "posedet-s", *given]) == 2
    line = "posedet: error: train needs --data and --run; only --show works without them\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    "given",
    [
        ("--data", "a.json"),
        ("--run", "a"),
        ("--start", "a.pth"),
        ("--validate", "a.json"),
        ("--validate-every", "5"),
        ("--category", "person"),
        ("--compile",),
        ("--overwrite",),
    ],
)
def test_printing_settings_ignores_no_option(given, capsys):
    assert main(["train", "posedet-s", "--show", *given]) == 2
    line = f"posedet: error: {given[0]} does not go with --show, which only prints the settings; remove one of them\n"
    assert capsys.readouterr() == ("", line)


def test_the_page_of_settings_is_up_to_date():
    docs = Path(__file__).parent.parent / "docs"
    page = runpy.run_path(str(docs / "make_settings.py"))["page"]()
    assert (docs / "settings.md").read_text(encoding="utf-8") == page, "run python docs/make_settings.py"
