"""The settings of an experiment, read from TOML. Each field documents its range and meaning.

A preset is a complete recipe, or a variant of one (`presets/variants.toml`). No setting that changes the result has a
default: an unknown, missing or mistyped key is an error, and so are settings that contradict each other.
"""

import dataclasses
import difflib
import json
import math
import os
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, Union, cast, get_args, get_origin, get_type_hints

from posedet.errors import ConfigError

MAX_CONFIG_BYTES = 1_000_000
MAX_NUMBER = 10**12  # far above any setting, and far below what overflows in PyTorch


class Range(NamedTuple):
    """The range of values that a setting allows."""

    least: float
    most: float

    def __str__(self) -> str:
        return f"at least {self.least:g}" if self.most >= MAX_NUMBER else f"{self.least:g} to {self.most:g}"


def at_least(least: float) -> Range:
    return Range(least, MAX_NUMBER)


# Share of all steps that train on patches of `data.early_patch`.
EARLY_SHARE = 0.7
SHARE, WIDTH = Range(0, 1), Range(1, 4096)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    skeleton: Annotated[str, "keypoints: coco, crowdpose, crowdpose15, body19, or a file with a skeleton or weights"]
    backbone: Annotated[Literal["mobilenetv2", "dla34", "hrnet-w32", "hrnet-w48"], "network that reads the photo"]
    pyramid: Annotated[Literal["fpn", "hrfpn"], "neck that turns the backbone's maps into levels"]
    strides: Annotated[tuple[int, ...], "stride of each level, in pixels of the network input"]
    channels: Annotated[int, WIDTH, "channels of pyramid and head"]
    norm: Annotated[Literal["batch", "group"], "normalisation in pyramid and head; batch is folded away on export"]
    location: Annotated[Literal["corner", "centre"], "position of a cell: column * stride, or the centre of its pixels"]
    bypass_depth: Annotated[int, Range(0, 100), "3x3 convolutions before the coarse pose"]
    presence: Annotated[bool, "score every location cheaply first, and compute embeddings only at the best"]
    branch_depth: Annotated[int, Range(0, 100), "3x3 convolutions before each embedding"]
    share_towers: Annotated[bool, "use the same maps for score and refinement"]
    tap_channels: Annotated[int, WIDTH, "channels of the maps that are sampled at the keypoints"]
    fine_taps: Annotated[bool, "sample maps with twice the resolution of the level"]
    embedding_channels: Annotated[int, WIDTH, "width of an embedding"]
    mixing_depth: Annotated[int, Range(1, 100), "linear layers after sampling; the paper has 1"]
    representation: Annotated[
        Literal["pose", "centre", "box", "anchors"],
        "where the embedding samples: at the coarse keypoints (paper), only at the location, on a grid in the box of "
        "the coarse pose, or at the training set's mean pose around the location",
    ]
    refinements: Annotated[int, Range(0, 100), "refinements of the coarse pose; the paper has 1, 0 keeps coarse poses"]
    local_channels: Annotated[int, Range(0, 4096), "width of a last refinement of each keypoint by itself; 0: none"]
    score_at: Annotated[Literal["coarse", "refined"], "pose at which the embedding of the score samples"]
    keypoint_scores: Annotated[bool, "predict the visibility of every keypoint"]
    identity_channels: Annotated[
        int,
        Range(0, 4096),
        "length of the identity embedding, which `posedet identity` adds to a finished network; 0: none",
    ]
    uncertainty_channels: Annotated[
        int,
        Range(0, 4096),
        "width of the head for covariances and scores, which `posedet uncertainty` adds to a finished network; 0: none",
    ]
    heatmaps: Annotated[bool, "learn heatmaps too, only during training"]
    heatmap_bias: Annotated[float, "initial bias of the heatmap logits"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Training photos and their augmentation."""

    patch: Annotated[int, Range(64, 8192), "side of the square training patch, in pixels"]
    early_patch: Annotated[
        int, Range(0, 8192), f"side in the first {EARLY_SHARE:.0%} of the steps, at the same scale; 0: as patch"
    ]
    crop: Annotated[Literal["person", "photo"], "centred on a person's box (official code), or anywhere near people"]
    zoom: Annotated[tuple[float, float], "crop 'person': 1 / magnification; 'photo': its long side, in patches"]
    flip: Annotated[float, SHARE, "probability of mirroring"]
    rotation_deg: Annotated[float, Range(0, 180), "largest rotation in either direction, in degrees"]
    colour: Annotated[float, at_least(0), "strength of the colour and brightness changes; 0: none"]
    mosaic: Annotated[float, SHARE, "probability of a patch made of four photos"]
    keep: Annotated[Literal["centre", "keypoints"], "people kept: box centre inside the patch, or any keypoint inside"]
    empty_photos: Annotated[bool, "train on photos without people too: they teach the background"]
    geometry: Annotated[Literal["official", "half-pixel"], "crop and mirror; the official one is off by up to a pixel"]
    truncate: Annotated[
        bool, "cut keypoints in the patch to whole pixels (official code for COCO); shifts them by half"
    ]


@dataclass(frozen=True, kw_only=True)
class AssignConfig:
    """Which locations learn which person."""

    min_keypoints: Annotated[int, at_least(1), "people with fewer labelled keypoints are not learnt"]
    least_side: Annotated[float, at_least(0), "minimum size of a person from few keypoints, as a share of √area"]
    centre: Annotated[Literal["keypoints", "box"], "centre of a person: mean of its keypoints, or middle of their box"]
    positives: Annotated[int, at_least(1), "nearest cells of each person, which learn its coarse pose"]
    ignore_regions: Annotated[bool, "ignore crowds and people with few or no labels instead of learning background"]
    oks_area: Annotated[Literal["half box", "annotation"], "area in OKS: half the clipped box, or as labelled"]
    refine_oks: Annotated[float, "minimum OKS of coarse poses that are refined"]
    rescue_oks: Annotated[float, "minimum OKS to refine a person's best pose; 0: all positives; 2: never"]
    score_target: Annotated[Literal["labels", "quality"], "1 or 0 by coarse OKS, or the OKS of the refined pose"]
    selected: Annotated[int, at_least(0), "locations per photo whose embeddings are trained, with model.presence"]


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the terms; the score has weight 1."""

    distance: Annotated[
        Literal["clamped sum", "squared sum", "smooth mean"],
        "over keypoints: the official code's, the paper's, or ours",
    ]
    coarse: Annotated[float, at_least(0), "distance of the coarse poses"]
    refined: Annotated[float, at_least(0), "distance of the refined poses"]
    oks: Annotated[float, at_least(0), "1 - OKS, added to each distance after its warm-up"]
    oks_warmup: Annotated[int, at_least(0), "steps over which that term grows from zero"]
    presence: Annotated[float, at_least(0), "presence of a person at each location"]
    keypoint_score: Annotated[float, at_least(0), "visibility of each keypoint"]
    heatmap: Annotated[float, at_least(0), "heatmaps"]
    heatmap_form: Annotated[Literal["focal", "l2"], "loss of the heatmaps: the official code's, or the paper's"]
    heatmap_targets: Annotated[
        Literal["all levels", "own level"], "peaks rounded to cells on every level, or exact and only on a person's own"
    ]
    heatmap_sigma: Annotated[float, at_least(1e-3), "standard deviation of a peak, in cells"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Optimisation."""

    optimiser: Annotated[Literal["adam", "adamw", "muon"], "muon: for most matrices, with adamw for the rest"]
    batch_size: Annotated[int, Range(1, 100_000), "patches per step, over all processes and parts"]
    accumulate: Annotated[int, at_least(1), "parts in which a step is computed, to save memory"]
    steps: Annotated[int, at_least(1), "steps of the whole training"]
    learning_rate: Annotated[float, at_least(0), "learning rate after the warm-up"]
    backbone_rate: Annotated[float, at_least(0), "factor on the learning rate of the backbone"]
    frozen_blocks: Annotated[int, Range(0, 17), "first blocks of the backbone, which keep their start weights"]
    weight_decay: Annotated[float, at_least(0), "decay of weights, except biases and normalisation"]
    warmup: Annotated[int, at_least(0), "steps over which the rate grows from a third"]
    schedule: Annotated[Literal["step", "cosine"], "shape of the learning-rate decay"]
    decay: Annotated[tuple[float, ...], "shares of all steps; step: rate drops to a tenth; cosine: decay starts"]
    clip: Annotated[float, Range(1e-9, math.inf), "largest norm of the gradient; inf: no limit"]
    sync_norm: Annotated[bool, "share batch statistics between all processes, on GPUs"]
    ema: Annotated[float, SHARE, "decay of the moving average of the weights; 0: none"]
    amp: Annotated[Literal["none", "bf16", "fp16"], "mixed precision"]
    seed: Annotated[int, at_least(0), "seed of everything random"]


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """How network outputs become poses; stored in the model file."""

    long_side: Annotated[int, Range(32, 8192), "long side of the network input, in pixels"]
    short_side: Annotated[int | None, at_least(32), "maximum short side of the network input; if left out, no limit"]
    candidates: Annotated[int, at_least(1), "best locations that leave the network"]
    score_threshold: Annotated[float, SHARE, "poses with a lower score are dropped"]
    nms: Annotated[Literal["oks", "iou"], "recognise duplicates by OKS, or by the overlap of their boxes"]
    nms_threshold: Annotated[float, "poses with a higher OKS or overlap are duplicates"]
    min_area: Annotated[float, at_least(0), "minimum area of a pose in the NMS, for photos of 640 pixels"]
    clamp: Annotated[bool, "move keypoints outside the photo to its border"]
    skeleton: Annotated[str, "keypoints that are reported unless others are requested"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of an experiment."""

    model: ModelConfig
    data: DataConfig
    assign: AssignConfig
    loss: LossConfig
    train: TrainConfig
    decode: DecodeConfig

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


SECTIONS: dict[str, type] = get_type_hints(Config)

# Values for files of earlier releases. A current setting that such a file lacks takes this value. A setting that no
# longer exists is fixed at this value; a file with another value is refused.
OLD_FILES: dict[str, Any] = {
    "data.truncate": False,
    "model.identity_channels": 0,
    "model.uncertainty_channels": 0,
    "assign.least_side": 0.0,
    "data.early_patch": 0,
    "assign.level_divisor": 4.0,
    "assign.positive_oks": 0.6,
    "assign.negative_oks": 0.5,
    "loss.score": 1.0,
    "decode.max_poses": 100,
}


class Setting(NamedTuple):
    """Documentation of a field."""

    name: str  # section.key
    expected: str  # type and range
    meaning: str


def settings() -> Iterator[Setting]:
    """All settings, in the order of `Config`."""
    for section, kind in SECTIONS.items():
        for key, hint in get_type_hints(kind, include_extras=True).items():
            yield Setting(f"{section}.{key}", _expected(hint), next(x for x in get_args(hint) if isinstance(x, str)))


def preset_names() -> list[str]:
    return sorted(_shipped("variants")["presets"])


def _shipped(name: str) -> dict[str, Any]:
    return tomllib.loads((resources.files("posedet") / "presets" / f"{name}.toml").read_text(encoding="utf-8"))


def _preset(name: str) -> dict[str, Any]:
    """A recipe with the changes of its variant."""
    variants = _shipped("variants")
    recipe, *pieces = variants["presets"][name]
    values = _shipped(recipe)
    for piece in pieces:
        for section, changes in variants[piece].items():
            values[section] |= changes
    return values


def load_config(name: str, overrides: list[str] | None = None) -> Config:
    """Load the settings of a preset.

    Args:
        name: The name of a built-in preset, or the path of a TOML file.
        overrides: Changes in the form `section.key=value`, where values are TOML or a bare string.

    Raises:
        ConfigError: The preset does not exist, or a setting is unknown, missing or invalid. The message names the file
            and the key, and suggests the nearest valid key.
    """
    if name.endswith(".toml"):
        values = _read(name)
    elif name in preset_names():
        values = _preset(name)
    else:
        raise ConfigError(f"no preset named {name!r}; presets: {', '.join(preset_names())}")
    for override in overrides or []:
        _override(values, override)
    return config_from_dict(values, name)


def _read(name: str) -> dict[str, Any]:
    path = Path(name)
    if not os.path.isfile(path):
        raise ConfigError(f"{name}: no such file")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ConfigError(f"{name}: larger than {MAX_CONFIG_BYTES} bytes; expected a preset in TOML")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (ValueError, RecursionError) as error:  # also an endless number, or a thousand brackets
        raise ConfigError(f"{name}: not valid TOML: {error!s:.200}") from None


def config_from_dict(values: dict[str, Any], source: str) -> Config:
    """The inverse of `Config.to_dict`, also for files of earlier releases.

    Raises ConfigError, with the file name `source`, if a setting is unknown, missing or invalid.
    """
    config = cast(Config, _build(Config, up_to_date(values, source), source, ""))
    _check_fit(config, source)
    return config


def decode_config_from_dict(values: object, source: str) -> DecodeConfig:
    """Build only the `decode` section, as stored in a model file. Raises ConfigError as `config_from_dict`."""
    values = up_to_date({"decode": values}, source)["decode"]
    return cast(DecodeConfig, _build(DecodeConfig, values, source, "decode."))


def up_to_date(values: dict[str, Any], source: str) -> dict[str, Any]:
    """Convert the sections of a file of any release to the current settings; see `OLD_FILES`."""
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: {values!r:.80}, expected a table of settings")
    values = {section: dict(table) if isinstance(table, dict) else table for section, table in values.items()}
    for name, meant in OLD_FILES.items():
        section, _, key = name.partition(".")
        table = values.get(section)
        if not isinstance(table, dict):
            continue
        if key in get_type_hints(SECTIONS[section]):
            table.setdefault(key, meant)
        elif (value := table.pop(key, meant)) != meant:
            raise ConfigError(
                f"{source}: '{name}' is {value!r:.80}; this setting was removed and is now always {meant!r}"
            )
    return values


def to_toml(config: Config) -> str:
    """A complete preset that `load_config` reads back, with the meanings as comments."""
    meanings = {setting.name: setting.meaning for setting in settings()}
    lines = []
    for section, table in config.to_dict().items():
        lines += [f"\n[{section}]  # {SECTIONS[section].__doc__}"]
        for key, value in table.items():
            line = f"# {key} is not set" if value is None else f"{key} = {_toml(value)}"
            lines.append(f"{line}  # {meanings[f'{section}.{key}']}")
    return "\n".join(lines).lstrip() + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    section, dot, name = key.strip().partition(".")
    if not equals or not dot:
        raise ConfigError(f"{override}: expected section.key=value, for example train.batch_size=16")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text.strip()  # a bare word is a string
    table = values.setdefault(section, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{override}: '{section}' is not a table")
    table[name] = value


def _build(kind: type, values: object, source: str, prefix: str) -> object:
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: {prefix.rstrip('.')} must be a table")
    hints = get_type_hints(kind, include_extras=True)
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1, cutoff=0.0)[0]
            shown = key if key.isprintable() else ascii(key)
            raise ConfigError(f"{source}: unknown key '{prefix}{shown:.80}' (did you mean '{prefix}{near}'?)")
    arguments: dict[str, object] = {}
    for key, hint in hints.items():
        name = f"{prefix}{key}"
        if key not in values and not _is_optional(hint):
            raise ConfigError(f"{source}: missing key '{name}'")
        value = values.get(key)
        if get_origin(hint) is Annotated:
            arguments[key] = _checked(value, hint, source, name)
        else:
            arguments[key] = _build(hint, value, source, f"{name}.")
    return kind(**arguments)


def _is_optional(hint: Any) -> bool:
    return get_origin(hint) is Annotated and type(None) in get_args(get_args(hint)[0])


def _checked(value: Any, hint: Any, source: str, key: str) -> Any:
    """`value` converted to the type of its field. Raises ConfigError if its type or range is wrong."""
    kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    origin, options = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return None if value is None else _checked(value, Annotated[options[0], *notes], source, key)
    fits = False
    if origin is Literal:
        fits = value in options
    elif origin is tuple:
        fits = isinstance(value, (list, tuple)) and (options[-1] is Ellipsis or len(value) == len(options))
        if fits:
            value = tuple(_checked(item, options[0], source, f"{key}[{i}]") for i, item in enumerate(value))
    else:
        if type(value) in (int, float) and kind in (int, float) and value == value:  # not NaN
            limits = next((note for note in notes if isinstance(note, Range)), Range(-MAX_NUMBER, MAX_NUMBER))
            if not limits.least <= value <= limits.most:
                expected = f"at most {MAX_NUMBER:g}" if value > limits.most == MAX_NUMBER else limits
                raise ConfigError(f"{source}: '{key}' is {value!r:.40}, expected {expected}")
            if kind is float and type(value) is int:
                value = float(min(value, sys.float_info.max))
        fits = isinstance(value, kind) and not (kind is int and isinstance(value, bool)) and value == value
    if not fits:
        raise ConfigError(f"{source}: '{key}' is {value!r:.80}, expected {_expected(kind)}")
    return value


def _expected(hint: Any) -> str:
    """The type and range of a field in words."""
    origin, options = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return ", ".join([_expected(options[0]), *(str(note) for note in options[1:] if isinstance(note, Range))])
    if origin is Literal:
        return " or ".join(repr(option) for option in options)
    if origin in (Union, UnionType):
        return _expected(options[0])
    if origin is tuple:
        return "a list" if options[-1] is Ellipsis else f"a list of {len(options)}"
    return {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}[hint]


def _check_fit(config: Config, source: str) -> None:
    """Check lists of numbers, and settings that are valid alone but not together."""

    def refuse(name: str, expected: str) -> NoReturn:
        section, _, key = name.partition(".")
        value = getattr(getattr(config, section), key)
        shown = list(value) if isinstance(value, tuple) else value
        raise ConfigError(f"{source}: '{name}' is {shown!r:.80}, expected {expected}")

    model, train = config.model, config.train
    if model.pyramid == "hrfpn":
        if model.strides != (8, 16, 32):
            refuse("model.strides", "[8, 16, 32], the levels of the pyramid 'hrfpn'")
        if model.fine_taps:
            refuse("model.fine_taps", "false with the pyramid 'hrfpn', which has no finer maps")
    elif model.strides not in ((8, 16, 32), (8, 16, 32, 64)):
        refuse("model.strides", "[8, 16, 32] or [8, 16, 32, 64]")
    elif model.fine_taps and len(model.strides) == 4:
        refuse("model.fine_taps", "false with four levels: the coarsest level has no finer map")
    if model.branch_depth == 0 and model.tap_channels != model.channels:
        refuse("model.tap_channels", f"{model.channels} as model.channels, because model.branch_depth is 0")
    if model.norm == "group":
        for key in ("channels", "tap_channels"):
            if getattr(model, key) % 32:
                refuse(f"model.{key}", "a multiple of 32, the groups of model.norm 'group'")
    if model.presence and not config.assign.selected:
        refuse("assign.selected", "at least 1 with model.presence")
    if 0 < config.data.early_patch < 64:
        refuse("data.early_patch", "0, or at least 64")
    for key in ("patch", "early_patch"):
        side = getattr(config.data, key)
        if model.backbone != "mobilenetv2" and side % 32:
            refuse(f"data.{key}", f"a multiple of 32, the largest stride of the backbone '{model.backbone}'")
        if 0 < side <= max(model.strides) and train.batch_size == train.accumulate:
            refuse(
                f"data.{key}", f"more than {max(model.strides)}: one cell of one patch at a time cannot be normalised"
            )
        if config.data.mosaic and side % 2:
            refuse(f"data.{key}", "an even number, because data.mosaic halves it")
    low, high = config.data.zoom
    if not 0 < low <= high:
        refuse("data.zoom", "two numbers above 0, the smaller one first")
    if train.frozen_blocks and model.backbone != "mobilenetv2":
        refuse("train.frozen_blocks", f"0 with the backbone '{model.backbone}', which cannot be partly frozen")
    if train.batch_size % train.accumulate:
        refuse("train.batch_size", f"a multiple of {train.accumulate}, the parts of train.accumulate")
    if not all(0 <= mark < 1 for mark in train.decay) or (train.schedule == "cosine" and len(train.decay) != 1):
        number = "one share of all steps" if train.schedule == "cosine" else "shares of all steps"
        refuse("train.decay", f"{number}, 0 up to 1 ('{train.schedule}')")
    if config.decode.score_threshold == 1:
        refuse("decode.score_threshold", "less than 1, which no score exceeds")
