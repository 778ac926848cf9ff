"""Write the errors of a model as one HTML page: findings in words, then the numbers and pictures behind them.

The page is self-contained: it includes its pictures, and needs neither a network nor scripts.
"""

import base64
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from posedet import __version__
from posedet.data.annotations import AnnotatedPhoto
from posedet.diagnosis.calibration import Reliability
from posedet.diagnosis.findings import Finding, findings
from posedet.diagnosis.groups import groups, keypoint_reliability, score_reliability
from posedet.diagnosis.matching import KINDS, ErrorCost, Matching, error_costs, keypoint_errors, match
from posedet.diagnosis.pictures import Case, best_cases, picture, worst_cases
from posedet.errors import ConfigError, DataError
from posedet.evaluation.keypoint_ap import KeypointAP, evaluate_keypoints
from posedet.evaluation.protocols import Protocol
from posedet.evaluation.report import markdown_table
from posedet.evaluation.run import Predict, person_category, predict_all
from posedet.files import one_line
from posedet.outputs import make_folder, write_atomically

GENERATOR = "posedet errors"
COLOURS = ("#3a9d5d", "#e6c34a", "#d9483b", "#8b5fbf", "#9aa3ad")  # of `KINDS`
BLUE, ORANGE, GREY = "#2f6fde", "#e07b1f", "#9aa3ad"

GROUP_TITLES = {
    "size": "By size (root of the person's area)",
    "labelled keypoints": "By number of labelled keypoints",
    "overlapping people": "By crowding (whose boxes overlap)",
}

MEANINGS = {
    "jitter": "near the true place, but less exactly than people mark it",
    "inversion": "on the same person's other side: left taken for right",
    "swap": "on somebody else",
    "miss": "far from every place where it could belong",
    "all keypoints": "the four together, and each keypoint put exactly right",
    "order of scores": "a worse pose has a higher score than a better one",
    "false positives": "poses where the truth has nobody",
    "duplicates": "a second pose of a person already found",
    "missed people": "no pose comes near them",
}

OF_WHAT = {"order of scores": "poses", "false positives": "poses", "duplicates": "poses", "missed people": "people"}


Curve = tuple[tuple[str, str], list[tuple[float, float]]]  # (label, colour), points (x, y) from 0 to 1


def report_errors(
    photos: Sequence[AnnotatedPhoto],
    results: Path | Predict,
    protocol: Protocol,
    output: Path,
    *,
    truth: str,
    name: str = "",
    pictures: bool = True,
) -> tuple[list[Finding], str]:
    """Analyse results, write the page, and return its findings, and what each error costs as a Markdown table.

    photos: annotated photos with the protocol's keypoints. results: a file in COCO's format, or a detector that returns
    poses with the protocol's keypoints, weak ones included. truth, name: the names of photos and model on the page; the
    default name is that of the file. pictures: whether the page has pictures; without them, and with a file of results,
    the photo files need not exist. Raises DataError as `evaluate_keypoints` does and if there are no people or no
    poses, ConfigError if `output` is a folder, and PhotoError if a photo cannot be read.
    """
    match(photos, [], protocol)  # finds mistakes before minutes of predicting
    make_folder(output.parent)
    if output.is_dir():
        raise ConfigError(f"{one_line(output)}: is a folder; name a file in it, such as errors.html")
    files = {photo.image_id: photo.path for photo in photos}
    category_id = person_category(photos, protocol)
    found = results if isinstance(results, Path) else predict_all(results, files.items(), category_id=category_id)
    matching = match(photos, found, protocol)
    content, said, costs = error_page(
        matching,
        evaluate_keypoints(photos, found, protocol),
        files if pictures else None,
        model=name or Path(str(results)).name,
        truth=truth,
    )
    write_atomically(output, GENERATOR, content.encode(errors="backslashreplace"))  # file names may be invalid Unicode
    return said, _costs_in_short(matching, costs)


def error_page(
    matching: Matching, scores: KeypointAP, photos: Mapping[int, Path] | None, *, model: str, truth: str
) -> tuple[str, list[Finding], list[ErrorCost]]:
    """Return the page, its findings, and the cost of each error: the highest first, that of all keypoints last.

    model, truth: their names on the page. photos: image id -> file, or None for a page without pictures.
    """
    if not matching.poses:
        raise DataError(f"{truth}: no pose predicted in {len(matching.photos)} photos, so there are no errors to show")
    costs = sorted(error_costs(matching), key=lambda cost: (cost.name == "all keypoints", -cost.ap))
    parts, by_keypoint = groups(matching), keypoint_errors(matching)
    trust = score_reliability(matching), keypoint_reliability(matching)
    found = findings(matching, costs, parts, by_keypoint, *trust)

    def base64_picture(case: Case) -> str:
        assert photos is not None
        return base64.b64encode(picture(matching, case, photos)).decode()

    environment = Environment(
        loader=PackageLoader("posedet", "diagnosis"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["points"] = _points
    page = environment.get_template("errors.html.jinja").render(
        model=model,
        truth=truth,
        scores=scores,
        findings=found,
        ap=matching.ap(),
        costs=costs,
        meanings=MEANINGS,
        largest_gain=max(0.01, *(cost.ap - matching.ap() for cost in costs[:-1])),
        groups_by_title={GROUP_TITLES[name]: split for name, split in parts.items()},
        highest_ap=max(0.01, *(group.ap for split in parts.values() for group in split)),
        kinds=list(zip(KINDS, COLOURS, strict=True)),
        keypoints=by_keypoint,
        precision_curves=_precision_curves(matching),
        person_trust=_reliability_chart(trust[0]),
        keypoint_trust=_reliability_chart(trust[1]),
        photos=photos,
        worst=worst_cases(matching),
        best=[best_cases(matching)],
        base64_picture=base64_picture,
        version=__version__,
        date=f"{datetime.now(UTC):%d %B %Y}",
        command=shlex.join(["posedet", *sys.argv[1:]]),
    )
    return page + "\n", found, costs


def _costs_in_short(matching: Matching, costs: Sequence[ErrorCost]) -> str:
    rows = [["put right", "how many", "AP", "gain"]]
    for name, number, ap, *_ in costs:
        rows.append(
            [name, f"{number:,} {OF_WHAT.get(name, 'keypoints')}", _points(ap), f"{100 * (ap - matching.ap()):+.1f}"]
        )
    return markdown_table(rows)


def _precision_curves(matching: Matching) -> list[Curve]:
    """Precision (y) over recall (x) at two OKS thresholds and on average."""
    shown: dict[str, tuple[int | slice, str]] = {
        "OKS 0.50": (0, BLUE),
        "OKS 0.75": (5, ORANGE),
        "mean of 0.50 to 0.95": (slice(None), GREY),
    }
    curves: list[Curve] = []
    for name, (threshold, colour) in shown.items():
        values = np.moveaxis(matching.precision[threshold], -2, 0).reshape(101, -1)
        curve = values[:, values[0] > -1].mean(axis=1)
        points = list(zip(np.linspace(0, 1, 101).tolist(), curve.tolist(), strict=True))
        curves.append(((f"{name}: AP {_points(float(curve.mean()))}", colour), points))
    return curves


def _reliability_chart(curve: Reliability | None) -> dict[str, Any] | None:
    """The points of the bins that are not empty, and the share of the scores in each bin."""
    if curve is None:
        return None
    some = curve.counts > 0
    points = list(zip(curve.predicted[some].tolist(), curve.observed[some].tolist(), strict=True))
    line: Curve = ((f"expected calibration error {curve.error:.3f}", BLUE), points)
    return {"line": line, "bars": (curve.counts / curve.counts.sum()).tolist()}


def _points(ap: float) -> str:
    return f"{100 * ap:.1f}" if ap >= 0 else "-"
