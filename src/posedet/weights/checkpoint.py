"""Weights and training state as safetensors: no pickle, written atomically, refused when damaged."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from posedet.config import Config, config_from_dict
from posedet.errors import DataError, ModelError
from posedet.model.network import PoseDetNet, build_network
from posedet.runtime.model_files import MAX_BYTES, local_file
from posedet.skeleton import Skeleton, find_skeleton, skeleton_for
from posedet.weights.keypoints import carry_over
from posedet.weights.pth import load_pth

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
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, _info(file)  # noqa: SIM118


def load_info(path: Path) -> dict[str, Any]:
    """What a safetensors file says of itself ({} when it is not ours), without reading its tensors."""
    with _opened(path) as file:
        return _info(file)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    if path.stat().st_size > MAX_BYTES:
        raise ModelError(f"{path}: larger than {MAX_BYTES} bytes")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, ValueError, RecursionError, OSError) as error:
        raise ModelError(f"{path}: not a whole safetensors file ({error})") from None


def _info(file: Any) -> dict[str, Any]:
    info = json.loads((file.metadata() or {}).get("posedet", "{}"))
    return info if isinstance(info, dict) else {}


def save_weights(
    path: Path, weights: dict[str, Tensor], config: Config, skeleton: Skeleton, info: dict[str, Any]
) -> None:
    """The network's weights with the config and the skeleton that they belong to."""
    save_tensors(path, weights, {"config": config.to_dict(), "skeleton": skeleton.to_dict(), **info})


def load_weights(path: Path) -> tuple[dict[str, Tensor], Config, dict[str, Any]]:
    """What `save_weights` wrote; `stored_skeleton` reads the last. Raises ModelError for any other file."""
    tensors, info = load_tensors(path)
    if info.get("format") != FORMAT or "config" not in info:
        raise ModelError(f"{path}: not a posedet weights file (metadata 'posedet' is missing)")
    if any(name.startswith("network/") for name in tensors):
        raise ModelError(f"{path}: the state of a training run; its weights are in weights.safetensors beside it")
    return tensors, config_from_dict(info["config"], str(path)), info


def load_network(path: Path) -> tuple[PoseDetNet, Config, Skeleton]:
    """The network of a weights file, with its weights. Raises ModelError for any other file."""
    tensors, config, info = load_weights(path)
    skeleton = stored_skeleton(info, path)
    network = build_network(config.model, skeleton)
    fill(network, tensors, path)
    return network, config, skeleton


def fill(network: nn.Module, tensors: dict[str, Tensor], path: str | Path) -> None:
    """Give a network the weights of a file. Raises ModelError where they are not those of such a network."""
    expected = network.state_dict()
    for name in sorted({*expected, *tensors}):
        if name not in expected or name not in tensors or tensors[name].shape != expected[name].shape:
            raise ModelError(
                f"{path}: tensor {name!r:.80}: missing, unknown or of another shape than "
                "its settings say; take the file as training or export wrote it"
            )
    network.load_state_dict(tensors)


def stored_skeleton(info: dict[str, Any], path: str | Path) -> Skeleton:
    """The skeleton of a weights or state file, by what `load_tensors` says of it; `path` names it in errors."""
    try:
        if "skeleton" in info:
            return Skeleton.from_dict(info["skeleton"])
        # Earlier files have the name of a built-in one alone.
        return find_skeleton(info["config"]["model"]["skeleton"])
    except (KeyError, TypeError, DataError) as error:
        raise ModelError(f"{path}: its metadata names no skeleton that can be used ({error})") from None


def named_skeleton(name: str) -> Skeleton:
    """The skeleton that `model.skeleton` names: built in, in a .toml or .json file, or in a weights file."""
    if name.lower().endswith(".safetensors"):
        return stored_skeleton(load_info(Path(name)), name)
    return skeleton_for(name)


def skeleton_to_train(name: str, run: Path) -> Skeleton:
    """The skeleton that `model.skeleton` names, or that of a `run` that goes on, whose file may be gone.

    Raises ModelError when the two have other keypoints.
    """
    state = run / "state.safetensors"
    own = stored_skeleton(load_info(state), state) if state.is_file() else None
    is_file = name.lower().endswith((".toml", ".json", ".safetensors"))
    if own is not None and is_file and not Path(name).exists():
        return own
    named = named_skeleton(name)
    if own is not None and own.keypoints != named.keypoints:
        raise ModelError(f"{run}: holds a run with the keypoints of '{own.name}', not of '{named.name}'; take another")
    return named if own is None else own


def load_named(source: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of PyTorch's own (.pth), given by path or by `https://...#sha256=HEX`."""
    path = local_file(source)
    return load_tensors(path)[0] if path.suffix == ".safetensors" else load_pth(path)


def load_start(network: nn.Module, source: str | Path, skeleton: Skeleton) -> str:
    """Start weights by name: of a backbone, or of a whole network, a path or `https://...#sha256=HEX`.

    source: safetensors or PyTorch's own (.pth). Of a posedet network with other keypoints than `skeleton`, that of
    `network`, what belongs to keypoints of the same name is taken. Tensors of another name (a classifier's) or shape
    are left alone. Returns one line that says what was taken.
    """
    path = local_file(source)
    tensors, info = load_tensors(path) if path.suffix == ".safetensors" else (load_pth(path), {})
    own = network.state_dict()
    if not any(name in own for name in tensors):
        tensors = {f"backbone.{name}": tensor for name, tensor in tensors.items()}
    keypoints = ""
    if "config" in info and (theirs := stored_skeleton(info, path)).keypoints != skeleton.keypoints:
        tensors = carry_over(tensors, own, theirs, skeleton)
        shared = [name for name in skeleton.keypoints if name in theirs.keypoints]
        new = [name for name in skeleton.keypoints if name not in theirs.keypoints]
        keypoints = f"; keypoints taken: {', '.join(shared) or 'none'}; new: {', '.join(new) or 'none'}"
    fitting = {name: t.float() for name, t in tensors.items() if name in own and own[name].shape == t.shape}
    if not fitting:
        raise ModelError(f"{source}: none of its {len(tensors)} tensors fits this network")
    network.load_state_dict(fitting, strict=False)
    left = [name for name in tensors if name not in fitting]
    named = f" (not {', '.join(left[:3])}{', ...' if len(left) > 3 else ''})" if left else ""
    fresh = len(own) - len(fitting)
    return f"{source}: {len(fitting)} of {len(tensors)} tensors taken{named}, {fresh} start fresh{keypoints}"


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


def check_goes_on(config: Config, info: dict[str, Any], state: Path) -> None:
    """A run goes on with the network and the kind of optimiser that it began with; other settings may change.

    info: what `load_tensors` says of the state. Raises ModelError naming what is wrong.
    """
    if type(info.get("step")) is not int or "config" not in info:
        raise ModelError(f"{state}: not a posedet training state")
    before, now = config_from_dict(info["config"], str(state)).to_dict(), config.to_dict()
    # The skeleton's name does not matter: its keypoints were compared.
    for section, keys in (("model", now["model"].keys() - {"skeleton"}), ("train", {"optimiser"})):
        for key in sorted(keys):
            if before[section][key] != now[section][key]:
                setting = f"{section}.{key} = {before[section][key]!r}"
                raise ModelError(f"{state}: of a run with {setting}, not {now[section][key]!r}; take another --run")


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
