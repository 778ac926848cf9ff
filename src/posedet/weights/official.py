"""Convert official PoseDet checkpoints (mmdetection's .pth) to weights files; dropped tensors are reported."""

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

GENERATOR = "posedet convert"

# Settings of all official networks; with other settings, the same tensors would compute something else.
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
    """weights: tensors by our names; dropped: official name -> the reason why the tensor is not used."""

    weights: dict[str, Tensor]
    dropped: dict[str, str]


def convert(checkpoint: str | Path, output: Path, config: Config) -> Conversion:
    """Convert an official checkpoint to a posedet weights file.

    Args:
        checkpoint: A .pth or .safetensors file, as a path or `https://...#sha256=HEX`.
        output: The weights file to write.
        config: The settings of the network.

    Returns:
        The converted tensors and the dropped ones.

    Raises:
        ModelError: If the checkpoint is damaged, lacks tensors or belongs to another network. Nothing is written then.
        ConfigError: If the settings are not those of an official network.
    """
    conversion = place(load_named(checkpoint), config.model, str(checkpoint))
    skeleton = skeleton_for(config.model.skeleton)
    save_weights(output, GENERATOR, conversion.weights, config, skeleton, {"converted_from": Path(checkpoint).name})
    return conversion


def place(tensors: dict[str, Tensor], config: ModelConfig, source: str) -> Conversion:
    """Rename and reshape official tensors for the network that `config` describes; `source` is for error messages."""
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
            raise ModelError(f"{source}: {official}: some values are not finite")
        weights[ours] = _our_form(ours, tensor.to(wanted[ours].dtype))
    missing = [official for official, ours in names.items() if ours not in weights]
    if missing:
        raise ModelError(f"{source}: {len(missing)} of {len(names)} tensors are missing: {_list(missing)}")
    return Conversion(weights, dropped)


def _check_network(tensors: dict[str, Tensor], config: ModelConfig, source: str) -> None:
    """Raise one clear error for settings and checkpoints that would otherwise cause many wrong shapes."""
    if config.backbone not in OFFICIAL_NECK:
        raise ConfigError(f"model.backbone is {config.backbone!r}; official networks have {_list(list(OFFICIAL_NECK))}")
    for key, official in (OFFICIAL_HEAD | OFFICIAL_NECK[config.backbone]).items():
        if getattr(config, key) != official:
            raise ConfigError(f"model.{key} is {getattr(config, key)!r}; official checkpoints need {official!r}")
    offsets = tensors.get("bbox_head.init_out.bias")
    if offsets is None:
        remedy = "a file with only a backbone can be used as start weights for training"
        raise ModelError(f"{source}: not an official PoseDet checkpoint: bbox_head.init_out.bias is missing; {remedy}")
    branch = tensors.get("backbone.transition1.0.0.weight")
    backbone = "dla34" if branch is None else f"hrnet-w{len(branch) if branch.ndim else 0}"
    if backbone != config.backbone:
        raise ModelError(
            f"{source}: the backbone is {backbone}, but the preset has {config.backbone}; choose another preset"
        )
    num_keypoints, own = offsets.numel() // 2, skeleton_for(config.skeleton).num_keypoints
    if num_keypoints != own:
        fitting = [name for name, skeleton in SKELETONS.items() if skeleton.num_keypoints == num_keypoints]
        remedy = f"; set model.skeleton to {fitting[0]}" if fitting else ""
        raise ModelError(f"{source}: {num_keypoints} keypoints, but skeleton '{config.skeleton}' has {own}{remedy}")


def _official_name(ours: str, config: ModelConfig) -> str | None:
    """`score_taps.1.conv.weight` -> `bbox_head.cls_pre_convs.1.conv.weight`; None if there is no official tensor."""
    if ours.startswith("backbone."):
        return ours
    module, _, leaf = ours.rpartition(".")
    official = _official_modules(config).get(module)
    return official and f"{official}.{leaf}"


def _official_modules(config: ModelConfig) -> dict[str, str]:
    """Map our modules of pyramid and head to the official ones, where linear maps are 1x1 convolutions."""
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
        for i in range(3):  # the deepest tower has three layers
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
    """Return the official shape: a 1 x K kernel for our (K, inputs, outputs), a 1x1 kernel for a linear map."""
    if ours.endswith(".embedding.weight"):
        num_keypoints, inputs, outputs = shape
        return outputs, inputs, 1, num_keypoints
    return (*shape, 1, 1) if _is_linear(ours) else shape


def _our_form(ours: str, tensor: Tensor) -> Tensor:
    """Convert an official tensor to our shape. Official displacements are in the order y, x; ours are x, y."""
    if ours.endswith(".embedding.weight"):
        return tensor[:, :, 0].permute(2, 1, 0).contiguous()
    if is_displacement(ours):
        tensor = swap_axes(tensor)
    return tensor[:, :, 0, 0].contiguous() if _is_linear(ours) else tensor.contiguous()


def _why_dropped(official: str, config: ModelConfig) -> str:
    if official.startswith("bbox_head.heatmap_") and not config.heatmaps:
        return "belongs to the heatmap branch, which is only for training and disabled by model.heatmaps = false"
    if official.startswith("bbox_head.refine_") and not config.refinements:
        return "belongs to the refinement, which is disabled by model.refinements = 0"
    return "unknown in official networks"


def _kind(tensor: Tensor, shape: Shape | None = None) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape) if shape is None else shape}"


def _list(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
