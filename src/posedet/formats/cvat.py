"""CVAT: COCO keypoints as it imports and exports them, its own XML for images (version 1.1), and its labels."""

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from posedet.data.formats import coco
from posedet.data.formats.format import AnnotationFile
from posedet.data.json_entries import MAX_NUMBER, MAX_SIDE
from posedet.data.keypoint_columns import keypoint_columns
from posedet.data.remarks import refuse
from posedet.errors import DataError
from posedet.files import one_line
from posedet.formats.photos import (
    GENERATOR,
    PosedPhoto,
    annotated,
    labelled,
    labels,
    read_bytes,
    size_of,
    skeleton_of,
)
from posedet.keypoint_names import find_names
from posedet.outputs import write_atomically, write_json, write_results
from posedet.skeleton import COCO, Skeleton

PERSON = "person"

# Where the keypoints of a new person are when somebody draws one: a person who stands, in a square of 100.
_STANDING = {
    "head_top": (50, 2),
    "left_eye": (53, 8),
    "right_eye": (47, 8),
    "left_ear": (57, 10),
    "right_ear": (43, 10),
    "nose": (50, 12),
    "neck": (50, 18),
    "left_shoulder": (62, 22),
    "right_shoulder": (38, 22),
    "left_elbow": (68, 37),
    "right_elbow": (32, 37),
    "left_wrist": (71, 52),
    "right_wrist": (29, 52),
    "left_hip": (58, 52),
    "right_hip": (42, 52),
    "left_knee": (59, 74),
    "right_knee": (41, 74),
    "left_ankle": (60, 95),
    "right_ankle": (40, 95),
}


def to_cvat(photos: Sequence[PosedPhoto], path: str | Path, *, generator: str = GENERATOR) -> None:
    """Write labels as "COCO Keypoints 1.0", which CVAT and most other programs import.

    Args:
        photos: Photos with their sizes and poses, all with the same skeleton.
        path: The JSON file.
        generator: The command that writes it, as its mark.

    Raises:
        DataError: If a size is unknown or skeletons differ.
        PoseDetError: If the file cannot be written, or is there already and was not written by `generator`.
    """
    skeleton = skeleton_of(photos)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, photo in enumerate(photos, 1):
        height, width = size_of(photo)
        images.append({"id": image_id, "file_name": photo.file_name, "height": height, "width": width})
        found = labels(photo)
        for keypoints, flags, (x1, y1, x2, y2) in zip(found.keypoints, found.flags, found.boxes, strict=True):
            box = [round(float(value), 3) for value in (x1, y1, x2 - x1, y2 - y1)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "keypoints": [
                        value
                        for (x, y), flag in zip(keypoints.tolist(), flags.tolist(), strict=True)
                        for value in (x, y, flag)
                    ],
                    "num_keypoints": int((flags > 0).sum()),
                    "bbox": box,
                    "segmentation": [],
                    "area": round(box[2] * box[3], 3),
                    "iscrowd": 0,
                }
            )
    limbs = [[first + 1, second + 1] for first, second in skeleton.limbs]
    category = {"id": 1, "name": PERSON, "supercategory": PERSON, "keypoints": list(skeleton.keypoints)}
    content = {"images": images, "annotations": annotations, "categories": [{**category, "skeleton": limbs}]}
    write_json(Path(path), generator, content, indent=None)


def from_cvat(path: str | Path, skeleton: Skeleton = COCO) -> list[PosedPhoto]:
    """Read "COCO Keypoints 1.0", or any other COCO-style keypoint annotations.

    Args:
        path: The JSON file (`person_keypoints_default.json` in the archive that CVAT exports).
        skeleton: The wanted keypoints. They are found by name.

    Returns:
        All photos of the file. People have a score of 1, seen keypoints too, and keypoints that are not labelled 0.

    Raises:
        DataError: If the file is invalid. The message names the entry.
    """
    photos = coco.read(AnnotationFile(Path(path)), None, skeleton, refuse)
    return [annotated(photo, skeleton) for photo in photos]


def to_cvat_xml(photos: Sequence[PosedPhoto], path: str | Path, *, generator: str = GENERATOR) -> None:
    """Write labels as "CVAT for images 1.1", with a skeleton for each person. Arguments and errors as in `to_cvat`."""
    skeleton = skeleton_of(photos)
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    known = ElementTree.SubElement(ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels")
    label = _label(skeleton)
    for each in (label, *({**below, "parent": PERSON} for below in label["sublabels"])):
        entry = ElementTree.SubElement(known, "label")
        for key in [key for key in ("name", "type", "parent", "svg") if key in each]:
            ElementTree.SubElement(entry, key).text = each[key]
    for number, photo in enumerate(photos):
        height, width = size_of(photo)
        sides = {"width": str(width), "height": str(height)}
        image = ElementTree.SubElement(root, "image", {"id": str(number), "name": _text(photo.file_name), **sides})
        found = labels(photo)
        for keypoints, flags in zip(found.keypoints, found.flags, strict=True):
            person = ElementTree.SubElement(image, "skeleton", {"label": PERSON, "source": "auto", "z_order": "0"})
            for name, (x, y), flag in zip(skeleton.keypoints, keypoints, flags, strict=True):
                state = {"occluded": str(int(flag == 1)), "outside": str(int(flag == 0)), "source": "auto"}
                place = {"label": name, **state, "points": f"{x:.2f},{y:.2f}"}
                ElementTree.SubElement(person, "points", place)
    ElementTree.indent(root)
    head = f'<?xml version="1.0" encoding="utf-8"?>\n<!-- generator: {generator} -->\n'
    write_atomically(Path(path), generator, f"{head}{ElementTree.tostring(root, encoding='unicode')}\n".encode())


def from_cvat_xml(path: str | Path, skeleton: Skeleton = COCO) -> list[PosedPhoto]:
    """Read the skeletons of "CVAT for images 1.1" (`annotations.xml` in the archive that CVAT exports).

    Arguments, result and errors are those of `from_cvat`. Other shapes than skeletons are left out.
    """
    where = one_line(path)
    try:
        text = read_bytes(path).decode("utf-8-sig")
        if "<!DOCTYPE" in text:  # entities may grow without limit
            raise DataError(f"{where}: has a DOCTYPE, which CVAT does not write")
        root = ElementTree.fromstring(text)
    except (UnicodeDecodeError, ElementTree.ParseError) as error:
        raise DataError(f"{where}: not an XML file ({error})") from None
    if root.tag != "annotations":
        raise DataError(f"{where}: <{root.tag:.80}>, expected <annotations> of CVAT for images 1.1")
    photos = []
    for number, image in enumerate(root.findall("image")):
        place = f"{where}: image[{number}]"
        height, width = (int(_number(image, side, place, 1, MAX_SIDE)) for side in ("height", "width"))
        people = [
            _person(person, f"{place}.skeleton[{count}]", skeleton)
            for count, person in enumerate(image.findall("skeleton"))
        ]
        keypoints, flags = (np.array(values) for values in zip(*people, strict=True)) if people else (_NONE, _NONE)
        poses = labelled(keypoints, flags.astype(np.int64), skeleton)
        photos.append(PosedPhoto(_attribute(image, "name", place), (height, width), poses))
    return photos


_NONE = np.zeros(0)


def _person(person: ElementTree.Element, where: str, skeleton: Skeleton) -> tuple[Any, Any]:
    """Return keypoints (K, 2) and COCO's flags (K,) of a skeleton."""
    names, places, flags = [], [], []
    for number, points in enumerate(person.findall("points")):
        place = f"{where}.points[{number}]"
        names.append(_attribute(points, "label", place))
        outside, hidden = (_number(points, name, place, 0, 1) for name in ("outside", "occluded"))
        flags.append(0 if outside else 1 if hidden else 2)
        text = _attribute(points, "points", place)
        values = [_parsed(value) for value in text.split(",")]
        if len(values) != 2 or not all(abs(value) <= MAX_NUMBER for value in values):
            raise DataError(f"{place}.points: {text!r:.80}, expected x,y")
        places.append(values)
    columns = keypoint_columns(names, where, skeleton)
    return columns.spread(np.array(places).reshape(-1, 2), 0, np.float64), columns.spread(np.array(flags), 0, np.int64)


def _attribute(element: ElementTree.Element, name: str, where: str) -> str:
    value = element.get(name)
    if not value:
        raise DataError(f"{where}: '{name}' is missing")
    return value


def _number(element: ElementTree.Element, name: str, where: str, low: float, high: float) -> float:
    text = _attribute(element, name, where)
    if not low <= (value := _parsed(text)) <= high:
        raise DataError(f"{where}.{name}: {text!r:.80}, expected a number from {low:g} to {high:g}")
    return value


def _parsed(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _text(name: str) -> str:
    """Replace characters that XML cannot hold."""
    return re.sub("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", name)


def to_cvat_labels(skeleton: Skeleton, path: str | Path, *, generator: str = GENERATOR) -> None:
    """Write the label "person" with its skeleton, for the tab "Raw" of CVAT's label editor. Errors as in `to_cvat`.

    Args:
        skeleton: The keypoints, each of which becomes a label below "person", and the limbs.
        path: The JSON file.
        generator: The command that writes it, as its mark.
    """
    write_results(Path(path), generator, [_label(skeleton)])


def _label(skeleton: Skeleton) -> dict[str, Any]:
    """Return the label "person" as CVAT describes it: the keypoints below it, and a picture of them."""
    standing = find_names(skeleton.keypoints, list(_STANDING))
    unknown = [k for k, place in enumerate(standing) if place is None]
    shown = [
        (100 * (unknown.index(k) + 1) / (len(unknown) + 1), 98.0) if place is None else [*_STANDING.values()][place]
        for k, place in enumerate(standing)
    ]
    lines = [
        f'<line x1="{shown[a][0]:g}" y1="{shown[a][1]:g}" x2="{shown[b][0]:g}" y2="{shown[b][1]:g}" '
        f'data-type="edge" data-node-from="{a + 1}" data-node-to="{b + 1}"></line>'
        for a, b in skeleton.limbs
    ]
    circles = [
        f'<circle r="0.75" cx="{x:g}" cy="{y:g}" data-type="element node" data-element-id="{k}" data-node-id="{k}" '
        f'data-label-name="{html.escape(name)}"></circle>'
        for k, (name, (x, y)) in enumerate(zip(skeleton.keypoints, shown, strict=True), 1)
    ]
    below = [{"name": name, "type": "points", "attributes": []} for name in skeleton.keypoints]
    return {"name": PERSON, "type": "skeleton", "attributes": [], "sublabels": below, "svg": "".join(lines + circles)}
