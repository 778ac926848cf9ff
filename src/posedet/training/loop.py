"""The training loop, top to bottom: the same file for a CPU, one GPU, or `torchrun`."""

import json
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from posedet import __version__
from posedet.config import Config, TrainConfig
from posedet.data.annotations import AnnotatedPhoto, PhotoSet
from posedet.errors import ConfigError, DataError
from posedet.files import write_atomically
from posedet.model.network import PoseDetNet, Proposals, build_network
from posedet.runtime.session import Session
from posedet.skeleton import Skeleton, find_skeleton
from posedet.training.assignment import Persons, Selection, assign_coarse, choose_locations, in_ignored
from posedet.training.batches import Batch, PhotoStream, batches, next_batch
from posedet.training.losses import losses
from posedet.training.muon import Muon, is_matrix
from posedet.training.processes import ALONE, Processes
from posedet.weights.checkpoint import (
    MovingAverage,
    check_goes_on,
    load_start,
    load_tensors,
    restore_training,
    save_tensors,
    save_weights,
    skeleton_to_train,
    training_state,
)
from posedet.weights.torch_session import TorchSession, local_device

# Size of a person on its level: 8 to 16 cells with the official divisor; the geometric mean.
CELLS_OF_A_PERSON = 11.3

log = logging.getLogger(__name__)


def train(
    config: Config,
    photos: PhotoSet,
    run: Path,
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
    """Train for `config.train.steps` steps, going on from `run`/state.safetensors if it is there.

    start: file or URL of start weights, for a run that begins. skeleton:
    of the photos' labels, if not what `skeleton_to_train` finds. compiled: let torch.compile build the backbone.
    after_step is called with the number of each step, validate every so many with the averaged weights, ready to run;
    what it returns goes into the log.
    Writes into `run`: config.json (settings, command, version), log.jsonl (one line a step), state.safetensors (to
    resume) and weights.safetensors (the averaged weights), whose path is returned.
    Raises DataError when no photo has a labelled person or a loss is not finite, ModelError for a foreign checkpoint.
    """
    if not any(not person.ignore for photo in photos.photos for person in photo.persons):
        raise DataError("the training photos hold no person with labelled keypoints")
    if not config.data.empty_photos:
        photos = photos.without_empty()
    place, processes = local_device(device), Processes.join(device)
    if config.train.batch_size % (processes.world * config.train.accumulate):
        parts = f"{processes.world} processes x {config.train.accumulate} parts"
        raise ConfigError(f"train.batch_size is {config.train.batch_size}, expected a multiple of {parts}")
    if config.model.presence and not config.assign.selected:
        raise ConfigError("assign.selected is 0, expected at least 1 with model.presence")
    skeleton = skeleton or skeleton_to_train(config.model.skeleton, run)
    config = replace(config, decode=replace(config.decode, skeleton=reported(config, skeleton).name))
    torch.manual_seed(config.train.seed)
    network = build_network(config.model, skeleton).to(place)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--run {run}: cannot be made ({error.strerror}); choose another folder") from None
    state = run / "state.safetensors"
    if start is not None and not state.exists():
        log.info(load_start(network, start, skeleton))
    freeze(network, config.train.frozen_blocks)
    if config.model.representation == "anchors":
        network.anchor_pose.copy_(mean_pose(photos.photos))
    optimiser = make_optimiser(network, config.train)
    average = MovingAverage(network, config.train.ema) if config.train.ema else None
    # Scaling keeps small gradients above float16's smallest number; a no-op for the other precisions.
    scaler = torch.amp.GradScaler(place.type, enabled=config.train.amp == "fp16")

    first_step = 0
    if state.exists():
        tensors, info = load_tensors(state)
        check_goes_on(config, info, state)
        restore_training(tensors, network, optimiser, average)
        if info.get("scaler"):  # empty where the run was in another precision
            scaler.load_state_dict(info["scaler"])
        first_step = info["step"]
        log.info("going on from step %d", first_step)
    about = {"config": config.to_dict(), "command": sys.argv, "version": __version__, "torch": torch.__version__}

    if compiled:
        if place.type == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
            raise ConfigError(
                "--compile needs a C++ compiler, and g++ is not found; install one or leave out --compile"
            )
        network.backbone.compile()
    wrapped: nn.Module = network
    if processes.world > 1:
        if place.type == "cuda" and config.train.sync_norm:
            # In place but for the network itself. There is none for CPUs: there each process has its own statistics.
            nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        wrapped = DistributedDataParallel(network, [place] if place.type == "cuda" else None)
    stream = PhotoStream(photos, skeleton, config.data, config.train.seed)
    local_batch = config.train.batch_size // (processes.world * config.train.accumulate)
    loader = batches(
        stream,
        batch_size=local_batch,
        first_step=first_step * config.train.accumulate,
        last_step=config.train.steps * config.train.accumulate,
        workers=workers,
        rank=processes.rank,
        world=processes.world,
    )
    objective = Objective(config, skeleton, place, processes)
    network.train()
    leads = processes.rank == 0
    if leads:
        write_atomically(run / "config.json", json.dumps(about, indent=1).encode())
    progress = tqdm(
        total=config.train.steps * config.train.batch_size,
        initial=first_step * config.train.batch_size,
        unit="photo",
        smoothing=0.05,
        disable=None if leads else True,
    )
    began = time.monotonic()
    waiting = iter(loader)
    with (run / "log.jsonl").open("a") if leads else nullcontext() as log_file:
        for step in range(first_step, config.train.steps):
            for group in optimiser.param_groups:
                group["lr"] = group["base_rate"] * rate_at(step, config.train)
            optimiser.zero_grad(set_to_none=True)
            sums: dict[str, float] = {}
            for part in range(config.train.accumulate):
                batch = next_batch(waiting).to(place)
                terms = objective(wrapped, network, batch, step, part)
                total = torch.stack(list(terms.values())).sum()
                if not total.isfinite():
                    raise DataError(f"step {step}: the loss is not finite; photos: {', '.join(batch.sources)}")
                scaler.scale(total / config.train.accumulate).backward()  # type: ignore[no-untyped-call]
                means = processes.mean(torch.stack(list(terms.values()))).tolist()
                for name, term in zip(terms, means, strict=True):
                    sums[name] = sums.get(name, 0.0) + term / config.train.accumulate
            scaler.unscale_(optimiser)
            norm = nn.utils.clip_grad_norm_(network.parameters(), config.train.clip)
            if not (norm.isfinite() or scaler.is_enabled()):  # float16 skips such a step and goes on
                raise DataError(f"step {step}: the gradient is not finite; photos: {', '.join(batch.sources)}")
            scaler.step(optimiser)
            scaler.update()
            if average is not None:
                average.update(network, step)

            progress.update(config.train.batch_size)
            if log_file is not None:
                line: dict[str, Any] = {
                    "step": step,
                    "loss": sum(sums.values()),
                    "gradient": norm.item() if norm.isfinite() else None,
                    **sums,
                }
                line |= {"rate": optimiser.param_groups[0]["lr"], "seconds": round(time.monotonic() - began, 2)}
                log_file.write(json.dumps(line) + "\n")
                if step % 20 == 0:
                    log_file.flush()
                    progress.set_postfix_str(f"loss {line['loss']:.2f}")
            if after_step is not None:
                after_step(step)
            if leads and ((step + 1) % checkpoint_every == 0 or step + 1 == config.train.steps):
                info = {"step": step + 1, "config": config.to_dict(), "scaler": scaler.state_dict()}
                info["skeleton"] = skeleton.to_dict()
                save_tensors(state, training_state(network, optimiser, average), info)
                weights = network.state_dict() if average is None else average.tensors
                save_weights(run / "weights.safetensors", weights, config, skeleton, {"step": step + 1})
            if leads and validate is not None and log_file is not None and (step + 1) % validate_every == 0:
                averaged = network.state_dict() if average is None else average.tensors
                found = validated(averaged, config, skeleton, place, validate)
                log_file.write(json.dumps({"step": step, "validation": found}) + "\n")
    progress.close()
    return run / "weights.safetensors"


def reported(config: Config, skeleton: Skeleton) -> Skeleton:
    """What a network with `skeleton` reports: what the preset says, or all where it lacks some of that."""
    if config.decode.skeleton == skeleton.name:
        return skeleton
    wanted = find_skeleton(config.decode.skeleton)
    return wanted if {*wanted.keypoints} <= {*skeleton.keypoints} else skeleton


def validated(
    weights: dict[str, Tensor],
    config: Config,
    skeleton: Skeleton,
    place: torch.device,
    validate: Callable[[Session], dict[str, float]],
) -> dict[str, float]:
    """What `validate` finds of a network with these weights."""
    network = build_network(config.model, skeleton).to(place)
    network.load_state_dict(weights)
    found = validate(TorchSession(network, config, skeleton, "validation"))
    log.info("  ".join(f"{name} {value:.3f}" for name, value in found.items()))
    return found


class Objective:
    """From a batch to the terms of the loss: choose locations, run the network, compare."""

    def __init__(self, config: Config, skeleton: Skeleton, device: torch.device, processes: Processes = ALONE) -> None:
        self.config = config
        self.sigmas = torch.tensor(skeleton.sigmas, device=device)
        self.device, self.processes = device, processes

    def __call__(
        self, wrapped: nn.Module, network: PoseDetNet, batch: Batch, step: int, part: int = 0
    ) -> dict[str, Tensor]:
        """`wrapped` is `network`, or what synchronises it with other processes."""
        config = self.config
        selection: list[Selection] = []

        def choose(proposals: Proposals, presence: Tensor) -> Tensor:
            selection.append(self.select(network, proposals, batch))
            chances = self._chances(presence, step * config.train.accumulate + part)
            return choose_locations(selection[0], presence.detach(), chances, config.assign.selected)

        precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.train.amp)
        with torch.autocast(self.device.type, precision) if precision else nullcontext():
            images = batch.images.float().contiguous(memory_format=torch.channels_last)
            output = wrapped(images, choose if config.model.presence else None)
        chosen = selection[0] if selection else self.select(network, output.proposals, batch)
        return losses(
            network, output, batch, chosen, sigmas=self.sigmas, config=config, step=step, processes=self.processes
        )

    @torch.no_grad()
    def select(self, network: PoseDetNet, proposals: Proposals, batch: Batch) -> Selection:
        persons = Persons.of(batch, self.config.assign)
        owner = assign_coarse(batch, persons, proposals, network.strides, self.config.assign)
        ignored = in_ignored(persons, proposals)
        return Selection(persons, owner, ignored if self.config.assign.ignore_regions else torch.zeros_like(ignored))

    def _chances(self, presence: Tensor, number: int) -> Tensor:
        """Uniform numbers (B, M), the same for a photo whichever process it is in, and after any interruption."""
        generator = torch.Generator(self.device).manual_seed(self.config.train.seed * 1_000_003 + number)
        shape = (self.processes.world, *presence.shape)
        return torch.rand(shape, device=self.device, generator=generator)[self.processes.rank]


def mean_pose(photos: Sequence[AnnotatedPhoto]) -> Tensor:
    """(K, 2): keypoints about their centre, in cells of the person's level, averaged over labelled people."""
    sums = counts = torch.zeros(())
    for person in (person for photo in photos for person in photo.persons if not person.ignore):
        labelled = torch.from_numpy(person.visibility > 0)
        keypoints = torch.from_numpy(person.keypoints).float()
        size = (keypoints[labelled].amax(0) - keypoints[labelled].amin(0)).clamp(min=1).prod().sqrt()
        relative = (keypoints - keypoints[labelled].mean(0)) / size * CELLS_OF_A_PERSON
        sums = sums + torch.where(labelled[:, None], relative, 0)
        counts = counts + labelled.float()
    return sums / counts.clamp(min=1)[:, None]


def freeze(network: PoseDetNet, blocks: int) -> None:
    """The first `blocks` of a MobileNetV2 backbone, its stem with them, keep their start weights."""
    if not blocks:
        return
    backbone: Any = network.backbone
    if not hasattr(backbone, "frozen_blocks"):
        raise ConfigError("train.frozen_blocks: only the mobilenetv2 backbone can be frozen in part; set it to 0")
    if blocks > len(backbone.blocks):
        raise ConfigError(f"train.frozen_blocks is {blocks}, expected at most {len(backbone.blocks)}, all there are")
    backbone.frozen_blocks = blocks
    for part in (backbone.stem, *backbone.blocks[:blocks]):
        part.requires_grad_(False)


def make_optimiser(network: PoseDetNet, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam, AdamW or Muon; the backbone at a rate of its own, no decay for biases and normalisation."""
    groups: dict[tuple[bool, bool, bool], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        backbone, decayed = name.startswith("backbone."), parameter.ndim > 1
        matrices = config.optimiser == "muon" and is_matrix(name, parameter)
        rate = config.learning_rate * (config.backbone_rate if backbone else 1.0)
        weight_decay = config.weight_decay if decayed else 0.0
        group = {"params": [], "weight_decay": weight_decay, "base_rate": rate, "lr": rate, "matrices": matrices}
        groups.setdefault((backbone, decayed, matrices), group)["params"].append(parameter)
    # Not fused: it reads raw memory, in which restored moments may lie in another order than the weights.
    if config.optimiser == "adam":
        return torch.optim.Adam(list(groups.values()))
    return (Muon if config.optimiser == "muon" else torch.optim.AdamW)(list(groups.values()))


def rate_at(step: int, config: TrainConfig) -> float:
    """Factor on the learning rate: linear warm-up from a third, then flat, then steps or half a cosine to nothing."""
    warm = 1 - (1 - min(step, config.warmup) / config.warmup) * 2 / 3 if config.warmup else 1.0
    share = step / config.steps
    if config.schedule == "step":
        return warm * math.prod(0.1 for mark in config.decay if share >= mark)
    begin = config.decay[0]
    return warm * (0.5 + 0.5 * math.cos(math.pi * max(0.0, (share - begin) / (1 - begin))))
