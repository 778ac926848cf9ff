"""Find annotations and photos below the root folder of COCO or CrowdPose, in the layouts in which people keep them."""

from pathlib import Path
from typing import NamedTuple

from posedet.data.sources import Source
from posedet.errors import DataError


class Layout(NamedTuple):
    """What a root folder holds."""

    evaluation: Source
    train: Source | None  # None: not there


# Dataset -> part -> names of its annotation file without .json, and of its photo folder.
_PARTS = {
    "coco": {
        "evaluation": (["person_keypoints_val2017"], "val2017"),
        "train": (["person_keypoints_train2017"], "train2017"),
    },
    "crowdpose": {
        "evaluation": (["crowdpose_test", "mmpose_crowdpose_test"], "images"),
        "train": (["crowdpose_train", "mmpose_crowdpose_train"], "images"),
    },
}
# Folders of annotations and of photos below the root.
_ANNOTATIONS = ("annotations", "json", "annotations/json", ".")
_PHOTOS = (".", "images")


def find_layout(dataset: str, root: Path) -> Layout:
    """Find the parts of `dataset`, "coco" or "crowdpose", below `root`: those that the paper evaluates and trains on.

    Raises DataError, which says what was looked for, if there is nothing to evaluate on.
    """
    (name, *_), photos = _PARTS[dataset]["evaluation"]
    evaluation = _find(root, *_PARTS[dataset]["evaluation"])
    if evaluation is None:
        raise DataError(f"{root}: expected the root folder of {dataset}, with annotations/{name}.json and {photos}/")
    return Layout(evaluation, _find(root, *_PARTS[dataset]["train"]))


def _find(root: Path, names: list[str], photos: str) -> Source | None:
    files = [root / folder / f"{name}.json" for folder in _ANNOTATIONS for name in names]
    folders = [root / folder / photos for folder in _PHOTOS]
    file = next((file for file in files if file.is_file()), None)
    folder = next((folder for folder in folders if folder.is_dir()), None)
    return None if file is None or folder is None else Source(file, str(folder))
