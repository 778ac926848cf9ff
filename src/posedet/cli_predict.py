"""The command `posedet predict`, and the options of every command that runs a detector."""

import argparse
import json
import math
import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from posedet import draw
from posedet.errors import ConfigError, PhotoError
from posedet.extras import needs
from posedet.files import find_photos, one_line, picture_names, write_atomically
from posedet.image import read_photo, size_of, write_photo
from posedet.parallel import available_cores, in_order
from posedet.weights import model_file

if TYPE_CHECKING:
    from posedet.detector import PoseDet
    from posedet.poses import Poses
    from posedet.session import Session

# Photos on their way at the same time: each holds its pixels and the network's maps. More cores share these.
MOST_AT_ONCE = 8
HUGE_PIXELS = 50_000_000


def add_commands(add: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    """Add the commands to the parser; `add` makes one from its name, summary and example."""
    predict = add("predict", "photos -> annotated pictures and poses.json", "predict team.jpg holiday/ --output found")
    predict.add_argument(
        "photos", nargs="+", metavar="PATH", help="photo, folder of photos, or quoted pattern such as 'trip/**/*.jpg'"
    )
    predict.add_argument(
        "--output",
        type=Path,
        default=Path("poses"),
        metavar="FOLDER",
        help="for the pictures and poses.json, COCO results with file names (default: %(default)s)",
    )
    predict.add_argument("--scores", action="store_true", help="write each person's score into the picture")
    add_detector_options(predict)
    predict.set_defaults(command=_predict)


def add_detector_options(parser: argparse.ArgumentParser) -> None:
    """The options that `open_detector` reads."""
    parser.add_argument(
        "--model", help="ONNX file or PyTorch weights: name, path or URL#sha256=HEX (default: posedet-s)"
    )
    parser.add_argument(
        "--skeleton", metavar="NAME", help="coco, crowdpose, a file, or names joined by commas: left_wrist,right_wrist"
    )
    parser.add_argument(
        "--score-threshold", type=float, metavar="SHARE", help="leave out poses with a lower score (0 to 1)"
    )
    parser.add_argument(
        "--long-side", type=int, metavar="PIXELS", help="of the network's input: more finds smaller people, slower"
    )
    parser.add_argument("--runtime", choices=("onnxruntime", "openvino"), default="onnxruntime", help="(%(default)s)")
    parser.add_argument("--threads", type=int, metavar="CORES", help="how many to use (default: all)")


def open_detector(options: argparse.Namespace, *, at_once: int = 1) -> "PoseDet":
    """The detector that the options ask for; see `PoseDet` for `at_once`."""
    from posedet.detector import PoseDet

    skeleton = options.skeleton
    if skeleton is not None and "," in skeleton:
        skeleton = [name.strip() for name in skeleton.split(",")]
    file = None if options.model is None else model_file(options.model)
    model: Path | Session | None = file
    if file is not None and file.suffix == ".safetensors":
        needs("... --model x.safetensors", "train", ("torch", "safetensors"))
        from posedet.training.torch_session import open_weights

        model = open_weights(file)
    return PoseDet(
        model,
        skeleton=skeleton,
        score_threshold=options.score_threshold,
        long_side=options.long_side,
        runtime=options.runtime,
        threads=options.threads,
        at_once=at_once,
    )


def _predict(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    photos = find_photos(options.photos)
    at_once = max(1, min(len(photos), options.threads or available_cores(), MOST_AT_ONCE))
    detector = open_detector(options, at_once=at_once)
    pictures = [options.output / name for name in picture_names(photos)]
    _prepare_output(options.output, photos, pictures)
    annotate = _Annotator(detector, scores=options.scores)
    results: list[dict[str, object]] = []
    rows: list[tuple[str, str]] = []
    num_people = num_failed = 0
    annotated = in_order(annotate, zip(photos, pictures, strict=True), at_once)
    progress = tqdm(annotated, total=len(photos), unit="photo", disable=None)
    for image_id, (photo, poses) in enumerate(zip(photos, progress, strict=True), start=1):
        if isinstance(poses, PhotoError):
            num_failed += 1
            rows.append((one_line(photo), "failed"))
            tqdm.write(f"posedet: {poses}", file=sys.stderr)
            continue
        num_people += len(poses)
        best = f", best score {poses.scores[0]:.2f}" if len(poses) else ""
        rows.append((one_line(photo), _count(len(poses), "person", "people") + best))
        results += [{**result, "file_name": str(photo)} for result in poses.to_coco(image_id)]
    write_atomically(options.output / "poses.json", json.dumps(results).encode())
    width = min(60, max(len(name) for name, _ in rows))
    for name, found in rows:
        print(f"{name:<{width}}  {found}")
    total = f"{_count(len(photos), 'photo', 'photos')}, {_count(num_people, 'person', 'people')}"
    print(f"{total}{f', {num_failed} failed' if num_failed else ''} -> {one_line(options.output)}")
    return 1 if num_failed else 0


def _prepare_output(folder: Path, photos: Sequence[Path], pictures: Sequence[Path]) -> None:
    """Make the folder; refuse one in which a picture would take the place of a photo."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"--output {one_line(folder)}: cannot be made ({reason}); choose another folder") from None
    originals = {_identity(photo) for photo in photos} - {None}
    for picture in pictures:
        if _identity(picture) in originals:
            raise ConfigError(
                f"--output {one_line(folder)}: {one_line(picture)} is one of the photos and would be lost"
            )


def _identity(path: Path) -> tuple[int, int] | None:
    """The file itself, by whatever name; None if there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


class _Annotator:
    """Draws the poses of photos into pictures; many threads may call it."""

    def __init__(self, detector: "PoseDet", *, scores: bool) -> None:
        self._detector, self._scores = detector, scores
        self._alone = threading.Lock()

    def __call__(self, files: tuple[Path, Path]) -> "Poses | PhotoError":
        """From a photo to its picture: the poses, or why there is no picture."""
        photo, picture = files
        try:
            # One of the huge ones at a time: each takes gigabytes.
            with self._alone if math.prod(size_of(photo)) > HUGE_PIXELS else nullcontext():
                array = read_photo(photo)
                poses = self._detector(array)
                write_photo(picture, draw(array, poses, scores=self._scores))
        except PhotoError as error:
            return error
        return poses


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
