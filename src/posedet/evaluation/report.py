"""Reports of evaluations: Markdown tables and JSON."""

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from posedet import __version__
from posedet.evaluation.keypoint_ap import KeypointAP
from posedet.outputs import write_json

_COLUMNS = {
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_medium": "APm",
    "ap_large": "APl",
    "ar": "AR",
    "ar50": "AR50",
    "ar75": "AR75",
    "ar_medium": "ARm",
    "ar_large": "ARl",
}
_CROWD_COLUMNS = {
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ar": "AR",
    "ar50": "AR50",
    "ar75": "AR75",
    "ap_easy": "AP easy",
    "ap_medium_crowd": "AP medium",
    "ap_hard": "AP hard",
}
_LIBRARIES = ("numpy", "pillow", "onnxruntime", "openvino", "torch", "pycocotools")


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """Format lines of cells, of which the first is the head, as a Markdown table."""
    head, *rows = ["| " + " | ".join(cells) + " |" for cells in lines]
    return "\n".join([head, "|---" * len(lines[0]) + "|", *rows])


def score_table(scores: Mapping[str, KeypointAP]) -> str:
    """Format scores as an aligned Markdown table: a row for each model, in points from 0 to 100, "-" if undefined.

    If a protocol splits photos by crowd index, its columns replace those of sizes, as in CrowdPose's tables.
    """
    crowd = any(each.ap_hard is not None for each in scores.values())
    columns = _CROWD_COLUMNS if crowd else _COLUMNS
    rows = [["", *columns.values()]]
    rows += [[name, *(_points(getattr(each, column)) for column in columns)] for name, each in scores.items()]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    head, *body = (
        "| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |" for row in rows
    )
    line = "|" + "-" * (widths[0] + 2) + "|" + "".join("-" * (width + 1) + ":|" for width in widths[1:])
    return "\n".join([head, line, *body])


def write_report(
    path: Path, generator: str, results: Mapping[str, Any], *, command: Sequence[str] | None = None
) -> None:
    """Write `results` as JSON, with the command, versions, hardware and time needed to reproduce them.

    `generator` is the command that `write_json` needs; `command` is by default that of this process, with arguments.
    Raises PoseDetError if the file cannot be written, and ValueError for a number that is not finite.
    """
    report = {
        "command": list(sys.argv if command is None else command),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"posedet": __version__, "python": platform.python_version(), **_versions()},
        "hardware": {
            "system": platform.platform(),
            "processor": processor(),
            "cores": os.cpu_count(),
        },
        "results": dict(results),
    }
    write_json(path, generator, report)


def _points(score: float | None) -> str:
    return "-" if score is None or score < 0 else f"{100 * score:.1f}"


def _versions() -> dict[str, str]:
    """Return the versions of the installed libraries that can change a result, without importing them."""
    found = {}
    for library in _LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """Return the processor's name from Linux's /proc/cpuinfo, or from Python."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
