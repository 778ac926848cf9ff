"""Settings as dataclasses, read from TOML: a preset is complete, `--set section.key=value` overrides, nothing else.

What changes the result has no default here; a key that is unknown, missing or of the wrong type is an error.
"""

import dataclasses
import difflib
import math
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from posedet.errors import ConfigError

MAX_CONFIG_BYTES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    skeleton: str  # coco, crowdpose, crowdpose15, body19, or a file: .toml, .json, annotations, or weights
    backbone: Literal["mobilenetv2", "dla34", "hrnet-w32", "hrnet-w48"]
    pyramid: Literal["fpn", "hrfpn"]
    strides: tuple[int, ...]  # of the levels, pixels of the network input
    channels: int  # of pyramid and head
    norm: Literal["batch", "group"]  # of pyramid and head; batch folds away on export
    location: Literal["corner", "centre"]  # of a cell: column * stride, or the middle of its pixels
    bypass_depth: int  # 3x3 convolutions before the coarse pose
    presence: bool  # score every location cheaply first, embeddings only at the best
    branch_depth: int  # 3x3 convolutions before each embedding
    share_towers: bool  # score and refinement read the same maps
    tap_channels: int  # channels sampled at the joints
    fine_taps: bool  # sample maps twice as fine as the level
    embedding_channels: int
    mixing_depth: int  # linear maps after the samples, 1 = the paper's
    # Where the taps of the embedding are: the coarse keypoints (the paper's), all at the location, on a grid in the
    # box of the coarse pose, or at the mean pose of the training set around the location.
    representation: Literal["pose", "centre", "box", "anchors"]
    refinements: int  # 1 = the paper's; 0 = coarse poses alone
    local_channels: int  # width of one more refinement, of every keypoint by what is around it alone; 0 = none
    score_at: Literal["coarse", "refined"]  # where the score's embedding samples
    keypoint_scores: bool  # predict the visibility of every keypoint
    heatmaps: bool  # auxiliary supervision in training
    heatmap_bias: float  # of the heatmap logits at the start


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Training photos and their augmentation."""

    patch: int  # pixels, side of the square that is trained on
    crop: Literal["person", "photo"]  # centred on a person's box (official code), or anywhere near people
    zoom: tuple[float, float]  # person: 1 / magnification; photo: its long side after zooming, in patches
    flip: float  # probability
    rotation_deg: float  # largest turn to either side
    colour: float  # strength of colour and brightness changes, 0 = none
    mosaic: float  # probability of a patch made of four photos
    keep: Literal["centre", "keypoints"]  # persons after the crop: box centre inside, or any labelled keypoint inside
    empty_photos: bool  # train on photos without people too: they teach what is none
    geometry: Literal["official", "half-pixel"]  # of crop and mirror; the official one is off by half a pixel or one


@dataclass(frozen=True, kw_only=True)
class AssignConfig:
    """Which locations learn which person."""

    min_keypoints: int  # persons with fewer labelled keypoints are not learnt
    # Sides of a person's keypoints are taken to be at least this share of the square root of its area: few keypoints,
    # or those of a face or a pair of shoulders, say little of its size.
    least_side: float = 0.0
    level_divisor: float  # stride = 2 ** floor(log2(person size / this))
    centre: Literal["keypoints", "box"]
    positives: int  # nearest cells of each person that learn its coarse pose
    ignore_regions: bool  # crowds, unlabelled and few-keypoint people are ignored, not background
    oks_area: Literal["half box", "annotation"]  # of the OKS in training: half the clipped box, or the labelled area
    refine_oks: float  # coarse poses at or above are refined
    rescue_oks: float  # a person's best candidate is refined from here on; 0 = the coarse positives always are
    score_target: Literal["labels", "quality"]  # hard labels by the coarse pose's OKS, or the refined pose's OKS itself
    positive_oks: float  # labels: positive from here
    negative_oks: float  # labels: negative below, ignored between
    selected: int  # locations a photo whose embeddings are trained, with `presence`


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the terms."""

    distance: Literal["clamped sum", "smooth mean"]  # over keypoints: the official code's, or ours
    coarse: float
    refined: float
    oks: float  # of the OKS loss beside the distance, after its warm-up
    oks_warmup: int  # steps over which it grows from nothing
    score: float
    presence: float
    keypoint_score: float
    heatmap: float
    heatmap_form: Literal["focal", "l2"]
    heatmap_targets: Literal["all levels", "own level"]  # whole cells on every map, or sub-cell on the person's level
    heatmap_sigma: float  # cells


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Optimisation."""

    optimiser: Literal["adam", "adamw", "muon"]
    batch_size: int  # of one step, over all processes and parts
    accumulate: int  # parts that a step is done in, for want of memory
    steps: int
    learning_rate: float
    backbone_rate: float  # factor on the learning rate of the backbone
    frozen_blocks: int  # first blocks of the backbone that stay as they are
    weight_decay: float
    warmup: int  # steps
    schedule: Literal["step", "cosine"]
    decay: tuple[float, ...]  # step: shares of all steps at which the rate falls to a tenth; cosine: where it starts
    clip: float  # global norm of the gradient
    sync_norm: bool  # batch statistics of all processes together, on GPUs
    ema: float  # decay of the moving average of the weights, 0 = none
    amp: Literal["none", "bf16", "fp16"]
    seed: int


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """From the network's output to poses; travels in the model file."""

    long_side: int  # pixels of the network input
    short_side: int | None
    candidates: int  # best locations that leave the network
    score_threshold: float
    nms: Literal["oks", "iou"]
    nms_threshold: float
    max_poses: int
    min_area: float  # of a pose in the suppression, square pixels of the photo brought to 640 on its long side
    clamp: bool  # keypoints outside the photo are moved to its border
    skeleton: str  # the keypoints that are reported unless others are asked for


@dataclass(frozen=True, kw_only=True)
class Config:
    """One experiment, whole."""

    model: ModelConfig
    data: DataConfig
    assign: AssignConfig
    loss: LossConfig
    train: TrainConfig
    decode: DecodeConfig

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def preset_names() -> list[str]:
    folder = resources.files("posedet") / "presets"
    return sorted(path.name.removesuffix(".toml") for path in folder.iterdir() if path.name.endswith(".toml"))


def load_config(name: str, overrides: list[str] | None = None) -> Config:
    """Load the settings of a preset.

    Args:
        name: The name of a built-in preset, or a TOML file.
        overrides: Changes in the form `section.key=value`, with values in TOML.

    Raises:
        ConfigError: If there is no such preset, or a setting is unknown, missing or invalid. The message names the file
            and the key, and suggests the nearest valid key.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"{name}: no such file")
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"{name}: larger than {MAX_CONFIG_BYTES} bytes, not a configuration")
        text = path.read_text(encoding="utf-8", errors="replace")
    elif name in preset_names():
        text = (resources.files("posedet") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    else:
        raise ConfigError(f"no preset named {name!r}; presets: {', '.join(preset_names())}")
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also an endless number, or a thousand brackets
        raise ConfigError(f"{name}: not valid TOML: {error}") from None
    for override in overrides or []:
        _override(values, override)
    return config_from_dict(values, name)


def config_from_dict(values: dict[str, Any], source: str) -> Config:
    """The inverse of `Config.to_dict`; `source` names the file in errors."""
    config = cast(Config, _build(Config, values, source, ""))
    _check_ranges(config, source)
    _check_fit(config.model, source)
    _check_shares(config, source)
    return config


# Smallest and largest value of a setting; what is not listed may be any number.
_LEAST: dict[str, dict[str, float]] = {
    "model": {
        "channels": 1,
        "tap_channels": 1,
        "embedding_channels": 1,
        "mixing_depth": 1,
        "bypass_depth": 0,
        "branch_depth": 0,
        "refinements": 0,
        "local_channels": 0,
    },
    "data": {"patch": 64, "flip": 0, "rotation_deg": 0, "colour": 0, "mosaic": 0},
    "assign": {"min_keypoints": 1, "least_side": 0, "level_divisor": 1e-3, "positives": 1, "selected": 0},
    "loss": {"oks_warmup": 0, "heatmap_sigma": 1e-3},
    "train": {
        "batch_size": 1,
        "accumulate": 1,
        "steps": 1,
        "learning_rate": 0,
        "backbone_rate": 0,
        "frozen_blocks": 0,
        "weight_decay": 0,
        "warmup": 0,
        "clip": 1e-9,
        "ema": 0,
        "seed": 0,
    },
    "decode": {"long_side": 32, "candidates": 1, "score_threshold": 0, "max_poses": 1, "min_area": 0},
}
_MOST: dict[str, dict[str, float]] = {"data": {"flip": 1, "mosaic": 1}, "train": {"ema": 1}}


def _check_ranges(config: Config, source: str) -> None:
    for section, limits in _LEAST.items():
        for key, least in limits.items():
            value = getattr(getattr(config, section), key)
            most = _MOST.get(section, {}).get(key, math.inf)
            if not least <= value <= most:
                expected = f"at least {least:g}" if most == math.inf else f"{least:g} to {most:g}"
                raise ConfigError(f"{source}: '{section}.{key}' is {value!r}, expected {expected}")


def _check_fit(model: ModelConfig, source: str) -> None:
    """Settings that are right alone, but not together."""

    def refuse(key: str, expected: str) -> None:
        raise ConfigError(f"{source}: 'model.{key}' is {getattr(model, key)!r}, expected {expected}")

    if model.pyramid == "hrfpn":
        if model.strides != (8, 16, 32):
            refuse("strides", "[8, 16, 32], what the pyramid 'hrfpn' makes")
        if model.fine_taps:
            refuse("fine_taps", "false with the pyramid 'hrfpn', which has no finer maps")
    elif model.strides not in ((8, 16, 32), (8, 16, 32, 64)):
        refuse("strides", "[8, 16, 32] or [8, 16, 32, 64]")
    elif model.fine_taps and len(model.strides) == 4:
        refuse("fine_taps", "false with four levels: the coarsest has no finer map of its own")
    if model.branch_depth == 0 and model.tap_channels != model.channels:
        refuse("tap_channels", f"{model.channels} as model.channels, where no convolution lies between")
    if model.norm == "group":
        for key in ("channels", "tap_channels"):
            if getattr(model, key) % 32:
                refuse(key, "a multiple of 32, the groups of model.norm 'group'")


def _check_shares(config: Config, source: str) -> None:
    """Lists of numbers."""
    low, high = config.data.zoom
    if not 0 < low <= high < math.inf:
        raise ConfigError(
            f"{source}: 'data.zoom' is {[low, high]}, expected two numbers above 0, the smaller one first"
        )
    decay, schedule = config.train.decay, config.train.schedule
    if not all(0 <= mark < 1 for mark in decay) or (schedule == "cosine" and len(decay) != 1):
        expected = "one share of all steps" if schedule == "cosine" else "shares of all steps"
        raise ConfigError(f"{source}: 'train.decay' is {list(decay)}, expected {expected}, 0 up to 1 ('{schedule}')")


def later_settings() -> dict[str, dict[str, Any]]:
    """Section -> key -> value of the settings that older files lack: what was done before there was a choice."""
    return {
        section: {
            field.name: field.default for field in dataclasses.fields(kind) if field.default is not dataclasses.MISSING
        }
        for section, kind in get_type_hints(Config).items()
    }


def decode_config_from_dict(values: object, source: str) -> DecodeConfig:
    """The `decode` section alone, as a model file carries it."""
    return cast(DecodeConfig, _build(DecodeConfig, values, source, "decode."))


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    section, dot, name = key.strip().partition(".")
    if not equals or not dot:
        raise ConfigError(f"--set {override}: expected section.key=value, for example train.batch_size=16")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text.strip()  # a bare word is a string
    table = values.setdefault(section, {})
    if not isinstance(table, dict):
        raise ConfigError(f"--set {override}: '{section}' is not a table")
    table[name] = value


def _build(kind: type, values: object, source: str, prefix: str) -> object:
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: {prefix.rstrip('.')} must be a table")
    hints = get_type_hints(kind)
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1, cutoff=0.0)[0]
            raise ConfigError(f"{source}: unknown key '{prefix}{key}' (did you mean '{prefix}{near}'?)")
    defaults = {field.name for field in dataclasses.fields(kind) if field.default is not dataclasses.MISSING}
    arguments: dict[str, object] = {}
    for key, hint in hints.items():
        if key not in values:
            if type(None) in get_args(hint):
                arguments[key] = None
                continue
            if key in defaults:
                continue  # newer than the file
            raise ConfigError(f"{source}: missing key '{prefix}{key}'")
        if dataclasses.is_dataclass(hint):
            arguments[key] = _build(cast(type, hint), values[key], source, f"{prefix}{key}.")
        else:
            arguments[key] = _checked(values[key], hint, source, f"{prefix}{key}")
    return kind(**arguments)


def _checked(value: Any, hint: Any, source: str, key: str) -> Any:
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value in options:
            return value
        expected = " or ".join(repr(option) for option in options)
    elif origin in (Union, UnionType):
        inner = next(option for option in options if option is not type(None))
        return None if value is None else _checked(value, inner, source, key)
    elif origin is tuple:
        length_fits = isinstance(value, (list, tuple)) and (options[-1] is Ellipsis or len(value) == len(options))
        if length_fits:
            return tuple(_checked(item, options[0], source, f"{key}[{i}]") for i, item in enumerate(value))
        expected = "a list" if options[-1] is Ellipsis else f"a list of {len(options)}"
    else:
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
            return value
        expected = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}[hint]
    raise ConfigError(f"{source}: '{key}' is {value!r}, expected {expected}")
