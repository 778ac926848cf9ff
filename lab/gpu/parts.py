"""Run all parts one after the other within a time limit, and write each result immediately."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from lab.gpu import GENERATOR
from lab.gpu.accuracy import accuracy
from lab.gpu.baseline import baseline
from lab.gpu.inference import COMPILED, inference
from lab.gpu.isolation import Task, isolated, task_rows
from lab.gpu.limits import MEASURED, limits
from lab.gpu.rows import Measurement, Plan
from lab.gpu.sampling import sampling
from lab.gpu.subjects import MODELS, PAPER_MODELS, Model
from lab.gpu.training_speed import COMPILED_BACKBONE, estimates, loader, training
from posedet.benchmark.comparison import aligned
from posedet.errors import ConfigError
from posedet.evaluation.report import write_report
from posedet.outputs import write_figure

PARTS = ("limits", "inference", "accuracy", "sampling", "training", "loader", "compiled")
MIN_SECONDS = 5.0  # no further part starts with less time left

# The targets of docs/lab/gpu.md, as multiples of the baseline's speed.
WANTED = {"one photo": 5.0, "throughput": 10.0}
WANTED_OF = ("HRNet-W48@640", "DLA-34@512")


def tasks(plan: Plan, parts: Sequence[str], models: Sequence[Model] = MODELS) -> list[Task]:
    """The tasks to run, most reliable first. Compiling takes minutes and comes last, with smaller models first."""
    papers = [model for model in models if model in PAPER_MODELS]

    def for_each(
        part: str, function: Callable[..., Iterator[Measurement]], models: Sequence[Model], *more: Any
    ) -> list[Task]:
        return [Task(part, function, (plan, model, *more), model.name) for model in models]

    found = {
        "limits": [Task("limits", limits, (plan, models))],
        "inference": for_each("inference", inference, models) + for_each("baseline", baseline, papers),
        "accuracy": [Task("accuracy", accuracy, (plan,))],
        "sampling": [Task("sampling", sampling, (plan, papers))],
        "training": for_each("training", training, papers),
        "loader": [Task("loader", loader, (plan,))],
        "compiled": [],
    }
    if plan.device == "cuda":  # on a CPU, compiling takes minutes and gives no useful result
        found["compiled"] = for_each("inference", inference, models[::-1], COMPILED)
        found["compiled"] += for_each("training", training, papers[::-1], COMPILED_BACKBONE)
    return [task for part in PARTS if part in parts for task in found[part]]


def measure_parts(
    plan: Plan,
    *,
    parts: Sequence[str] = PARTS,
    seconds: float,
    output: Path | None = None,
    tell: Callable[[str], None],
    models: Sequence[Model] = MODELS,
) -> list[Measurement]:
    """Run `parts` for about `seconds` at most, and pass each row to `tell` as a line.

    With `output`, benchmark.json is written there after each row. Raises ConfigError if the device does not exist.
    """
    if plan.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: PyTorch finds no GPU; --device cpu runs every part with tiny inputs")
    until = time.monotonic() + seconds
    rows: list[Measurement] = []
    for task in tasks(plan, parts, models):
        for row in _rows(task, plan, until - time.monotonic()):
            rows.append(row)
            tell(str(row))
            if output is not None:
                write_report(output / "benchmark.json", GENERATOR, results_dict(plan, rows))
    return rows


def _rows(task: Task, plan: Plan, left: float) -> Iterator[Measurement]:
    if left < MIN_SECONDS:
        yield Measurement(task.name, task.model, "", failed="no time left")
    elif plan.device == "cuda":
        yield from isolated(task, left)
    else:
        yield from task_rows(task)


def results_dict(plan: Plan, rows: Sequence[Measurement]) -> dict[str, Any]:
    """The results for JSON."""
    device = {"name": "CPU", "toy": plan.toy}
    if plan.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        device = {"name": properties.name, "memory_mb": properties.total_memory / 1e6, "cuda": torch.version.cuda}
    return {"device": device, "host_threads": plan.threads, "rows": [row.to_dict() for row in rows]}


def summary(rows: Sequence[Measurement]) -> str:
    """For each model and batch: the baseline, the best variant, the speed-up, and the share of the limit."""
    lines: list[tuple[str, list[str]]] = [
        ("images/s", ["official", "best", "as", "faster", "wanted", "limit", "paper"])
    ]
    for model in MODELS:
        for what, one in (("one photo", True), ("throughput", False)):
            mine = [row for row in rows if _is(row, "inference", model, one)]
            official = [row for row in rows if _is(row, "baseline", model, one) and row.precision == "fp32"]
            if not mine:
                continue
            best = max(mine, key=lambda row: row.values["images/s"])
            rate = best.values["images/s"]
            ratio = rate / official[0].values["images/s"] if official else None
            wanted = WANTED[what] if model.name in WANTED_OF else None
            floor = [
                1e3 * row.batch / row.values["limit ms"]
                for row in rows
                if row.part == "limits"
                and (row.model, row.variant, row.precision, row.batch)
                == (model.name, MEASURED, best.precision, best.batch)
                and row.values
            ]
            cells = [
                f"{official[0].values['images/s']:.1f}" if official else "-",
                f"{rate:.1f}",
                f"{best.precision} {best.variant}",
                "-" if ratio is None else f"{ratio:.1f} x",
                "-" if wanted is None or ratio is None else f"{wanted:g} x: {'yes' if ratio >= wanted else 'NO'}",
                f"{floor[0]:.0f}, {100 * rate / floor[0]:.0f} %" if floor else "-",
                f"{model.paper_fps:g}" if one and model.paper_fps else "-",
            ]
            lines.append((f"{model.name}, {what}", cells))
    return "\n".join([aligned(lines), *estimates(rows)])


def _is(row: Measurement, part: str, model: Model, one: bool) -> bool:
    return row.part == part and row.model == model.name and (row.batch == 1) == one and "images/s" in row.values


def draw_rates(rows: Sequence[Measurement], path: Path) -> None:
    """Write a PNG with the photos per second of each model and variant, for single photos and batches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    for axis, model in zip(figure.subplots(2, 2).flat, MODELS, strict=True):
        for one, colour in ((True, "tab:blue"), (False, "tab:orange")):
            chosen = [row for row in rows if _is(row, "baseline", model, one) or _is(row, "inference", model, one)]
            places = [place + (0.0 if one else 0.4) for place in range(len(chosen))]
            axis.barh(
                places,
                [row.values["images/s"] for row in chosen],
                0.4,
                color=colour,
                label="one photo" if one else f"batches of {model.batch}",
            )
            axis.set_yticks(places, [f"{row.variant}, {row.precision}" for row in chosen], fontsize="small")
        axis.set(xscale="log", xlabel="photos per second", title=model.name)
        axis.legend(fontsize="small")
        axis.invert_yaxis()
    write_figure(path, GENERATOR, figure)
