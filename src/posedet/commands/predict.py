"""The command `posedet predict`."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from posedet.commands.options import AddCommand, add_detector_options, make_folder, open_detector
from posedet.errors import ConfigError, PhotoError
from posedet.files import find_photos, one_line, picture_names, write_atomically


def add_commands(add: AddCommand) -> None:
    predict = add("predict", "photos -> annotated pictures and poses.json", "predict team.jpg holiday/ --output found")
    predict.add_argument(
        "photos", nargs="+", metavar="PATH", help="photo, folder of photos, or quoted pattern such as 'trip/**/*.jpg'"
    )
    predict.add_argument(
        "--output",
        type=Path,
        default=Path("poses"),
        metavar="FOLDER",
        help="folder for the pictures and poses.json (COCO results with file names; default: %(default)s)",
    )
    predict.add_argument("--scores", action="store_true", help="write each person's score into the picture")
    predict.add_argument("--no-pictures", action="store_true", help="write only poses.json (faster)")
    add_detector_options(predict)
    predict.set_defaults(command=_predict)


def _predict(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from posedet.runtime.bulk import best_at_once, find_all, results

    if options.scores and options.no_pictures:
        raise ConfigError("--scores does not go with --no-pictures: scores are written into the pictures")
    photos = find_photos(options.photos)
    detector = open_detector(options, at_once=best_at_once(len(photos), options.threads))
    pictures = None if options.no_pictures else [options.output / name for name in picture_names(photos)]
    make_folder(options.output)
    _check_originals(options.output, photos, pictures or [])
    entries: list[dict[str, object]] = []
    rows: list[tuple[str, str]] = []
    num_people = num_failed = 0
    found = find_all(detector, photos, pictures, scores=options.scores)
    progress = tqdm(found, total=len(photos), unit="photo", disable=None)
    for image_id, (photo, poses) in enumerate(zip(photos, progress, strict=True), start=1):
        if isinstance(poses, PhotoError):
            num_failed += 1
            rows.append((one_line(photo), "failed"))
            tqdm.write(f"posedet: {poses}", file=sys.stderr)
            continue
        num_people += len(poses)
        best = f", best score {poses.scores[0]:.2f}" if len(poses) else ""
        rows.append((one_line(photo), _count(len(poses), "person", "people") + best))
        entries += results(poses, image_id, photo)
    write_atomically(options.output / "poses.json", json.dumps(entries).encode())
    width = min(60, max(len(name) for name, _ in rows))
    for name, people in rows:
        print(f"{name:<{width}}  {people}")
    total = f"{_count(len(photos), 'photo', 'photos')}, {_count(num_people, 'person', 'people')}"
    print(f"{total}{f', {num_failed} failed' if num_failed else ''} -> {one_line(options.output)}")
    return 1 if num_failed else 0


def _check_originals(folder: Path, photos: Sequence[Path], pictures: Sequence[Path]) -> None:
    """Refuse a folder in which a picture would overwrite a photo."""
    originals = {_identity(photo) for photo in photos} - {None}
    for picture in pictures:
        if _identity(picture) in originals:
            raise ConfigError(
                f"--output {one_line(folder)}: would overwrite the photo {one_line(picture)}; choose another folder"
            )


def _identity(path: Path) -> tuple[int, int] | None:
    """Identifies a file whatever its name; None if it does not exist."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
