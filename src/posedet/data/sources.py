"""Where training data comes from: what `--data` names, in whichever format it is."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from posedet.data.annotations import AnnotatedPhoto, read_annotations
from posedet.data.formats.ultralytics import is_ultralytics, read_ultralytics
from posedet.errors import ConfigError
from posedet.files import photo_folder
from posedet.skeleton import Skeleton

log = logging.getLogger(__name__)


def read_sets(texts: Sequence[str], skeleton: Skeleton) -> tuple[list[AnnotatedPhoto], list[int]]:
    """All photos of several sets, and how often each is seen an epoch.

    Each text is `JSON[:FOLDER][*N]` for COCO-style annotations, `FOLDER[:PART][*N]` or `data.yaml[:PART][*N]` for
    Ultralytics' format, of which the part `train` is taken unless another is named. Keypoints that no set labels are
    named in the log: they will not be learnt.
    """
    photos: list[AnnotatedPhoto] = []
    repeats: list[int] = []
    for text in texts:
        path, beside, times = parse_data(text)
        if is_ultralytics(path):
            photo_set = read_ultralytics(path, skeleton, str(beside))
        else:
            photo_set = read_annotations(path, beside, skeleton)
        photos += photo_set
        repeats += [times] * len(photo_set)
    _name_unlabelled(photos, skeleton)
    return photos, repeats


def _name_unlabelled(photos: Sequence[AnnotatedPhoto], skeleton: Skeleton) -> None:
    persons = [person for photo in photos for person in photo.persons if not person.ignore]
    labelled = np.any([person.visibility > 0 for person in persons], axis=0)
    if persons and not labelled.all():
        names = [name for name, known in zip(skeleton.keypoints, labelled, strict=True) if not known]
        log.warning("no photo labels %s: not learnt", ", ".join(names))


def parse_data(text: str) -> tuple[Path, Path, int]:
    """`PATH[:BESIDE][*N]` -> the path, the folder of its photos or the part of the set, times an epoch."""
    text, star, times = text.partition("*")
    if star and not (times.isdigit() and int(times) > 0):
        raise ConfigError(f"--data {text}*{times}: after the star a whole number is expected")
    name, colon, beside = text.partition(":")
    path = Path(name)
    default = Path("train") if is_ultralytics(path) else photo_folder(path)
    return path, Path(beside) if colon else default, int(times) if star else 1
