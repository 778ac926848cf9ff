"""The training loop, top to bottom: the same for a CPU, one GPU, or `torchrun`."""

import json
import logging
import math
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from posedet import __version__
from posedet.config import Config, TrainConfig
from posedet.data.annotations import PhotoSet
from posedet.errors import DataError
from posedet.files import write_atomically
from posedet.model.build import build_network
from posedet.runtime.session import Session
from posedet.skeleton import Skeleton
from posedet.training.batches import next_batch
from posedet.training.setup import Run, prepare_run
from posedet.training.state import STATE_FILE, training_state
from posedet.weights.checkpoint import save_tensors, save_weights
from posedet.weights.torch_session import TorchSession

log = logging.getLogger(__name__)


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
) -> Path:
    """Train for `config.train.steps` steps; resume where `folder`/state.safetensors ends, if it is there.

    start: file or URL of start weights, for a run that begins. skeleton: of the photos' labels, if not what
    `skeleton_to_train` finds. compiled: let torch.compile build the backbone.
    after_step is called with the number of each step, validate every so many with the averaged weights, ready to run;
    what it returns goes into the log.
    Writes into `folder`: config.json (settings, command, version), log.jsonl (one line a step), state.safetensors (to
    resume) and weights.safetensors (the averaged weights), whose path is returned.
    Raises DataError when no photo has a labelled person or a loss is not finite, ModelError for a foreign checkpoint.
    """
    run = prepare_run(
        config,
        photos,
        folder,
        start=start,
        device=device,
        workers=workers,
        skeleton=skeleton,
        compiled=compiled,
    )
    settings = run.config.train
    run.network.train()
    if run.leads:
        about = {"config": run.config.to_dict(), "command": sys.argv, "version": __version__}
        about["torch"] = torch.__version__
        write_atomically(folder / "config.json", json.dumps(about, indent=1).encode())
    progress = tqdm(
        total=settings.steps * settings.batch_size,
        initial=run.first_step * settings.batch_size,
        unit="photo",
        smoothing=0.05,
        disable=None if run.leads else True,
    )
    began = time.monotonic()
    with (folder / "log.jsonl").open("a") if run.leads else nullcontext() as log_file:
        for step in range(run.first_step, settings.steps):
            line = _take_step(run, step)
            progress.update(settings.batch_size)
            if log_file is not None:
                line["seconds"] = round(time.monotonic() - began, 2)
                log_file.write(json.dumps(line) + "\n")
                if step % 20 == 0:
                    log_file.flush()
                    progress.set_postfix_str(f"loss {line['loss']:.2f}")
            if after_step is not None:
                after_step(step)
            if run.leads and ((step + 1) % checkpoint_every == 0 or step + 1 == settings.steps):
                _save(run, folder, step + 1)
            if log_file is not None and validate is not None and (step + 1) % validate_every == 0:
                log_file.write(json.dumps({"step": step, "validation": _validated(run, validate)}) + "\n")
    progress.close()
    return folder / "weights.safetensors"


def _take_step(run: Run, step: int) -> dict[str, Any]:
    """One step of the optimiser; returns the line of the log."""
    config, optimiser = run.config.train, run.optimiser
    for group in optimiser.param_groups:
        group["lr"] = group["base_rate"] * rate_at(step, config)
    optimiser.zero_grad(set_to_none=True)
    sums: dict[str, float] = {}
    for part in range(config.accumulate):
        batch = next_batch(run.batches).to(run.place)
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
    return {
        "step": step,
        "loss": sum(sums.values()),
        "gradient": gradient,
        **sums,
        "rate": optimiser.param_groups[0]["lr"],
    }


def _save(run: Run, folder: Path, step: int) -> None:
    info = {"step": step, "config": run.config.to_dict(), "scaler": run.scaler.state_dict()}
    info["skeleton"] = run.skeleton.to_dict()
    save_tensors(folder / STATE_FILE, training_state(run.network, run.optimiser, run.average), info)
    save_weights(folder / "weights.safetensors", run.averaged(), run.config, run.skeleton, {"step": step})


def _validated(run: Run, validate: Callable[[Session], dict[str, float]]) -> dict[str, float]:
    """What `validate` finds of a network with the averaged weights."""
    network = build_network(run.config.model, run.skeleton).to(run.place)
    network.load_state_dict(run.averaged())
    found = validate(TorchSession(network, run.config, run.skeleton, "validation"))
    log.info("  ".join(f"{name} {value:.3f}" for name, value in found.items()))
    return found


def rate_at(step: int, config: TrainConfig) -> float:
    """Factor on the learning rate: linear warm-up from a third, then flat, then steps or half a cosine to nothing."""
    warm = 1 - (1 - min(step, config.warmup) / config.warmup) * 2 / 3 if config.warmup else 1.0
    share = step / config.steps
    if config.schedule == "step":
        return warm * math.prod(0.1 for mark in config.decay if share >= mark)
    begin = config.decay[0]
    return warm * (0.5 + 0.5 * math.cos(math.pi * max(0.0, (share - begin) / (1 - begin))))
