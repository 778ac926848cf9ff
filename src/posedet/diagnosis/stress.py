"""The stress card of a model: AP on photos with one alteration at a time, compared with the unaltered photos.

Every alteration is a fixed function of photo and labels, so that a card is exactly reproducible. Coordinates are
pixels, x right, y down, pixel centres at whole numbers. Labels are moved with the photo, accurate to half a pixel.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posedet.data.annotations import AnnotatedPhoto, Person
from posedet.diagnosis.alteration import (
    UNCHANGED,
    Change,
    Pixels,
    Points,
    Window,
    blurred,
    compressed,
    cropped,
    darkened,
    mirrored,
    rotated,
    shrunk,
)
from posedet.diagnosis.matching import INVERSION, Matching, match
from posedet.errors import ConfigError, PoseDetError
from posedet.evaluation.checked_entries import scored_keypoints
from posedet.evaluation.protocols import Protocol
from posedet.evaluation.report import write_report
from posedet.evaluation.run import Predict, person_category, predict_all
from posedet.evaluation.truncation import MIN_LABELLED, MIN_SEEN, MIN_SIDE, SIDES, read_as_annotated, rest_of_cut
from posedet.files import one_line
from posedet.outputs import make_folder, write_figure, write_markdown

GENERATOR = "posedet stress"
CUTS = (0.25, 0.5, 0.75)  # share of a person
HEIGHTS = (64, 32, 16)  # pixels of a person
BLURS = (2, 4)  # pixels: the standard deviation of a Gaussian
STOPS = (2, 4)  # each halves the light
JPEG_QUALITY = 10
ROTATIONS = (15, 30, 90, 180)  # degrees, anticlockwise
UNALTERED = "unaltered"


class AlteredPhoto(NamedTuple):
    """A photo with an alteration, and the one person who is to be found (None: everybody)."""

    photo: AnnotatedPhoto
    change: Change
    person: Person | None = None
    limit: tuple[int, int] | None = None  # keypoints outside this (height, width) do not count

    def read(self) -> Pixels:
        """Return (h, w, 3) uint8 RGB. Raises DataError if the photo does not have the annotated size."""
        return self.change.pixels(read_as_annotated(self.photo.path, self.photo.size))


class StressComparison(NamedTuple):
    """Altered photos, and the same photos and people unaltered."""

    name: str
    unaltered: Sequence[AlteredPhoto]
    altered: Mapping[str, Sequence[AlteredPhoto]]


class StressRow(NamedTuple):
    """A row of the card. AP is 0 to 1, or -1 if there is no person to find."""

    group: str
    name: str
    num_people: int
    unaltered: float  # AP
    ap: float
    ap50: float
    exchanged: float  # share of the keypoints with a side, of people found, that lie on the other side


def stress_card(predict: Predict, photos: Sequence[AnnotatedPhoto], protocol: Protocol) -> list[StressRow]:
    """Return all rows of the card. `predict` must return poses with the protocol's keypoints, weak ones included.

    Raises PhotoError if a photo cannot be read, and DataError if it does not have the annotated size or if there is no
    person to find.
    """
    match(photos, [], protocol)  # finds mistakes before minutes of predicting
    results = _Results(predict, person_category(photos, protocol))
    rows = []
    for group in (whole_photos(photos), *cut_people(photos), small_people(photos)):
        if not group.unaltered:
            continue
        unaltered = match(truth_of(group.unaltered, protocol), results(group.unaltered, UNALTERED), protocol)
        rows.append(_row(group.name, UNALTERED, unaltered, unaltered))
        for name, views in group.altered.items():
            matching = match(truth_of(views, protocol), results(views, name), protocol)
            rows.append(_row(group.name, name, unaltered, matching))
    return rows


class _Results:
    """Results for views, numbered from 0, in COCO's format. Each alteration of a photo is predicted once."""

    def __init__(self, predict: Predict, category_id: int) -> None:
        self._predict, self._category_id = predict, category_id
        self._done: dict[tuple[int, Change], list[dict[str, Any]]] = {}

    def __call__(self, views: Sequence[AlteredPhoto], label: str) -> list[dict[str, Any]]:
        keys = [(view.photo.image_id, view.change) for view in views]
        new = {key: view for key, view in zip(keys, views, strict=True) if key not in self._done}
        self._done |= {key: [] for key in new}
        wanted = list(new)
        seen = enumerate(view.read for view in new.values())
        for result in predict_all(self._predict, seen, label=label, category_id=self._category_id):
            self._done[wanted[result["image_id"]]].append(result)
        return [{**result, "image_id": number} for number, key in enumerate(keys) for result in self._done[key]]


def _row(group: str, name: str, unaltered: Matching, matching: Matching) -> StressRow:
    sided = [place for pair in matching.protocol.skeleton.pairs for place in pair]
    kinds = matching.kinds[:, sided]
    exchanged = float((kinds == INVERSION).sum() / max(1, (kinds >= 0).sum()))
    people = int(matching.to_find.sum())
    return StressRow(group, name, people, unaltered.ap(), matching.ap(), matching.ap(0), exchanged)


def whole_photos(photos: Sequence[AnnotatedPhoto]) -> StressComparison:
    """Return alterations of every photo, with everybody in it."""
    everywhere = {
        **{f"blur of {radius} px": blurred(radius) for radius in BLURS},
        **{f"{stops} stops darker": darkened(stops) for stops in STOPS},
        f"JPEG quality {JPEG_QUALITY}": compressed(JPEG_QUALITY),
    }
    altered = {
        "mirrored": [AlteredPhoto(photo, mirrored(photo.size[1])) for photo in photos],
        **{
            f"turned by {angle} degrees": [AlteredPhoto(photo, rotated(photo.size, angle)) for photo in photos]
            for angle in ROTATIONS
        },
        **{name: [AlteredPhoto(photo, change) for photo in photos] for name, change in everywhere.items()},
    }
    return StressComparison("whole photos", [AlteredPhoto(photo, UNCHANGED) for photo in photos], altered)


def small_people(photos: Sequence[AnnotatedPhoto]) -> StressComparison:
    """Return a view for each person whose box is higher than the largest of `HEIGHTS`, shrunk to each height."""
    chosen = [
        (photo, person, float(person.box[3] - person.box[1]))
        for photo, person in _people(photos)
        if person.box[3] - person.box[1] > max(HEIGHTS)
    ]
    altered = {
        f"{wanted} px high": [
            AlteredPhoto(photo, shrunk(photo.size, wanted / height), person) for photo, person, height in chosen
        ]
        for wanted in HEIGHTS
    }
    return StressComparison(
        "people made small", [AlteredPhoto(photo, UNCHANGED, person) for photo, person, _ in chosen], altered
    )


def cut_people(photos: Sequence[AnnotatedPhoto]) -> tuple[StressComparison, StressComparison]:
    """Return a view for each person who can be cut: one side of the photo is removed with each share of `CUTS`.

    The annotation's id determines the side, which is the same for all shares. A person must have at least
    `MIN_LABELLED` labelled keypoints, and each cut must leave `MIN_SEEN` of them. In the first comparison only the
    keypoints that are left count; in the second all count, and those beyond the border must be guessed.
    """
    chosen = [
        (photo, person, windows)
        for photo, person in _people(photos)
        if (windows := _windows(person, photo.size)) is not None
    ]
    seen, whole = {}, {}
    for place, share in enumerate(CUTS):
        name = f"{100 * share:.0f} % cut off"
        whole[name] = [AlteredPhoto(photo, cropped(windows[place]), person) for photo, person, windows in chosen]
        seen[name] = [
            view._replace(limit=(bottom - top, right - left))
            for view, (*_, windows) in zip(whole[name], chosen, strict=True)
            for left, top, right, bottom in [windows[place]]
        ]
    unaltered = [AlteredPhoto(photo, UNCHANGED, person) for photo, person, _ in chosen]
    return StressComparison("people cut, what is left", unaltered, seen), StressComparison(
        "people cut, guessed too", unaltered, whole
    )


def _windows(person: Person, size: tuple[int, int]) -> list[Window] | None:
    """Return the rest of the photo for each share of `CUTS`; None if no side allows all of them."""
    points = person.keypoints[person.labelled]
    if len(points) < MIN_LABELLED:
        return None
    low, high = points.min(axis=0), points.max(axis=0)
    first = hashlib.sha256(str(person.annotation_id).encode()).digest()[0]
    for turn in range(len(SIDES)):
        side = SIDES[(first + turn) % len(SIDES)]
        axis = 0 if side in ("left", "right") else 1
        start = side in ("left", "top")
        windows = []
        for share in CUTS:
            line = round(float(low[axis] + (share if start else 1 - share) * (high - low)[axis]))
            windows.append(rest_of_cut(side, line, size))
        if all(_leaves_enough(window, points, size) for window in windows):
            return windows
    return None


def _leaves_enough(window: Window, points: Points, size: tuple[int, int]) -> bool:
    left, top, right, bottom = window
    if left < 0 or top < 0 or right > size[1] or bottom > size[0] or min(right - left, bottom - top) < MIN_SIDE:
        return False
    return int(_inside(points - (left, top), (bottom - top, right - left)).sum()) >= MIN_SEEN


def _inside(points: Points, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return (N,) bool: which points lie on a photo of that (height, width). Its edge is at -0.5."""
    return np.asarray(((points >= -0.5) & (points < np.array(size[::-1]) - 0.5)).all(axis=1))


def _people(photos: Sequence[AnnotatedPhoto]) -> list[tuple[AnnotatedPhoto, Person]]:
    return [(photo, person) for photo in photos for person in photo.persons if not person.ignore]


def truth_of(views: Sequence[AlteredPhoto], protocol: Protocol) -> list[AnnotatedPhoto]:
    """Return the annotated photos for the views, numbered from 0; `size` remains that of the whole photo."""
    return [
        replace(view.photo, image_id=number, persons=tuple(shown(each, view, protocol) for each in view.photo.persons))
        for number, view in enumerate(views)
    ]


def shown(person: Person, view: AlteredPhoto, protocol: Protocol) -> Person:
    """Return a person as altered by the view; ignored if the view asks for another person."""
    points, flags = view.change.points(person.keypoints), person.visibility
    if view.change.mirrored:
        points, flags = points[protocol.skeleton.mirror], flags[protocol.skeleton.mirror]
    if view.limit is not None:
        flags = flags * _inside(points, view.limit)
    unit = view.change.points(np.array(((0.0, 0), (1, 0), (0, 1))))
    scale = abs(float(np.linalg.det(unit[1:] - unit[0])))
    return replace(
        person,
        keypoints=points,
        visibility=flags,
        box=_shown_box(person.box, view.change, scale),
        area=person.area * scale,
        ignore=person.ignore or not flags.any() or (view.person is not None and person is not view.person),
    )


def _shown_box(box: Points, change: Change, scale: float) -> Points:
    """Transform a box (4,), whose coordinates start at pixel corners; areas change by `scale`.

    The bounding box of a rotated box is larger than the person, so it keeps its proportions but is scaled back.
    """
    x1, y1, x2, y2 = box
    corners = change.points(np.array(((x1, y1), (x2, y1), (x2, y2), (x1, y2))) - 0.5) + 0.5
    low, high = corners.min(axis=0), corners.max(axis=0)
    sides = (high - low) * np.sqrt(scale * (x2 - x1) * (y2 - y1) / max((high - low).prod(), np.spacing(1.0)))
    return np.concatenate((low + high - sides, low + high + sides)) / 2


def stress(
    predict: Predict,
    photos: Sequence[AnnotatedPhoto],
    protocol: Protocol,
    output: Path,
    *,
    truth: str,
    count: int | None = None,
    model: str = "",
) -> str:
    """Write stress.md (a line and the table, also returned), stress.json and stress.png into the folder `output`.

    count: the number of photos to use, evenly spread (None: all). truth, model: the names of photos and model in the
    report. Raises ConfigError for a count below 1, and the errors of `stress_card`.
    """
    make_folder(output)
    if count is not None:
        if count < 1:
            raise ConfigError(f"count is {count}, expected at least 1 photo")
        photos = [photos[place] for place in np.unique(np.arange(count) * len(photos) // count)]
    rows = stress_card(predict, photos, protocol)
    scored, name = scored_keypoints(photos, protocol), one_line(Path(truth).name)
    text = f"{one_line(model) or 'A model'} on {len(photos):,} photos of {name}, {scored}:\n\n{stress_table(rows)}"
    about = {"model": model, "truth": truth, "num_photos": len(photos), **scored._asdict()}
    write_report(output / "stress.json", GENERATOR, {**about, "rows": [row._asdict() for row in rows]})
    write_markdown(output / "stress.md", GENERATOR, text)
    plot_stress(rows, output / "stress.png")
    return text


def stress_table(rows: Sequence[StressRow]) -> str:
    """Format rows as Markdown, with AP in points from 0 to 100."""
    lines = ["| photos | people | AP | lost | AP50 | left/right exchanged |", "|---|---:|---:|---:|---:|---:|"]
    group = None
    for row in rows:
        if row.group != group:
            group = row.group
            lines.append(f"| **{group}** | | | | | |")
        lost = "" if row.name == UNALTERED else f"{round(100 * (row.unaltered - row.ap), 1) + 0.0:.1f}"  # no -0.0
        cells = (
            row.name,
            row.num_people,
            f"{100 * row.ap:.1f}",
            lost,
            f"{100 * row.ap50:.1f}",
            f"{100 * row.exchanged:.1f} %",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def plot_stress(rows: Sequence[StressRow], path: Path) -> None:
    """Write the AP of each alteration as PNG; a line marks the unaltered photos."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise PoseDetError('the figure needs matplotlib: pip install "posedet[evaluate]"') from None
    groups = list(dict.fromkeys(row.group for row in rows))
    sizes = [sum(row.group == group for row in rows) for group in groups]
    figure = Figure(figsize=(7.5, 1.2 + 0.27 * len(rows)), layout="constrained")
    all_axes = figure.subplots(len(groups), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": sizes})[:, 0]
    for group, axes in zip(groups, all_axes, strict=True):
        shown = [row for row in rows if row.group == group]
        names = [f"{row.name} " for row in shown]
        axes.barh(names, [100 * row.ap for row in shown], color=["#9aa3ad", *["#2f6fde"] * (len(shown) - 1)])
        axes.axvline(100 * shown[0].ap, color="#9aa3ad", linewidth=1, linestyle="--")
        axes.invert_yaxis()
        axes.set_title(group, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        for place, row in enumerate(shown):
            axes.text(100 * row.ap, place, f" {100 * row.ap:.1f}", va="center", fontsize=8)
    all_axes[-1].set_xlabel("AP")
    write_figure(path, GENERATOR, figure)
