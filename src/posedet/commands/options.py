"""Options that several commands share, and what they select: the detector, the protocol and the photos."""

import argparse
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posedet.errors import ConfigError, DataError
from posedet.files import find_photos, one_line
from posedet.outputs import ForeignFileError, check_outputs

if TYPE_CHECKING:
    from posedet.data.annotations import AnnotatedPhoto
    from posedet.data.sources import Source
    from posedet.evaluation.checked_entries import ScoredKeypoints
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
    add_overwrite(parser)


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Add the option that `claim` reads."""
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace files that are already there, also those that this command did not write, but never its inputs",
    )


def claim(options: argparse.Namespace, generator: str, outputs: Sequence[Path], *, reads: Sequence[Path] = ()) -> None:
    """Refuse outputs that would replace an input or a file of somebody else, see `check_outputs`.

    Every command that writes calls this before any work. The inputs are the files that the options name, and `reads`.
    The photos of annotation files are compared when the annotations have been read, by `never_replace`.
    """
    options.generator, options.outputs = generator, outputs
    _check_claim(options, chain(reads, _inputs(options)))


def never_replace(options: argparse.Namespace, photos: "Iterable[AnnotatedPhoto]") -> None:
    """Refuse claimed outputs that would replace one of the annotated photos."""
    if "outputs" in options:
        _check_claim(options, (photo.path for photo in photos))


def _check_claim(options: argparse.Namespace, reads: Iterable[Path]) -> None:
    try:
        check_outputs(options.outputs, options.generator, reads=reads, overwrite=options.overwrite)
    except ForeignFileError as error:
        raise ForeignFileError(f"{error}, or replace it with --overwrite") from None


def _inputs(options: argparse.Namespace) -> Iterator[Path]:
    """The files that the options name as inputs."""
    from posedet.runtime.model_files import RELEASES, available_file

    given = vars(options)
    for text in [text for name in ("annotations", "data", "validate", "held_out") for text in _listed(given.get(name))]:
        from posedet.data.sources import Source  # needs optional packages, which commands for photos do not ask for

        yield from (Source.parse(text).path, Path(text))
    if isinstance(given.get("photos"), list):
        yield from find_photos(options.photos, quiet=True)
    for name in ("model", "skeleton", "results", "weights", "checkpoint", "start", "preset", "against"):
        for value in _listed(given.get(name)):
            path = str(value).partition("#sha256=")[0]
            yield (available_file(path) if path in RELEASES else None) or Path(path)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def add_annotations(parser: argparse.ArgumentParser, help: str = SOURCE_HELP) -> None:
    """Add the argument and the option that `source_of` reads."""
    parser.add_argument("annotations", metavar="ANNOTATIONS", help=help)
    parser.add_argument("--photos", metavar="FOLDER", help="folder of the photos, or split of a data.yaml (as after :)")
    add_category(parser)


def add_category(parser: argparse.ArgumentParser) -> None:
    help = "the only category to read, by name or id (default: all, if they have the same keypoints)"
    parser.add_argument("--category", metavar="NAME", help=help)


def add_keypoints(parser: argparse.ArgumentParser) -> None:
    """Add the option that says which keypoints `check_scored` asks for."""
    parser.add_argument(
        "--keypoints",
        choices=("all", "common"),
        default="all",
        help="common: score the keypoints that the annotations have, if some are missing (default: refuse that)",
    )


def source_of(options: argparse.Namespace) -> "Source":
    """The annotated photos that the options name."""
    return seen_once(options.annotations, options.photos, options.category)


def seen_once(text: str, photos: str | None = None, category: str | None = None) -> "Source":
    """Parse the name of photos to measure on; `photos` is the folder or split if that does not name one.

    Raises ConfigError if both do, or if the text has a repeat count, which only training supports.
    """
    from posedet.data.sources import Source

    source = Source.parse(text)
    if source.repeats != 1:
        raise ConfigError(f"{text}: a repeat count (*N) is only for training data; remove it")
    if photos is not None and source.beside is not None:
        raise ConfigError(
            f"--photos {one_line(photos)}: {one_line(text)} already names a folder; give only one of them"
        )
    return replace(source, beside=source.beside if photos is None else photos, category=category)


def annotated_photos(
    options: argparse.Namespace, skeleton: "Skeleton", *, check_files: bool = True
) -> "tuple[AnnotatedPhoto, ...]":
    """Read the photos that the options name, with the keypoints of `skeleton`; see `read_photos`."""
    from posedet.data.sources import read_photos

    with photos_named_by("--photos FOLDER"):
        photos = read_photos(source_of(options), skeleton, check_files=check_files)
    never_replace(options, photos)
    return photos


def check_scored(photos: "Sequence[AnnotatedPhoto]", protocol: "Protocol", source: "Source") -> "ScoredKeypoints":
    """Return which keypoints can be scored. Raises DataError, which begins with the file of the annotations."""
    from posedet.evaluation.checked_entries import MissingKeypointsError, scored_keypoints

    try:
        return scored_keypoints(photos, protocol)
    except DataError as error:
        remedy = "; --keypoints common scores the others" if isinstance(error, MissingKeypointsError) else ""
        raise DataError(f"{one_line(source.path)}: {error}{remedy}") from None


@contextmanager
def photos_named_by(option: str) -> Iterator[None]:
    """Add to an error about photos or categories which option names them."""
    from posedet.data.formats.format import CategoryError
    from posedet.data.sources import MissingPhotosError

    try:
        yield
    except MissingPhotosError as error:
        raise MissingPhotosError(f"{error}; {option} says where they are") from None
    except CategoryError as error:
        raise CategoryError(f"{error}; --category NAME names the one to read") from None


# The options of `add_detector_options` that concern the model, not its keypoints.
MODEL_OPTIONS = ("model", "score_threshold", "long_side", "runtime", "device", "threads")


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
    add(
        "--device",
        help="cpu (default), cuda, directml, coreml, openvino, or auto: the best that works; for PyTorch weights as "
        "PyTorch names it",
    )
    add_threads(parser)


def add_tiles(parser: argparse.ArgumentParser) -> None:
    help = "also look at overlapping tiles of this many pixels: finds small people in large photos, but takes longer"
    add_number(parser, "--tiles", help, least=128, metavar="PIXELS")


def open_detector(
    options: argparse.Namespace, *, at_once: int = 1, embedding: bool = False, covariances: bool = False
) -> "PoseDet":
    """Open the detector that the options select.

    at_once: photos processed concurrently. embedding: compute the identity embedding, if the model has it.
    covariances: compute the covariances of keypoints, which the model must have.
    """
    from posedet.runtime.detector import DEFAULT_MODEL, PoseDet
    from posedet.weights.opening import open_model

    skeleton = options.skeleton
    if skeleton is not None and "," in skeleton:
        skeleton = [name.strip() for name in skeleton.split(",") if name.strip()]
    model = options.model or DEFAULT_MODEL
    session = open_model(
        model,
        runtime=options.runtime,
        device=options.device or "cpu",
        threads=options.threads,
        at_once=at_once,
        embedding=embedding,
        covariances=covariances,
    )
    return PoseDet(
        session,
        skeleton=skeleton,
        score_threshold=options.score_threshold,
        long_side=options.long_side,
        tiles=vars(options).get("tiles"),
        at_once=at_once,
    )


def settings_of(options: argparse.Namespace, detector: "PoseDet") -> dict[str, Any]:
    """Everything that the poses of `open_detector` depend on; the contents of model files are told apart."""
    from posedet.runtime.detector import DEFAULT_MODEL
    from posedet.runtime.model_files import model_file

    with model_file(options.model or DEFAULT_MODEL).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "sha256": digest,
        "runtime": options.runtime or "onnxruntime",
        "device": detector.device,
        "long_side": detector.config.long_side,
        "tiles": detector.tiles,
        "score_threshold": detector.config.score_threshold,
        "keypoints": detector.skeleton.keypoints,
    }


def judged_detector(options: argparse.Namespace) -> "tuple[PoseDet, Protocol]":
    """The detector as AP needs it, with weak poses and the protocol's keypoints; and the protocol."""
    from posedet.evaluation.protocols import PROTOCOLS
    from posedet.evaluation.run import EVALUATED_SCORE

    chosen = options.skeleton is not None
    if options.protocol is not None and not chosen:
        options.skeleton = ",".join(PROTOCOLS[options.protocol].skeleton.keypoints)
    if options.score_threshold is None:
        options.score_threshold = EVALUATED_SCORE
    detector = open_detector(options)
    return detector, _protocol(options, detector.skeleton, chosen=chosen)


def _protocol(options: argparse.Namespace, skeleton: "Skeleton", *, chosen: bool) -> "Protocol":
    """The named protocol, with `skeleton` if the user has `chosen` it; for None the protocol that fits `skeleton`."""
    from posedet.evaluation.protocols import PROTOCOLS, protocol_for

    named = None if options.protocol is None else PROTOCOLS[options.protocol]
    if named is not None and chosen:
        named = replace(named, skeleton=skeleton)
    return replace(named or protocol_for(skeleton), keypoints=options.keypoints)


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
    protocol = _protocol(options, skeleton_for(options.skeleton) if chosen else COCO, chosen=chosen)
    photos = annotated_photos(options, protocol.skeleton, check_files=False)
    check_scored(photos, protocol, source_of(options))
    if not chosen and in_another_order(photos, protocol):
        path, name = source_of(options).path, protocol.skeleton.name
        file = path if path.suffix == ".json" else "a .toml"
        raise ConfigError(
            f"{path}: lists the keypoints of '{name}' in another order; name the order of the results with --skeleton "
            f"{name}, or --skeleton {file} for the order of the file"
        )
    return photos, protocol
