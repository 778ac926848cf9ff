"""What tiles gain on small people in large photos: AP and time on mosaics of annotated photos.

None of our annotated photos is truly large, so photos are put together on canvases, and each found pose is
given back to the photo in which its middle lies. AP is then that of the photos, as if each had been alone.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from posedet.benchmark.timing import Clock, Spread, ratio
from posedet.data.annotations import AnnotatedPhoto
from posedet.evaluation.keypoint_ap import KeypointAP, evaluate_keypoints
from posedet.evaluation.protocols import PROTOCOLS
from posedet.evaluation.report import markdown_table
from posedet.evaluation.run import EVALUATED_SCORE
from posedet.image import GREY, read_image
from posedet.poses import Poses
from posedet.runtime.detector import PoseDet

CANVAS = (1920, 2560)  # height, width
GRIDS = (4, 8)  # photos side by side: cells of 640 and of 320 pixels, so that people are as small or half as small
IN_CELLS = (None, 2, 1)  # sides of tiles


class Placed(NamedTuple):
    """Where a photo lies on a canvas, and how much it was reduced."""

    photo: AnnotatedPhoto
    left: int
    top: int
    factors: tuple[float, float]  # x, y


class TilesRow(NamedTuple):
    """The scores and the time of one setting on one kind of canvas."""

    cell: int  # pixels
    tiles: int | None
    scores: KeypointAP
    ms: Spread  # of a canvas
    over_whole: Spread  # the time, divided by that without tiles


def canvases(photos: Sequence[AnnotatedPhoto], columns: int) -> Iterator[tuple[Image.Image, list[Placed]]]:
    """Put photos on grey canvases in their order, each in the corner of a square cell, reduced if it is too large."""
    height, width = CANVAS
    cell = width // columns
    rows = height // cell
    for begin in range(0, len(photos), rows * columns):
        canvas, placed = Image.new("RGB", (width, height), (GREY,) * 3), []
        for place, photo in enumerate(photos[begin : begin + rows * columns]):
            image = read_image(photo.path)
            before = image.size
            image.thumbnail((cell, cell))
            left, top = place % columns * cell, place // columns * cell
            canvas.paste(image, (left, top))
            placed.append(Placed(photo, left, top, (image.width / before[0], image.height / before[1])))
        yield canvas, placed


def given_back(poses: Poses, placed: Sequence[Placed], cell: int) -> list[dict[str, Any]]:
    """The poses of a canvas as results of its photos, in COCO's format."""
    middles = (poses.boxes[:, :2] + poses.boxes[:, 2:]) / 2
    results = []
    for photo, left, top, factors in placed:
        inside = (middles >= (left, top)) & (middles < (left + cell, top + cell))
        own = poses[np.flatnonzero(inside.all(axis=1))]
        keypoints = (own.keypoints - (left, top) + 0.5) / factors - 0.5
        results += Poses(keypoints, own.scores, own.keypoint_scores, own.skeleton).to_coco(photo.image_id)
    return results


def measure_tiles(detector: PoseDet, photos: Sequence[AnnotatedPhoto]) -> list[TilesRow]:
    """Measure every setting on canvases of both kinds; the settings take turns."""
    weak = detector.adjusted(score_threshold=EVALUATED_SCORE)
    rows = []
    for columns in GRIDS:
        cell = CANVAS[1] // columns
        sides = [None if cells is None else cells * cell for cells in IN_CELLS]
        results: dict[int | None, list[dict[str, Any]]] = {side: [] for side in sides}
        ms: dict[int | None, list[float]] = {side: [] for side in sides}
        for canvas, placed in canvases(photos, columns):
            for side in sides:
                clock = Clock()
                poses = weak.adjusted(tiles=side)(canvas)
                clock.lap("all")
                ms[side].append(clock.ms["all"])
                results[side] += given_back(poses, placed, cell)
        for side in sides:
            scores = evaluate_keypoints(photos, results[side], PROTOCOLS["coco"])
            rows.append(TilesRow(cell, side, scores, Spread.of(ms[side]), ratio(ms[side], ms[None])))
    return rows


def tiles_table(rows: Sequence[TilesRow]) -> str:
    """Markdown."""
    lines = [["photos of", "tiles", "AP", "AP50", "AP medium", "AP large", "AR", "s per canvas", "times no tiles"]]
    for row in rows:
        found = row.scores
        points = (found.ap, found.ap50, found.ap_medium, found.ap_large, found.ar)
        cells = [f"{100 * value:.1f}" for value in points]
        seconds = f"{row.ms.median / 1000:.2f}"
        lines.append([f"{row.cell} pixels", str(row.tiles or "none"), *cells, seconds, str(row.over_whole)])
    return markdown_table(lines)
