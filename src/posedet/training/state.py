"""The state of a training run: everything that the next step depends on, saved and restored exactly."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from posedet.config import Config, config_from_dict
from posedet.data.formats.ultralytics import skeleton_of
from posedet.errors import ModelError
from posedet.skeleton import Skeleton
from posedet.weights.checkpoint import load_info, named_skeleton, stored_skeleton

STATE_FILE, WEIGHTS_FILE = "state.safetensors", "weights.safetensors"
RUN_FILES = ("config.json", "log.jsonl", STATE_FILE, WEIGHTS_FILE)


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


def check_resumes(config: Config, info: dict[str, Any], state: Path) -> None:
    """Raise ModelError if the network or the kind of optimiser has changed; other settings may change.

    info: the metadata that `load_tensors` returns.
    """
    if type(info.get("step")) is not int or "config" not in info:
        raise ModelError(f"{state}: not a posedet training state")
    before, now = config_from_dict(info["config"], str(state)).to_dict(), config.to_dict()
    # The skeleton's name does not matter: its keypoints were compared.
    for section, keys in (("model", now["model"].keys() - {"skeleton"}), ("train", {"optimiser"})):
        for key in sorted(keys):
            if before[section][key] != now[section][key]:
                setting = f"{section}.{key} = {before[section][key]!r}"
                was = f"belongs to a run with {setting}, not {now[section][key]!r}"
                raise ModelError(f"{state}: {was}; choose another folder")


def restore_training(
    tensors: dict[str, Tensor], network: nn.Module, optimiser: torch.optim.Optimizer, average: MovingAverage | None
) -> None:
    """The inverse of `training_state`."""

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    network.load_state_dict(part("network/"))
    if average is not None:
        for name, tensor in (part("average/") or part("network/")).items():
            average.tensors[name].copy_(tensor)
    parameters = dict(network.named_parameters())
    for key_and_name, tensor in part("optimiser/").items():
        key, _, name = key_and_name.partition("/")
        parameter = parameters[name]
        # Adam keeps its step counter on the CPU.
        optimiser.state[parameter][key] = tensor if key == "step" else tensor.to(parameter.device)


def skeleton_to_train(name: str, run: Path) -> Skeleton:
    """The skeleton that `model.skeleton` names, or that of a `run` to resume, whose file may be gone.

    Raises ModelError when the two have other keypoints.
    """
    state = run / STATE_FILE
    own = stored_skeleton(load_info(state), state) if state.is_file() else None
    is_yaml = name.lower().endswith((".yaml", ".yml"))  # a set in Ultralytics' format
    is_file = is_yaml or name.lower().endswith((".toml", ".json", ".safetensors"))
    if own is not None and is_file and not Path(name).exists():
        return own
    named = skeleton_of(Path(name)) if is_yaml else named_skeleton(name)
    if own is not None and own.keypoints != named.keypoints:
        was = f"contains a run with the keypoints of '{own.name}', not of '{named.name}'"
        raise ModelError(f"{run}: {was}; choose another folder")
    return named if own is None else own
