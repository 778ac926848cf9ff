"""Test sequences with truth: people cut out of annotated photos, who walk in front of photos without people.

A scene is its kind and its seed. People and backgrounds of `test` scenes are in no `train` scene.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from posedet.skeleton import COCO

SIZE = (270, 480)  # height and width of a frame
# Kinds of scenes, and their people. The first two are the crossing sequences: people pass each other, or meet and turn
# back, which misleads whoever relies on the motion.
PEOPLE = {"crossing": 4, "meeting": 3, "covered": 3, "leaving": 3, "camera": 4, "crowd": 8}
KINDS = tuple(PEOPLE)
FPS = (5, 10, 15, 25, 30)
SECONDS = 5.0
TICKS = 240  # in a second, for all motion
MARGIN = 100  # pixels around the frame
EXPOSURES = 3  # pictures that a frame averages: motion blur
TALLEST = 300  # pixels of a cut-out; people are drawn smaller


@dataclass(frozen=True)
class CutOut:
    """A person cut out of a photo."""

    picture: Image.Image  # RGBA
    keypoints: NDArray[np.float64]  # (17, 2) in pixels of the picture
    flags: NDArray[np.int64]  # (17,) COCO's flags: 2 seen, 1 hidden, 0 not labelled
    area: float  # of the outline, in square pixels of the picture


class Truth(NamedTuple):
    """The P people of a frame, in pixels."""

    keypoints: NDArray[np.float64]  # (P, 17, 2)
    flags: NDArray[np.int64]  # (P, 17) COCO's: 2 seen, 1 covered or outside the frame, 0 not labelled
    areas: NDArray[np.float64]  # (P,)


class Frame(NamedTuple):
    """A frame of a scene."""

    time: float
    truth: Truth
    image: NDArray[np.uint8] | None  # (270, 480, 3) RGB


@dataclass(frozen=True)
class Material:
    """What scenes are made of."""

    people: list[CutOut]
    backgrounds: list[Path]
    split: str  # "train" or "test"


def read_material(people: Path, backgrounds: Path, split: str) -> Material:
    """Read people with masks from a COCO file, whose photos lie beside it, and the paths of a folder of backgrounds.

    The train split has the people of photos with an even id and every second background, the test split the others.
    """
    content = json.loads(people.read_bytes())
    photos = {image["id"]: image for image in content["images"]}
    odd = split == "test"
    cut = [
        _cut_out(people.with_suffix("") / photos[each["image_id"]]["file_name"], each)
        for each in content["annotations"]
        if each["image_id"] % 2 == odd and _is_whole(each, photos[each["image_id"]])
    ]
    return Material(cut, sorted(backgrounds.iterdir())[odd::2], split)


def _is_whole(person: dict[str, Any], photo: dict[str, Any]) -> bool:
    """Whether a mask is known, and it shows a person who stands or walks, whole and labelled from head to foot."""
    x, y, width, height = person["bbox"]
    inside = min(x, y) > 3 and x + width < photo["width"] - 3 and y + height < photo["height"] - 3
    if not person.get("segmentation") or not inside or height < max(90, 1.5 * width) or person["num_keypoints"] < 13:
        return False
    triples = np.array(person["keypoints"]).reshape(17, 3)
    parts = [triples[part] for part in (slice(0, 5), slice(5, 7), slice(11, 13), slice(13, 15), slice(15, 17))]
    heights = [part[part[:, 2] > 0, 1].mean() for part in parts if part[:, 2].any()]
    return len(heights) == len(parts) and bool((np.diff(heights) > 0).all())


def _cut_out(photo: Path, person: dict[str, Any]) -> CutOut:
    mask = Image.new("L", (image := Image.open(photo).convert("RGB")).size)
    for outline in person["segmentation"]:
        ImageDraw.Draw(mask).polygon(outline, fill=255)
    image.putalpha(mask.filter(ImageFilter.GaussianBlur(1)))
    x, y, width, height = person["bbox"]
    corner = np.array([int(x) - 4, int(y) - 4])
    image = image.crop((*corner, int(x + width) + 5, int(y + height) + 5))
    scale = min(1.0, TALLEST / height)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    triples = np.array(person["keypoints"], float).reshape(17, 3)
    return CutOut(image, (triples[:, :2] - corner) * scale, triples[:, 2].astype(int), person["area"] * scale**2)


class Walk(NamedTuple):
    """A person of a scene: where the feet are and how tall the person is, 240 times a second, in pixels."""

    person: CutOut
    feet: NDArray[np.float64]  # (T, 2)
    height: NDArray[np.float64]  # (T,) of the cut-out
    mirrored: bool
    step: float  # steps in a second; 0: stands still


class Scene:
    """A sequence of frames. Everything follows from the kind, the seed, and the material."""

    def __init__(self, kind: str, seed: int, material: Material) -> None:
        self._random = random = np.random.default_rng([KINDS.index(kind), seed, material.split == "test"])
        self.kind, self.seed = kind, seed
        self.fps = int(random.choice(FPS))
        self._noise_seed = int(random.integers(1 << 30))
        self._background = material.backgrounds[random.integers(len(material.backgrounds))]
        self._pillars = _pillars(random) if kind == "covered" else []
        chosen = random.permutation(len(material.people))[: PEOPLE[kind]]
        depths = np.sort(random.uniform(0, 1, len(chosen)))  # the nearest person is drawn last
        meeting = random.uniform(0.35, 0.65) * SECONDS
        self._walks = [
            self._walk(place, material.people[index], depth, meeting)
            for place, (index, depth) in enumerate(zip(chosen, depths, strict=True))
        ]
        self._camera = self._camera_path()

    def _walk(self, place: int, person: CutOut, depth: float, meeting: float) -> Walk:
        random, width = self._random, SIZE[1]
        crowd = self.kind == "crowd"
        tall = (70 + 60 * depth if crowd else 110 + 70 * depth) * random.uniform(0.9, 1.1)
        speed = random.uniform(0.2, 0.9) * tall if crowd else random.uniform(0.25, 1.3) * tall
        side = random.choice([-1, 1])
        still = place == 0 and self.kind in ("crossing", "covered", "crowd")
        if self.kind == "meeting" and place < 2:  # two people meet, wait, and turn back
            side, wait = 2 * place - 1, random.uniform(0, 0.6)
            close = width / 2 + side * 0.1 * tall
            times = np.array([0, meeting, meeting + wait, SECONDS])
            x = close + side * speed * np.array([meeting, 0, 0, SECONDS - meeting - wait])
        elif self.kind == "leaving" and place < 2:  # two people leave the frame, and come back
            gone, back = random.uniform(1.2, 1.8), random.uniform(2.3, 3.2)
            outside = width * (side > 0) + side * 0.45 * tall
            times = np.array([0, gone, back, SECONDS])
            x = outside - side * speed * np.array([gone, 0, 0, SECONDS - back])
        else:
            times = np.array([0, SECONDS])
            middle = random.uniform(0.1, 0.9) if crowd else random.uniform(0.3, 0.7)
            x = middle * width + side * speed * (times - meeting) * (not still)
        ticks = np.arange(0, SECONDS + 0.1, 1 / TICKS)
        ground = (0.62 + 0.33 * depth if crowd else 0.78 + 0.18 * depth) * SIZE[0]
        feet = np.stack([_smoothed(np.interp(ticks, times, x)), np.full(len(ticks), ground)], axis=1)
        growth = 0 if still else random.uniform(-0.04, 0.04)
        height = tall * np.exp(growth * (ticks - SECONDS / 2))
        return Walk(person, feet, height, bool(random.random() < 0.5), 0 if still else random.uniform(1.5, 2.5))

    def _camera_path(self) -> NDArray[np.float64]:
        """(T, 2): how far the camera has turned, in pixels; a pan and a hand that shakes."""
        path = np.zeros_like(self._walks[0].feet)
        if self.kind == "camera":
            times = np.arange(len(path)) / TICKS
            path[:, 0] = self._random.uniform(20, 60) * np.sin(self._random.uniform(0.6, 1.5) * times)
            path = _smoothed(path + np.cumsum(self._random.normal(size=path.shape), axis=0) / 4)
        return np.asarray(path - path.mean(axis=0))

    def frames(self, *, images: bool) -> Iterator[Frame]:
        """Render the scene; `images=False` gives only the truth."""
        noise = np.random.default_rng(self._noise_seed)
        backdrop = _backdrop(self._background) if images else None
        open_for = min(0.5 / self.fps, 0.02)
        for index in range(int(SECONDS * self.fps)):
            time = index / self.fps
            layers = self._layers(time)
            image = None
            if backdrop is not None:
                drawn = [self._composed(backdrop, layers, time)]
                for moment in time + open_for / EXPOSURES * np.arange(1, EXPOSURES):
                    drawn.append(self._composed(backdrop, self._layers(moment), moment))
                exposed = np.mean([np.asarray(each, np.float32) for each in drawn], axis=0)
                image = np.clip(exposed + noise.normal(0, 4, (*SIZE, 1)), 0, 255).astype(np.uint8)
            yield Frame(time, self._truth(time, layers), image)

    def _placed(self, walk: Walk, time: float) -> NDArray[np.float64]:
        """(2, 3): the affine map from pixels of the cut-out to pixels of the frame."""
        tick = round(time * TICKS)
        swing = np.sin(2 * np.pi * walk.step * time)
        angle, scale = 0.03 * swing, walk.height[tick] / walk.person.picture.height
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        if walk.mirrored:
            turn[:, 0] *= -1
        feet = walk.feet[tick] - self._camera[tick] - [0, 0.015 * walk.height[tick] * abs(swing)]
        return np.column_stack([turn, feet - turn @ [walk.person.picture.width / 2, walk.person.picture.height]])

    def _layers(self, time: float) -> list[Image.Image]:
        """One RGBA picture of the frame's size for each person, the farthest first."""
        layers = []
        for walk in self._walks:
            back = np.linalg.inv(np.vstack([self._placed(walk, time), [0, 0, 1]]))[:2].ravel().tolist()
            size, affine, bilinear = SIZE[::-1], Image.Transform.AFFINE, Image.Resampling.BILINEAR
            layers.append(walk.person.picture.transform(size, affine, back, bilinear))
        return layers

    def _composed(self, backdrop: Image.Image, layers: list[Image.Image], time: float) -> Image.Image:
        x, y = (self._camera[round(time * TICKS)] + MARGIN).tolist()
        size, affine, bilinear = SIZE[::-1], Image.Transform.AFFINE, Image.Resampling.BILINEAR
        frame = backdrop.transform(size, affine, (1, 0, x, 0, 1, y), bilinear)
        for layer in layers:
            frame.paste(layer, mask=layer.getchannel("A"))
        for left, right, colour in self._pillars:
            frame.paste(colour, (left, 0, right, SIZE[0]))
        return frame

    def _truth(self, time: float, layers: list[Image.Image]) -> Truth:
        opaque = [np.asarray(layer.getchannel("A")) > 127 for layer in layers]
        keypoints, flags, areas = [], [], []
        for place, walk in enumerate(self._walks):
            order = _mirrored() if walk.mirrored else list(range(17))
            turn = self._placed(walk, time)
            points = walk.person.keypoints[order] @ turn[:, :2].T + turn[:, 2]
            x, y = np.round(points).astype(int).T
            inside = (x >= 0) & (y >= 0) & (x < SIZE[1]) & (y < SIZE[0])
            covered = np.zeros(17, bool)
            for nearer in opaque[place + 1 :]:
                covered[inside] |= nearer[y[inside], x[inside]]
            for left, right, _ in self._pillars:
                covered |= (x >= left) & (x < right)
            keypoints.append(points)
            flags.append(np.where(inside & ~covered, 2, 1) * (walk.person.flags[order] > 0))
            areas.append(walk.person.area * abs(np.linalg.det(turn[:, :2])))
        return Truth(np.array(keypoints), np.array(flags), np.array(areas))


def _mirrored() -> list[int]:
    order = list(range(17))
    for left, right in COCO.pairs:
        order[left], order[right] = right, left
    return order


def _smoothed(path: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over 0.3 s, so that nobody turns at once."""
    window = round(0.3 * TICKS)
    padded = np.pad(path, [(window // 2, window // 2 - 1)] + [(0, 0)] * (path.ndim - 1), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, window, axis=0)
    return np.asarray(windows.mean(axis=-1))


def _pillars(random: np.random.Generator) -> list[tuple[int, int, tuple[int, ...]]]:
    """Three upright bars in front of everybody: left and right edge, and colour."""
    middles = (np.array([0.2, 0.5, 0.8]) + random.uniform(-0.08, 0.08, 3)) * SIZE[1]
    halves = random.uniform(12, 30, 3)
    colours = random.integers(40, 160, (3, 3)).tolist()
    return [
        (int(middle - half), int(middle + half), tuple(colour))
        for middle, half, colour in zip(middles, halves, colours, strict=True)
    ]


def _backdrop(path: Path) -> Image.Image:
    """A background photo, larger than the frame by a margin for the camera's motion."""
    height, width = SIZE[0] + 2 * MARGIN, SIZE[1] + 2 * MARGIN
    image = Image.open(path).convert("RGB")
    scale = max(width / image.width, height / image.height)
    image = image.resize((round(image.width * scale) + 1, round(image.height * scale) + 1), Image.Resampling.BICUBIC)
    return image.crop((0, 0, width, height))
