"""Training at the paper's patch size: photos per second, memory, the speed of the loader, and the time of a run."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lab.gpu.limits import set_tf32
from lab.gpu.rows import Measurement, Plan, attempt, milliseconds, peak_memory, timed
from lab.gpu.subjects import PAPER_MODELS, TOY_BATCH, Model
from posedet.benchmark.timing import Clock
from posedet.config import Config, load_config
from posedet.data.sources import read_sets
from posedet.model.build import build_network
from posedet.skeleton import find_skeleton
from posedet.training.batches import Batch, PhotoStream, batches
from posedet.training.setup import Objective, make_optimiser

# The paper's training set, the photos of COCO train2017 with labelled keypoints, and its number of epochs.
COCO_PHOTOS, EPOCHS = 64_115, 210
PEOPLE = 4  # people per patch
TOY_PATCH = 64


class Way(NamedTuple):
    """A way to run a training step."""

    title: str
    precision: str  # train.amp: none, bf16
    tuned: bool  # channels last, fused optimiser
    compiled: bool = False


EAGER = (Way("channels last, fused", "bf16", True), Way("plain", "none", False))
COMPILED_BACKBONE = (Way("compiled backbone", "bf16", True, compiled=True),)


def training(plan: Plan, model: Model, ways: tuple[Way, ...] = EAGER) -> Iterator[Measurement]:
    """Time a whole step of the paper's preset: assignment, network, losses, gradients, clipping, optimiser."""
    for way in ways:
        config = load_config(model.preset, [f"train.amp={way.precision}", *(_toy(plan))])
        size = config.train.batch_size
        while True:
            row = attempt(
                Measurement("training", model.name, way.title, "bf16" if way.precision == "bf16" else "tf32", size),
                partial(_measure, plan, config, way, size),
            )
            # The paper's batch of 48 was spread over eight GPUs. If it does not fit on one, halve it.
            if row.failed is None or "out of memory" not in row.failed.lower() or size == 1:
                break
            yield row
            size //= 2
        yield row


def _toy(plan: Plan) -> list[str]:
    return [f"train.batch_size={TOY_BATCH}", f"data.patch={TOY_PATCH}"] if plan.toy else []


def _measure(plan: Plan, config: Config, way: Way, size: int) -> dict[str, float]:
    set_tf32(True)
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    peak_memory(plan.device)
    skeleton = find_skeleton(config.model.skeleton)
    with torch.device(plan.device):
        network = build_network(config.model, skeleton)
    optimiser = make_optimiser(network, config.train)
    if way.tuned:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        kept = ("params", "weight_decay", "lr")
        groups = [{key: group[key] for key in kept} for group in optimiser.param_groups]
        optimiser = type(optimiser)(groups, fused=True)  # type: ignore[call-arg]
    if way.compiled:
        network.backbone.compile()
    objective = Objective(config, skeleton, network.geometry, torch.device(plan.device))
    batch = synthetic_batch(size, config.data.patch, skeleton.num_keypoints, plan.device)
    network.train()

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        total = torch.stack(list(objective(network, batch, 0).values())).sum()
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), config.train.clip)
        optimiser.step()

    spread = timed(step, plan.device, 3 * plan.seconds)
    return {"images/s": 1e3 * size / spread.median, **milliseconds(spread), **peak_memory(plan.device)}


def synthetic_batch(size: int, side: int, num_keypoints: int, device: str) -> Batch:
    """Noise that contains people of many sizes, with all keypoints labelled."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    extents = side * (0.1 + 0.6 * uniform(size, PEOPLE, 1, 2))
    corners = uniform(size, PEOPLE, 1, 2) * (side - extents)
    keypoints = corners + uniform(size, PEOPLE, num_keypoints, 2) * extents
    ones = torch.ones(size, PEOPLE, num_keypoints)
    boxes = torch.cat((keypoints.amin(2), keypoints.amax(2)), -1)
    images = torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8, generator=generator)
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    nothing = torch.full((size, 1, 4), -1e6)
    batch = Batch(images, keypoints, ones, ones, areas, boxes, nothing, torch.ones(size, 1), ["noise"] * size)
    return batch.to(torch.device(device))


def loader(plan: Plan) -> Iterator[Measurement]:
    """Augmented patches per second from files in the system's cache, with one worker per core."""
    for model in PAPER_MODELS:
        config = load_config(model.preset, _toy(plan))
        row = Measurement("loader", model.name, f"{plan.threads} workers", "", config.train.batch_size)
        yield attempt(row, partial(_load, plan, config))


def _load(plan: Plan, config: Config) -> dict[str, float]:
    skeleton = find_skeleton(config.model.skeleton)
    stream = PhotoStream(read_sets([plan.annotations], skeleton), skeleton, config.data, 0)
    # The workers begin together: a round of them before, and whole rounds measured.
    first, measured = (1, 1) if plan.toy else (plan.threads, 3 * plan.threads)
    workers = 0 if plan.toy else plan.threads
    waiting = iter(
        batches(stream, batch_size=config.train.batch_size, first_step=0, last_step=first + measured, workers=workers)
    )
    for _ in range(first):
        next(waiting)
    clock = Clock()
    for _ in range(measured):
        next(waiting)
    clock.lap("all")
    return {"images/s": 1e3 * measured * config.train.batch_size / clock.ms["all"]}


def estimates(rows: Sequence[Measurement]) -> list[str]:
    """Sentences about the time of the paper's 210 epochs at the measured rates; the loader is a bound too."""
    lines = []
    for model in PAPER_MODELS:
        rates = [
            row.values["images/s"] for row in rows if row.part == "training" and row.model == model.name and row.values
        ]
        loading = [
            row.values["images/s"] for row in rows if row.part == "loader" and row.model == model.name and row.values
        ]
        if not rates:
            continue
        best, loaded = max(rates), max(loading, default=float("inf"))
        photos = EPOCHS * COCO_PHOTOS
        one, eight = photos / min(best, loaded) / 3600, photos / min(8 * best, loaded) / 3600
        limit = " (the loader's)" if loaded < 8 * best else ""
        lines.append(
            f"{model.name}: {EPOCHS} epochs of COCO at {best:.0f} images/s: {one:.1f} h on one GPU; at least "
            f"{eight:.1f} h{limit} on eight, without communication"
        )
    return lines
