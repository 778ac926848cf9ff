"""Annotated photos, independent of the file format. `data.sources` reads them."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# The share of the box that a person fills, for files without areas (CrowdPose's evaluator; COCO's median is 0.52).
BOX_FILL = 0.53


@dataclass(frozen=True)
class Person:
    """A labelled person. Coordinates in pixels of the photo, pixel centres at integers; K keypoints."""

    keypoints: NDArray[np.float64]  # (K, 2); undefined where visibility is 0
    visibility: NDArray[np.uint8]  # (K,) COCO's flags: 2 seen, 1 labelled but hidden, 0 not labelled
    visible: NDArray[np.int8]  # (K,) 1 seen, 0 hidden or absent, -1 unknown
    keypoint_weights: NDArray[np.float32]  # (K,) 0..1: a teacher's confidence, 1 for labels by people
    box: NDArray[np.float64]  # (4,) x1 y1 x2 y2
    area: float  # of the person's outline, or an estimate; pixels squared, above 0
    score: float  # 0..1: a teacher's confidence in the person, 1 for labels by people
    is_crowd: bool  # the box holds many people
    ignore: bool  # neither a person to find nor background: a crowd, no labelled keypoints, or uncertain
    annotation_id: int
    category_id: int = 1
    place: str = ""  # names the annotation in messages: `val.json: annotations[7] (id 9, a.jpg)`

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """(K,) bool: which keypoints are labelled, whether seen or hidden."""
        return np.asarray(self.visibility > 0)

    @property
    def region(self) -> NDArray[np.float64]:
        """(4,) x1 y1 x2 y2: the box, or where it is empty the bounds of the labelled keypoints."""
        points = self.keypoints[self.labelled]
        if (self.box[2:] > self.box[:2]).all() or not len(points):
            return self.box
        return np.concatenate((points.min(axis=0), points.max(axis=0)))


@dataclass(frozen=True)
class AnnotatedPhoto:
    """A photo and the people in it."""

    image_id: int
    path: Path
    size: tuple[int, int]  # (height, width) as the file says
    persons: tuple[Person, ...]
    only_main_person: bool = False  # other people in the photo are not labelled
    crowd_index: float | None = None  # CrowdPose's measure of how much people overlap
    # Category id -> its keypoints in the file's order; empty if the skeleton has none of them.
    categories: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    place: str = ""  # names the photo in messages: `val.json: images[7]`
    file_name: str = ""  # as the annotations write it, perhaps with folders; results name the photo by it


@dataclass(frozen=True)
class PhotoSet:
    """Photos to train on, and how often each appears in an epoch (once by default)."""

    photos: tuple[AnnotatedPhoto, ...]
    repeats: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "photos", tuple(self.photos))
        object.__setattr__(self, "repeats", tuple(self.repeats) or (1,) * len(self.photos))
        if len(self.repeats) != len(self.photos):
            raise ValueError(f"{len(self.photos)} photos, but {len(self.repeats)} repeats")

    def __len__(self) -> int:
        return len(self.photos)

    @property
    def epoch_length(self) -> int:
        """The number of photos in an epoch, repeats included."""
        return sum(self.repeats)

    def without_empty(self) -> "PhotoSet":
        """Return only the photos that have people."""
        kept = [place for place, photo in enumerate(self.photos) if photo.persons]
        return PhotoSet(tuple(self.photos[place] for place in kept), tuple(self.repeats[place] for place in kept))


def estimated_area(box: NDArray[np.float64], labelled: NDArray[np.float64]) -> float:
    """Estimate the area of a person in pixels squared from the box (4,), x1 y1 x2 y2, and keypoints (L, 2).

    It is `BOX_FILL` of the box. If the box is empty, it is the area around the labelled keypoints, at least 1.
    """
    width, height = box[2:] - box[:2]
    if width > 0 and height > 0:
        return float(width * height * BOX_FILL)
    return max(1.0, float(np.ptp(labelled, axis=0).prod())) if len(labelled) else 1.0


def forget_untold(persons: Sequence[Person]) -> None:
    """Set `visible` to -1 where the flags clearly do not distinguish hidden keypoints from seen ones.

    CrowdPose flags head and neck as hidden (1) for all people, and all keypoints as hidden for 41 % of the people. In
    COCO, 1 % of the people have no visible keypoint.
    """
    if persons:
        never_seen = ~np.any([person.visibility == 2 for person in persons], axis=0)
        for person in persons:
            person.visible[never_seen if (person.visibility == 2).any() else ...] = -1


def fingerprint(photos: Iterable[AnnotatedPhoto]) -> str:
    """Return a checksum (hex) of all annotations and of the paths of the photos."""
    digest = hashlib.sha256()
    for photo in photos:
        digest.update(repr((photo.image_id, str(photo.path.resolve()), photo.size, photo.crowd_index)).encode())
        for person in photo.persons:
            digest.update(repr((person.category_id, person.area, person.ignore, person.is_crowd)).encode())
            for array in (person.keypoints, person.visibility, person.box):
                digest.update(array.tobytes())
    return digest.hexdigest()
