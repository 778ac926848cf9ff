"""Label Studio: tasks with predictions to correct, the labelling configuration for them, and what it exports.

A person is a rectangle, and its keypoints are the regions below it (`parentID`), as Label Studio's own converter to
YOLO expects. A hidden keypoint has the choice "hidden".
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from posedet.data.json_entries import MAX_SIDE, listed, number, present, read_json
from posedet.errors import DataError
from posedet.files import one_line
from posedet.formats.photos import GENERATOR, PosedPhoto, labelled, labels, size_of, skeleton_of
from posedet.keypoint_names import find_names
from posedet.outputs import write_atomically, write_results
from posedet.poses import Poses
from posedet.skeleton import COCO, Skeleton

LOCAL_FILES = "/data/local-files/?d="
PERSON, KEYPOINT, VISIBILITY, HIDDEN = "person", "keypoint", "visibility", "hidden"  # names of tags, and their values
POINT_WIDTH = 0.4  # of a dot, in percent of the photo's width
MAX_PERCENT = 1000.0


def to_label_studio(
    photos: Sequence[PosedPhoto], path: str | Path, *, images: str = LOCAL_FILES, generator: str = GENERATOR
) -> None:
    """Write a task for each photo, with the poses as predictions.

    Args:
        photos: Photos with their sizes and poses, all with the same skeleton.
        path: The JSON file.
        images: The address of the folder of the photos. Default: that of Label Studio's local files.
        generator: The command that writes it, as its mark.

    Raises:
        DataError: If a size is unknown or skeletons differ.
        PoseDetError: If the file cannot be written, or is there already and was not written by `generator`.
    """
    skeleton = skeleton_of(photos)
    tasks = []
    for photo in photos:
        regions, scores = _regions(photo, skeleton)
        prediction = {"model_version": "posedet", "score": round(float(np.mean(scores or [0])), 4), "result": regions}
        tasks.append({"data": {"image": images + quote(photo.file_name)}, "predictions": [prediction]})
    write_results(Path(path), generator, tasks)


def _regions(photo: PosedPhoto, skeleton: Skeleton) -> tuple[list[dict[str, Any]], list[float]]:
    """Return the regions of a prediction, and the scores of its people."""
    height, width = size_of(photo)
    found = labels(photo)
    common = {"to_name": "image", "image_rotation": 0, "original_width": width, "original_height": height}
    regions: list[dict[str, Any]] = []
    for person, (box, score) in enumerate(zip(found.boxes, found.scores.tolist(), strict=True)):
        x1, y1, x2, y2 = (box / (width, height, width, height) * 100).round(4).tolist()
        sides = {"x": x1, "y": y1, "width": round(x2 - x1, 4), "height": round(y2 - y1, 4), "rotation": 0}
        kind = {"id": f"person-{person}", "from_name": PERSON, "type": "rectanglelabels", "score": score}
        regions.append({**common, **kind, "value": {**sides, "rectanglelabels": [PERSON]}})
        for k in np.flatnonzero(found.flags[person]):
            x, y = (found.keypoints[person, k] / (width, height) * 100).round(4).tolist()
            place = {"x": x, "y": y, "width": POINT_WIDTH}
            name = {"id": f"person-{person}-{k}", "parentID": f"person-{person}"}
            kind = {"from_name": KEYPOINT, "type": "keypointlabels"}
            regions.append({**common, **name, **kind, "value": {**place, "keypointlabels": [skeleton.keypoints[k]]}})
            if found.flags[person, k] == 1:
                kind = {"from_name": VISIBILITY, "type": "choices"}
                regions.append({**common, **name, **kind, "value": {**place, "choices": [HIDDEN]}})
    return regions, found.scores.tolist()


def to_label_studio_config(skeleton: Skeleton, path: str | Path, *, generator: str = GENERATOR) -> None:
    """Write the labelling configuration ("Labeling Interface", "Code") for the tasks of `to_label_studio`.

    Args:
        skeleton: The keypoints.
        path: The XML file.
        generator: The command that writes it, as its mark.

    Raises:
        PoseDetError: If the file cannot be written, or is there already and was not written by `generator`.
    """
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", {"name": "image", "value": "$image", "zoom": "true"})
    people = ElementTree.SubElement(view, "RectangleLabels", {"name": PERSON, "toName": "image"})
    ElementTree.SubElement(people, "Label", {"value": PERSON, "model_index": "0"})
    keypoints = ElementTree.SubElement(view, "KeyPointLabels", {"name": KEYPOINT, "toName": "image"})
    for k, name in enumerate(skeleton.keypoints):
        ElementTree.SubElement(keypoints, "Label", {"value": name, "model_index": str(k)})
    where = {"perRegion": "true", "whenTagName": KEYPOINT, "choice": "multiple"}
    choices = ElementTree.SubElement(view, "Choices", {"name": VISIBILITY, "toName": "image", **where})
    ElementTree.SubElement(choices, "Choice", {"value": HIDDEN})
    ElementTree.indent(view)
    text = f"<!-- generator: {generator} -->\n{ElementTree.tostring(view, encoding='unicode')}\n"
    write_atomically(Path(path), generator, text.encode())


def from_label_studio(path: str | Path, skeleton: Skeleton = COCO) -> list[PosedPhoto]:
    """Read a JSON file that Label Studio exports, or one of `to_label_studio`.

    Args:
        path: The JSON file.
        skeleton: The wanted keypoints. They are found by name.

    Returns:
        A photo for each task; its size is unknown if it has no regions. People have a score of 1. They are those of the
            newest annotation that was not cancelled, otherwise those of the first prediction. A keypoint without a
            person above it belongs to the smallest rectangle of a person that contains it and lacks this keypoint.

    Raises:
        DataError: If the file is invalid. The message names the entry.
    """
    return [_photo(task, place, skeleton) for place, task in listed(read_json(path), one_line(path))]


def _photo(task: dict[str, Any], place: str, skeleton: Skeleton) -> PosedPhoto:
    data = present(task, "data", place)
    if not isinstance(data, dict) or not isinstance(data.get("image"), str):
        raise DataError(f"{place}.data: {data!r:.80}, expected an object with image")
    where, answer = _answer(task, place)
    people: dict[str, _Person] = {}
    keypoints: dict[str, tuple[str, str, NDArray[np.float64], Any]] = {}  # id -> place, name, x and y, parent
    hidden: set[str] = set()
    size = None
    for each, region in listed(answer.get("result", []), f"{where}.result"):
        kind, value = region.get("type"), region.get("value")
        if kind not in ("rectanglelabels", "keypointlabels", "choices") or not isinstance(value, dict):
            continue
        identity, marks = str(region.get("id")), value.get(kind)
        if not isinstance(marks, list) or not all(isinstance(mark, str) for mark in marks):
            raise DataError(f"{each}.value.{kind}: {marks!r:.80}, expected a list of names")
        if kind == "choices":
            hidden |= {identity} if HIDDEN in marks else set()
            continue
        height, width = (
            int(number(region, f"original_{side}", each, low=1, high=MAX_SIDE)) for side in ("height", "width")
        )
        if (size := size or (height, width)) != (height, width):
            raise DataError(f"{each}.original_height, original_width: {height}, {width}, but {size} before")
        x, y = (number(value, axis, f"{each}.value", low=-MAX_PERCENT, high=MAX_PERCENT) for axis in "xy")
        point = np.array([x, y]) / 100 * (width, height)
        if kind == "keypointlabels":
            keypoints[identity] = (each, marks[0] if marks else "", point, region.get("parentID"))
        elif PERSON in marks:
            sides = [number(value, side, f"{each}.value", low=0, high=MAX_PERCENT) for side in ("width", "height")]
            people[identity] = _Person(point, point + np.array(sides) / 100 * (width, height), {})
    for identity, (each, name, point, parent) in keypoints.items():
        _owner(people, parent, name, point, each).keypoints[name] = (point, 1 if identity in hidden else 2)
    return PosedPhoto(_file_name(data["image"]), size, _poses(list(people.values()), skeleton))


class _Person(NamedTuple):
    """A rectangle, and the keypoints that belong to it."""

    top_left: NDArray[np.float64]
    bottom_right: NDArray[np.float64]
    keypoints: dict[str, tuple[NDArray[np.float64], int]]  # name -> x and y in pixels, and COCO's flag


def _answer(task: dict[str, Any], place: str) -> tuple[str, dict[str, Any]]:
    """Return the annotation or prediction of a task that counts, and its place."""
    annotations = list(listed(task.get("annotations", []), f"{place}.annotations"))
    if finished := [each for each in annotations if not each[1].get("was_cancelled")]:
        return max(finished, key=lambda each: str(each[1].get("created_at", "")))
    predictions = task.get("predictions", [])
    if isinstance(predictions, list) and all(isinstance(each, int) for each in predictions):
        predictions = []  # an export has only the ids of predictions
    return next(listed(predictions, f"{place}.predictions"), (place, {}))


def _owner(people: dict[str, _Person], parent: Any, name: str, point: NDArray[np.float64], where: str) -> _Person:
    """Return the person that a keypoint belongs to."""
    if parent in people:
        return people[parent]
    around = [
        each
        for each in people.values()
        if name not in each.keypoints and (each.top_left <= point).all() and (point <= each.bottom_right).all()
    ]
    if not around:
        raise DataError(f"{where}: {name!r:.80} belongs to no rectangle of a person; drag it onto one in the list")
    return min(around, key=lambda each: float((each.bottom_right - each.top_left).prod()))


def _poses(people: Sequence[_Person], skeleton: Skeleton) -> Poses:
    keypoints = np.zeros((len(people), skeleton.num_keypoints, 2))
    flags = np.zeros(keypoints.shape[:2], np.int64)
    for place, person in enumerate(people):
        for k, found in enumerate(find_names(skeleton.keypoints, list(person.keypoints))):
            if found is not None:
                keypoints[place, k], flags[place, k] = list(person.keypoints.values())[found]
    return labelled(keypoints, flags, skeleton)


def _file_name(address: str) -> str:
    """Return the path of a local file, or the last part of any other address."""
    if address.startswith(LOCAL_FILES):
        return unquote(address.removeprefix(LOCAL_FILES))
    return unquote(PurePosixPath(urlsplit(address).path).name)
