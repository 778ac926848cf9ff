"""Options that several commands share, and what they ask for: the detector, the protocol, the photos."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from posedet.errors import ConfigError

if TYPE_CHECKING:
    from posedet.data.annotations import AnnotatedPhoto
    from posedet.data.sources import Source
    from posedet.evaluation.protocols import Protocol
    from posedet.runtime.detector import PoseDet
    from posedet.skeleton import Skeleton


SOURCE_HELP = (
    "COCO-style keypoint JSON or ochuman.json, with :FOLDER if its photos are not beside it in a folder of the same "
    "name; or a folder or data.yaml in Ultralytics' format, with :val for another part than train"
)


def add_annotations(parser: argparse.ArgumentParser, help: str = SOURCE_HELP) -> None:
    """The argument and the option that `source_of` reads."""
    parser.add_argument("annotations", metavar="ANNOTATIONS", help=help)
    parser.add_argument(
        "--photos", metavar="FOLDER", help="of the photos; or the part of a data.yaml: as after a colon"
    )


def source_of(options: argparse.Namespace) -> "Source":
    """The annotated photos that the options name."""
    return seen_once(options.annotations, options.photos)


def seen_once(text: str, photos: str | None = None) -> "Source":
    """What a user wrote of photos to measure on; `photos` says in place of it where they are.

    Raises ConfigError for a text that says how often they are seen.
    """
    from posedet.data.sources import Source

    source = Source.parse(text)
    if source.repeats != 1:
        raise ConfigError(f"{text}: a number after a star is for photos to train on; others are seen once")
    return source if photos is None else Source(source.path, photos)


def annotated_photos(
    options: argparse.Namespace, skeleton: "Skeleton", *, check_files: bool = True
) -> "tuple[AnnotatedPhoto, ...]":
    """The photos that the options name, with the keypoints of `skeleton`; see `read_photos`."""
    from posedet.data.sources import read_photos

    with photos_named_by("--photos FOLDER"):
        return read_photos(source_of(options), skeleton, check_files=check_files)


@contextmanager
def photos_named_by(option: str) -> Iterator[None]:
    """Add to an error about missing photos which option says where they are."""
    from posedet.data.sources import MissingPhotosError

    try:
        yield
    except MissingPhotosError as error:
        raise MissingPhotosError(f"{error}; {option} says where they are") from None


def add_detector_options(parser: argparse.ArgumentParser) -> None:
    """The options that `open_detector` reads."""
    parser.add_argument(
        "--model", help="ONNX file or PyTorch weights: name, path or URL#sha256=HEX (default: posedet-s)"
    )
    parser.add_argument(
        "--skeleton",
        metavar="NAME",
        help="coco, crowdpose, a file, or keypoints joined by commas: left_wrist,right_wrist",
    )
    parser.add_argument(
        "--score-threshold", type=float, metavar="SHARE", help="leave out poses with a lower score (0 to 1)"
    )
    parser.add_argument(
        "--long-side", type=int, metavar="PIXELS", help="of the network's input: more finds smaller people, slower"
    )
    parser.add_argument("--runtime", choices=("onnxruntime", "openvino"), help="of ONNX files (default: onnxruntime)")
    parser.add_argument("--threads", type=int, metavar="CORES", help="how many to use (default: all)")


def open_detector(options: argparse.Namespace, *, at_once: int = 1, device: str | None = None) -> "PoseDet":
    """The detector that the options ask for; see `PoseDet` for `at_once`. device: of PyTorch weights, cpu if None."""
    from posedet.runtime.detector import DEFAULT_MODEL, PoseDet
    from posedet.weights.opening import open_model

    skeleton = options.skeleton
    if skeleton is not None and "," in skeleton:
        skeleton = [name.strip() for name in skeleton.split(",") if name.strip()]
    session = open_model(
        options.model or DEFAULT_MODEL,
        runtime=options.runtime,
        device=device,
        threads=options.threads,
        at_once=at_once,
    )
    return PoseDet(
        session,
        skeleton=skeleton,
        score_threshold=options.score_threshold,
        long_side=options.long_side,
        at_once=at_once,
    )


def judged_detector(options: argparse.Namespace, *, device: str | None = None) -> "tuple[PoseDet, Protocol]":
    """The detector as AP needs it, weak poses and the protocol's keypoints, and the protocol."""
    from posedet.evaluation.protocols import PROTOCOLS
    from posedet.evaluation.run import EVALUATED_SCORE

    chosen = options.skeleton is not None
    if options.protocol is not None and not chosen:
        options.skeleton = ",".join(PROTOCOLS[options.protocol].skeleton.keypoints)
    if options.score_threshold is None:
        options.score_threshold = EVALUATED_SCORE
    detector = open_detector(options, device=device)
    return detector, rules(options.protocol, detector.skeleton, chosen=chosen)


def rules(name: str | None, skeleton: "Skeleton", *, chosen: bool) -> "Protocol":
    """The protocol of that name, with its own keypoints unless others are `chosen`; that of the keypoints if None."""
    from posedet.evaluation.protocols import PROTOCOLS, protocol_for

    if name is None:
        return protocol_for(skeleton)
    return replace(PROTOCOLS[name], skeleton=skeleton) if chosen else PROTOCOLS[name]


def rules_for_results(options: argparse.Namespace, *refused: str) -> "tuple[tuple[AnnotatedPhoto, ...], Protocol]":
    """The photos, and the protocol for the keypoints that `--skeleton` says results have; no options of a model."""
    from posedet.evaluation.run import in_another_order
    from posedet.skeleton import COCO, skeleton_for

    for name in refused:
        if getattr(options, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')} does not go with --results: nothing is run")
    chosen = options.skeleton is not None
    protocol = rules(options.protocol, skeleton_for(options.skeleton) if chosen else COCO, chosen=chosen)
    photos = annotated_photos(options, protocol.skeleton, check_files=False)
    if not chosen and in_another_order(photos, protocol):
        path, name = source_of(options).path, protocol.skeleton.name
        file = path if path.suffix == ".json" else "a .toml"
        raise ConfigError(
            f"{path}: the keypoints of '{name}' in another order; say which one results have: --skeleton {name}, or "
            f"--skeleton {file} for that of the file"
        )
    return photos, protocol
