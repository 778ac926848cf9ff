"""Options that several commands share, and what they select: the detector, the protocol and the photos."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from posedet.errors import ConfigError
from posedet.files import one_line

if TYPE_CHECKING:
    from posedet.data.annotations import AnnotatedPhoto
    from posedet.data.sources import Source
    from posedet.evaluation.protocols import Protocol
    from posedet.runtime.detector import PoseDet
    from posedet.skeleton import Skeleton

# Makes the parser of a command from its name, summary and example.
AddCommand = Callable[[str, str, str], argparse.ArgumentParser]

SOURCE_HELP = (
    "COCO-style keypoint JSON or ochuman.json, followed by :FOLDER unless its photos are in a folder of the same name "
    "beside it; or a folder or data.yaml in Ultralytics' format, followed by :val for another split than train"
)


def add_number(
    parser: argparse.ArgumentParser,
    option: str,
    help: str,
    *,
    least: int = 1,
    default: int | None = None,
    metavar: str | None = None,
) -> None:
    """Add an option that takes a whole number of at least `least`."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ConfigError(f"{option} {one_line(text)}: expected a whole number") from None
        if value < least:
            raise ConfigError(f"{option} {value}: expected at least {least}")
        return value

    parser.add_argument(option, type=number, default=default, metavar=metavar, help=help)


def add_threads(parser: argparse.ArgumentParser) -> None:
    add_number(parser, "--threads", "number of CPU cores to use (default: all)", metavar="CORES")


def add_settings(parser: argparse.ArgumentParser, help: str = "change a setting of the preset; repeatable") -> None:
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help=help)


def add_output(parser: argparse.ArgumentParser, help: str, *, metavar: str = "FOLDER", required: bool = True) -> None:
    parser.add_argument("--output", type=Path, required=required, metavar=metavar, help=help)


def make_folder(folder: Path) -> None:
    """Make the folder that `--output` names. Raises ConfigError, which says why that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"cannot be made ({error.strerror or error}); choose another folder"
        raise ConfigError(f"--output {one_line(folder)}: {reason}") from None


def add_annotations(parser: argparse.ArgumentParser, help: str = SOURCE_HELP) -> None:
    """Add the argument and the option that `source_of` reads."""
    parser.add_argument("annotations", metavar="ANNOTATIONS", help=help)
    parser.add_argument("--photos", metavar="FOLDER", help="folder of the photos, or split of a data.yaml (as after :)")


def source_of(options: argparse.Namespace) -> "Source":
    """The annotated photos that the options name."""
    return seen_once(options.annotations, options.photos)


def seen_once(text: str, photos: str | None = None) -> "Source":
    """Parse the name of photos to measure on; `photos` is the folder or split if that does not name one.

    Raises ConfigError if both do, or if the text has a repeat count, which only training supports.
    """
    from posedet.data.sources import Source

    source = Source.parse(text)
    if source.repeats != 1:
        raise ConfigError(f"{text}: a repeat count (*N) is only for training data; remove it")
    if photos is None:
        return source
    if source.beside is not None:
        raise ConfigError(
            f"--photos {one_line(photos)}: {one_line(text)} already names a folder; give only one of them"
        )
    return Source(source.path, photos)


def annotated_photos(
    options: argparse.Namespace, skeleton: "Skeleton", *, check_files: bool = True
) -> "tuple[AnnotatedPhoto, ...]":
    """Read the photos that the options name, with the keypoints of `skeleton`; see `read_photos`."""
    from posedet.data.sources import read_photos

    with photos_named_by("--photos FOLDER"):
        return read_photos(source_of(options), skeleton, check_files=check_files)


@contextmanager
def photos_named_by(option: str) -> Iterator[None]:
    """Add to an error about missing photos which option gives their location."""
    from posedet.data.sources import MissingPhotosError

    try:
        yield
    except MissingPhotosError as error:
        raise MissingPhotosError(f"{error}; {option} says where they are") from None


# The options of `add_detector_options` that concern the model, not its keypoints.
MODEL_OPTIONS = ("model", "score_threshold", "long_side", "runtime", "threads")


def add_detector_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `open_detector` reads."""
    add = parser.add_argument
    add("--model", help="ONNX file or PyTorch weights: name, path or URL#sha256=HEX (default: posedet-s)")
    add("--skeleton", metavar="NAME", help="coco, crowdpose, a file, or keypoint names: left_wrist,right_wrist")
    add("--score-threshold", type=float, metavar="SCORE", help="drop poses with a lower score (0 to 1)")
    add(
        "--long-side",
        type=int,
        metavar="PIXELS",
        help="longest side of the network input; larger finds smaller people but takes longer",
    )
    add("--runtime", choices=("onnxruntime", "openvino"), help="engine for ONNX files (default: onnxruntime)")
    add_threads(parser)


def open_detector(options: argparse.Namespace, *, at_once: int = 1, device: str | None = None) -> "PoseDet":
    """Open the detector that the options select.

    at_once: photos processed concurrently. device: where PyTorch weights run; None: the CPU.
    """
    from posedet.runtime.detector import DEFAULT_MODEL, PoseDet
    from posedet.weights.opening import open_model

    skeleton = options.skeleton
    if skeleton is not None and "," in skeleton:
        skeleton = [name.strip() for name in skeleton.split(",") if name.strip()]
    model = options.model or DEFAULT_MODEL
    session = open_model(model, runtime=options.runtime, device=device, threads=options.threads, at_once=at_once)
    return PoseDet(
        session,
        skeleton=skeleton,
        score_threshold=options.score_threshold,
        long_side=options.long_side,
        at_once=at_once,
    )


def judged_detector(options: argparse.Namespace, *, device: str | None = None) -> "tuple[PoseDet, Protocol]":
    """The detector as AP needs it, with weak poses and the protocol's keypoints; and the protocol."""
    from posedet.evaluation.protocols import PROTOCOLS
    from posedet.evaluation.run import EVALUATED_SCORE

    chosen = options.skeleton is not None
    if options.protocol is not None and not chosen:
        options.skeleton = ",".join(PROTOCOLS[options.protocol].skeleton.keypoints)
    if options.score_threshold is None:
        options.score_threshold = EVALUATED_SCORE
    detector = open_detector(options, device=device)
    return detector, _protocol(options.protocol, detector.skeleton, chosen=chosen)


def _protocol(name: str | None, skeleton: "Skeleton", *, chosen: bool) -> "Protocol":
    """The named protocol, with `skeleton` if the user has `chosen` it; for None the protocol that fits `skeleton`."""
    from posedet.evaluation.protocols import PROTOCOLS, protocol_for

    if name is None:
        return protocol_for(skeleton)
    return replace(PROTOCOLS[name], skeleton=skeleton) if chosen else PROTOCOLS[name]


def rules_for_results(options: argparse.Namespace, *more: str) -> "tuple[tuple[AnnotatedPhoto, ...], Protocol]":
    """The photos, and the protocol for the keypoints that `--skeleton` says the results have.

    Raises ConfigError if an option is set that only concerns a model (`MODEL_OPTIONS` or `more`), or if the results may
    have their keypoints in either of two orders.
    """
    from posedet.evaluation.run import in_another_order
    from posedet.skeleton import COCO, skeleton_for

    for name in (*MODEL_OPTIONS, *more):
        if getattr(options, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')} does not go with --results, which runs no model")
    chosen = options.skeleton is not None
    protocol = _protocol(options.protocol, skeleton_for(options.skeleton) if chosen else COCO, chosen=chosen)
    photos = annotated_photos(options, protocol.skeleton, check_files=False)
    if not chosen and in_another_order(photos, protocol):
        path, name = source_of(options).path, protocol.skeleton.name
        file = path if path.suffix == ".json" else "a .toml"
        raise ConfigError(
            f"{path}: lists the keypoints of '{name}' in another order; name the order of the results with --skeleton "
            f"{name}, or --skeleton {file} for the order of the file"
        )
    return photos, protocol
