"""Made-up annotated photos on disk, for the tests of data and training."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from posedet.data.annotations import AnnotatedPhoto
from posedet.data.formats.coco import read_content
from posedet.skeleton import Skeleton

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


def photos_of(
    truth: Any, skeleton: Skeleton, where: str = "truth", folder: Path = Path()
) -> tuple[AnnotatedPhoto, ...]:
    """Truth in COCO's form, as if read from a file called `where`, its photos in `folder`."""
    return read_content(truth, where, folder, skeleton)
