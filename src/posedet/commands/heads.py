"""The commands that train one more head on finished weights: `posedet identity | uncertainty`."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from posedet.commands.options import (
    SOURCE_HELP,
    AddCommand,
    add_category,
    add_number,
    add_overwrite,
    claim,
    never_replace,
    photos_named_by,
)
from posedet.commands.train import DATA, DATA_HELP
from posedet.extras import needs

if TYPE_CHECKING:
    from posedet.data.annotations import AnnotatedPhoto, PhotoSet

PAIRS, VIEWS = 6000, 6000
IDENTITY_CHANNELS, UNCERTAINTY_CHANNELS = 32, 128


def add_commands(add: AddCommand) -> None:
    identity = add(
        "identity",
        "add an embedding that recognises people to finished weights (needs posedet[train])",
        "identity weights.safetensors identified.safetensors --data train.json",
    )
    _add_common(identity, IDENTITY_CHANNELS, "length of the embedding")
    identity.add_argument("--validate", metavar="JSON[:FOLDER]", help="annotated photos on which to measure the result")
    add_number(identity, "--pairs", "pairs of views to train on (default: %(default)s)", default=PAIRS)
    identity.set_defaults(command=_identity)

    uncertainty = add(
        "uncertainty",
        "add covariances of keypoints, and better scores, to finished weights (needs posedet[train])",
        "uncertainty weights.safetensors sure.safetensors --data train.json --held-out unseen.json",
    )
    _add_common(uncertainty, UNCERTAINTY_CHANNELS, "width of the head")
    uncertainty.add_argument(
        "--held-out",
        required=True,
        metavar="JSON[:FOLDER]",
        help=f"photos that the network was not trained on, which calibrate the ellipses: {SOURCE_HELP}",
    )
    add_number(uncertainty, "--views", "views to train on (default: %(default)s)", default=VIEWS)
    uncertainty.set_defaults(command=_uncertainty)


def _add_common(parser: argparse.ArgumentParser, channels: int, meaning: str) -> None:
    parser.add_argument("weights", type=Path, help="weights.safetensors of a training run")
    parser.add_argument("output", type=Path, help="safetensors file to write, for `posedet export`")
    parser.add_argument("--data", action="append", required=True, metavar=DATA, help=DATA_HELP)
    add_category(parser)
    add_number(parser, "--channels", f"{meaning} (default: %(default)s)", default=channels)
    add_number(parser, "--workers", "processes that prepare photos (default: %(default)s)", least=0, default=1)
    add_overwrite(parser)


def _identity(options: argparse.Namespace) -> int:
    needs("posedet identity", "train", ("torch", "cv2", "safetensors", "yaml"))
    from posedet.training.identity import GENERATOR, train_identity

    claim(options, GENERATOR, [options.output])
    photos, held_out = _photos(options, "--validate", options.validate)
    train_identity(
        options.weights,
        photos,
        options.output,
        pairs=options.pairs,
        channels=options.channels,
        held_out=held_out,
        workers=options.workers,
    )
    print(f"trained -> {options.output}")
    return 0


def _uncertainty(options: argparse.Namespace) -> int:
    needs("posedet uncertainty", "train", ("torch", "cv2", "safetensors", "yaml"))
    from posedet.training.uncertainty import GENERATOR, train_uncertainty

    claim(options, GENERATOR, [options.output])
    photos, held_out = _photos(options, "--held-out", options.held_out)
    train_uncertainty(
        options.weights,
        photos,
        options.output,
        held_out=held_out,
        views=options.views,
        channels=options.channels,
        workers=options.workers,
    )
    print(f"trained -> {options.output}")
    return 0


def _photos(
    options: argparse.Namespace, option: str, others: str | None
) -> "tuple[PhotoSet, tuple[AnnotatedPhoto, ...]]":
    """Read the photos to train on, and the other ones that `option` names, if any; make the output's folder."""
    from posedet.data.sources import Source, read_photos, read_sets
    from posedet.outputs import make_folder
    from posedet.weights.checkpoint import load_weights, stored_skeleton

    skeleton = stored_skeleton(load_weights(options.weights)[2], options.weights)
    with photos_named_by(f"--data {DATA}"):
        photos = read_sets([replace(Source.parse(text), category=options.category) for text in options.data], skeleton)
    held_out: tuple[AnnotatedPhoto, ...] = ()
    if others is not None:
        with photos_named_by(f"{option} JSON:FOLDER"):
            held_out = read_photos(Source.parse(others), skeleton)
    never_replace(options, [*photos.photos, *held_out])
    make_folder(options.output.parent)
    return photos, held_out
