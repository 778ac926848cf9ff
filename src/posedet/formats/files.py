"""The formats of `posedet predict --format`: which files each writes into the output folder, and how."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from posedet.formats.cvat import to_cvat, to_cvat_labels, to_cvat_xml
from posedet.formats.label_studio import to_label_studio, to_label_studio_config
from posedet.formats.openpose import openpose_file, to_openpose
from posedet.formats.photos import PosedPhoto, skeleton_of
from posedet.formats.tables import to_csv, to_parquet
from posedet.formats.ultralytics import to_ultralytics, ultralytics_files


class FileFormat(NamedTuple):
    """How a format is written."""

    outputs: Callable[[Path, Sequence[str]], list[Path]]  # the output folder, the names of the photos -> all files
    write: Callable[[Path, Sequence[PosedPhoto], str], None]  # the output folder, the photos, the generator


def _cvat(folder: Path, photos: Sequence[PosedPhoto], generator: str) -> None:
    to_cvat(photos, folder / "cvat.json", generator=generator)
    to_cvat_labels(skeleton_of(photos), folder / "cvat-labels.json", generator=generator)


def _cvat_xml(folder: Path, photos: Sequence[PosedPhoto], generator: str) -> None:
    to_cvat_xml(photos, folder / "cvat.xml", generator=generator)
    to_cvat_labels(skeleton_of(photos), folder / "cvat-labels.json", generator=generator)


def _label_studio(folder: Path, photos: Sequence[PosedPhoto], generator: str) -> None:
    to_label_studio(photos, folder / "label-studio.json", generator=generator)
    to_label_studio_config(skeleton_of(photos), folder / "label-studio.xml", generator=generator)


FILE_FORMATS: Mapping[str, FileFormat] = {
    "cvat": FileFormat(lambda folder, _: [folder / "cvat.json", folder / "cvat-labels.json"], _cvat),
    "cvat-xml": FileFormat(lambda folder, _: [folder / "cvat.xml", folder / "cvat-labels.json"], _cvat_xml),
    "label-studio": FileFormat(
        lambda folder, _: [folder / "label-studio.json", folder / "label-studio.xml"], _label_studio
    ),
    "ultralytics": FileFormat(
        lambda folder, names: ultralytics_files(folder / "ultralytics", names),
        lambda folder, photos, generator: to_ultralytics(photos, folder / "ultralytics", generator=generator),
    ),
    "openpose": FileFormat(
        lambda folder, names: [openpose_file(folder / "openpose", name) for name in names],
        lambda folder, photos, generator: to_openpose(photos, folder / "openpose", generator=generator),
    ),
    "csv": FileFormat(
        lambda folder, _: [folder / "poses.csv"],
        lambda folder, photos, generator: to_csv(photos, folder / "poses.csv", generator=generator),
    ),
    "parquet": FileFormat(
        lambda folder, _: [folder / "poses.parquet"],
        lambda folder, photos, generator: to_parquet(photos, folder / "poses.parquet", generator=generator),
    ),
}
