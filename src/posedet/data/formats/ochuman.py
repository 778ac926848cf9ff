"""OCHuman, photos of people who hide each other, from its own JSON to COCO's form.

Its file (format: github.com/liruilong940607/OCHumanApi) nests annotations in images, boxes are x1 y1 x2 y2, and of the
19 named keypoints COCO has 17. Its val and test sets are also published in COCO's form; such a file passes as it is.
"""

import reprlib
from typing import Any

from posedet.data.formats.coco import MAX_NUMBER, entries, keypoint_table, listed, number, numbers, present
from posedet.errors import DataError

# OCHuman: 0 missing, 1 seen, 2 hidden by oneself, 3 hidden by others. COCO's flags of its published conversion:
_COCO_FLAGS = {0: 0, 1: 2, 2: 2, 3: 1}


def coco_form(data: Any, where: str) -> dict[str, Any]:
    """COCO's form of the content of `ochuman.json`; `where` names the file in errors.

    Taken are people with keypoints and photos that have such people. As in the published conversion photos count from
    1 in the order of their `image_id`, a person's area is that of the box, and other people, of whom only a box is
    known, are left out: who finds them is counted wrong. Keypoints keep their names and order, the flags become COCO's.
    Raises DataError, one line that names the entry.
    """
    if isinstance(data, dict) and "annotations" in data:
        return data
    names = _names(data, where)
    category = {"id": 1, "name": "person", "keypoints": names}
    coco: dict[str, Any] = {"images": [], "annotations": [], "categories": [category]}
    for place, photo in sorted(entries(data, "images", where), key=lambda each: _order(*each)):
        people = [
            (spot, person)
            for spot, person in listed(present(photo, "annotations", place), f"{place}.annotations")
            if person.get("keypoints")
        ]
        if not people:
            continue
        image_id = len(coco["images"]) + 1
        sides = {side: int(number(photo, side, place, low=1, high=MAX_NUMBER)) for side in ("height", "width")}
        coco["images"].append({"id": image_id, "file_name": present(photo, "file_name", place), **sides})
        for spot, person in people:
            annotation_id = len(coco["annotations"]) + 1
            annotation = _annotation(person, spot, len(names))
            coco["annotations"].append({"id": annotation_id, "image_id": image_id, "category_id": 1, **annotation})
    return coco


def _names(data: Any, where: str) -> list[str]:
    if not isinstance(data, dict) or "keypoint_names" not in data:
        raise DataError(f"{where}: 'keypoint_names' is missing; is this OCHuman's own file, or one in COCO's form?")
    names = data["keypoint_names"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{where}: keypoint_names: {reprlib.repr(names)}, expected a list of names")
    return names


def _order(place: str, photo: dict[str, Any]) -> int:
    """A photo's `image_id`: a number, or digits in quotes."""
    image_id = present(photo, "image_id", place)
    text = str(image_id)
    if isinstance(image_id, bool) or not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise DataError(f"{place}.image_id: {reprlib.repr(image_id)}, expected a whole number")
    return int(text)


def _annotation(person: dict[str, Any], where: str, num_keypoints: int) -> dict[str, Any]:
    table = keypoint_table(person, where, num_keypoints)
    for place, flag in enumerate(table[:, 2]):
        if flag not in _COCO_FLAGS:
            raise DataError(f"{where}.keypoints[{3 * place + 2}]: flag {flag:g}, expected 0, 1, 2 or 3")
        table[place, 2] = _COCO_FLAGS[flag]
    left, top, right, bottom = (float(value) for value in numbers(person, "bbox", where, 4, "x1, y1, x2, y2"))
    if right < left or bottom < top:
        raise DataError(f"{where}.bbox: x2 or y2 lies before x1 or y1, expected x1, y1, x2, y2")
    return {
        "keypoints": table.ravel().tolist(),
        "num_keypoints": int((table[:, 2] > 0).sum()),
        "bbox": [left, top, right - left, bottom - top],
        "area": (right - left) * (bottom - top),
        "iscrowd": 0,
    }
