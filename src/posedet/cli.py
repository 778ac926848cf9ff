"""The command line: `posedet predict | train | evaluate | reproduce | export | convert | info`, and `cli_data`.

Only these two modules print. What a command needs is imported inside it: `--help` answers at once, and running needs no
torch.
"""

import argparse
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from posedet import __version__, draw
from posedet.cli_data import DATA, DATA_HELP, add_commands
from posedet.errors import ConfigError, PhotoError, PoseDetError
from posedet.extras import needs
from posedet.files import find_photos, one_line, photo_folder, picture_names, write_atomically
from posedet.image import read_photo, write_photo

if TYPE_CHECKING:
    from posedet.detector import PoseDet
    from posedet.poses import Poses
    from posedet.session import Session


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 all well, 1 a photo failed, 2 nothing could be done."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names that the terminal cannot show
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        code: int = options.command(options)
        sys.stdout.flush()
        return code
    except PoseDetError as error:
        if options.debug:
            raise
        print(f"posedet: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("posedet: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Who read our output, such as `head`, has seen enough; Python must not try again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="posedet",
        description="Find the people in photos, and where their joints are.",
        epilog="`posedet COMMAND --help` says more. Start with: posedet predict photo.jpg",
    )
    parser.add_argument("--version", action="version", version=f"posedet {__version__}")
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, summary: str, example: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, description=summary, epilog=f"example: posedet {example}")
        command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        return command

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
    _add_detector_options(predict)
    predict.set_defaults(command=_predict)

    evaluate = add("evaluate", "keypoint AP of a model on annotated photos", "evaluate coco-dev.json --output report")
    evaluate.add_argument("annotations", type=Path, help="COCO-style keypoint JSON, or ochuman.json")
    evaluate.add_argument("--photos", type=Path, help="folder of the photos (default: beside the JSON, same name)")
    evaluate.add_argument(
        "--protocol",
        choices=("coco", "crowdpose", "ochuman", "cropped"),
        help="the rules of a benchmark (default: that of the keypoints, or else COCO's); cropped: COCO's, on photos "
        "cut so that people reach beyond them",
    )
    evaluate.add_argument(
        "--tta",
        choices=("paper", "merged"),
        help="six sizes, each also mirrored; duplicates dropped as in the paper, or averaged (better)",
    )
    evaluate.add_argument("--output", type=Path, help="folder for results.json and report.json")
    _add_detector_options(evaluate)
    evaluate.set_defaults(command=_evaluate)

    reproduce = add("reproduce", "a table or figure of the paper", "reproduce figure3 --data val.json --output figure3")
    whats = reproduce.add_subparsers(required=True, metavar="WHAT")
    figure3 = whats.add_parser("figure3", help="what suppressing duplicates costs a perfect detector in crowds")
    figure3.add_argument("--data", type=Path, required=True, help="CrowdPose's annotations; photos are not needed")
    figure3.add_argument("--output", type=Path, required=True, help="folder for figure3.png, .md and .json")
    figure3.set_defaults(command=_figure3)

    train = add("train", "train a preset (needs posedet[train])", "train posedet-s --data train.json --run runs/a")
    train.add_argument("preset", help="a preset's name, or a TOML file")
    train.add_argument("--data", action="append", required=True, metavar=DATA, help=DATA_HELP)
    train.add_argument("--run", type=Path, required=True, help="folder for checkpoints and log; goes on if it has any")
    train.add_argument(
        "--start",
        metavar="FILE",
        help="start weights, of the backbone or of a posedet model: .safetensors, .pth, or https://...#sha256=HEX",
    )
    train.add_argument("--validate", type=Path, metavar="JSON", help="annotations to measure AP on while training")
    train.add_argument("--validate-every", type=int, default=2000, metavar="STEPS", help="(%(default)s)")
    train.add_argument("--compile", action="store_true", help="let torch.compile build the backbone")
    train.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change a setting")
    train.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    train.add_argument("--workers", type=int, default=1, help="processes that prepare photos (%(default)s)")
    train.set_defaults(command=_train)

    add_commands(add)

    export = add("export", "weights -> one ONNX file (needs posedet[export])", "export weights.safetensors model.onnx")
    export.add_argument("weights", type=Path, help="weights.safetensors of a run")
    export.add_argument("output", type=Path, help="the ONNX file to write")
    export.add_argument("--half", action="store_true", help="store weights as float16, in half the space")
    export.set_defaults(command=_export)

    convert = add(
        "convert",
        "official PoseDet checkpoint -> weights (needs posedet[export])",
        "convert official.pth weights.safetensors --preset dla34-coco",
    )
    convert.add_argument("checkpoint", help="the official .pth: a path, or https://...#sha256=HEX")
    convert.add_argument("output", type=Path, help="the safetensors file to write")
    convert.add_argument("--preset", required=True, help="the checkpoint's network: a preset's name, or a TOML file")
    convert.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change a setting")
    convert.set_defaults(command=_convert)

    info = add("info", "what a model file says of itself", "info model.onnx")
    info.add_argument("model", nargs="?", help="ONNX file (default: the shipped model)")
    info.set_defaults(command=_info)
    return parser


def _add_detector_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="ONNX file, or PyTorch weights (default: the shipped model)")
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


def _predict(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    photos = find_photos(options.photos)
    detector = _detector(options)
    pictures = [options.output / name for name in picture_names(photos)]
    _prepare_output(options.output, photos, pictures)
    results: list[dict[str, object]] = []
    rows: list[tuple[str, str]] = []
    num_people = num_failed = 0
    for image_id, (photo, picture) in enumerate(
        tqdm(list(zip(photos, pictures, strict=True)), unit="photo", disable=None), start=1
    ):
        try:
            poses = _annotate(detector, photo, picture, scores=options.scores)
        except PhotoError as error:
            num_failed += 1
            rows.append((one_line(photo), "failed"))
            tqdm.write(f"posedet: {error}", file=sys.stderr)
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


def _annotate(detector: "PoseDet", photo: Path, picture: Path, *, scores: bool) -> "Poses":
    """Draw the poses of one photo into a picture."""
    array = read_photo(photo)
    poses = detector(array)
    write_photo(picture, draw(array, poses, scores=scores))
    return poses


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _detector(options: argparse.Namespace) -> "PoseDet":
    from posedet.detector import PoseDet

    skeleton = options.skeleton
    if skeleton is not None and "," in skeleton:
        skeleton = [name.strip() for name in skeleton.split(",")]
    model = options.model
    if model is not None and model.endswith(".safetensors"):
        needs("... --model x.safetensors", "train", ("torch", "safetensors"))
        from posedet.training.torch_session import open_weights

        model = open_weights(Path(model))
    return PoseDet(
        model,
        skeleton=skeleton,
        score_threshold=options.score_threshold,
        long_side=options.long_side,
        runtime=options.runtime,
        threads=options.threads,
    )


def _train(options: argparse.Namespace) -> int:
    needs("train", "train", ("torch", "cv2", "safetensors", "yaml"))
    from posedet.config import load_config
    from posedet.data.sources import read_sets
    from posedet.training.checkpoint import skeleton_to_train
    from posedet.training.loop import train

    config = load_config(options.preset, options.set)
    skeleton = skeleton_to_train(config.model.skeleton, options.run)
    photos, repeats = read_sets(options.data, skeleton)
    weights = train(
        config,
        photos,
        repeats,
        options.run,
        start=options.start,
        skeleton=skeleton,
        device=options.device,
        workers=options.workers,
        compiled=options.compile,
        validate=_validation(options.validate) if options.validate else None,
        validate_every=options.validate_every,
    )
    print(f"trained -> {weights}")
    return 0


def _validation(annotations: Path) -> "Callable[[Session], dict[str, float]]":
    """What measures a network on annotated photos while it is trained."""
    needs("train --validate", "train", ("pycocotools",))
    from posedet.detector import PoseDet
    from posedet.evaluation.protocols import protocol_for
    from posedet.evaluation.run import EVALUATED_SCORE, evaluate

    def validate(session: "Session") -> dict[str, float]:
        detector = PoseDet(session, score_threshold=EVALUATED_SCORE)
        scores = evaluate(detector, annotations, photo_folder(annotations), protocol_for(detector.skeleton))
        return {"ap": scores.ap, "ap50": scores.ap50, "ap75": scores.ap75, "ar": scores.ar}

    return validate


def _export(options: argparse.Namespace) -> int:
    needs("export", "export", ("torch", "onnx", "onnxscript", "safetensors"))
    from posedet.export import export

    difference = export(options.weights, options.output, half=options.half)
    size = options.output.stat().st_size / 1e6
    print(f"{options.output}: {size:.1f} MB, equal to PyTorch to {difference:.1g} pixels")
    return 0


def _convert(options: argparse.Namespace) -> int:
    needs("convert", "export", ("torch", "safetensors"))
    from posedet.config import load_config
    from posedet.convert import convert

    conversion = convert(options.checkpoint, options.output, load_config(options.preset, options.set))
    for name, reason in conversion.dropped.items():
        print(f"dropped {name}: {reason}")
    placed, dropped = len(conversion.weights), len(conversion.dropped)
    print(f"{options.output}: {placed} tensors placed, {dropped} dropped, none missing")
    return 0


def _info(options: argparse.Namespace) -> int:
    from posedet.detector import PoseDet

    about = PoseDet(options.model).about
    print(f"{about.name} (posedet {about.version}): {len(about.skeleton.keypoints)} keypoints, {about.skeleton.name}")
    print(json.dumps(about.config, indent=1))
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    needs("evaluate", "train", ("pycocotools",))
    from posedet.evaluation.protocols import PROTOCOLS, protocol_for
    from posedet.evaluation.report import score_table
    from posedet.evaluation.run import EVALUATED_SCORE, evaluate
    from posedet.tta import Augmented

    if options.tta and options.long_side:
        raise ConfigError("--long-side does not go with --tta, which has six sizes of its own")
    if options.protocol is not None and options.skeleton is None:
        options.skeleton = ",".join(PROTOCOLS[options.protocol].skeleton.keypoints)
    if options.score_threshold is None:
        options.score_threshold = EVALUATED_SCORE
    detector = _detector(options)
    protocol = PROTOCOLS[options.protocol] if options.protocol else protocol_for(detector.skeleton)
    folder = options.photos or photo_folder(options.annotations)
    name = options.model or detector.about.name
    predict = Augmented(detector, merge=options.tta) if options.tta else detector
    scores = evaluate(predict, options.annotations, folder, protocol, output=options.output, model=name)
    print(score_table({name: scores}))
    return 0


def _figure3(options: argparse.Namespace) -> int:
    needs("reproduce figure3", "train", ("matplotlib", "pycocotools"))
    from posedet.evaluation.upper_bound import reproduce_figure3

    print(reproduce_figure3(options.data, options.output))
    return 0
