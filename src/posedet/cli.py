"""The command line: `posedet predict | train | evaluate | export | convert | info`.

Only this module prints. What a command needs is imported inside it: `--help` answers at once, and running needs no
torch.
"""

import argparse
import glob
import importlib.util
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from posedet import __version__
from posedet.errors import ConfigError, DataError, PhotoError, PoseDetError

if TYPE_CHECKING:
    from posedet.detector import PoseDet
    from posedet.session import Session

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 all well, 1 a photo failed, 2 nothing could be done."""
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        code: int = options.command(options)
        return code
    except PoseDetError as error:
        if options.debug:
            raise
        print(f"posedet: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("posedet: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="posedet", description="Multi-person 2D pose estimation.")
    parser.add_argument("--version", action="version", version=f"posedet {__version__}")
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    predict = commands.add_parser("predict", help="photos -> annotated pictures and poses.json")
    predict.add_argument(
        "photos", nargs="+", metavar="PATH", help="photo, folder of photos, or pattern such as '*.jpg'"
    )
    predict.add_argument("--output", type=Path, default=Path("poses"), help="folder for the results (%(default)s)")
    predict.add_argument("--scores", action="store_true", help="write each person's score into the picture")
    _add_detector_options(predict)
    predict.set_defaults(command=_predict)

    evaluate = commands.add_parser("evaluate", help="keypoint AP of a model on annotated photos")
    evaluate.add_argument("annotations", type=Path, help="COCO-style keypoint JSON")
    evaluate.add_argument("--photos", type=Path, help="folder of the photos (default: beside the JSON, same name)")
    evaluate.add_argument("--protocol", choices=("coco", "crowdpose"), default="coco")
    evaluate.add_argument(
        "--tta",
        choices=("paper", "merged"),
        help="six sizes, each also mirrored; duplicates dropped as in the paper, or averaged (better)",
    )
    evaluate.add_argument("--output", type=Path, help="folder for results.json and report.json")
    _add_detector_options(evaluate)
    evaluate.set_defaults(command=_evaluate)

    train = commands.add_parser("train", help="train a preset (needs posedet[train])")
    train.add_argument("preset", help="a preset's name, or a TOML file")
    train.add_argument(
        "--data",
        action="append",
        required=True,
        metavar="JSON[:FOLDER][*N]",
        help="annotations, the folder of their photos (default: beside the JSON, same name), and how often each "
        "photo is seen an epoch; repeatable",
    )
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

    export = commands.add_parser("export", help="weights -> one ONNX file (needs posedet[export])")
    export.add_argument("weights", type=Path, help="weights.safetensors of a run")
    export.add_argument("output", type=Path, help="the ONNX file to write")
    export.add_argument("--half", action="store_true", help="store weights as float16, in half the space")
    export.set_defaults(command=_export)

    convert = commands.add_parser("convert", help="official PoseDet checkpoint -> weights (needs posedet[export])")
    convert.add_argument("checkpoint", help="the official .pth: a path, or https://...#sha256=HEX")
    convert.add_argument("output", type=Path, help="the safetensors file to write")
    convert.add_argument("--preset", required=True, help="the checkpoint's network: a preset's name, or a TOML file")
    convert.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change a setting")
    convert.set_defaults(command=_convert)

    info = commands.add_parser("info", help="what a model file says of itself")
    info.add_argument("model", nargs="?", help="ONNX file (default: the shipped model)")
    info.set_defaults(command=_info)
    return parser


def _add_detector_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="ONNX file, or PyTorch weights (default: the shipped model)")
    parser.add_argument("--skeleton", help="coco, crowdpose, or keypoint names joined by commas")
    parser.add_argument("--score-threshold", type=float, help="leave out poses with a lower score")
    parser.add_argument("--long-side", type=int, help="pixels that the photo's long side is brought to")
    parser.add_argument("--runtime", choices=("onnxruntime", "openvino"), default="onnxruntime")
    parser.add_argument("--threads", type=int, help="of the runtime (default: all cores)")


def _predict(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from posedet.files import write_atomically
    from posedet.image import read_photo, write_photo

    paths = find_photos(options.photos)
    detector = _detector(options)
    from posedet.draw import draw

    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output {options.output}: {error.strerror}; choose another folder") from None
    names = picture_names(paths)
    results: list[dict[str, object]] = []
    rows: list[tuple[str, str]] = []
    num_people = num_failed = 0
    for image_id, (path, name) in enumerate(tqdm(list(zip(paths, names, strict=True)), unit="photo", disable=None), 1):
        try:
            photo = read_photo(path)
            poses = detector(photo)
            write_photo(options.output / name, draw(photo, poses, scores=options.scores))
        except PhotoError as error:
            num_failed += 1
            rows.append((str(path), "failed"))
            tqdm.write(f"posedet: {error}", file=sys.stderr)
            continue
        num_people += len(poses)
        best = f", best score {poses.scores[0]:.2f}" if len(poses) else ""
        rows.append((str(path), f"{len(poses)} {'person' if len(poses) == 1 else 'people'}{best}"))
        results += [{**result, "file_name": str(path)} for result in poses.to_coco(image_id)]
    write_atomically(options.output / "poses.json", json.dumps(results).encode())
    width = min(60, max(len(path) for path, _ in rows))
    for path_text, found in rows:
        print(f"{path_text:<{width}}  {found}")
    print(f"{len(paths) - num_failed} photos, {num_people} people, {num_failed} failed -> {options.output}")
    return 1 if num_failed else 0


def find_photos(patterns: Sequence[str]) -> list[Path]:
    """Photos named by paths, folders (their own photos, sorted) and glob patterns; a missing file stays in the list.

    Raises DataError for a folder or pattern without photos: most likely a mistake in the name.
    """
    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in PHOTO_SUFFIXES and p.is_file())
            if not inside:
                raise DataError(f"{pattern}: a folder without photos (looked for {', '.join(sorted(PHOTO_SUFFIXES))})")
            found += inside
        elif not path.exists() and glob.has_magic(pattern):
            inside = sorted(Path(p) for p in glob.glob(pattern, recursive=True) if Path(p).is_file())
            if not inside:
                raise DataError(f"{pattern}: no file fits this pattern")
            found += inside
        else:
            found.append(path)
    return list(dict.fromkeys(found))


def picture_names(paths: Sequence[Path]) -> list[str]:
    """File names for annotated pictures: those of the photos, as JPEG, numbered where two would be the same."""
    names: list[str] = []
    taken: set[str] = set()
    for path in paths:
        name, number = f"{path.stem}.jpg", 1
        while name.lower() in taken:
            number += 1
            name = f"{path.stem}-{number}.jpg"
        taken.add(name.lower())
        names.append(name)
    return names


def _detector(options: argparse.Namespace) -> "PoseDet":
    from posedet.detector import PoseDet

    skeleton = options.skeleton
    if skeleton is not None and "," in skeleton:
        skeleton = [name.strip() for name in skeleton.split(",")]
    model = options.model
    if model is not None and model.endswith(".safetensors"):
        _needs("... --model x.safetensors", "train", ("torch", "safetensors"))
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
    _needs("train", "train", ("torch", "cv2", "safetensors"))
    from posedet.config import load_config
    from posedet.data.annotations import AnnotatedPhoto, read_annotations
    from posedet.skeleton import find_skeleton
    from posedet.training.loop import train

    config = load_config(options.preset, options.set)
    skeleton = find_skeleton(config.model.skeleton)
    photos: list[AnnotatedPhoto] = []
    repeats: list[int] = []
    for text in options.data:
        path, folder, times = parse_data(text)
        photo_set = read_annotations(path, folder, skeleton)
        photos += photo_set
        repeats += [times] * len(photo_set)
    weights = train(
        config,
        photos,
        repeats,
        options.run,
        start=options.start,
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
    _needs("train --validate", "train", ("pycocotools",))
    from posedet.detector import PoseDet
    from posedet.evaluation.protocols import protocol_for
    from posedet.evaluation.run import EVALUATED_SCORE, evaluate

    def validate(session: "Session") -> dict[str, float]:
        detector = PoseDet(session, score_threshold=EVALUATED_SCORE)
        scores = evaluate(detector, annotations, photo_folder(annotations), protocol_for(detector.skeleton))
        return {"ap": scores.ap, "ap50": scores.ap50, "ap75": scores.ap75, "ar": scores.ar}

    return validate


def parse_data(text: str) -> tuple[Path, Path, int]:
    """`JSON[:FOLDER][*N]` -> annotations, folder of the photos, times an epoch."""
    text, star, times = text.partition("*")
    if star and not (times.isdigit() and int(times) > 0):
        raise ConfigError(f"--data {text}*{times}: after the star a whole number is expected")
    annotations, colon, folder = text.partition(":")
    path = Path(annotations)
    return path, Path(folder) if colon else photo_folder(path), int(times) if star else 1


def photo_folder(annotations: Path) -> Path:
    """Where the photos of an annotation file lie unless said otherwise: `set.json` -> `set/`."""
    return annotations.parent / annotations.name.removesuffix(".gz").removesuffix(".json")


def _export(options: argparse.Namespace) -> int:
    _needs("export", "export", ("torch", "onnx", "onnxscript", "safetensors"))
    from posedet.export import export

    difference = export(options.weights, options.output, half=options.half)
    size = options.output.stat().st_size / 1e6
    print(f"{options.output}: {size:.1f} MB, equal to PyTorch to {difference:.1g} pixels")
    return 0


def _convert(options: argparse.Namespace) -> int:
    _needs("convert", "export", ("torch", "safetensors"))
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
    _needs("evaluate", "train", ("pycocotools",))
    from posedet.evaluation.protocols import PROTOCOLS
    from posedet.evaluation.report import score_table
    from posedet.evaluation.run import EVALUATED_SCORE, evaluate

    protocol = PROTOCOLS[options.protocol]
    if options.skeleton is None:
        options.skeleton = ",".join(protocol.skeleton.keypoints)
    if options.score_threshold is None:
        options.score_threshold = EVALUATED_SCORE
    detector = _detector(options)
    folder = options.photos or photo_folder(options.annotations)
    name = options.model or detector.about.name
    scores = evaluate(detector, options.annotations, folder, protocol, output=options.output, model=name)
    print(score_table({name: scores}))
    return 0


def _needs(command: str, extra: str, modules: Sequence[str]) -> None:
    if any(importlib.util.find_spec(module) is None for module in modules):
        raise ConfigError(f"'posedet {command}' needs more than running does: pip install \"posedet[{extra}]\"")
