"""One check for each program that reads our files. Each returns what was compared, or raises AssertionError.

The poses are those of the annotations in `photos/`: real people, with seen, hidden and missing keypoints.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from posedet.formats import (
    PosedPhoto,
    from_cvat,
    from_fiftyone,
    from_label_studio,
    from_supervision,
    to_csv,
    to_cvat,
    to_cvat_xml,
    to_fiftyone,
    to_fiftyone_skeleton,
    to_label_studio,
    to_label_studio_config,
    to_openpose,
    to_parquet,
    to_supervision,
    to_ultralytics,
)
from posedet.formats.openpose import composed
from posedet.formats.photos import labels
from posedet.image import read_photo
from posedet.outputs import write_results
from posedet.skeleton import COCO

PHOTOS = Path(__file__).parents[2] / "photos"


def annotated_photos() -> list[PosedPhoto]:
    return from_cvat(PHOTOS / "truth.json")


def check(name: str, found: Any, wanted: Any, atol: float = 0.006) -> None:
    """Raise AssertionError unless all numbers are equal to `atol`, by default half of two digits and some rounding."""
    np.testing.assert_allclose(np.asarray(found, float), np.asarray(wanted, float), atol=atol, err_msg=name)


def supervision(folder: Path) -> str:
    photos = annotated_photos()
    for photo in photos:
        key_points = to_supervision(photo.poses)
        back = from_supervision(key_points)
        check("xy", back.keypoints, photo.poses.keypoints, 0)
        check("scores", back.keypoint_scores, photo.poses.keypoint_scores, 0)
        if len(photo.poses):
            seen = photo.poses.keypoints[0][photo.poses.keypoint_scores[0] > 0]
            box = key_points[:1].as_detections().xyxy[0]
            assert (box[:2] <= seen.min(0) + 1e-3).all() and (box[2:] >= seen.max(0) - 1e-3).all()
    return f"KeyPoints of {len(photos)} photos there and back; boxes of `as_detections`"


def datumaro(folder: Path) -> str:
    """Either Intel's, which knows points, or CVAT's own fork, which makes of them the skeletons that CVAT shows."""
    from datumaro.components import annotation
    from datumaro.components.dataset import Dataset

    photos = annotated_photos()
    fork = hasattr(annotation, "Skeleton")
    coco, xml = folder / "annotations" / "person_keypoints_default.json", folder / "cvat" / "annotations.xml"
    for part in (coco.parent, folder / "images", xml.parent):
        part.mkdir()
    (xml.parent / "images").symlink_to(PHOTOS)  # it reads XML only where photos are
    to_cvat(photos, coco)
    to_cvat_xml(photos, xml)
    for source, kind in ((coco if fork else folder, "coco_person_keypoints"), (xml, "cvat")):
        found = {item.id: item for item in Dataset.import_from(str(source), kind)}
        for photo in photos:
            shapes = found[Path(photo.file_name).stem].annotations
            if fork:  # the elements are in the order of their labels
                shapes = [each for shape in shapes if type(shape).__name__ == "Skeleton" for each in shape.elements]
            points = np.array([shape.points for shape in shapes if type(shape).__name__ == "Points"])
            # Intel's gives the people of COCO's file last first.
            people, wanted = (
                sorted(each.reshape(-1, 34).round(2).tolist()) for each in (points, labels(photo).keypoints)
            )
            check(f"{kind} {photo.file_name}", people, wanted, 0.011)
    return f"COCO keypoints and XML of {len(photos)} photos as {'skeletons' if fork else 'points'}"


def label_studio_sdk(folder: Path) -> str:
    """Its own check of the predictions, and its own converter to YOLO beside ours."""
    from label_studio_sdk.converter import Converter
    from label_studio_sdk.label_interface import LabelInterface

    photos = [photo for photo in annotated_photos() if len(photo.poses)]
    tasks, config, exported = folder / "tasks.json", folder / "config.xml", folder / "exported.json"
    to_label_studio(photos, tasks, images="http://localhost/")
    to_label_studio_config(COCO, config)
    interface = LabelInterface(config.read_text(encoding="utf-8"))
    interface.validate()
    content = json.loads(tasks.read_text(encoding="utf-8"))
    for number, task in enumerate(content):
        (prediction,) = task.pop("predictions")
        assert interface.validate_prediction(prediction)
        task.update(id=number, annotations=[{"id": number, "completed_by": 1, "result": prediction["result"]}])
    write_results(exported, "lab.neighbours", content)
    converter = Converter(config.read_text(encoding="utf-8"), project_dir=str(folder), download_resources=False)
    converter.convert_to_yolo(str(exported), str(folder / "yolo"), is_dir=False)
    to_ultralytics(photos, folder / "ours")
    for photo, back in zip(photos, from_label_studio(exported), strict=True):
        check(photo.file_name, back.poses.keypoints, labels(photo).keypoints)
        check(photo.file_name, back.poses.keypoint_scores, photo.poses.keypoint_scores)
        name = Path(photo.file_name).stem
        (theirs,) = (folder / "yolo" / "labels").glob(f"*__{name}.txt")  # behind a checksum of the address
        check(photo.file_name, _lines(theirs), _lines(folder / "ours" / "labels" / f"{name}.txt"), 2e-4)
    return f"predictions of {len(photos)} photos validated; its YOLO keypoints are ours"


def _lines(file: Path) -> list[list[float]]:
    """The numbers of each line; every flag above 0 is 2, because the converter knows no hidden keypoints."""
    rows = [[float(word) for word in line.split()] for line in file.read_text(encoding="utf-8").splitlines()]
    return [
        [2.0 if place >= 5 and place % 3 == 1 and value else value for place, value in enumerate(row)] for row in rows
    ]


def fiftyone(folder: Path) -> str:
    photos = annotated_photos()
    for photo in photos:
        assert photo.size is not None
        back = from_fiftyone(to_fiftyone(photo.poses, photo.size), photo.size)
        check(photo.file_name, back.keypoints, photo.poses.keypoints, 1e-3)
        check(photo.file_name, back.keypoint_scores, photo.poses.keypoint_scores, 1e-6)
    assert tuple(map(tuple, to_fiftyone_skeleton(COCO).edges)) == COCO.limbs
    return f"Keypoints of {len(photos)} photos there and back; the skeleton"


def pandas(folder: Path) -> str:
    import pandas as pd

    photos = annotated_photos()
    to_csv(photos, folder / "a.csv")
    to_parquet(photos, folder / "a.parquet")
    for table in (pd.read_csv(folder / "a.csv"), pd.read_parquet(folder / "a.parquet")):
        check("nose_x", table["nose_x"], np.concatenate([photo.poses.keypoints[:, 0, 0] for photo in photos]), 0)
        assert table["photo"].tolist() == [photo.file_name for photo in photos for _ in range(len(photo.poses))]
    return f"CSV and Parquet of {len(photos)} photos"


def pose2sim(folder: Path) -> str:
    from Pose2Sim.personAssociation import read_json

    photos = annotated_photos()
    to_openpose(photos, folder)
    for photo in photos:
        people = read_json(folder / f"{Path(photo.file_name).stem}_keypoints.json")
        wanted = composed(photo.poses, BODY)
        check(photo.file_name, np.array(people).reshape(-1, 25, 3)[:, PLACES], wanted, 1e-4)
    return f"OpenPose files of {len(photos)} photos"


# Some keypoints of BODY_25 and their places there.
BODY, PLACES = (("nose",), ("right_wrist",), ("left_knee",), ("left_hip", "right_hip")), [0, 4, 13, 8]


def rtmlib(folder: Path) -> str:
    """Its tracker around our `Body`."""
    from rtmlib import PoseTracker, draw_skeleton

    from posedet.formats.rtmlib import Body

    image = np.ascontiguousarray(read_photo(PHOTOS / "skiers.jpg")[..., ::-1])
    tracker = PoseTracker(Body, det_frequency=4, tracking=False, mode="balanced", backend="onnxruntime", device="cpu")
    keypoints, scores = tracker(image)
    check("keypoints", keypoints, Body()(image)[0], 0)
    picture = draw_skeleton(image.copy(), keypoints, scores)
    assert (picture != image).any()
    empty, _ = tracker(np.zeros((64, 64, 3), np.uint8))
    assert len(empty) == 0
    return f"PoseTracker and draw_skeleton with {len(keypoints)} people, then nobody"


# The module to import -> the distribution, and its check.
READERS: Mapping[str, tuple[str, Callable[[Path], str]]] = {
    "supervision": ("supervision", supervision),
    "datumaro": ("datumaro", datumaro),
    "label_studio_sdk": ("label-studio-sdk", label_studio_sdk),
    "fiftyone": ("fiftyone", fiftyone),
    "pandas": ("pandas", pandas),
    "Pose2Sim": ("pose2sim", pose2sim),
    "rtmlib": ("rtmlib", rtmlib),
}
