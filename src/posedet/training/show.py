"""Draw training samples: patches with their labels, positives and heatmap targets."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from posedet.config import Config
from posedet.data.annotations import PhotoSet
from posedet.draw import Colour
from posedet.errors import DataError
from posedet.model.build import build_network
from posedet.model.network import PoseDetNet, Proposals
from posedet.outputs import make_folder, write_atomically
from posedet.skeleton import Skeleton
from posedet.training.assignment import NOBODY, Selection, person_centres
from posedet.training.batches import Batch, PhotoStream, collate
from posedet.training.targets import Assigner

LEFT, RIGHT, MIDDLE, NOT_LEARNT = (64, 160, 255), (255, 140, 26), (245, 245, 235), (150, 150, 150)
LEVELS: tuple[Colour, ...] = ((255, 220, 60), (90, 230, 120), (240, 110, 240), (110, 200, 255))
IGNORED = (255, 70, 70)
PAPER, INK = (24, 24, 28), (235, 235, 235)

GENERATOR = "posedet data show"
PANEL = 640  # pixels, about: patches are enlarged by a whole number
LINE, GAP = 18, 8  # pixels: height of a line of text, space between panels
FAR = 10_000.0  # pixels of the patch


class TrainingSample(NamedTuple):
    """A patch with everything that training computes for it."""

    batch: Batch  # contains only this patch
    proposals: Proposals
    selection: Selection
    centres: torch.Tensor  # (1, P, 2) of the persons, pixels of the patch
    targets: list[torch.Tensor]  # (1, K, h, w) of every level; none without heatmaps
    masks: list[torch.Tensor]  # (1, 1, h, w): 0 where nothing is learnt


def show(config: Config, photos: PhotoSet, skeleton: Skeleton, folder: Path, *, count: int = 12) -> list[Path]:
    """Draw the first `count` samples of a training run as PNG files in `folder`, and return the files.

    Samples and targets are computed by the functions that training uses. Raises DataError if there are no photos.
    """
    if not config.data.empty_photos:
        photos = photos.without_empty()
    if not len(photos):
        raise DataError("there are no photos to train on")
    make_folder(folder)
    stream = PhotoStream(photos, skeleton, config.data, config.train.seed)
    # Only the network's locations and heatmap cells matter, not its weights.
    network = build_network(config.model, skeleton).train()
    files = sample_paths(folder, count)
    for number, path in enumerate(files):
        picture = draw_sample(training_sample(network, stream, number, config), network, skeleton, number)
        png, text = io.BytesIO(), PngInfo()
        text.add_text("Software", f"{GENERATOR}\n")
        picture.save(png, "PNG", pnginfo=text)
        write_atomically(path, GENERATOR, png.getvalue())
    return files


def sample_paths(folder: Path, count: int) -> list[Path]:
    """Return the files that `show` writes."""
    return [folder / f"sample-{number:04}.png" for number in range(count)]


@torch.no_grad()
def training_sample(network: PoseDetNet, stream: PhotoStream, number: int, config: Config) -> TrainingSample:
    """Compute sample `number` of a run as in training."""
    batch = collate([stream[number]])
    assigner = Assigner(config, torch.tensor(stream.skeleton.sigmas), network.geometry)
    # A single location, because no embedding is needed.
    output = network(batch.images.float(), lambda _, logits: logits[:, :1].argmax(1, keepdim=True))
    selection = assigner.select(output.proposals, batch)
    targets = assigner.targets(output, batch, selection)
    centres = person_centres(batch, selection.persons, config.assign)
    return TrainingSample(batch, output.proposals, selection, centres, targets.heatmaps, targets.heatmap_weights)


def draw_sample(drawn: TrainingSample, network: PoseDetNet, skeleton: Skeleton, number: int) -> Image.Image:
    """Draw the labels and the positives side by side, and the heatmap targets of every level below."""
    image = drawn.batch.images[0].permute(1, 2, 0).numpy()
    zoom = max(1, round(PANEL / image.shape[0]))
    labels = _labels_panel(drawn, image, skeleton, zoom)
    positives = _positives_panel(drawn, image, network.geometry.strides, zoom)
    width = 2 * labels.width + GAP
    levels = max(1, len(drawn.targets))
    heatmaps = [
        _heatmap_panel(target[0], mask[0, 0], image, (width - (levels - 1) * GAP) // levels, stride, colour)
        for target, mask, stride, colour in zip(
            drawn.targets, drawn.masks, network.geometry.heatmap_strides, LEVELS, strict=False
        )
    ]
    height = LINE + labels.height + (GAP + heatmaps[0].height if heatmaps else 0)
    sheet = Image.new("RGB", (width, height), PAPER)
    _write(sheet, 0, _title(drawn, number))
    sheet.paste(labels, (0, LINE))
    sheet.paste(positives, (labels.width + GAP, LINE))
    for place, panel in enumerate(heatmaps):
        sheet.paste(panel, (place * (panel.width + GAP), LINE + labels.height + GAP))
    return sheet


def _title(drawn: TrainingSample, number: int) -> str:
    persons = drawn.selection.persons
    learnt, some = int(persons.valid.sum()), int(persons.labelled.any(2).sum())
    regions = int((drawn.batch.ignored[0, :, 0] > -1e6).sum())
    names = " + ".join(Path(source).name for source in drawn.batch.sources[0].split(" + "))
    few = f", {some - learnt} with too few keypoints" if some > learnt else ""
    return f"sample {number}: {names}: {learnt} learnt{few}; ignored regions: {regions}"


def _labels_panel(drawn: TrainingSample, image: NDArray[np.uint8], skeleton: Skeleton, zoom: int) -> Image.Image:
    panel, brush = _panel(image, zoom, dark=0.0)
    batch, persons = drawn.batch, drawn.selection.persons
    for box, crowd in zip(batch.ignored[0].tolist(), batch.crowds[0].tolist(), strict=True):
        if box[0] > -1e6:
            _ignored_region(brush, _scaled(box, zoom), "nothing known here" if crowd else "keypoints not known")
    for p in range(batch.keypoints.shape[1]):
        if persons.labelled[0, p].any():
            _person(brush, drawn, p, skeleton, zoom)
    return _captioned(
        panel,
        [
            ("labels: left blue, right orange, grey: too few keypoints to learn; red: ignored", INK),
            ("disc: seen, ring: hidden, square: not known which; small: a teacher's, weight below 1", INK),
        ],
    )


def _person(brush: ImageDraw.ImageDraw, drawn: TrainingSample, p: int, skeleton: Skeleton, zoom: int) -> None:
    batch, persons = drawn.batch, drawn.selection.persons
    learnt, labelled = bool(persons.valid[0, p]), persons.labelled[0, p]
    sides = [MIDDLE] * skeleton.num_keypoints
    for left, right in skeleton.pairs:
        sides[left], sides[right] = LEFT, RIGHT
    if not learnt:
        sides = [NOT_LEARNT] * skeleton.num_keypoints
    brush.rectangle(_scaled(batch.boxes[0, p].tolist(), zoom), outline=INK if learnt else NOT_LEARNT)
    points = [_scaled(point, zoom) for point in batch.keypoints[0, p].tolist()]
    for a, b in skeleton.limbs:
        if labelled[a] and labelled[b]:
            brush.line([*points[a], *points[b]], sides[a] if sides[a] == sides[b] else sides[min(a, b)], 2)
    for k, (x, y) in enumerate(points):
        if not labelled[k]:
            continue
        radius = 2 + 3 * float(batch.weights[0, p, k])
        box, visible = (x - radius, y - radius, x + radius, y + radius), float(batch.visible[0, p, k])
        if visible < 0:
            brush.rectangle(box, sides[k], PAPER)
        else:
            brush.ellipse(box, sides[k] if visible else None, PAPER if visible else sides[k], 1 if visible else 2)


def _positives_panel(
    drawn: TrainingSample, image: NDArray[np.uint8], strides: tuple[int, ...], zoom: int
) -> Image.Image:
    """Each positive location as the square of its cell, tied to the middle of the person that it learns."""
    panel, brush = _panel(image, zoom, dark=0.55)
    owner, persons = drawn.selection.owner[0], drawn.selection.persons
    places, of = drawn.proposals.locations, drawn.proposals.strides
    for m in (drawn.selection.ignored[0] & (of == strides[0])).nonzero()[:, 0].tolist():
        x, y = _scaled(places[m].tolist(), zoom)
        brush.point([(x, y), (x + 1, y), (x, y + 1), (x + 1, y + 1)], IGNORED)
    counts = {stride: 0 for stride in strides}
    for m in (owner != NOBODY).nonzero()[:, 0].tolist():
        stride = int(of[m])
        counts[stride] += 1
        colour = LEVELS[strides.index(stride) % len(LEVELS)]
        x, y = _scaled(places[m].tolist(), zoom)
        half = stride * zoom / 2 - 1
        brush.line([x, y, *_scaled(drawn.centres[0, owner[m]].tolist(), zoom)], colour)
        brush.rectangle((x - half, y - half, x + half, y + half), outline=colour, width=2)
    for p in persons.valid[0].nonzero()[:, 0].tolist():
        box = [*persons.corners[0, p].tolist(), *(persons.corners[0, p] + persons.sizes[0, p]).tolist()]
        brush.rectangle(_scaled(box, zoom), outline=INK)
    levels = [
        (f"stride {stride}: {counts[stride]} positives", LEVELS[level % len(LEVELS)])
        for level, stride in enumerate(strides)
    ]
    return _captioned(
        panel, [("positives: the cells that learn each person; dots: cells that learn nothing", INK)], levels
    )


def _heatmap_panel(
    target: torch.Tensor, mask: torch.Tensor, image: NDArray[np.uint8], width: int, stride: int, colour: Colour
) -> Image.Image:
    """The largest target over all keypoints (K, h, w) in the level's colour, and red where the mask (h, w) is 0."""
    side = image.shape[0]
    heat, learnt = target.amax(0).numpy(), mask.numpy()
    # A cell covers `stride` pixels; the last row and column may reach beyond the patch.
    cells = np.stack([heat, 1 - learnt], -1).repeat(stride, 0).repeat(stride, 1)[:side, :side]
    grey = image.mean(2, keepdims=True).repeat(3, 2) * 0.45
    blended = grey * (1 - 0.5 * cells[..., 1:]) + 0.5 * cells[..., 1:] * np.array(IGNORED) * 0.5
    blended = blended * (1 - cells[..., :1]) + cells[..., :1] * np.array(colour)
    panel = Image.fromarray(blended.astype(np.uint8)).resize((width, width), Image.Resampling.NEAREST)
    peaks = int((target == 1).sum())
    return _captioned(
        panel, [(f"heatmap targets, stride {stride}: {peaks} peaks", colour), ("red: nothing is learnt", INK)]
    )


def _panel(image: NDArray[np.uint8], zoom: int, *, dark: float) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    shaded = Image.fromarray((image * (1 - dark)).astype(np.uint8))
    panel = shaded.resize((shaded.width * zoom, shaded.height * zoom), Image.Resampling.NEAREST)
    return panel, ImageDraw.Draw(panel)


def _ignored_region(brush: ImageDraw.ImageDraw, box: list[float], why: str) -> None:
    x1, y1, x2, y2 = box
    if x2 <= x1 or y2 <= y1:
        return
    brush.rectangle(box, outline=IGNORED, width=2)
    for offset in np.arange(8, (x2 - x1) + (y2 - y1), 16):
        start = (x1 + min(offset, x2 - x1), y1 + max(0.0, offset - (x2 - x1)))
        end = (x1 + max(0.0, offset - (y2 - y1)), y1 + min(offset, y2 - y1))
        brush.line([start, end], IGNORED)
    if x2 - x1 > 100 and y2 - y1 > LINE:
        brush.text((x1 + 4, y1 + 3), why, INK, ImageFont.load_default(11), stroke_width=2, stroke_fill=PAPER)


def _scaled(coordinates: list[float], zoom: int) -> list[float]:
    """Pixels of the patch, centres at integers -> pixels of the panel, in Pillow's coordinates.

    What impossible labels put farther away is moved nearer: Pillow draws every pixel on the way.
    """
    return [(min(max(each, -FAR), FAR) + 0.5) * zoom - 0.5 for each in coordinates]


def _captioned(
    panel: Image.Image, lines: list[tuple[str, Colour]], row: list[tuple[str, Colour]] | None = None
) -> Image.Image:
    """The panel with two lines of text below, or one and then several texts side by side."""
    out = Image.new("RGB", (panel.width, panel.height + LINE * 2), PAPER)
    out.paste(panel, (0, 0))
    for place, (text, colour) in enumerate(lines):
        _write(out, panel.height + place * LINE, text, colour)
    for place, (text, colour) in enumerate(row or []):
        _write(out, panel.height + len(lines) * LINE, text, colour, left=place * panel.width // len(row or [0]))
    return out


def _write(picture: Image.Image, top: int, text: str, colour: Colour = INK, *, left: int = 0) -> None:
    ImageDraw.Draw(picture).text((left + 6, top + 2), text, colour, ImageFont.load_default(12))
