"""Photos with poses on the way to and from other programs, and what they all need of them: flags, boxes and names."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from posedet.data.annotations import AnnotatedPhoto
from posedet.draw import SEEN
from posedet.errors import DataError
from posedet.files import one_line
from posedet.poses import Poses
from posedet.skeleton import COCO, Skeleton

GENERATOR = "posedet formats"
MAX_BYTES = 1 << 28  # of a file that is read as a whole

# The scores that stand for COCO's flags 0 (not labelled), 1 (hidden) and 2 (seen), and become these flags again.
FLAG_SCORES = np.array([0, SEEN / 2, 1], np.float32)


class PosedPhoto(NamedTuple):
    """The poses in a photo that another program knows."""

    file_name: str  # the path below the folder of the photos, with / between its parts
    size: tuple[int, int] | None  # (height, width) of the upright photo; None if the format does not say
    poses: Poses


class Labels(NamedTuple):
    """The poses of a photo as people would have labelled them. People without a keypoint in the photo are left out."""

    keypoints: NDArray[np.float64]  # (N, K, 2) x and y in pixels, to a thousandth; (0, 0) where the flag is 0
    flags: NDArray[np.int64]  # (N, K) COCO's: 2 seen, 1 hidden, 0 not labelled
    boxes: NDArray[np.float64]  # (N, 4) x1 y1 x2 y2, in the photo and never empty
    scores: NDArray[np.float64]  # (N,)


def labels(photo: PosedPhoto) -> Labels:
    """Return the poses of a photo as labels.

    A keypoint is not labelled if its score is 0 or if it lies outside the photo. It is seen or hidden as in pictures.

    Raises:
        DataError: If the size of the photo is unknown.
    """
    height, width = size_of(photo)
    poses = photo.poses
    x, y = np.moveaxis(poses.keypoints.astype(np.float64), -1, 0)
    # Pixel centres are at whole numbers.
    inside = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
    flags = np.where(inside & (poses.keypoint_scores > 0), np.where(poses.keypoint_scores >= SEEN, 2, 1), 0)
    keypoints = np.stack([x.clip(0, width - 1), y.clip(0, height - 1)], -1).round(3) * (flags > 0)[..., None]
    boxes = poses.boxes.astype(np.float64) + np.array([-0.5, -0.5, 0.5, 0.5])
    kept = flags.any(axis=1)
    boxes = boxes.clip(0, (width, height, width, height)).round(3)
    return Labels(keypoints[kept], flags[kept], boxes[kept], poses.scores[kept].astype(np.float64).round(4))


def labelled(keypoints: NDArray[np.float64], flags: NDArray[np.int64], skeleton: Skeleton) -> Poses:
    """Return labels, (N, K, 2) pixels and (N, K) COCO's flags, as poses with a score of 1."""
    scores = FLAG_SCORES[flags].reshape(-1, skeleton.num_keypoints)
    points = keypoints.reshape(*scores.shape, 2).astype(np.float32)
    return Poses(points, np.ones(len(scores), np.float32), scores, skeleton)


def annotated(photo: AnnotatedPhoto, skeleton: Skeleton) -> PosedPhoto:
    """Return an annotated photo with its people as poses. Crowds and people without keypoints are left out."""
    persons = [person for person in photo.persons if not person.is_crowd and person.labelled.any()]
    keypoints = np.array([person.keypoints for person in persons], np.float64)
    flags = np.array([person.visibility for person in persons], np.int64)
    return PosedPhoto(photo.file_name, photo.size, labelled(keypoints, flags, skeleton))


def size_of(photo: PosedPhoto) -> tuple[int, int]:
    """Return the (height, width) of a photo. Raises DataError if it is unknown."""
    if photo.size is None:
        raise DataError(f"{one_line(photo.file_name)}: size: unknown, but this format needs (height, width)")
    return photo.size


def skeleton_of(photos: Sequence[PosedPhoto]) -> Skeleton:
    """Return the skeleton of all poses, COCO's if there are no photos. Raises DataError if they have several."""
    skeleton = photos[0].poses.skeleton if photos else COCO
    for photo in photos:
        if photo.poses.skeleton != skeleton:
            other = photo.poses.skeleton.name
            raise DataError(f"{one_line(photo.file_name)}: skeleton '{other}', but '{skeleton.name}' before")
    return skeleton


def file_names(photos: Sequence[Path], *, with_folder: bool = False) -> list[str]:
    """Return the path of each photo below the innermost folder that holds all of them, as programs list uploads.

    with_folder: Begin with the name of that folder.
    """
    folders = {os.path.dirname(os.path.abspath(photo)) for photo in photos}
    try:
        root = os.path.commonpath(folders) if folders else ""
    except ValueError:  # on several drives
        return [photo.name for photo in photos]
    root = os.path.dirname(root) if with_folder else root
    below = [Path(os.path.relpath(os.path.abspath(photo), root)).as_posix() for photo in photos]
    return [os.fsencode(name).decode(errors="backslashreplace") for name in below]


def read_bytes(path: str | Path, limit: int = MAX_BYTES) -> bytes:
    """Return the content of a file. Raises DataError if it cannot be read or has more than `limit` bytes."""
    file = Path(path)
    try:
        with file.open("rb") as stream:
            content = stream.read(limit + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{one_line(file)}: cannot be read ({reason})") from None
    if len(content) > limit:
        raise DataError(f"{one_line(file)}: larger than {limit >> 20} MiB")
    return content
