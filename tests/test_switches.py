"""Each setting changes what it says and nothing else: photos, terms of the loss, optimisation or poses, one by one.

The shipped weights look at a patch of the shipped photos, as in training. What depends on several settings is compared
whole; that it is right, and not only other, is shown where each part is tested.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from posedet.config import Config, ModelConfig, load_config
from posedet.data.annotations import AnnotatedPhoto, PhotoSet
from posedet.data.sources import read_photos
from posedet.image import Letterbox
from posedet.model.build import build_network
from posedet.model.network import PoseDetNet
from posedet.runtime.decode import decode
from posedet.runtime.session import Outputs
from posedet.skeleton import BODY19
from posedet.training.batches import Batch, PhotoStream, collate
from posedet.training.loop import rate_at
from posedet.training.setup import Objective, make_optimiser
from posedet.weights.checkpoint import load_tensors

PHOTOS = Path(__file__).parent.parent / "photos"
WEIGHTS = Path(str(resources.files("posedet") / "released" / "posedet-s.safetensors"))
BASE = ("data.patch=192", "data.mosaic=0.0", "train.amp='none'", "train.steps=2000")
SAMPLES = (0, 1, 2)
STEP = 100  # of 500 in which the OKS loss grows

POSES = {"coarse", "refined"}
# What follows from which poses are refined, and from what they become.
AFTER = {"refined", "score", "keypoint_score"}

# Settings that must be so for the one in question to matter, that one, and what it changes.
SWITCHES: list[tuple[tuple[str, ...], str, set[str]]] = [
    ((), "model.representation='centre'", AFTER),
    ((), "model.representation='box'", AFTER),
    ((), "model.refinements=1", AFTER | {"optimiser"}),
    ((), "model.local_channels=0", AFTER | {"optimiser"}),
    ((), "model.score_at='coarse'", {"score", "keypoint_score"}),
    ((), "model.heatmaps=false", {"heatmap", "optimiser"}),
    ((), "data.crop='person'", {"patches"}),
    ((), "data.zoom=[0.5, 0.6]", {"patches"}),
    ((), "data.flip=0.0", {"patches"}),
    ((), "data.rotation_deg=0.0", {"patches"}),
    ((), "data.colour=0.0", {"patches"}),
    ((), "data.mosaic=1.0", {"patches"}),
    ((), "data.keep='centre'", {"patches"}),
    ((), "data.geometry='official'", {"patches"}),
    ((), "data.truncate=true", {"patches"}),
    ((), "data.empty_photos=false", {"photos"}),
    ((), "assign.min_keypoints=12", POSES | AFTER | {"presence", "heatmap"}),
    ((), "assign.least_side=2.0", POSES | AFTER | {"presence", "heatmap"}),
    ((), "assign.centre='box'", POSES | AFTER | {"presence"}),
    ((), "assign.positives=1", POSES | AFTER | {"presence"}),
    (("assign.selected=112",), "assign.ignore_regions=false", AFTER | {"presence"}),
    (("assign.selected=112",), "assign.oks_area='half box'", POSES | AFTER),
    ((), "assign.refine_oks=0.9", AFTER),
    ((), "assign.rescue_oks=0.3", AFTER),
    (("assign.rescue_oks=0.3",), "assign.rescue_oks=2.0", AFTER),
    ((), "assign.selected=100", AFTER),
    ((), "assign.score_target='labels'", {"score"}),
    ((), "loss.distance='clamped sum'", POSES),
    (("loss.distance='clamped sum'",), "loss.distance='squared sum'", POSES),
    ((), "loss.coarse=2.0", {"coarse"}),
    ((), "loss.refined=2.0", {"refined"}),
    ((), "loss.oks=0.0", POSES),
    ((), "loss.oks_warmup=200", POSES),
    ((), "loss.presence=2.0", {"presence"}),
    ((), "loss.keypoint_score=2.0", {"keypoint_score"}),
    ((), "loss.heatmap=2.0", {"heatmap"}),
    ((), "loss.heatmap_form='l2'", {"heatmap"}),
    ((), "loss.heatmap_targets='all levels'", {"heatmap"}),
    ((), "loss.heatmap_sigma=2.0", {"heatmap"}),
    ((), "train.seed=1", AFTER | {"patches"}),  # also which locations are drawn for their scores
    ((), "train.optimiser='adamw'", {"optimiser"}),
    ((), "train.learning_rate=1.0", {"optimiser"}),
    ((), "train.backbone_rate=1.0", {"optimiser"}),
    ((), "train.frozen_blocks=0", {"optimiser"}),
    ((), "train.weight_decay=0.0", {"optimiser"}),
    ((), "train.steps=3000", {"rates"}),
    ((), "train.warmup=0", {"rates"}),
    ((), "train.schedule='step'", {"rates"}),
    ((), "train.decay=[0.5]", {"rates"}),
    ((), "decode.long_side=512", {"input"}),
    ((), "decode.short_side=320", {"input"}),
    ((), "decode.score_threshold=0.9", {"poses"}),
    ((), "decode.nms='iou'", {"poses"}),
    ((), "decode.nms_threshold=0.9", {"poses"}),
    ((), "decode.min_area=1e5", {"poses"}),
    ((), "decode.clamp=true", {"poses"}),
]


@cache
def photos() -> tuple[AnnotatedPhoto, ...]:
    """The shipped ones, the last as if without people."""
    *others, last = read_photos(f"{PHOTOS}/truth.json:{PHOTOS}", BODY19)
    return *others, replace(last, persons=())


def stream(config: Config) -> PhotoStream:
    return PhotoStream(PhotoSet(photos()), BODY19, config.data, config.train.seed)


@cache
def batch() -> Batch:
    samples = stream(load_config("posedet-s", list(BASE)))
    return collate([samples[number] for number in SAMPLES])


@cache
def network(model: ModelConfig) -> PoseDetNet:
    """With the shipped weights, those that there is a place for, in training but for the statistics."""
    built = build_network(model, BODY19)
    built.load_state_dict(load_tensors(WEIGHTS)[0], strict=False)
    built.train()
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return built


@torch.no_grad()
def terms(config: Config) -> dict[str, Any]:
    net = network(config.model)
    values: dict[str, Any] = {}
    for name, value in Objective(config, BODY19, net.geometry, torch.device("cpu"))(net, batch(), STEP).items():
        values.setdefault(name.rstrip("0123456789"), []).append(value.item())
    return values


def optimisation(config: Config) -> dict[str, Any]:
    with torch.device("meta"):
        net = build_network(config.model, BODY19)
    net.backbone.freeze(config.train.frozen_blocks)
    optimiser = make_optimiser(net, config.train)
    groups = [{**group, "params": len(group["params"])} for group in optimiser.param_groups]
    return {
        "optimiser": (type(optimiser), groups),
        "rates": [rate_at(step, config.train) for step in range(0, 2000, 50)],
    }


def decoded(config: Config) -> dict[str, Any]:
    """Two people close together, each found twice, and one cut by the border."""
    generator = np.random.default_rng(0)
    person = generator.uniform(0, 60, (19, 2))
    places = np.array([(100, 100), (103, 100), (115, 100), (118, 101), (300, -30)])
    keypoints = (person + places[:, None]).astype(np.float32)
    outputs = Outputs(np.array([0.95, 0.92, 0.9, 0.88, 0.6], np.float32), keypoints, np.ones((5, 19), np.float32))
    found = decode(outputs, Letterbox.fit((480, 640), long_side=640), BODY19, config.decode)
    fitted = Letterbox.fit((480, 640), long_side=config.decode.long_side, short_side=config.decode.short_side)
    return {"poses": (found.scores.tolist(), found.keypoints.tolist()), "input": fitted}


def patches(config: Config) -> dict[str, Any]:
    samples = stream(config)
    drawn = [samples[number] for number in SAMPLES]
    seen = PhotoSet(photos()) if config.data.empty_photos else PhotoSet(photos()).without_empty()
    return {
        "patches": [[np.asarray(part).tobytes() for part in patch[:-1]] for patch in drawn],
        "photos": [photo.path for photo in seen.photos],
    }


PARTS: tuple[Callable[[Config], dict[str, Any]], ...] = (patches, terms, optimisation, decoded)


@cache
def everything(settings: tuple[str, ...]) -> dict[str, Any]:
    config = load_config("posedet-s", [*BASE, *settings])
    return {name: value for part in PARTS for name, value in part(config).items()}


@pytest.mark.slow
@pytest.mark.parametrize(("given", "setting", "expected"), SWITCHES, ids=[setting for _, setting, _ in SWITCHES])
def test_changes_what_it_says_and_nothing_else(given: tuple[str, ...], setting: str, expected: set[str]) -> None:
    before, after = everything(given), everything((*given, setting))
    assert {name for name in before | after if before.get(name) != after.get(name)} == expected


def test_no_setting_of_these_sections_is_left_out() -> None:
    tried = {setting.partition("=")[0] for _, setting, _ in SWITCHES}
    config = load_config("posedet-s").to_dict()
    known = {f"{section}.{key}" for section in ("data", "assign", "loss") for key in config[section]}
    assert known - tried == {"data.patch", "data.early_patch"}
