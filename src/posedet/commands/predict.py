"""The command `posedet predict`."""

import argparse
import json
import sys
from contextlib import suppress
from pathlib import Path

from posedet import __version__
from posedet.commands.options import (
    AddCommand,
    add_detector_options,
    add_overwrite,
    add_tiles,
    claim,
    open_detector,
    settings_of,
)
from posedet.errors import ConfigError, DataError, PhotoError
from posedet.extras import needs
from posedet.files import find_photos, no_terminal, one_line
from posedet.journal import Journal
from posedet.outputs import make_folder, stamp, write_results
from posedet.poses import Poses

FORMATS = ("coco", "cvat", "cvat-xml", "label-studio", "ultralytics", "openpose", "csv", "parquet")


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
    predict.add_argument(
        "--covariances",
        action="store_true",
        help="tell how uncertain the place of each keypoint is: its covariance in poses.json, and in the picture the "
        "ellipse in which it lies with a probability of 90 %%; the model must have them",
    )
    predict.add_argument("--no-pictures", action="store_true", help="write only the poses (faster)")
    predict.add_argument(
        "--format",
        choices=FORMATS,
        default="coco",
        help="write the poses in this format instead of poses.json; cvat (COCO keypoints), cvat-xml, label-studio and "
        "ultralytics are labels for people to correct (default: %(default)s)",
    )
    add_overwrite(predict)
    add_detector_options(predict)
    add_tiles(predict)
    predict.set_defaults(command=_predict)


def _predict(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from posedet.formats.files import FILE_FORMATS
    from posedet.formats.openpose import check_keypoints
    from posedet.formats.photos import PosedPhoto, file_names
    from posedet.image import size_of
    from posedet.runtime.bulk import GENERATOR, best_at_once, find_all, picture_paths, results

    if options.scores and options.no_pictures:
        raise ConfigError("--scores does not go with --no-pictures: scores are written into the pictures")
    if options.format == "parquet":
        needs("posedet predict --format parquet", "parquet", ("pyarrow",))
    photos = find_photos(options.photos)
    pictures = None if options.no_pictures else picture_paths(photos, options.output)
    # Label Studio serves only folders below the one that it is started with.
    names = file_names(photos, with_folder=options.format == "label-studio")
    form = FILE_FORMATS.get(options.format)
    outputs = [options.output / "poses.json"] if form is None else form.outputs(options.output, names)
    claim(options, GENERATOR, [*outputs, *(pictures or [])])
    at_once = best_at_once(len(photos), options.threads)
    detector = open_detector(options, at_once=at_once, covariances=options.covariances)
    if options.format == "openpose":
        check_keypoints(detector.skeleton)
    make_folder(options.output)
    settings = settings_of(options, detector) | {
        "scores": options.scores,
        "covariances": options.covariances,
        "pictures": pictures is not None,
    }

    def key(place: int) -> str:
        """Tells whether photo and picture are still those of a result."""
        return json.dumps([str(photos[place]), stamp(photos[place]), pictures and stamp(pictures[place])])

    with Journal(options.output / "poses", GENERATOR, {"version": __version__, **settings}, len(photos)) as journal:
        journal.forget_others(map(key, range(len(photos))))
        found: dict[int, Poses | PhotoError] = {}
        for place in range(len(photos)):
            with suppress(KeyError, DataError):  # not there, or damaged
                found[place] = Poses.from_coco(journal.kept[key(place)], detector.skeleton)
        missing = [place for place in range(len(photos)) if place not in found]
        new = find_all(
            detector,
            [photos[place] for place in missing],
            pictures and [pictures[place] for place in missing],
            scores=options.scores,
            ellipses=options.covariances,
        )
        progress = tqdm(new, initial=len(found), total=len(photos), unit="photo", disable=no_terminal())
        for place, poses in zip(missing, progress, strict=True):
            found[place] = poses
            if isinstance(poses, PhotoError):
                tqdm.write(f"posedet: {poses}", file=sys.stderr)
            else:
                journal.keep(key(place), poses.to_coco(place))
        good: list[tuple[int, Poses]] = []
        rows: list[tuple[str, str]] = []
        num_people = num_failed = 0
        for place, photo in enumerate(photos):
            poses = found[place]
            if isinstance(poses, PhotoError):
                num_failed += 1
                rows.append((one_line(photo), "failed"))
                continue
            num_people += len(poses)
            best = f", best score {poses.scores[0]:.2f}" if len(poses) else ""
            rows.append((one_line(photo), _count(len(poses), "person", "people") + best))
            good.append((place, poses))
        if form is None:
            entries = [entry for place, poses in good for entry in results(poses, place + 1, photos[place])]
            write_results(options.output / "poses.json", GENERATOR, entries)
        else:
            posed = [PosedPhoto(names[place], size_of(photos[place]), poses) for place, poses in good]
            form.write(options.output, posed, GENERATOR)
    width = min(60, max(len(name) for name, _ in rows))
    for name, people in rows:
        print(f"{name:<{width}}  {people}")
    total = f"{_count(len(photos), 'photo', 'photos')}, {_count(num_people, 'person', 'people')}"
    print(f"{total}{f', {num_failed} failed' if num_failed else ''} -> {one_line(options.output)}")
    return 1 if num_failed else 0


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
