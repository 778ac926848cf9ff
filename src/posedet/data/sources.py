"""Read annotated photos in any supported format, from the source that a user names."""

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from posedet.data.annotations import AnnotatedPhoto, PhotoSet, forget_untold
from posedet.data.fit import check_fit
from posedet.data.formats import coco, ochuman, ultralytics
from posedet.data.formats.format import AnnotationFile, Format
from posedet.data.remarks import Reporter, refuse
from posedet.errors import ConfigError, DataError
from posedet.skeleton import Skeleton

# The first format that recognises a file reads it. OCHuman comes before COCO, because both are JSON.
FORMATS = (ultralytics.FORMAT, ochuman.FORMAT, coco.FORMAT)

log = logging.getLogger(__name__)


class MissingPhotosError(DataError):
    """Photos named by the annotations are missing; they may be in another folder."""


@dataclass(frozen=True)
class Source:
    """An annotation file or folder, with the options that a user gives with it.

    Written `JSON[:FOLDER][*N]` for COCO-style annotations and OCHuman's, `FOLDER[:PART][*N]` or `data.yaml[:PART][*N]`
    for Ultralytics' format.
    """

    path: Path
    beside: str | None = None  # the folder of the photos, or the part of the set (train, val); None: the usual one
    repeats: int = 1  # how often each photo is seen in an epoch
    category: str | None = None  # name or id of the only category to read; None: all, with the same keypoints

    def __str__(self) -> str:
        return str(self.path) if self.beside is None else f"{self.path}:{self.beside}"

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Parse the text that a user writes. Names may hold colons and stars; a drive has a colon (`C:\\set.json`).

        Of all ways to read the text, the first one whose files exist is taken, the longest names first. If there is
        none, the colon that is no drive's and the last star separate. Raises ConfigError unless a whole number follows.
        """
        counted = re.fullmatch(r"(.*)\*([1-9][0-9]{0,5})", text, re.DOTALL)
        readings = [(text, 1), (counted[1], int(counted[2]))] if counted else [(text, 1)]
        for whole, repeats in readings:
            for end in sorted([len(whole), *(colon.start() for colon in re.finditer(":", whole))], reverse=True):
                path, beside = whole[:end], whole[end + 1 :] if end < len(whole) else None
                if os.path.exists(path) and ("*" not in (beside or "") or os.path.exists(beside or "")):
                    return cls(Path(path), beside, repeats)
        if "*" in text and not counted:
            raise ConfigError(f"{text}: expected a whole number of at least 1 after the star")
        whole, repeats = readings[-1]
        path = re.match(r"([A-Za-z]:(?=[\\/]))?[^:]*", whole)[0]  # type: ignore[index]
        return cls(Path(path), whole[len(path) + 1 :] if path != whole else None, repeats)


def read_source(source: Source, skeleton: Skeleton | None, report: Reporter) -> tuple[AnnotatedPhoto, ...]:
    """Read the annotated photos of a source, and pass every mistake to `report`.

    skeleton: the wanted keypoints; None for each category's own. The photo files need not exist.
    """
    file = AnnotationFile(source.path, source.category)
    return _format_of(file).read(file, source.beside, skeleton, report)


def read_photos(source: Source | str, skeleton: Skeleton, *, check_files: bool = True) -> tuple[AnnotatedPhoto, ...]:
    """Read the annotated photos of a source.

    Args:
        source: A `Source`, or the text that describes it.
        skeleton: The wanted keypoints. They are matched by name.
        check_files: Whether all photo files must exist.

    Returns:
        All photos in the order of the file, also those without people.

    Raises:
        DataError: For the first mistake in the annotations, in one line that names the file and the entry; if the
            keypoints of many people cannot be pixels of the photos; or if a photo has another size than annotated.
        PhotoError: If the header of a photo cannot be read.
        MissingPhotosError: If `check_files` is set and photos do not exist.
    """
    source = Source.parse(source) if isinstance(source, str) else source
    photos = read_source(source, skeleton, refuse)
    if not photos:
        raise DataError(f"{source.path}: no photos")
    forget_untold([person for photo in photos for person in photo.persons])
    if check_files:
        check_photo_files(photos)
    check_fit(photos)
    return photos


def read_sets(sources: Sequence[Source | str], skeleton: Skeleton) -> PhotoSet:
    """Read all photos of several sources, and how often each appears in an epoch.

    A warning names the keypoints that no source labels, because they will not be learnt. Raises the same errors as
    `read_photos`.
    """
    photos: list[AnnotatedPhoto] = []
    repeats: list[int] = []
    for each in sources:
        source = Source.parse(each) if isinstance(each, str) else each
        found = read_photos(source, skeleton)
        photos += found
        repeats += [source.repeats] * len(found)
    _name_unlabelled(photos, skeleton)
    return PhotoSet(tuple(photos), tuple(repeats))


def check_photo_files(photos: Sequence[AnnotatedPhoto]) -> None:
    """Raise MissingPhotosError, which names the first missing photo, unless all photo files exist."""
    missing = [photo for photo in photos if not os.path.isfile(photo.path)]
    if missing:
        count = f"{len(missing)} of {len(photos)} are missing"
        raise MissingPhotosError(f"{missing[0].place}: {str(missing[0].path)!r:.200}: no such photo ({count})")


def _format_of(file: AnnotationFile) -> Format:
    for each in FORMATS:
        if each.recognises(file):
            return each
    if not os.path.exists(file.path):
        raise DataError(f"{file.path}: no such file or folder")
    raise DataError(
        f"{file.path}: unknown annotation format; expected one of: {', '.join(each.name for each in FORMATS)}"
    )


def _name_unlabelled(photos: Sequence[AnnotatedPhoto], skeleton: Skeleton) -> None:
    persons = [person for photo in photos for person in photo.persons if not person.ignore]
    labelled = np.any([person.labelled for person in persons], axis=0)
    if persons and not labelled.all():
        names = [name for name, known in zip(skeleton.keypoints, labelled, strict=True) if not known]
        log.warning("no photo labels %s: these keypoints will not be learnt", ", ".join(names))
