"""Poses to and from the formats of other programs. Their packages are imported when a function needs them."""

from posedet.formats.cvat import from_cvat, from_cvat_xml, to_cvat, to_cvat_labels, to_cvat_xml
from posedet.formats.fiftyone import from_fiftyone, to_fiftyone, to_fiftyone_skeleton
from posedet.formats.label_studio import from_label_studio, to_label_studio, to_label_studio_config
from posedet.formats.openpose import from_openpose, to_openpose
from posedet.formats.photos import PosedPhoto
from posedet.formats.supervision import from_supervision, to_supervision
from posedet.formats.tables import from_csv, from_parquet, to_csv, to_parquet
from posedet.formats.ultralytics import from_ultralytics, to_ultralytics

__all__ = [
    "PosedPhoto",
    "from_csv",
    "from_cvat",
    "from_cvat_xml",
    "from_fiftyone",
    "from_label_studio",
    "from_openpose",
    "from_parquet",
    "from_supervision",
    "from_ultralytics",
    "to_csv",
    "to_cvat",
    "to_cvat_labels",
    "to_cvat_xml",
    "to_fiftyone",
    "to_fiftyone_skeleton",
    "to_label_studio",
    "to_label_studio_config",
    "to_openpose",
    "to_parquet",
    "to_supervision",
    "to_ultralytics",
]
