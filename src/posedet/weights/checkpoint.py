"""Read and write weights and training states as safetensors: without pickle, atomically, and with checks."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from posedet.config import Config, config_from_dict
from posedet.errors import DataError, ModelError
from posedet.files import one_line
from posedet.keypoint_names import find_names
from posedet.model.build import build_network
from posedet.model.network import PoseDetNet
from posedet.outputs import discard, replace
from posedet.runtime.model_files import MAX_BYTES, local_file
from posedet.skeleton import Skeleton, find_skeleton, skeleton_for
from posedet.weights.keypoints import carry_over
from posedet.weights.pth import load_pth

# Format "posedet-1" has the displacements of a keypoint in the order y, x; later formats have x, y.
FORMAT, Y_FIRST = "posedet-2", "posedet-1"
# A weight in 8 bits is stored as two tensors: int8, and a factor for each slice along one axis.
WHOLE, SCALE = ".int8", ".scale"
_DISPLACEMENTS = re.compile(r"(^|/)(bypass\.offsets|refinements\.\d+\.output)\.(weight|bias)$")


def save_tensors(path: Path, generator: str, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
    """Write a temporary file and rename it, so that `path` is always a complete file, old or new.

    generator: the command, as in `posedet.outputs`. Raises ModelError if the file cannot be written, and
    ForeignFileError if a file is there that `generator` did not write.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            partial,
            # `info` may be from another file: of another command, or an older one, converted on reading.
            {"posedet": json.dumps({"generator": generator} | info | {"generator": generator, "format": FORMAT})},
        )
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        replace(partial, path, generator)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: could not be written ({error}); an existing file is unchanged") from None
    finally:
        discard(partial)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read all tensors and the posedet metadata ({} if there are none) of a safetensors file."""
    with _opened(path) as file:
        tensors, info = {name: file.get_tensor(name) for name in file.keys()}, _info(file)  # noqa: SIM118
    for whole in [name for name in tensors if name.endswith(WHOLE)]:
        name = whole.removesuffix(WHOLE)
        values, scale = tensors.pop(whole), tensors.pop(name + SCALE, None)
        axes = () if scale is None else [axis for axis, size in enumerate(scale.shape) if size != 1]
        if scale is None or scale.ndim != values.ndim or any(scale.shape[axis] != values.shape[axis] for axis in axes):
            raise ModelError(f"{path}: tensor {whole!r:.80} has no {SCALE!r} that fits; use an unmodified weights file")
        tensors[name] = values * scale
    if info.get("format") == Y_FIRST:
        tensors = {name: swap_axes(tensor) if is_displacement(name) else tensor for name, tensor in tensors.items()}
    return tensors, info


def is_displacement(name: str) -> bool:
    """Return whether a tensor's rows are displacements, two per keypoint."""
    return _DISPLACEMENTS.search(name) is not None


def swap_axes(tensor: Tensor) -> Tensor:
    """Exchange the rows of x and y in the weight (2K, ...) or bias (2K,) of displacements."""
    return tensor.view(-1, 2, *tensor.shape[1:]).flip(1).view(tensor.shape)


def load_info(path: Path) -> dict[str, Any]:
    """Read only the posedet metadata ({} if there are none) of a safetensors file."""
    with _opened(path) as file:
        return _info(file)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not os.path.isfile(path):
        raise ModelError(f"{path}: no such file")
    if path.stat().st_size > MAX_BYTES:
        raise ModelError(f"{path}: larger than {MAX_BYTES} bytes")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, ValueError, RecursionError, OSError) as error:
        raise ModelError(f"{path}: not a safetensors file, or damaged ({one_line(error):.200})") from None


def _info(file: Any) -> dict[str, Any]:
    info = json.loads((file.metadata() or {}).get("posedet", "{}"))
    return info if isinstance(info, dict) else {}


def save_weights(
    path: Path, generator: str, weights: dict[str, Tensor], config: Config, skeleton: Skeleton, info: dict[str, Any]
) -> None:
    """Write the weights of a network with its settings and its skeleton. See `save_tensors`."""
    save_tensors(path, generator, weights, {"config": config.to_dict(), "skeleton": skeleton.to_dict(), **info})


def load_weights(path: Path) -> tuple[dict[str, Tensor], Config, dict[str, Any]]:
    """Read a posedet weights file: tensors, settings, and metadata. Raises ModelError for any other file."""
    tensors, info = load_tensors(path)
    if info.get("format") not in (FORMAT, Y_FIRST) or "config" not in info:
        raise ModelError(f"{path}: not a posedet weights file (metadata 'posedet' is missing)")
    if any(name.startswith("network/") for name in tensors):
        raise ModelError(f"{path}: is the state of a training run; use weights.safetensors in the same folder")
    return tensors, config_from_dict(info["config"], str(path)), info


def load_network(path: Path) -> tuple[PoseDetNet, Config, Skeleton]:
    """Build the network of a weights file, and load its weights. Raises ModelError for any other file."""
    tensors, config, info = load_weights(path)
    skeleton = stored_skeleton(info, path)
    network = build_network(config.model, skeleton)
    fill(network, tensors, path)
    return network, config, skeleton


def fill(network: nn.Module, tensors: dict[str, Tensor], path: str | Path) -> None:
    """Load the weights of a file into a network. Raises ModelError unless names and shapes match exactly."""
    expected = network.state_dict()
    for name in sorted({*expected, *tensors}):
        if name not in expected or name not in tensors or tensors[name].shape != expected[name].shape:
            reason = "missing, unknown or of another shape than its settings require"
            raise ModelError(f"{path}: tensor {name!r:.80}: {reason}; use an unmodified weights file")
    network.load_state_dict(tensors)


def stored_skeleton(info: dict[str, Any], path: str | Path) -> Skeleton:
    """Read the skeleton from the metadata of a weights or state file; `path` names the file in errors."""
    try:
        if "skeleton" in info:
            return Skeleton.from_dict(info["skeleton"])
        # Older files have only the name of a built-in skeleton.
        return find_skeleton(info["config"]["model"]["skeleton"])
    except (KeyError, TypeError, DataError) as error:
        raise ModelError(f"{path}: the metadata have no valid skeleton ({error})") from None


def named_skeleton(name: str) -> Skeleton:
    """Return the skeleton that `model.skeleton` names: built-in, in a .toml or .json file, or in a weights file.

    Raises DataError or ModelError, which name the setting.
    """
    try:
        if name.lower().endswith(".safetensors"):
            return stored_skeleton(load_info(Path(name)), name)
        return skeleton_for(name)
    except (DataError, ModelError) as error:
        raise type(error)(f"model.skeleton: {error}") from None


def load_named(source: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors or PyTorch (.pth) file, given by path or by `https://...#sha256=HEX`."""
    path = local_file(source)
    return load_tensors(path)[0] if path.suffix == ".safetensors" else load_pth(path)


def load_start(network: nn.Module, source: str | Path, skeleton: Skeleton) -> str:
    """Load start weights into a network, or into its backbone, by the names of the tensors.

    Args:
        network: The network, whose skeleton is `skeleton`.
        source: A safetensors or PyTorch (.pth) file, as a path or `https://...#sha256=HEX`. Tensors with other names
            or shapes are ignored. From a posedet network with another skeleton, the weights of keypoints with the same
            name are reused.
        skeleton: The skeleton of `network`.

    Returns:
        A one-line summary for the log.

    Raises:
        ModelError: If the file cannot be read or none of its tensors fits.
    """
    path = local_file(source)
    tensors, info = load_tensors(path) if path.suffix == ".safetensors" else (load_pth(path), {})
    own = network.state_dict()
    if not any(name in own for name in tensors):
        tensors = {f"backbone.{name}": tensor for name, tensor in tensors.items()}
    keypoints = ""
    if "config" in info and (theirs := stored_skeleton(info, path)).keypoints != skeleton.keypoints:
        tensors = carry_over(tensors, own, theirs, skeleton)
        known = dict(zip(skeleton.keypoints, find_names(skeleton.keypoints, theirs.keypoints), strict=True))
        shared = [name for name, place in known.items() if place is not None]
        new = [name for name, place in known.items() if place is None]
        keypoints = f"; reused keypoints: {', '.join(shared) or 'none'}; new: {', '.join(new) or 'none'}"
    fitting = {name: t.float() for name, t in tensors.items() if name in own and own[name].shape == t.shape}
    if not fitting:
        raise ModelError(f"{source}: none of the {len(tensors)} tensors fits this network")
    network.load_state_dict(fitting, strict=False)
    left = [name for name in tensors if name not in fitting]
    named = f" (not {', '.join(left[:3])}{', ...' if len(left) > 3 else ''})" if left else ""
    fresh = len(own) - len(fitting)
    return f"{source}: {len(fitting)} of {len(tensors)} tensors loaded{named}, {fresh} newly initialised{keypoints}"
