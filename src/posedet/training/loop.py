"""The training loop, top to bottom: the same file for a CPU, one GPU, or `torchrun`."""

import json
import logging
import math
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posedet import __version__
from posedet.config import Config, TrainConfig
from posedet.data.annotations import AnnotatedPhoto
from posedet.errors import DataError, ModelError
from posedet.model.network import PoseDetNet, Proposals, build_network
from posedet.skeleton import Skeleton, find_skeleton
from posedet.training.assignment import Persons, Selection, assign_coarse, choose_locations, in_ignored
from posedet.training.batches import Batch, PhotoStream, batches
from posedet.training.checkpoint import (
    MovingAverage,
    load_start,
    load_tensors,
    restore_training,
    save_tensors,
    save_weights,
    training_state,
)
from posedet.training.losses import losses

log = logging.getLogger(__name__)


def train(
    config: Config,
    photos: list[AnnotatedPhoto],
    repeats: list[int],
    run: Path,
    *,
    start: Path | None = None,
    device: str = "cpu",
    workers: int = 1,
    checkpoint_every: int = 500,
) -> Path:
    """Train for `config.train.steps` steps, going on from `run`/state.safetensors if it is there.

    Writes into `run`: config.json, log.jsonl (one line a step), state.safetensors (to resume), weights.safetensors
    (the averaged weights). Returns the path of the weights.
    Raises DataError when no photo has a labelled person or a loss is not finite, ModelError for a foreign checkpoint.
    """
    if not any(not person.ignore for photo in photos for person in photo.persons):
        raise DataError("the training photos hold no person with labelled keypoints")
    skeleton = find_skeleton(config.model.skeleton)
    torch.manual_seed(config.train.seed)
    network = build_network(config.model, skeleton).to(torch.device(device), memory_format=torch.channels_last)
    if start is not None:
        log.info(load_start(network, start))
    freeze(network, config.train.frozen_blocks)
    optimiser = make_optimiser(network, config.train)
    average = MovingAverage(network, config.train.ema) if config.train.ema else None

    run.mkdir(parents=True, exist_ok=True)
    state = run / "state.safetensors"
    first_step = 0
    if state.exists():
        tensors, info = load_tensors(state)
        if "step" not in info:
            raise ModelError(f"{state}: not a posedet training state")
        restore_training(tensors, network, optimiser, average)
        first_step = info["step"]
        log.info("resumed at step %d", first_step)
    command = " ".join(sys.argv)
    (run / "config.json").write_text(
        json.dumps({"config": config.to_dict(), "command": command, "version": __version__}, indent=1)
    )

    stream = PhotoStream(photos, repeats, skeleton, config.data, config.train.seed)
    loader = batches(
        stream,
        batch_size=config.train.batch_size,
        first_step=first_step,
        last_step=config.train.steps,
        workers=workers,
    )
    objective = Objective(config, skeleton, torch.device(device))
    network.train()
    began = time.monotonic()
    with (run / "log.jsonl").open("a") as log_file:
        for step, batch in enumerate(loader, first_step):
            for group in optimiser.param_groups:
                group["lr"] = group["base_rate"] * rate_at(step, config.train)
            terms = objective(network, batch.to(torch.device(device)), step)
            total = torch.stack(list(terms.values())).sum()
            if not total.isfinite():
                raise DataError(f"step {step}: the loss is not finite; photos: {', '.join(batch.sources)}")
            optimiser.zero_grad(set_to_none=True)
            total.backward()
            norm = torch.nn.utils.clip_grad_norm_(network.parameters(), config.train.clip)
            optimiser.step()
            if average is not None:
                average.update(network, step)

            seconds = time.monotonic() - began
            line: dict[str, Any] = {"step": step, "loss": total.item(), "gradient": norm.item()}
            line |= {name: round(term.item(), 5) for name, term in terms.items()}
            line |= {"rate": optimiser.param_groups[0]["lr"], "seconds": round(seconds, 2)}
            log_file.write(json.dumps(line) + "\n")
            if step % 50 == 0:
                log_file.flush()
                per_second = (step - first_step + 1) * config.train.batch_size / seconds
                left = (config.train.steps - step) * config.train.batch_size / per_second
                parts = "  ".join(f"{name} {term.item():.3f}" for name, term in terms.items())
                log.info(
                    "step %d/%d  %.1f photos/s  %.0f min left  %s",
                    step,
                    config.train.steps,
                    per_second,
                    left / 60,
                    parts,
                )
            if (step + 1) % checkpoint_every == 0 or step + 1 == config.train.steps:
                save_tensors(
                    state, training_state(network, optimiser, average), {"step": step + 1, "config": config.to_dict()}
                )
                weights = network.state_dict() if average is None else average.tensors
                save_weights(run / "weights.safetensors", weights, config, {"step": step + 1})
    return run / "weights.safetensors"


class Objective:
    """From a batch to the terms of the loss: choose locations, run the network, compare."""

    def __init__(self, config: Config, skeleton: Skeleton, device: torch.device) -> None:
        self.config = config
        self.sigmas = torch.tensor(skeleton.sigmas, device=device)
        self.device = device

    def __call__(self, network: PoseDetNet, batch: Batch, step: int) -> dict[str, Tensor]:
        config = self.config
        selection: list[Selection] = []

        def choose(proposals: Proposals, presence: Tensor) -> Tensor:
            selection.append(self.select(network, proposals, batch))
            return choose_locations(selection[0], presence.detach(), config.assign.selected)

        precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.train.amp)
        with torch.autocast(self.device.type, precision) if precision else nullcontext():
            images = batch.images.float().contiguous(memory_format=torch.channels_last)
            output = network(images, choose if config.model.presence else None)
        chosen = selection[0] if selection else self.select(network, output.proposals, batch)
        return losses(network, output, batch, chosen, sigmas=self.sigmas, config=config, step=step)

    @torch.no_grad()
    def select(self, network: PoseDetNet, proposals: Proposals, batch: Batch) -> Selection:
        persons = Persons.of(batch, self.config.assign)
        owner = assign_coarse(batch, persons, proposals, network.strides, self.config.assign)
        ignored = in_ignored(persons, proposals)
        return Selection(persons, owner, ignored if self.config.assign.ignore_regions else torch.zeros_like(ignored))


def freeze(network: PoseDetNet, blocks: int) -> None:
    """The first `blocks` of a MobileNetV2 backbone, its stem with them, keep their start weights."""
    if not blocks:
        return
    backbone: Any = network.backbone
    backbone.frozen_blocks = blocks
    for part in (backbone.stem, *backbone.blocks[:blocks]):
        part.requires_grad_(False)


def make_optimiser(network: PoseDetNet, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam or AdamW; the backbone at a rate of its own, no decay for biases and normalisation."""
    groups = []
    for backbone in (False, True):
        rate = config.learning_rate * (config.backbone_rate if backbone else 1.0)
        for decayed in (False, True):
            parameters = [
                parameter
                for name, parameter in network.named_parameters()
                if parameter.requires_grad
                and name.startswith("backbone.") == backbone
                and (parameter.ndim > 1) == decayed
            ]
            weight_decay = config.weight_decay if decayed else 0.0
            groups.append({"params": parameters, "weight_decay": weight_decay, "base_rate": rate, "lr": rate})
    return torch.optim.AdamW(groups) if config.optimiser == "adamw" else torch.optim.Adam(groups)


def rate_at(step: int, config: TrainConfig) -> float:
    """Factor on the learning rate: linear warm-up, then flat, then steps or half a cosine to nothing."""
    warm = min(1.0, (step + 1) / (config.warmup + 1))
    share = step / config.steps
    if config.schedule == "step":
        return warm * math.prod(0.1 for mark in config.decay if share >= mark)
    begin = config.decay[0]
    return warm * (0.5 + 0.5 * math.cos(math.pi * max(0.0, (share - begin) / (1 - begin))))
