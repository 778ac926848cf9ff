"""Results for the server of a benchmark whose annotations are not public, such as COCO test-dev."""

import io
import json
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from posedet.data.annotations import AnnotatedPhoto, fingerprint
from posedet.data.formats.format import AnnotationFile
from posedet.data.json_entries import entries, new_identity, photo_path, photo_sides
from posedet.data.sources import Source, check_photo_files
from posedet.errors import DataError
from posedet.evaluation.protocols import Protocol
from posedet.evaluation.run import GENERATOR, Predict, journal_of, predict_all
from posedet.files import photo_folder
from posedet.outputs import write_atomically


class Submission(NamedTuple):
    """A file for a benchmark's server."""

    file: Path
    num_photos: int
    num_poses: int


def read_image_list(source: Source) -> tuple[AnnotatedPhoto, ...] | None:
    """Read a list of photos in COCO's format, such as `image_info_test-dev2017.json`; None if the source is not one.

    An image list has `images` but no `annotations`. Raises DataError for an invalid entry, and MissingPhotosError for
    missing photos.
    """
    file = AnnotationFile(source.path)
    if not file.is_json or not os.path.isfile(source.path):
        return None
    if not isinstance(file.json, dict) or "images" not in file.json or "annotations" in file.json:
        return None
    folder = photo_folder(source.path) if source.beside is None else Path(source.beside)
    photos: dict[int, AnnotatedPhoto] = {}
    for place, entry in entries(file.json, "images", str(source.path)):
        image_id = new_identity(entry, photos, place)
        path, size = photo_path(entry, place, folder), photo_sides(entry, place)
        photos[image_id] = AnnotatedPhoto(image_id, path, size, (), place=place)
    if not photos:
        raise DataError(f"{source.path}: no photos")
    check_photo_files(tuple(photos.values()))
    return tuple(photos.values())


def write_submission(
    predict: Predict,
    photos: Sequence[AnnotatedPhoto],
    protocol: Protocol,
    output: Path,
    *,
    images: Path,
    model: str,
    settings: Mapping[str, Any],
    batch: int = 1,
) -> Submission:
    """Predict every photo, and write the results as COCO's server takes them: a zip file that holds one JSON file.

    Args:
        predict: A detector that returns poses with the protocol's keypoints, weak ones included.
        photos: The photos of the image list.
        protocol: The rules of the benchmark, which count only the best poses of each photo.
        output: The folder for `person_keypoints_SET_MODEL_results.zip`. An interrupted call can be resumed.
        images: The file of the image list, `image_info_SET.json`.
        model: The name of the model.
        settings: Everything that the poses depend on.
        batch: See `predict_all`.
    """
    about = {"model": model, "settings": dict(settings), "protocol": protocol.name, "photos": fingerprint(photos)}
    file = submission_file(output, images, model)
    with journal_of(output, about, len(photos)) as journal:
        found = predict_all(predict, [(photo.image_id, photo.path) for photo in photos], journal, batch=batch)
        results, counts = [], dict.fromkeys((photo.image_id for photo in photos), 0)
        for result in found:  # the best of each photo come first
            counts[result["image_id"]] += 1
            if counts[result["image_id"]] <= protocol.max_detections:
                results.append({key: result[key] for key in ("image_id", "category_id", "keypoints", "score")})
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.comment = f"generator: {GENERATOR}".encode()
            archive.writestr(f"{file.stem}.json", json.dumps(results))
        write_atomically(file, GENERATOR, packed.getvalue())
    return Submission(file, len(photos), len(results))


def submission_file(output: Path, images: Path, model: str) -> Path:
    """The file that `write_submission` writes."""
    photos = _words(photo_folder(images).name.removeprefix("image_info_"))
    return output / f"person_keypoints_{photos}_{_words(model)}_results.zip"


def _words(name: str) -> str:
    """Return a part of a file name without the underscores that separate the parts."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") or "model"
