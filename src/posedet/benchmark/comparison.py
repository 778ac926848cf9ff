"""The results of a benchmark: a table, JSON with every sample, and a chart of the stages."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from posedet.benchmark.stages import MODEL_STAGES, STAGES, TOTAL, Timed, totals
from posedet.benchmark.timing import Spread, interleaved, ratio
from posedet.benchmark.workers import TITLES, Alternative, open_all
from posedet.outputs import write_figure

MODEL_ROW = "model (network + poses + NMS), as papers measure speed"
TOTAL_ROW = "file to poses, as users experience it"
_STAGE_ROWS = {
    "decode": "decode the file",
    "preprocess": "resize and pad",
    "network": "network",
    "poses": "decode the poses",
    "nms": "NMS",
}


@dataclass(frozen=True)
class Comparison:
    """Results of alternatives that took turns on the same photos. Ratios refer to the first alternative."""

    alternatives: dict[str, Alternative]
    precision: dict[str, str]
    samples: dict[str, list[Timed]]  # one photo at a time, in the same order for all
    batches: dict[int, dict[str, list[Timed]]]  # network only, per photo; only for posedet models
    num_photos: int
    load: float | None  # system load before the benchmark; None: not available

    def ms(self, name: str, stages: Sequence[str]) -> list[float] | None:
        """The sum of some stages in milliseconds, for each run; None if the alternative does not have them."""
        return totals(self.samples[name], stages)

    def of_first(self, name: str, stages: Sequence[str]) -> Spread | None:
        """The time of some stages divided by that of the first alternative, run by run."""
        mine, reference = self.ms(name, stages), self.ms(next(iter(self.samples)), stages)
        return None if mine is None or reference is None else ratio(mine, reference)


def compare(
    alternatives: dict[str, Alternative], photos: Sequence[str], *, rounds: int, batches: Sequence[int] = ()
) -> Comparison:
    """Time all alternatives in turns: on all photos, `rounds` times, and on the first photo in each of `batches`."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with ExitStack() as stack:
        workers = open_all(alternatives, stack)
        samples = interleaved({name: worker.measure for name, worker in workers.items()}, photos, rounds)
        own = {name: worker for name, worker in workers.items() if not alternatives[name].foreign}
        in_batches = {}
        for batch in batches:
            calls = {
                name: (lambda photo, worker=worker, batch=batch: worker.measure(photo, batch=batch))
                for name, worker in own.items()
            }
            in_batches[batch] = interleaved(calls, photos[:1], rounds)
        precision = {name: worker.precision for name, worker in workers.items()}
    return Comparison(alternatives, precision, samples, in_batches, len(photos), load)


def conditions(comparison: Comparison) -> str:
    """The conditions of the measurement, in two or three lines."""
    first = next(iter(comparison.alternatives.values()))
    rounds = len(next(iter(comparison.samples.values()))) // comparison.num_photos
    lines = [
        f"Photos: {comparison.num_photos}, rounds: {rounds}, one photo at a time, warm; threads: {first.threads}.",
        "ms: median (quartiles). Alternatives take turns, each in its own process; ratios compare runs of one turn.",
    ]
    if comparison.load is not None and comparison.load > 0.5:
        lines.append(f"The machine was busy (load {comparison.load:.1f}): rely on the ratios, not on the times.")
    return "\n".join(lines)


def comparison_table(comparison: Comparison) -> str:
    """Plain text: a column for each alternative, a row for each stage."""
    names = list(comparison.samples)
    first = names[0]
    rows: list[tuple[str, list[str]]] = [("", names)]
    for stage in STAGES:
        rows.append((_STAGE_ROWS[stage], [_shown(comparison.ms(name, [stage])) for name in names]))
    for title, stages in ((MODEL_ROW, MODEL_STAGES), (TOTAL_ROW, (TOTAL,))):
        rows.append((title, [_shown(comparison.ms(name, stages)) for name in names]))
    for title, stages in (("network", ("network",)), ("file to poses", (TOTAL,))):
        cells = [str(comparison.of_first(name, stages) or "-") for name in names[1:]]
        if cells:
            rows.append((f"{title}: times that of {first}", ["1", *cells]))
    for batch, samples in comparison.batches.items():
        cells = [_shown(totals(samples.get(name, []), ("network",))) for name in names]
        rows.append((f"network, batch of {batch}, per photo", cells))
    rows.append(("precision", [comparison.precision[name] for name in names]))
    peaks = [comparison.samples[name][-1].peak_memory_mb for name in names]
    rows.append(("peak memory of the process, MB", ["-" if peak is None else f"{peak:.0f}" for peak in peaks]))
    return aligned(rows)


def aligned(rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Align titles to the left and cells to the right."""
    left = max(len(title) for title, _ in rows)
    widths = [max(map(len, column)) for column in zip(*(cells for _, cells in rows), strict=True)]
    return "\n".join(
        "  ".join([title.ljust(left), *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))]).rstrip()
        for title, cells in rows
    )


def _shown(samples: Sequence[float] | None) -> str:
    return "-" if samples is None else str(Spread.of(samples))


def comparison_dict(comparison: Comparison) -> dict[str, Any]:
    """The results for JSON, with every sample."""
    return {
        "conditions": conditions(comparison).splitlines(),
        "load_before": comparison.load,
        "alternatives": {
            name: {
                **asdict(alternative),
                "engine": TITLES[alternative.engine],
                "precision": comparison.precision[name],
                "peak_memory_mb": comparison.samples[name][-1].peak_memory_mb,
                "num_people": [timed.num_people for timed in comparison.samples[name]],
                "ms": columns(comparison.samples[name]),
                "network_ms_in_batches": {
                    str(batch): columns(samples[name])["network"]
                    for batch, samples in comparison.batches.items()
                    if name in samples
                },
            }
            for name, alternative in comparison.alternatives.items()
        },
    }


def columns(samples: Sequence[Timed]) -> dict[str, dict[str, Any]]:
    """Milliseconds of each stage for JSON: median, quartiles and every sample."""
    ms = {stage: [timed.ms[stage] for timed in samples] for stage in samples[0].ms}
    return {stage: {**Spread.of(column)._asdict(), "samples": column} for stage, column in ms.items()}


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """Write a PNG with a bar for each alternative, divided into stages."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.5 * len(comparison.samples)), layout="constrained")
    axis = figure.subplots()
    left = dict.fromkeys(comparison.samples, 0.0)
    for stage in STAGES:
        widths = [Spread.of(comparison.ms(name, [stage]) or [0.0]).median for name in left]
        axis.barh(list(left), widths, left=list(left.values()), label=_STAGE_ROWS[stage])
        left = {name: left[name] + width for name, width in zip(left, widths, strict=True)}
    axis.invert_yaxis()
    axis.set_xlabel("ms per photo (medians)")
    figure.legend(ncols=len(STAGES), loc="outside upper center", fontsize="small", frameon=False)
    write_figure(path, "posedet benchmark", figure)
