"""The minimum operations and memory traffic of a model, and how fast the device can do either."""

from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from lab.gpu.finder import for_running
from lab.gpu.rows import Measurement, Plan, attempt, timed
from lab.gpu.subjects import MODELS, Model, input_size, throughput_batch
from posedet.config import load_config
from posedet.model.build import build_network
from posedet.model.deployed import DeployedNet
from posedet.skeleton import find_skeleton

PRECISIONS = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Ceilings(NamedTuple):
    """The peak rates of a device."""

    bandwidth: float  # bytes per second, read and written
    rates: dict[str, float]  # operations per second of large matrix products, by precision


# NVIDIA's data sheet for the H200 SXM, without sparsity.
H200 = Ceilings(4.8e12, {"fp32": 67e12, "tf32": 494e12, "bf16": 989e12, "fp16": 989e12})

MEASURED = "measured"


class Layer(NamedTuple):
    """The costs of a convolution, a matrix product or the sampling, for one photo."""

    operations: int
    weights: int  # values that are read once for the whole batch
    values: int  # inputs and outputs, each once, with normalisation and activation fused
    lowered: bool  # runs in half precision if that is requested


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the costs of every layer that runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers: list[Layer] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name == "convolution":
            self._add(output, args[1][0].numel(), args[1], args[0])
        elif name in ("mm", "addmm"):
            self._add(output, args[-1].shape[0], args[-1], args[-2])
        elif name == "bmm":  # each keypoint has its own weights
            self._add(output, args[1].shape[1], args[1], args[0])
        elif name in ("_embedding_bag", "_embedding_bag_forward_only"):
            # The table is read once; corners that several samples share come from the cache.
            self._add(output[0], 4, args[0].new_empty(0), args[0])
        return output

    def _add(self, output: Tensor, products: int, weights: Tensor, inputs: Tensor) -> None:
        values = inputs.numel() + output.numel()
        self.layers.append(
            Layer(2 * output.numel() * products, weights.numel(), values, output.dtype == torch.bfloat16)
        )


@cache
def layers_of(preset: str, size: tuple[int, int]) -> list[Layer]:
    """The layers of a preset's model for a photo of this (height, width); nothing is computed."""
    config = load_config(preset)
    with torch.device("meta"):
        network = for_running(build_network(config.model, find_skeleton(config.model.skeleton)), torch.bfloat16)
    deployed = DeployedNet(network, config.decode.candidates)
    named = dict([*deployed.named_parameters(), *deployed.named_buffers()])
    with FakeTensorMode(), torch.no_grad():
        tensors = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in named.items()}
        images = torch.empty(1, *size, 3, dtype=torch.uint8)
        with _Counter() as counter:
            functional_call(deployed, tensors, images)
    layers: list[Layer] = counter.layers
    return layers


def counts(layers: list[Layer], batch: int, precision: str, ceilings: Ceilings) -> dict[str, float]:
    """The minimum time of a batch: arithmetic, traffic, and the sum over layers of the longer of both."""
    operations, moved, arithmetic, traffic = [], [], [], []
    for layer in layers:
        half = layer.lowered and precision in ("bf16", "fp16")
        operations.append(batch * layer.operations)
        moved.append((2 if half else 4) * (layer.weights + batch * layer.values))
        # Layers that stay in float32 may use TF32 if the others run in half precision.
        rate = ceilings.rates[precision if half or precision == "fp32" else "tf32"]
        arithmetic.append(operations[-1] / rate)
        traffic.append(moved[-1] / ceilings.bandwidth)
    return {
        "GFLOP": sum(operations) / 1e9,
        "MB": sum(moved) / 1e6,
        "arithmetic ms": 1e3 * sum(arithmetic),
        "traffic ms": 1e3 * sum(traffic),
        "limit ms": 1e3 * sum(map(max, arithmetic, traffic)),
    }


def set_tf32(allowed: bool) -> None:
    """Allow or forbid TF32 for float32 products, with the switches that the compiler reads too."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def measure_ceilings(plan: Plan) -> Ceilings:
    """Measure the rates of a large copy and of large matrix products of random numbers."""
    side, count = (256, 2**20) if plan.toy else (8192, 2**30)
    source = torch.rand(count, device=plan.device)
    target = torch.empty_like(source)
    copied = timed(partial(target.copy_, source), plan.device, plan.seconds).median / 1e3
    del source, target
    rates = {}
    for precision, dtype in PRECISIONS.items():
        set_tf32(precision != "fp32")
        a, b = (torch.randn(side, side, device=plan.device).to(dtype) for _ in range(2))
        rates[precision] = 2 * side**3 / (timed(partial(torch.mm, a, b), plan.device, plan.seconds).median / 1e3)
    return Ceilings(2 * 4 * count / copied, rates)


def limits(plan: Plan, models: Sequence[Model] = MODELS) -> Iterator[Measurement]:
    """The limits of each model from the data sheet's ceilings and, on a GPU, from measured ceilings."""
    found: dict[str, Ceilings] = {"H200 data sheet": H200}

    def measured() -> dict[str, float]:
        found[MEASURED] = measure_ceilings(plan)
        rates = {f"{name} TFLOP/s": rate / 1e12 for name, rate in found[MEASURED].rates.items()}
        return {"copy TB/s": found[MEASURED].bandwidth / 1e12, **rates}

    yield attempt(Measurement("limits", "", "ceilings " + MEASURED), measured)
    if plan.device != "cuda":
        del found[MEASURED]
    for model in models:
        for batch in (1, throughput_batch(model, plan)):
            for precision in ("fp32", "tf32", "bf16", "fp16"):
                for name, ceilings in found.items():
                    row = Measurement("limits", model.name, name, precision, batch)
                    call = partial(_of_model, model, input_size(model, plan), batch, precision, ceilings)
                    yield attempt(row, call)


def _of_model(model: Model, size: tuple[int, int], batch: int, precision: str, ceilings: Ceilings) -> dict[str, float]:
    return counts(layers_of(model.preset, size), batch, precision, ceilings)
