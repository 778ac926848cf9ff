"""The command `posedet identity`."""

import argparse
import logging
from dataclasses import replace
from pathlib import Path

from posedet.commands.options import (
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

log = logging.getLogger(__name__)

PAIRS, CHANNELS = 6000, 32


def add_commands(add: AddCommand) -> None:
    identity = add(
        "identity",
        "add an embedding that recognises people to finished weights (needs posedet[train])",
        "identity weights.safetensors identified.safetensors --data train.json",
    )
    identity.add_argument("weights", type=Path, help="weights.safetensors of a training run")
    identity.add_argument("output", type=Path, help="safetensors file to write, for `posedet export`")
    identity.add_argument("--data", action="append", required=True, metavar=DATA, help=DATA_HELP)
    add_category(identity)
    identity.add_argument("--validate", metavar="JSON[:FOLDER]", help="annotated photos on which to measure the result")
    add_number(identity, "--pairs", "pairs of views to train on (default: %(default)s)", default=PAIRS)
    add_number(identity, "--channels", "length of the embedding (default: %(default)s)", default=CHANNELS)
    add_number(identity, "--workers", "processes that prepare photos (default: %(default)s)", least=0, default=1)
    add_overwrite(identity)
    identity.set_defaults(command=_identity)


def _identity(options: argparse.Namespace) -> int:
    needs("posedet identity", "train", ("torch", "cv2", "safetensors", "yaml"))
    from posedet.data.sources import Source, read_photos, read_sets
    from posedet.outputs import make_folder
    from posedet.training.identity import GENERATOR, train_identity
    from posedet.weights.checkpoint import load_weights, stored_skeleton

    claim(options, GENERATOR, [options.output])
    skeleton = stored_skeleton(load_weights(options.weights)[2], options.weights)
    with photos_named_by(f"--data {DATA}"):
        photos = read_sets([replace(Source.parse(text), category=options.category) for text in options.data], skeleton)
    held_out = []
    if options.validate:
        with photos_named_by("--validate JSON:FOLDER"):
            held_out = list(read_photos(Source.parse(options.validate), skeleton))
    never_replace(options, [*photos.photos, *held_out])
    make_folder(options.output.parent)
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
