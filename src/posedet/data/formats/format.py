"""What a form of annotations is: a file in `data/formats` describes one by a `Format`."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from posedet.data.annotations import AnnotatedPhoto
from posedet.data.findings import Reporter
from posedet.data.json_entries import read_json
from posedet.skeleton import Skeleton


class AnnotationFile:
    """A file or folder of annotations. JSON is parsed once, however many formats look at it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def is_json(self) -> bool:
        """By its name; a file without a suffix may be JSON too."""
        return self.path.suffix.lower() in ("", ".json", ".gz") and not self.path.is_dir()

    @cached_property
    def json(self) -> Any:
        """The content. Raises DataError, see `read_json`."""
        return read_json(self.path)


class Format(NamedTuple):
    """A form in which annotated photos are kept."""

    name: str  # in messages
    recognises: Callable[[AnnotationFile], bool]
    # From the file, the folder of its photos or its part as the user named it (None: the usual one), the skeleton that
    # is wanted (None: each category's own keypoints, in the file's order) and the report of what is wrong, to the
    # photos in the file's order, with people or without. Raises DataError where nothing at all can be read.
    read: Callable[[AnnotationFile, str | None, Skeleton | None, Reporter], tuple[AnnotatedPhoto, ...]]
