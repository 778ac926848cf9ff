"""The interface of an annotation format. Each module in `data/formats` provides one `Format`."""

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from posedet.data.annotations import AnnotatedPhoto
from posedet.data.json_entries import read_json
from posedet.data.remarks import Reporter
from posedet.errors import DataError
from posedet.skeleton import Skeleton


class AnnotationFile:
    """A file or folder of annotations. JSON is parsed once, however many formats look at it.

    category: the name or id of the only category to read; None for all, which must have the same keypoints.
    """

    def __init__(self, path: Path, category: str | None = None) -> None:
        self.path, self.category = path, category

    @property
    def is_json(self) -> bool:
        """Whether the file may be JSON, judged by its name; it may have no suffix."""
        return self.path.suffix.lower() in ("", ".json", ".gz") and not os.path.isdir(self.path)

    @cached_property
    def json(self) -> Any:
        """The parsed content. Raises DataError, see `read_json`."""
        return read_json(self.path)


class Format(NamedTuple):
    """A format of annotated photos."""

    name: str  # in messages
    recognises: Callable[[AnnotationFile], bool]
    # Arguments: the file; the photo folder or the part of the set (None: the default); the wanted skeleton (None: each
    # category's own keypoints, in the file's order); the reporter of mistakes. Returns all photos in the file's order.
    # Raises DataError if nothing can be read.
    read: Callable[[AnnotationFile, str | None, Skeleton | None, Reporter], tuple[AnnotatedPhoto, ...]]


class CategoryError(DataError):
    """Categories have different keypoints, so that one must be chosen; or the chosen one does not exist."""
