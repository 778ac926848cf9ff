"""Official PoseDet checkpoints (mmdetection's .pth) -> our weights file: every tensor is placed or named as dropped."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from posedet.config import Config, ModelConfig
from posedet.errors import ConfigError, ModelError
from posedet.model.build import build_network
from posedet.skeleton import SKELETONS, skeleton_for
from posedet.weights.checkpoint import is_displacement, load_named, save_weights, swap_axes

Shape = tuple[int, ...]

# What every official network has; with other settings the same tensors would compute something else.
OFFICIAL_HEAD = {
    "norm": "group",
    "location": "corner",
    "bypass_depth": 3,
    "presence": False,
    "branch_depth": 2,
    "share_towers": False,
    "fine_taps": False,
    "mixing_depth": 1,
    "representation": "pose",
    "score_at": "coarse",
    "keypoint_scores": False,
}
OFFICIAL_NECK = {
    "dla34": {"pyramid": "fpn", "strides": (8, 16, 32, 64)},
    "hrnet-w32": {"pyramid": "hrfpn", "strides": (8, 16, 32)},
    "hrnet-w48": {"pyramid": "hrfpn", "strides": (8, 16, 32)},
}


class Conversion(NamedTuple):
    """weights: by our names; dropped: official name -> why it has no place."""

    weights: dict[str, Tensor]
    dropped: dict[str, str]


def convert(checkpoint: str | Path, output: Path, config: Config) -> Conversion:
    """Write the official `checkpoint` as a posedet weights file with the settings of `config`.

    checkpoint: .pth or .safetensors, a path or `https://...#sha256=HEX`. Raises ModelError for a checkpoint that is
    damaged, of another network than `config`'s, or without a tensor that is needed; then nothing is written.
    """
    conversion = place(load_named(checkpoint), config.model, str(checkpoint))
    skeleton = skeleton_for(config.model.skeleton)
    save_weights(output, conversion.weights, config, skeleton, {"converted_from": Path(checkpoint).name})
    return conversion


def place(tensors: dict[str, Tensor], config: ModelConfig, source: str) -> Conversion:
    """Official tensors by the names of the network that `config` describes; `source` names the file in errors."""
    _check_network(tensors, config, source)
    with torch.device("meta"):
        wanted = build_network(config, skeleton_for(config.skeleton)).state_dict()
    names = {official: ours for ours in wanted if (official := _official_name(ours, config)) is not None}
    weights, dropped = {}, {}
    for official, tensor in tensors.items():
        if official not in names:
            dropped[official] = _why_dropped(official, config)
            continue
        ours = names[official]
        expected = _official_shape(ours, tuple(wanted[ours].shape))
        if tensor.shape != expected or tensor.is_floating_point() != wanted[ours].is_floating_point():
            raise ModelError(f"{source}: {official}: {_kind(tensor)}, expected {_kind(wanted[ours], expected)}")
        if not tensor.isfinite().all():
            raise ModelError(f"{source}: {official}: holds values that are not finite")
        weights[ours] = _our_form(ours, tensor.to(wanted[ours].dtype))
    missing = [official for official, ours in names.items() if ours not in weights]
    if missing:
        raise ModelError(f"{source}: {len(missing)} of {len(names)} tensors are missing: {_list(missing)}")
    return Conversion(weights, dropped)


def _check_network(tensors: dict[str, Tensor], config: ModelConfig, source: str) -> None:
    """Say at once, and in words, what would else show as a thousand tensors of the wrong shape."""
    if config.backbone not in OFFICIAL_NECK:
        raise ConfigError(f"model.backbone is {config.backbone!r}; official networks have {_list(list(OFFICIAL_NECK))}")
    for key, official in (OFFICIAL_HEAD | OFFICIAL_NECK[config.backbone]).items():
        if getattr(config, key) != official:
            raise ConfigError(f"model.{key} is {getattr(config, key)!r}; official checkpoints need {official!r}")
    offsets = tensors.get("bbox_head.init_out.bias")
    if offsets is None:
        remedy = "a backbone alone goes to `posedet train --start`"
        raise ModelError(f"{source}: not an official PoseDet checkpoint, no bbox_head.init_out.bias in it; {remedy}")
    branch = tensors.get("backbone.transition1.0.0.weight")
    backbone = "dla34" if branch is None else f"hrnet-w{len(branch) if branch.ndim else 0}"
    if backbone != config.backbone:
        raise ModelError(f"{source}: its backbone is {backbone}, the preset's {config.backbone}; take another --preset")
    num_keypoints, own = offsets.numel() // 2, skeleton_for(config.skeleton).num_keypoints
    if num_keypoints != own:
        fitting = [name for name, skeleton in SKELETONS.items() if skeleton.num_keypoints == num_keypoints]
        remedy = f"; --set model.skeleton={fitting[0]}" if fitting else ""
        raise ModelError(f"{source}: {num_keypoints} keypoints, skeleton '{config.skeleton}' has {own}{remedy}")


def _official_name(ours: str, config: ModelConfig) -> str | None:
    """`score_taps.1.conv.weight` -> `bbox_head.cls_pre_convs.1.conv.weight`; None for what no official network has."""
    if ours.startswith("backbone."):
        return ours
    module, _, leaf = ours.rpartition(".")
    official = _official_modules(config).get(module)
    return official and f"{official}.{leaf}"


def _official_modules(config: ModelConfig) -> dict[str, str]:
    """Our modules of pyramid and head -> the official ones. Linear maps of ours are 1x1 convolutions there."""
    modules = {
        "bypass.offsets": "bbox_head.init_out",
        "score.embedding": "bbox_head.cls_embedding_conv",
        "score.output": "bbox_head.cls_out",
        "refinements.0.embedding": "bbox_head.refine_embedding_conv",
        "refinements.0.output": "bbox_head.refine_out",
        "heatmap.output": "bbox_head.heatmap_out",
    }
    towers = {"bypass.tower": "init", "score_taps": "cls", "refine_taps": "refine", "heatmap.tower": "heatmap"}
    for ours, branch in towers.items():
        for i in range(3):  # the deepest has three
            modules[f"{ours}.{i}.conv"] = f"bbox_head.{branch}_pre_convs.{i}.conv"
            modules[f"{ours}.{i}.norms.0"] = f"bbox_head.{branch}_pre_convs.{i}.gn"
    if config.pyramid == "hrfpn":
        modules["pyramid.reduction"] = "neck.reduction_conv.conv"
        modules |= {f"pyramid.outputs.{i}": f"neck.fpn_convs.{i}.conv" for i in range(3)}
        return modules
    convs = {f"pyramid.laterals.{i}": f"neck.lateral_convs.{i}" for i in range(3)}
    convs |= {f"pyramid.outputs.{i}": f"neck.fpn_convs.{i}" for i in range(3)}
    convs["pyramid.extra"] = "neck.fpn_convs.3"
    for ours, official in convs.items():
        modules |= {f"{ours}.0": f"{official}.conv", f"{ours}.1": f"{official}.gn"}
    return modules


def _is_linear(ours: str) -> bool:
    return ours.endswith(".output.weight") and not ours.startswith("heatmap.")


def _official_shape(ours: str, shape: Shape) -> Shape:
    """A 1 x K kernel for our (K, inputs, outputs), a 1x1 kernel for a linear map."""
    if ours.endswith(".embedding.weight"):
        num_keypoints, inputs, outputs = shape
        return outputs, inputs, 1, num_keypoints
    return (*shape, 1, 1) if _is_linear(ours) else shape


def _our_form(ours: str, tensor: Tensor) -> Tensor:
    """The inverse of `_official_shape`. Official displacements are in the order y, x, ours x, y."""
    if ours.endswith(".embedding.weight"):
        return tensor[:, :, 0].permute(2, 1, 0).contiguous()
    if is_displacement(ours):
        tensor = swap_axes(tensor)
    return tensor[:, :, 0, 0].contiguous() if _is_linear(ours) else tensor.contiguous()


def _why_dropped(official: str, config: ModelConfig) -> str:
    if official.startswith("bbox_head.heatmap_") and not config.heatmaps:
        return "of the heatmap branch, which model.heatmaps = false leaves out (it serves training alone)"
    if official.startswith("bbox_head.refine_") and not config.refinements:
        return "of the refinement, which model.refinements = 0 leaves out"
    return "no official network has a tensor of this name"


def _kind(tensor: Tensor, shape: Shape | None = None) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape) if shape is None else shape}"


def _list(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
