"""Weights and training state as safetensors: no pickle, written atomically, refused when damaged."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from posedet.config import Config, config_from_dict
from posedet.errors import ModelError
from posedet.training.foreign import MAX_BYTES, load_pth, local_file

FORMAT = "posedet-1"


def save_tensors(path: Path, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
    """Write beside and rename: whatever happens meanwhile, `path` holds a whole file, old or new."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            partial,
            {"posedet": json.dumps({"format": FORMAT, **info})},
        )
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise ModelError(f"{path}: could not be written ({error}); the earlier file, if any, is untouched") from None


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of a safetensors file and what it says of itself ({} when it is not ours)."""
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    if path.stat().st_size > MAX_BYTES:
        raise ModelError(f"{path}: larger than {MAX_BYTES} bytes")
    try:
        with safe_open(path, framework="pt") as file:
            info = json.loads((file.metadata() or {}).get("posedet", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, info  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise ModelError(f"{path}: not a whole safetensors file ({error})") from None


def save_weights(path: Path, weights: dict[str, Tensor], config: Config, info: dict[str, Any]) -> None:
    """The network's weights in float32 with the config that they belong to."""
    save_tensors(path, weights, {"config": config.to_dict(), **info})


def load_weights(path: Path) -> tuple[dict[str, Tensor], Config, dict[str, Any]]:
    """What `save_weights` wrote. Raises ModelError for any other file."""
    tensors, info = load_tensors(path)
    if info.get("format") != FORMAT or "config" not in info:
        raise ModelError(f"{path}: not a posedet weights file (metadata 'posedet' is missing)")
    return tensors, config_from_dict(info["config"], str(path)), info


def load_named(source: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of PyTorch's own (.pth), given by path or by `https://...#sha256=HEX`."""
    path = local_file(source)
    return load_tensors(path)[0] if path.suffix == ".safetensors" else load_pth(path)


def load_start(network: nn.Module, source: str | Path) -> str:
    """Start weights by name: of a backbone, or of a whole network, perhaps with other keypoints; see `load_named`.

    Tensors of another name (a classifier's) or shape are left alone. Returns one line that says what was taken.
    """
    tensors = load_named(source)
    own = network.state_dict()
    if not any(name in own for name in tensors):
        tensors = {f"backbone.{name}": tensor for name, tensor in tensors.items()}
    fitting = {name: t.float() for name, t in tensors.items() if name in own and own[name].shape == t.shape}
    if not fitting:
        raise ModelError(f"{source}: none of its {len(tensors)} tensors fits this network")
    network.load_state_dict(fitting, strict=False)
    left = [name for name in tensors if name not in fitting]
    named = f" (not {', '.join(left[:3])}{', ...' if len(left) > 3 else ''})" if left else ""
    fresh = len(own) - len(fitting)
    return f"{source}: {len(fitting)} of {len(tensors)} tensors taken{named}, {fresh} start fresh"


class MovingAverage:
    """Exponential moving average of a network's weights and statistics, with a warm-up of the decay."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        state = network.state_dict()
        floats = [name for name in self.tensors if self.tensors[name].is_floating_point()]
        torch._foreach_lerp_([self.tensors[n] for n in floats], [state[n] for n in floats], 1 - decay)
        for name, tensor in self.tensors.items():
            if not tensor.is_floating_point():
                tensor.copy_(state[name])


def training_state(
    network: nn.Module, optimiser: torch.optim.Optimizer, average: MovingAverage | None
) -> dict[str, Tensor]:
    """Everything that the next step depends on, as named tensors."""
    tensors = {f"network/{name}": tensor for name, tensor in network.state_dict().items()}
    if average is not None:
        tensors |= {f"average/{name}": tensor for name, tensor in average.tensors.items()}
    names: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
    for parameter, state in optimiser.state.items():
        tensors |= {f"optimiser/{key}/{names[parameter]}": value for key, value in state.items()}
    return tensors


def restore_training(
    tensors: dict[str, Tensor], network: nn.Module, optimiser: torch.optim.Optimizer, average: MovingAverage | None
) -> None:
    """The inverse of `training_state`."""

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    network.load_state_dict(part("network/"))
    if average is not None:
        for name, tensor in part("average/").items():
            average.tensors[name].copy_(tensor)
    parameters = dict(network.named_parameters())
    for key_and_name, tensor in part("optimiser/").items():
        key, _, name = key_and_name.partition("/")
        parameter = parameters[name]
        # Adam keeps its step counter on the CPU.
        optimiser.state[parameter][key] = tensor if key == "step" else tensor.to(parameter.device)
