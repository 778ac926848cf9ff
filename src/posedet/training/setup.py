"""Everything a training run needs before its first step."""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from posedet.config import EARLY_SHARE, Config, TrainConfig
from posedet.data.annotations import AnnotatedPhoto, PhotoSet
from posedet.errors import ConfigError, DataError
from posedet.keypoint_names import find_names, pairs_in_words
from posedet.model.build import build_network
from posedet.model.network import Geometry, PoseDetNet, Proposals
from posedet.outputs import make_folder
from posedet.skeleton import Skeleton, find_skeleton
from posedet.training.assignment import Selection, choose_locations
from posedet.training.batches import Batch, PhotoStream, batches
from posedet.training.losses import losses, oks_weight_at
from posedet.training.muon import Muon, is_matrix
from posedet.training.precision import autocast
from posedet.training.processes import ALONE, Processes
from posedet.training.state import STATE_FILE, MovingAverage, check_resumes, restore_training, skeleton_to_train
from posedet.training.targets import Assigner
from posedet.weights.checkpoint import load_start, load_tensors
from posedet.weights.torch_session import local_device

# Size of a person on its level: 8 to 16 cells with the official divisor; the geometric mean.
CELLS_OF_A_PERSON = 11.3

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A run that is ready for step `first_step`."""

    config: Config
    skeleton: Skeleton
    processes: Processes
    place: torch.device
    network: PoseDetNet
    wrapped: nn.Module  # the network, or what synchronises it with other processes
    optimiser: torch.optim.Optimizer
    average: MovingAverage | None
    scaler: torch.amp.GradScaler
    objective: "Objective"
    batches: Iterator[Any]
    first_step: int

    @property
    def leads(self) -> bool:
        """Whether this process writes the files and the log."""
        return self.processes.rank == 0

    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights, or the network's own where there is no average."""
        return self.network.state_dict() if self.average is None else self.average.tensors


def prepare_run(
    config: Config,
    photos: PhotoSet,
    folder: Path,
    *,
    start: str | None = None,
    device: str = "cpu",
    workers: int = 1,
    skeleton: Skeleton | None = None,
    compiled: bool = False,
) -> Run:
    """Build or resume the run in `folder`; the arguments are those of `train`, and so are the errors."""
    if not any(not person.ignore for photo in photos.photos for person in photo.persons):
        raise DataError("the training photos contain no person with labelled keypoints")
    if not config.data.empty_photos:
        photos = photos.without_empty()
    place, processes = local_device(device), Processes.join(device)
    _check(config, processes, compiled=compiled and place.type == "cpu")
    skeleton = skeleton or skeleton_to_train(config.model.skeleton, folder)
    _check_keypoints(photos, skeleton)
    config = replace(config, decode=replace(config.decode, skeleton=reported(config, skeleton).name))
    if processes.rank == 0:
        log.info("keypoints of '%s': %s", skeleton.name, pairs_in_words(skeleton.keypoints, skeleton.pairs))
    torch.manual_seed(config.train.seed)
    network = build_network(config.model, skeleton).to(place)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    make_folder(folder)
    state = folder / STATE_FILE
    if start is not None and not state.exists():
        log.info(load_start(network, start, skeleton))
    if config.train.frozen_blocks:
        network.backbone.freeze(config.train.frozen_blocks)  # type: ignore[operator]
    if config.model.representation == "anchors":
        network.anchor_pose.copy_(mean_pose(photos.photos))
    optimiser = make_optimiser(network, config.train, processes)
    average = MovingAverage(network, config.train.ema) if config.train.ema else None
    # Scaling keeps small gradients above float16's smallest number; a no-op for the other precisions.
    scaler = torch.amp.GradScaler(place.type, enabled=config.train.amp == "fp16")
    first_step = _resume(state, config, network, optimiser, average, scaler) if state.exists() else 0
    if compiled:
        network.backbone.compile()
    early = round(EARLY_SHARE * config.train.steps) * config.train.batch_size
    stream = PhotoStream(photos, skeleton, config.data, config.train.seed, early_samples=early)
    loader = batches(
        stream,
        batch_size=config.train.batch_size // (processes.world * config.train.accumulate),
        first_step=first_step * config.train.accumulate,
        last_step=config.train.steps * config.train.accumulate,
        workers=workers,
        rank=processes.rank,
        world=processes.world,
    )
    return Run(
        config=config,
        skeleton=skeleton,
        processes=processes,
        place=place,
        network=network,
        wrapped=_synchronised(network, place, processes, config.train),
        optimiser=optimiser,
        average=average,
        scaler=scaler,
        objective=Objective(config, skeleton, network.geometry, place, processes),
        batches=iter(loader),
        first_step=first_step,
    )


def _check(config: Config, processes: Processes, *, compiled: bool) -> None:
    """Check the settings that depend on neither photos nor files. compiled: for a CPU."""
    for head in ("identity", "uncertainty"):
        if getattr(config.model, f"{head}_channels"):
            raise ConfigError(f"model.{head}_channels: expected 0; `posedet {head}` adds this head after training")
    if config.train.batch_size % (processes.world * config.train.accumulate):
        parts = f"{processes.world} processes x {config.train.accumulate} parts"
        raise ConfigError(f"train.batch_size is {config.train.batch_size}, expected a multiple of {parts}")
    if compiled and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise ConfigError("compiling needs a C++ compiler, but g++ was not found; install one, or do not compile")


def _check_keypoints(photos: PhotoSet, skeleton: Skeleton) -> None:
    for person in (person for photo in photos.photos for person in photo.persons):
        if len(person.keypoints) != skeleton.num_keypoints:
            expected = f"{skeleton.num_keypoints}, those of the skeleton '{skeleton.name}'; read them with it"
            raise DataError(
                f"the training photos have people with {len(person.keypoints)} keypoints, expected {expected}"
            )


def _resume(
    state: Path,
    config: Config,
    network: PoseDetNet,
    optimiser: torch.optim.Optimizer,
    average: MovingAverage | None,
    scaler: torch.amp.GradScaler,
) -> int:
    """Restore everything from the state file and return the step to continue with."""
    tensors, info = load_tensors(state)
    check_resumes(config, info, state)
    restore_training(tensors, network, optimiser, average)
    if info.get("scaler"):  # empty where the run was in another precision
        scaler.load_state_dict(info["scaler"])
    log.info("resuming from step %d", info["step"])
    step: int = info["step"]
    return step


def _synchronised(network: PoseDetNet, place: torch.device, processes: Processes, config: TrainConfig) -> nn.Module:
    """The network with its gradients averaged over all processes."""
    if processes.world == 1:
        return network
    if place.type == "cuda" and config.sync_norm:
        # In place but for the network itself. There is none for CPUs: there each process has its own statistics.
        nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(network, [place] if place.type == "cuda" else None)


class Objective:
    """From a batch to the terms of the loss: choose locations, run the network, assign, compare."""

    def __init__(
        self,
        config: Config,
        skeleton: Skeleton,
        geometry: Geometry,
        device: torch.device,
        processes: Processes = ALONE,
    ) -> None:
        self.config = config
        self.sigmas = torch.tensor(skeleton.sigmas, device=device)
        self.assigner = Assigner(config, self.sigmas, geometry)
        self.device, self.processes = device, processes

    def __call__(self, network: nn.Module, batch: Batch, step: int, part: int = 0) -> dict[str, Tensor]:
        """The terms, already weighted. network: a `PoseDetNet`, or what synchronises it with other processes."""
        config = self.config
        selection: list[Selection] = []

        def choose(proposals: Proposals, presence: Tensor) -> Tensor:
            selection.append(self.assigner.select(proposals, batch))
            chances = self._chances(presence, step * config.train.accumulate + part)
            return choose_locations(selection[0], presence.detach(), chances, config.assign.selected)

        with autocast(self.device.type, config.train.amp):
            images = batch.images.float().contiguous(memory_format=torch.channels_last)
            output = network(images, choose if config.model.presence else None)
        chosen = selection[0] if selection else self.assigner.select(output.proposals, batch)
        targets = self.assigner.targets(output, batch, chosen)
        oks_weight = oks_weight_at(step, config.loss)
        return losses(output, targets, config.loss, sigmas=self.sigmas, oks_weight=oks_weight, processes=self.processes)

    def _chances(self, presence: Tensor, number: int) -> Tensor:
        """Draw uniform numbers (B, M) that depend neither on the process of a photo nor on interruptions."""
        generator = torch.Generator(self.device).manual_seed(self.config.train.seed * 1_000_003 + number)
        shape = (self.processes.world, *presence.shape)
        return torch.rand(shape, device=self.device, generator=generator)[self.processes.rank]


def reported(config: Config, skeleton: Skeleton) -> Skeleton:
    """Return the skeleton that the network reports: the preset's, or `skeleton` if that lacks some of its keypoints.

    Raises DataError if the preset's is not known.
    """
    if config.decode.skeleton == skeleton.name:
        return skeleton
    try:
        wanted = find_skeleton(config.decode.skeleton)
    except DataError as error:
        raise DataError(f"decode.skeleton: {error}") from None
    return skeleton if None in find_names(wanted.keypoints, skeleton.keypoints) else wanted


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


def make_optimiser(network: PoseDetNet, config: TrainConfig, processes: Processes = ALONE) -> torch.optim.Optimizer:
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
    if config.optimiser == "muon":
        return Muon(groups.values(), processes)
    return torch.optim.AdamW(list(groups.values()))
