"""Made-up annotated photos on disk, for the tests of data and training."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from posedet.data.annotations import AnnotatedPhoto
from posedet.data.formats.coco import read_content
from posedet.skeleton import COCO, Skeleton

HEIGHT, WIDTH = 90, 120


def made_up_set(path: Path, keypoints: Sequence[str], *, category: str = "person", num_photos: int = 3) -> Path:
    """COCO-style `path` with photos of noise beside it, each with one person whose keypoints are all seen."""
    generator = np.random.default_rng(0)
    folder = path.with_suffix("")
    folder.mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, num_photos + 1):
        noise = generator.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.jpg")
        images.append({"id": number, "file_name": f"{number}.jpg", "height": HEIGHT, "width": WIDTH})
        places = (20, 10) + generator.random((len(keypoints), 2)) * (80, 70)
        table = np.column_stack([places, np.full(len(keypoints), 2)]).round(1)
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "iscrowd": 0,
                "num_keypoints": len(keypoints),
                "keypoints": table.ravel().tolist(),
                "bbox": [15, 8, 90, 75],
            }
        )
    categories = [{"id": 1, "name": category, "keypoints": list(keypoints), "skeleton": []}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def changed(path: Path, change: Any) -> Path:
    """The set again after `change` was called with its content."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def as_ultralytics(truth: dict[str, Any], photos: Path, folder: Path, part: str = "val") -> Path:
    """A set in Ultralytics' format in `folder`, as its own converter writes COCO's; returns data.yaml."""
    for name in ("images", "labels"):
        (folder / name / part).mkdir(parents=True)
    entries = {image["id"]: image for image in truth["images"]}
    for image in entries.values():
        shutil.copy(photos / image["file_name"], folder / "images" / part)
    for person in truth["annotations"]:
        if not person["iscrowd"]:
            image = entries[person["image_id"]]
            with (folder / "labels" / part / image["file_name"]).with_suffix(".txt").open("a") as file:
                file.write(f"0 {' '.join(map(repr, _shares(person, image['width'], image['height'])))}\n")
    yaml = folder / "data.yaml"
    mirror = COCO.mirror.tolist()
    yaml.write_text(f"path: .\ntrain: images/train\n{part}: images/{part}\nkpt_shape: [17, 3]\nflip_idx: {mirror}\n")
    return yaml


def _shares(person: dict[str, Any], width: int, height: int) -> list[float]:
    """Box (centre, sides) and keypoints (x, y, flag) of a line."""
    x, y, w, h = person["bbox"]
    values = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
    for px, py, flag in np.reshape(person["keypoints"], (-1, 3)).tolist():
        values += [px / width, py / height, flag]
    return values


def photos_of(
    truth: Any, skeleton: Skeleton, where: str = "truth", folder: Path = Path()
) -> tuple[AnnotatedPhoto, ...]:
    """Truth in COCO's form, as if read from a file called `where`, its photos in `folder`."""
    return read_content(truth, where, folder, skeleton)
