"""Options that several commands share, and what they ask for: the detector, the protocol, the photos."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from posedet.errors import ConfigError
from posedet.extras import needs
from posedet.runtime.model_files import model_file

if TYPE_CHECKING:
    from posedet.evaluation.protocols import Protocol
    from posedet.runtime.detector import PoseDet
    from posedet.runtime.session import Session
    from posedet.skeleton import Skeleton


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
    parser.add_argument("--runtime", choices=("onnxruntime", "openvino"), default="onnxruntime", help="(%(default)s)")
    parser.add_argument("--threads", type=int, metavar="CORES", help="how many to use (default: all)")


def open_detector(options: argparse.Namespace, *, at_once: int = 1, device: str | None = None) -> "PoseDet":
    """The detector that the options ask for; see `PoseDet` for `at_once`. device: of PyTorch weights, cpu if None."""
    from posedet.runtime.detector import PoseDet

    skeleton = options.skeleton
    if skeleton is not None and "," in skeleton:
        skeleton = [name.strip() for name in skeleton.split(",") if name.strip()]
    file = None if options.model is None else model_file(options.model)
    model: Path | Session | None = file
    if file is not None and file.suffix == ".safetensors":
        needs("posedet ... --model x.safetensors", "export", ("torch", "safetensors"))
        from posedet.weights.torch_session import open_weights

        model = open_weights(file, device or "cpu")
    elif device is not None:
        raise ConfigError(f"--device {device} goes with PyTorch weights: --model x.safetensors")
    return PoseDet(
        model,
        skeleton=skeleton,
        score_threshold=options.score_threshold,
        long_side=options.long_side,
        runtime=options.runtime,
        threads=options.threads,
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


def rules_for_results(options: argparse.Namespace, *refused: str) -> "Protocol":
    """The protocol for the keypoints that `--skeleton` says results have; without the options of running a model."""
    from posedet.evaluation.run import check_order
    from posedet.skeleton import COCO, skeleton_for

    for name in refused:
        if getattr(options, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')} does not go with --results: nothing is run")
    if options.skeleton is not None:
        return rules(options.protocol, skeleton_for(options.skeleton), chosen=True)
    protocol = rules(options.protocol, COCO, chosen=False)
    check_order(options.annotations, protocol)
    return protocol
