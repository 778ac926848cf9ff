"""Ultralytics' pose format: a text file for each photo, and a data.yaml."""

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from posedet.data.remarks import refuse
from posedet.extras import needs
from posedet.formats.photos import GENERATOR, PosedPhoto, annotated, labels, size_of, skeleton_of
from posedet.outputs import make_folder, write_atomically
from posedet.skeleton import COCO, Skeleton


def ultralytics_files(folder: Path, file_names: Sequence[str]) -> list[Path]:
    """Return the data.yaml, and the label file of each photo."""
    return [folder / "data.yaml", *(_labels_of(folder, name) for name in file_names)]


def _labels_of(folder: Path, file_name: str) -> Path:
    return folder / "labels" / PurePosixPath(file_name).with_suffix(".txt")


def to_ultralytics(photos: Sequence[PosedPhoto], folder: str | Path, *, generator: str = GENERATOR) -> None:
    """Write a data.yaml and the folder `labels`; the photos belong into a folder `images` beside it.

    Args:
        photos: Photos with their sizes and poses, all with the same skeleton.
        folder: The folder of the set.
        generator: The command that writes it, as the mark of the data.yaml.

    Raises:
        DataError: If a size is unknown or skeletons differ.
        PoseDetError: If a file cannot be written or is there already. Label files have no room for a mark, so none is
            ever replaced.
    """
    skeleton = skeleton_of(photos)
    for photo in photos:
        height, width = size_of(photo)
        found = labels(photo)
        centres = np.concatenate([found.boxes[:, :2] + found.boxes[:, 2:], found.boxes[:, 2:] - found.boxes[:, :2]], 1)
        boxes = centres / (2 * width, 2 * height, width, height)
        points = found.keypoints / (width, height)
        lines = []
        for box, shares, flags in zip(boxes.tolist(), points.tolist(), found.flags.tolist(), strict=True):
            values = [f"{value:.6f}" for value in box]
            for (x, y), flag in zip(shares, flags, strict=True):
                values += [f"{x:.6f}", f"{y:.6f}", str(flag)]
            lines.append(" ".join(["0", *values]) + "\n")
        file = _labels_of(Path(folder), photo.file_name)
        make_folder(file.parent)
        write_atomically(file, generator, "".join(lines).encode())
    entries = {
        "path": ".",
        "train": "images",
        "val": "images",
        "kpt_shape": [skeleton.num_keypoints, 3],
        "flip_idx": skeleton.mirror.tolist(),
        "names": ["person"],
        "kpt_names": {0: list(skeleton.keypoints)},
    }
    # JSON is YAML, too, but for the number as a key.
    text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in entries.items()).replace('{"0":', "{0:")
    make_folder(Path(folder))
    write_atomically(Path(folder) / "data.yaml", generator, f"# generator: {generator}\n{text}".encode())


def from_ultralytics(source: str | Path, skeleton: Skeleton = COCO, *, part: str = "train") -> list[PosedPhoto]:
    """Read one part of a set. Its photos must be there, because the labels are shares of their sizes.

    Args:
        source: The data.yaml or its folder.
        skeleton: The wanted keypoints. They are found by name, if the data.yaml has names.
        part: `train`, `val` or `test`.

    Returns:
        All photos of the part. People have a score of 1, seen keypoints too, and keypoints that are not labelled 0.

    Raises:
        DataError: If a file is invalid. The message names the line.
        PhotoError: If the header of a photo cannot be read.
        ConfigError: If PyYAML is not installed.
    """
    needs("from_ultralytics", "evaluate", ("yaml",))
    from posedet.data.sources import Source, read_source

    return [annotated(photo, skeleton) for photo in read_source(Source(Path(source), part), skeleton, refuse)]
