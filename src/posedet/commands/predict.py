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
from posedet.files import find_photos, no_terminal, one_line
from posedet.journal import Journal
from posedet.outputs import make_folder, stamp, write_results
from posedet.poses import Poses


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
    add_overwrite(predict)
    add_detector_options(predict)
    add_tiles(predict)
    predict.set_defaults(command=_predict)


def _predict(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from posedet.runtime.bulk import GENERATOR, best_at_once, find_all, picture_paths, results

    if options.scores and options.no_pictures:
        raise ConfigError("--scores does not go with --no-pictures: scores are written into the pictures")
    photos = find_photos(options.photos)
    pictures = None if options.no_pictures else picture_paths(photos, options.output)
    claim(options, GENERATOR, [options.output / "poses.json", *(pictures or [])])
    detector = open_detector(options, at_once=best_at_once(len(photos), options.threads))
    make_folder(options.output)
    settings = settings_of(options, detector) | {"scores": options.scores, "pictures": pictures is not None}

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
        )
        progress = tqdm(new, initial=len(found), total=len(photos), unit="photo", disable=no_terminal())
        for place, poses in zip(missing, progress, strict=True):
            found[place] = poses
            if isinstance(poses, PhotoError):
                tqdm.write(f"posedet: {poses}", file=sys.stderr)
            else:
                journal.keep(key(place), poses.to_coco(place))
        entries: list[dict[str, object]] = []
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
            entries += results(poses, place + 1, photo)
        write_results(options.output / "poses.json", GENERATOR, entries)
    width = min(60, max(len(name) for name, _ in rows))
    for name, people in rows:
        print(f"{name:<{width}}  {people}")
    total = f"{_count(len(photos), 'photo', 'photos')}, {_count(num_people, 'person', 'people')}"
    print(f"{total}{f', {num_failed} failed' if num_failed else ''} -> {one_line(options.output)}")
    return 1 if num_failed else 0


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
