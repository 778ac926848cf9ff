"""Draw the curves of a training run from its log."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from numpy.typing import NDArray

from posedet.errors import DataError
from posedet.files import one_line
from posedet.outputs import write_figure

GENERATOR = "posedet plot"
MAX_LOG_BYTES = 1 << 30
# The bold curve is the mean over this fraction of all steps; single steps are drawn faintly.
SMOOTHING = 0.02
NOT_TERMS = ("step", "loss", "gradient", "rate", "seconds")

Values = NDArray[np.float64]


class Log(NamedTuple):
    """The content of log.jsonl by step. If a step was repeated after an interruption, the last line counts."""

    steps: Values  # (S,)
    values: dict[str, Values]  # name -> (S,), NaN where a step has none: loss, its terms, gradient, rate, seconds
    validations: dict[str, tuple[Values, Values]]  # name -> steps, values


def write_curves(run: Path, output: Path | None = None) -> Path:
    """Draw the curves of a training run.

    Args:
        run: The folder of the run.
        output: The file to write; its suffix (.png, .svg or .pdf) selects the format. Default: `run`/curves.png.

    Returns:
        The path of the written file.

    Raises:
        DataError: If there is no valid log, or the suffix is not supported.
    """
    log = read_log(run / "log.jsonl")
    output = output or run / "curves.png"
    kind = output.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise DataError(f"{output}: expected a name that ends in .png, .svg or .pdf")
    write_figure(output, GENERATOR, draw_curves(log, _batch_size(run), one_line(run)))
    return output


def read_log(path: Path) -> Log:
    """Read a log.jsonl file, ignoring incomplete lines. Raises DataError if it is missing or contains no steps."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; is this the folder of a run?")
    if path.stat().st_size > MAX_LOG_BYTES:
        raise DataError(f"{path}: larger than {MAX_LOG_BYTES} bytes and therefore not a training log")
    rows: dict[int, dict[str, float]] = {}
    found: dict[int, dict[str, float]] = {}
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            line = _parsed(text)
            if line is None:
                continue
            step, validation = line["step"], line.get("validation")
            if isinstance(validation, dict):
                found[step] = _numbers(validation)
            else:
                rows[step] = _numbers(line)
    if not rows:
        raise DataError(f"{path}: contains no training steps")
    steps, values = _columns(rows)
    validated, measures = _columns(found)
    shown = {name: (validated[~np.isnan(each)], each[~np.isnan(each)]) for name, each in measures.items()}
    return Log(steps, values, shown)


def draw_curves(log: Log, batch_size: int | None, title: str) -> Figure:
    """Plot the loss and its terms, the gradient, the rate, the speed and the validation results over the steps."""
    figure = Figure(figsize=(12, 10), layout="constrained")
    figure.suptitle(f"{title}: steps {log.steps[0]:.0f} to {log.steps[-1]:.0f}", parse_math=False)
    loss, terms, gradient, rate, speed, validation = figure.subplots(3, 2).flat
    _draw(loss, "loss", log, ["loss"], logarithmic=True)
    _draw(terms, "terms of the loss", log, [name for name in log.values if name not in NOT_TERMS], logarithmic=True)
    _draw(gradient, "norm of the gradient", log, ["gradient"], logarithmic=True)
    rate.set_title("learning rate")
    rate.plot(log.steps, log.values.get("rate", np.full(len(log.steps), np.nan)))
    per_second, unit = _speed(log), "steps / s"
    if batch_size is not None:
        per_second, unit = per_second * batch_size, "photos / s"
    _draw(speed, unit, log._replace(values={unit: per_second}), [unit])
    for name, (steps, values) in log.validations.items():
        validation.plot(steps, values, marker=".", label=name)
    validation.set_title("validation" if log.validations else "no validation in this run")
    if log.validations:
        validation.legend()
    else:
        validation.set_axis_off()
    for axes in (loss, terms, gradient, rate, speed, validation):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    return figure


def _draw(axes: Axes, title: str, log: Log, names: list[str], *, logarithmic: bool = False) -> None:
    axes.set_title(title)
    width = max(1, round(len(log.steps) * SMOOTHING))
    for name in names:
        values = log.values.get(name)
        if values is None or np.isnan(values).all():
            continue
        (line,) = axes.plot(log.steps, _smooth(values, width), label=name, zorder=2)
        axes.plot(log.steps, values, color=line.get_color(), alpha=0.2, linewidth=0.6, zorder=1)
        # A term of weight 0 has no logarithm.
        if logarithmic and (values[~np.isnan(values)] > 0).all():
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False))
    if len(names) > 1:
        axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))


def _smooth(values: Values, width: int) -> Values:
    """Return the mean of the last `width` values without NaN, or NaN if there are none."""
    known = ~np.isnan(values)
    sums = np.cumsum(np.where(known, values, 0))
    counts = np.cumsum(known).astype(np.float64)
    sums[width:], counts[width:] = sums[width:] - sums[:-width], counts[width:] - counts[:-width]
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _speed(log: Log) -> Values:
    """Return (S,) steps per second; NaN at the first step and where a run was resumed, because its clock restarts."""
    seconds = log.values.get("seconds", np.full(len(log.steps), np.nan))
    passed = np.diff(seconds, prepend=np.nan)
    made = np.diff(log.steps, prepend=np.nan)
    speed: Values = np.divide(made, passed, out=np.full(len(passed), np.nan), where=passed > 0)
    return speed


def _batch_size(run: Path) -> int | None:
    """Read the number of photos per step from config.json; None if it is missing or invalid."""
    try:
        size = json.loads((run / "config.json").read_bytes())["config"]["train"]["batch_size"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return size if type(size) is int and size > 0 else None


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and type(line.get("step")) is int and abs(line["step"]) < 2**53 else None


def _numbers(line: dict[str, Any]) -> dict[str, float]:
    return {k: float(v) for k, v in line.items() if type(v) in (int, float) and math.isfinite(v) and abs(v) < 1e300}


def _columns(rows: dict[int, dict[str, float]]) -> tuple[Values, dict[str, Values]]:
    """Return the sorted steps, and the values at these steps by name."""
    steps = sorted(rows)
    names = dict.fromkeys(name for row in rows.values() for name in row if name != "step")
    columns = {name: np.array([rows[step].get(name, math.nan) for step in steps]) for name in names}
    return np.array(steps, np.float64), columns
