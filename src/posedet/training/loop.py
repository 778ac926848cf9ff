"""The training loop, top to bottom: the same for a CPU, one GPU, or `torchrun`."""

import logging
import math
import sys
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from posedet import __version__
from posedet.config import Config, TrainConfig
from posedet.data.annotations import PhotoSet
from posedet.errors import DataError
from posedet.files import no_terminal
from posedet.model.build import build_network
from posedet.outputs import LineFile, write_json
from posedet.runtime.session import Session
from posedet.skeleton import Skeleton
from posedet.training.batches import errors_of_workers
from posedet.training.setup import Run, prepare_run
from posedet.training.state import STATE_FILE, WEIGHTS_FILE, training_state
from posedet.weights.checkpoint import save_tensors, save_weights
from posedet.weights.torch_session import TorchSession, enough_memory

log = logging.getLogger(__name__)

GENERATOR = "posedet train"


@errors_of_workers()
@enough_memory("lower train.batch_size or data.patch, or raise train.accumulate")
def train(
    config: Config,
    photos: PhotoSet,
    folder: Path,
    *,
    start: str | None = None,
    device: str = "cpu",
    workers: int = 1,
    skeleton: Skeleton | None = None,
    compiled: bool = False,
    checkpoint_every: int = 500,
    after_step: Callable[[int], None] | None = None,
    validate: Callable[[Session], dict[str, float]] | None = None,
    validate_every: int = 2000,
    keep_validated: bool = False,
) -> Path:
    """Train for `config.train.steps` steps, or resume the run in `folder`.

    Args:
        config: The settings.
        photos: The training photos.
        folder: The folder of the run. It receives config.json (settings, command, version), log.jsonl (one line per
            step), state.safetensors (to resume) and weights.safetensors (the averaged weights).
        start: File or URL of start weights for a new run.
        device: The device to train on.
        workers: Number of processes that load photos.
        skeleton: The skeleton of the labels. Default: as `skeleton_to_train`.
        compiled: Compile the backbone with torch.compile.
        checkpoint_every: Number of steps between checkpoints.
        after_step: Called with the number of each step.
        validate: Called in every process with the averaged weights as a session; its results are logged.
        validate_every: Number of steps between validations.
        keep_validated: Keep the weights of each validation, as weights-STEP.safetensors.

    Returns:
        The path of weights.safetensors.

    Raises:
        ConfigError: If there is not enough memory, or the device is not available.
        DataError: If no photo has a labelled person, or a loss is not finite.
        ModelError: If the checkpoint in `folder` belongs to another run.
    """
    run = prepare_run(
        config, photos, folder, start=start, device=device, workers=workers, skeleton=skeleton, compiled=compiled
    )
    settings = run.config.train
    run.network.train()
    if run.leads:
        about = {"config": run.config.to_dict(), "command": sys.argv, "version": __version__}
        write_json(folder / "config.json", GENERATOR, about | {"torch": torch.__version__})
    progress = tqdm(
        total=settings.steps * settings.batch_size,
        initial=run.first_step * settings.batch_size,
        unit="photo",
        smoothing=0.05,
        disable=not run.leads or no_terminal(),
    )
    began = time.monotonic()
    with closing(LineFile(folder / "log.jsonl", GENERATOR)) if run.leads else nullcontext() as log_file:
        for step in range(run.first_step, settings.steps):
            line = _take_step(run, step)
            progress.update(settings.batch_size)
            if log_file is not None:
                line["seconds"] = round(time.monotonic() - began, 2)
                log_file.add(line)
                if step % 20 == 0:
                    progress.set_postfix_str(f"loss {line['loss']:.2f}")
            if after_step is not None:
                after_step(step)
            if run.leads and ((step + 1) % checkpoint_every == 0 or step + 1 == settings.steps):
                _save(run, folder, step + 1)
            if validate is not None and (step + 1) % validate_every == 0:
                found = _validated(run, validate)
                if log_file is not None:
                    log_file.add({"step": step, "validation": found})
                    if keep_validated:
                        _save_weights(run, folder / f"weights-{step + 1}.safetensors", step + 1)
    progress.close()
    return folder / WEIGHTS_FILE


def _take_step(run: Run, step: int) -> dict[str, Any]:
    """Make one step of the optimiser, and return the line for the log."""
    config, optimiser = run.config.train, run.optimiser
    for group in optimiser.param_groups:
        group["lr"] = group["base_rate"] * rate_at(step, config)
    optimiser.zero_grad(set_to_none=True)
    sums: dict[str, float] = {}
    for part in range(config.accumulate):
        batch = next(run.batches).to(run.place)
        terms = run.objective(run.wrapped, batch, step, part)
        total = torch.stack(list(terms.values())).sum()
        if not total.isfinite():
            raise DataError(f"step {step}: the loss is not finite; photos: {', '.join(batch.sources)}")
        run.scaler.scale(total / config.accumulate).backward()  # type: ignore[no-untyped-call]
        means = run.processes.mean(torch.stack(list(terms.values()))).tolist()
        for name, term in zip(terms, means, strict=True):
            sums[name] = sums.get(name, 0.0) + term / config.accumulate
    run.scaler.unscale_(optimiser)
    norm = nn.utils.clip_grad_norm_(run.network.parameters(), config.clip)
    if not (norm.isfinite() or run.scaler.is_enabled()):  # float16 skips such a step
        raise DataError(f"step {step}: the gradient is not finite; photos: {', '.join(batch.sources)}")
    run.scaler.step(optimiser)
    run.scaler.update()
    if run.average is not None:
        run.average.update(run.network, step)
    gradient = norm.item() if norm.isfinite() else None
    rate = optimiser.param_groups[0]["lr"]
    return {"step": step, "loss": sum(sums.values()), "gradient": gradient, **sums, "rate": rate}


def _save(run: Run, folder: Path, step: int) -> None:
    info = {"step": step, "config": run.config.to_dict(), "scaler": run.scaler.state_dict()}
    info["skeleton"] = run.skeleton.to_dict()
    save_tensors(folder / STATE_FILE, GENERATOR, training_state(run.network, run.optimiser, run.average), info)
    _save_weights(run, folder / WEIGHTS_FILE, step)


def _save_weights(run: Run, path: Path, step: int) -> None:
    save_weights(path, GENERATOR, run.averaged(), run.config, run.skeleton, {"step": step})


def _validated(run: Run, validate: Callable[[Session], dict[str, float]]) -> dict[str, float]:
    """Run `validate` on a network with the averaged weights."""
    network = build_network(run.config.model, run.skeleton).to(run.place)
    network.load_state_dict(run.averaged())
    run.processes.take_first(network.state_dict().values())  # statistics of batches differ
    found = validate(TorchSession(network, run.config, run.skeleton, "validation"))
    if run.leads:
        log.info("  ".join(f"{name} {value:.3f}" for name, value in found.items()))
    return found


def rate_at(step: int, config: TrainConfig) -> float:
    """Return the factor on the learning rate: linear warm-up from 1/3, a constant part, then steps or a cosine to 0."""
    warm = 1 - (1 - min(step, config.warmup) / config.warmup) * 2 / 3 if config.warmup else 1.0
    share = step / config.steps
    if config.schedule == "step":
        return warm * math.prod(0.1 for mark in config.decay if share >= mark)
    begin = config.decay[0]
    return warm * (0.5 + 0.5 * math.cos(math.pi * max(0.0, (share - begin) / (1 - begin))))
