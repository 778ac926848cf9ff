"""Inference speed on the device: the latency of one photo, and the throughput of overlapping batches."""

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lab.gpu.finder import Found, Placement, PoseFinder, for_running
from lab.gpu.host import HostFound, placement_of, poses_of
from lab.gpu.limits import PRECISIONS, set_tf32
from lab.gpu.rows import Measurement, Plan, attempt, milliseconds, peak_memory, timed, wait
from lab.gpu.subjects import LoadedModel, Model, build, fixed_letterbox, input_size, pixels, throughput_batch
from posedet.benchmark.timing import Clock, Spread
from posedet.image import network_input

IN_FLIGHT = 2  # batches: one is computed while the next is uploaded and the last one is read
ALGORITHMS = 5  # algorithms that cuDNN tries for each convolution; trying all takes minutes


class Variant(NamedTuple):
    """A way to run the network."""

    precision: str  # fp32, tf32, or the half precision of the convolutions
    mode: str  # eager, graph (recorded as a CUDA graph), compiled (torch.compile, then recorded)
    channels_last: bool = True

    @property
    def title(self) -> str:
        return self.mode if self.channels_last else f"{self.mode}, channels first"


EAGER_AND_GRAPH = (
    Variant("bf16", "graph"),
    Variant("fp32", "eager"),
    Variant("tf32", "graph"),
    Variant("bf16", "eager"),
    Variant("bf16", "graph", channels_last=False),
    Variant("fp16", "graph"),
)
COMPILED = (Variant("bf16", "compiled"),)


def inference(plan: Plan, model: Model, variants: Sequence[Variant] = EAGER_AND_GRAPH) -> Iterator[Measurement]:
    """Latency and throughput of each variant; then the time of each stage, and the time from file to poses."""
    subject = build(model, plan)
    batches = (1, throughput_batch(model, plan))
    for variant in variants:
        for batch in batches:
            row = Measurement("inference", model.name, variant.title, variant.precision, batch)
            yield attempt(row, partial(_measure, plan, model, subject, variant, batch))
    if variants == COMPILED:
        return
    yield attempt(Measurement("sync", model.name, "eager", "bf16", 1), partial(_check_no_sync, plan, model, subject))
    for batch in batches:
        yield attempt(
            Measurement("stages", model.name, "eager", "bf16", batch), partial(_stages, plan, model, subject, batch)
        )
    mode = "graph" if plan.device == "cuda" else "eager"
    yield attempt(
        Measurement("file", model.name, f"{mode}, file to poses", "bf16", 1),
        partial(_from_files, plan, model, subject, Variant("bf16", mode)),
    )


class Runner:
    """A finder with fixed memory for its input and, if recorded, its output. Calling it only starts the work."""

    def __init__(self, finder: nn.Module, images: Tensor, placement: Placement, mode: str) -> None:
        self.finder, self.images, self.placement = finder, images, placement
        if mode == "compiled":
            finder = torch.compile(finder, fullgraph=True, dynamic=False)  # type: ignore[assignment]
        self._call: Callable[[], Found] = partial(finder, images, placement)
        if mode != "eager":
            self._call = _recorded(self._call)

    def __call__(self) -> Found:
        return self._call()


def _recorded(call: Callable[[], Found]) -> Callable[[], Found]:
    """Record the call as a CUDA graph: one launch, with the results always in the same memory."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # the preparations of first calls must not be recorded
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = call()

    def replay() -> Found:
        graph.replay()
        return found

    return replay


class Line:
    """Runs batches from host memory to host memory, with uploads on a separate stream.

    The host waits for a batch only when its slot is needed again.
    """

    def __init__(self, runner: Runner, sources: Sequence[Tensor], device: str) -> None:
        self._runner, self._device = runner, device
        self.sources = [source.pin_memory() if device == "cuda" else source for source in sources]
        self._waiting = [torch.empty_like(runner.images) for _ in range(IN_FLIGHT)]
        found = runner()
        self.results = [Found(*(_host_memory(each, device) for each in found)) for _ in range(IN_FLIGHT)]
        if device == "cuda":
            self._uploads = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._uploaded, self._taken, self._done = (
                [torch.cuda.Event() for _ in range(IN_FLIGHT)]  # type: ignore[no-untyped-call]
                for _ in range(3)
            )

    def run(self, count: int) -> None:
        """Run `count` batches. On return, `results` contains the last results."""
        for number in range(count):
            place, source = number % IN_FLIGHT, self.sources[number % len(self.sources)]
            if self._device == "cuda":
                self._start(place, source)
            else:
                self._runner.images.copy_(source)
                self._read(place, self._runner())
        wait(self._device)

    def _start(self, place: int, source: Tensor) -> None:
        self._done[place].synchronize()
        with torch.cuda.stream(self._uploads):
            self._uploads.wait_event(self._taken[place])
            self._waiting[place].copy_(source, non_blocking=True)
            self._uploaded[place].record()
        torch.cuda.current_stream().wait_event(self._uploaded[place])
        self._runner.images.copy_(self._waiting[place])
        self._taken[place].record()
        self._read(place, self._runner())
        self._done[place].record()

    def _read(self, place: int, found: Found) -> None:
        for result, each in zip(self.results[place], found, strict=True):
            result.copy_(each, non_blocking=True)


def _host_memory(like: Tensor, device: str) -> Tensor:
    return torch.empty(like.shape, dtype=like.dtype, pin_memory=device == "cuda")


def _runner(plan: Plan, model: Model, subject: LoadedModel, variant: Variant, batch: int) -> tuple[Runner, Tensor]:
    """A variant that is ready to run, and a batch of pixels in host memory."""
    set_tf32(variant.precision != "fp32")
    network = for_running(copy.deepcopy(subject.network), PRECISIONS[variant.precision])
    if not variant.channels_last:
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    finder = PoseFinder(network, subject.skeleton.sigmas, subject.config.decode).to(plan.device).eval()
    images, letterboxes = pixels(plan, input_size(model, plan), batch)
    source = torch.from_numpy(images)
    placement = placement_of(letterboxes, subject.config, plan.device)
    return Runner(finder, source.to(plan.device), placement, variant.mode), source


def _measure(plan: Plan, model: Model, subject: LoadedModel, variant: Variant, batch: int) -> dict[str, float]:
    """The time until the poses of one photo are read, or the throughput of overlapping batches."""
    torch.backends.cudnn.benchmark, torch.backends.cudnn.benchmark_limit = True, ALGORITHMS
    peak_memory(plan.device)
    with torch.no_grad():
        runner, source = _runner(plan, model, subject, variant, batch)
        alone = timed(runner, plan.device, plan.seconds / 2)
        line = Line(runner, [source, source.clone()], plan.device)
        if batch == 1:
            spread = timed(lambda: line.run(1), plan.device, plan.seconds)
            rate = 1e3 / spread.median
        else:
            batches = 2 if plan.toy else max(4, int(1e3 * plan.seconds / alone.median))
            line.run(2)
            clock = Clock()
            line.run(batches)
            clock.lap("all")
            rate = 1e3 * batches * batch / clock.ms["all"]
            spread = Spread.of([clock.ms["all"] / batches])
    settled = float(torch.cat([found.settled for found in line.results]).float().mean())
    return {
        "images/s": rate,
        **milliseconds(spread),
        "device ms": alone.median,
        "settled": settled,
        **peak_memory(plan.device),
    }


def _check_no_sync(plan: Plan, model: Model, subject: LoadedModel) -> dict[str, float]:
    """A run in which CUDA raises an error for every call that makes the host wait."""
    if plan.device != "cuda":
        raise NotImplementedError("needs CUDA; on a CPU the tests check every operation")
    with torch.no_grad():
        runner, _ = _runner(plan, model, subject, Variant("bf16", "eager"), 1)
        runner()
        wait(plan.device)
        torch.cuda.set_sync_debug_mode("error")
        try:
            runner()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return {"calls that wait": 0.0}


def _stages(plan: Plan, model: Model, subject: LoadedModel, batch: int) -> dict[str, float]:
    """Median milliseconds of each part of an eager run. With batch 1, most of it is the time to launch kernels."""
    with torch.no_grad():
        runner, source = _runner(plan, model, subject, Variant("bf16", "eager"), batch)
        source = source.pin_memory() if plan.device == "cuda" else source
        clock = Clock()

        def mark(name: str) -> None:
            wait(plan.device)
            clock.lap(name)

        finder: Any = runner.finder
        network = finder.deployed.network
        hooks = [
            network.backbone.register_forward_pre_hook(lambda *_: mark("normalise")),
            network.backbone.register_forward_hook(lambda *_: mark("backbone")),
            network.pyramid.register_forward_hook(lambda *_: mark("pyramid")),
            finder.deployed.register_forward_hook(lambda *_: mark("heads")),
        ]
        runs = []
        for _ in range(1 if plan.toy else 20):
            wait(plan.device)
            clock = Clock()
            runner.images.copy_(source, non_blocking=True)
            mark("upload")
            found = runner()
            mark("suppress")
            [each.cpu() for each in found]
            mark("read")
            runs.append(clock.ms)
        for hook in hooks:
            hook.remove()
    return {f"{name} ms": float(np.median([run[name] for run in runs])) for name in runs[0]}


def _from_files(plan: Plan, model: Model, subject: LoadedModel, variant: Variant) -> dict[str, float]:
    """The time from file to `Poses`, one photo after the other, and the share of decoding and resizing."""
    size = input_size(model, plan)
    with torch.no_grad():
        runner, _ = _runner(plan, model, subject, variant, 1)
        decode_ms, total_ms, people = [], [], 0
        for path in plan.photos * (1 if plan.toy else 5):
            clock = Clock()
            letterbox, image = network_input(path, lambda photo_size: fixed_letterbox(photo_size, size))
            clock.lap("decode")
            runner.images.copy_(torch.from_numpy(image[None]))
            for own, new in zip(runner.placement, placement_of([letterbox], subject.config, "cpu"), strict=True):
                own.copy_(new)
            found = HostFound(*(each.cpu().numpy() for each in runner()))
            people += len(
                poses_of(
                    found,
                    0,
                    photo_size=letterbox.photo_size,
                    config=subject.config,
                    skeleton=subject.skeleton,
                    score_threshold=subject.config.decode.score_threshold,
                )
            )
            clock.lap("rest")
            decode_ms.append(clock.ms["decode"])
            total_ms.append(sum(clock.ms.values()))
    total = Spread.of(total_ms)
    return {
        "images/s": 1e3 / total.median,
        **milliseconds(total),
        "decode and resize ms": float(np.median(decode_ms)),
        "people a photo": people / len(total_ms),
    }
