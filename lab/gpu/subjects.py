"""The measured models: the paper's three with random weights, and the default model."""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lab.gpu.rows import Plan
from posedet.config import Config, load_config
from posedet.image import Letterbox, read_photo
from posedet.model.build import build_network
from posedet.model.network import PoseDetNet
from posedet.runtime.model_files import model_file
from posedet.skeleton import Skeleton, find_skeleton
from posedet.weights.checkpoint import load_network

# For untrained models: the distance of keypoints from their location, in cells, and the number of candidates that pass
# the score threshold. Both are as with real poses, so that caching and the suppression of duplicates are realistic.
SPREAD_CELLS = 3.0
PASSING = 100


class Model(NamedTuple):
    """A network and its input size (height, width) for a photo of 640 x 480, as in the paper."""

    name: str
    preset: str
    size: tuple[int, int]
    batch: int  # batch size for throughput
    paper_fps: float | None = None  # on a GTX 1080 Ti


MODELS = (
    Model("HRNet-W48@640", "hrnet-w48-coco", (640, 864), 32, 10),
    Model("HRNet-W32@512", "hrnet-w32-coco", (512, 704), 64, 18),
    Model("DLA-34@512", "dla34-coco", (512, 704), 64, 42),
    Model("posedet-s@576", "posedet-s", (448, 576), 128),
)
PAPER_MODELS = MODELS[:3]
TOY_SIZE, TOY_BATCH, TOY_CANDIDATES = (128, 160), 2, 40


def input_size(model: Model, plan: Plan) -> tuple[int, int]:
    return TOY_SIZE if plan.toy else model.size


def throughput_batch(model: Model, plan: Plan) -> int:
    return TOY_BATCH if plan.toy else model.batch


class LoadedModel(NamedTuple):
    """A network on its device."""

    network: PoseDetNet
    config: Config
    skeleton: Skeleton


def build(model: Model, plan: Plan) -> LoadedModel:
    """Load a model with its shipped weights, or with random ones that find about as many people as trained ones."""
    if model.preset == "posedet-s":
        path = model_file("posedet-s").with_suffix(".safetensors")
        network, config, skeleton = load_network(path)
        return LoadedModel(network.to(plan.device).eval(), config, skeleton)
    torch.manual_seed(0)
    config = load_config(model.preset, [f"decode.candidates={TOY_CANDIDATES}"] if plan.toy else [])
    skeleton = find_skeleton(config.model.skeleton)
    with torch.device(plan.device):
        network = build_network(config.model, skeleton)
    photos = torch.from_numpy(pixels(plan, input_size(model, plan), 1)[0]).to(plan.device)
    with torch.no_grad():
        _make_plausible(network, photos.permute(0, 3, 1, 2).float(), config.decode.score_threshold)
    return LoadedModel(network.eval(), config, skeleton)


def _make_plausible(network: PoseDetNet, images: Tensor, score_threshold: float) -> None:
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    network.train()(images)  # otherwise activations grow with depth until float16 overflows
    network.eval()
    bias = network.bypass.offsets.bias
    assert bias is not None
    bias.normal_(std=SPREAD_CELLS)
    logits = network(images).logits[0]
    last = logits.topk(min(PASSING, len(logits))).values[-1]
    network.score.output.bias[0] += math.log(score_threshold / (1 - score_threshold)) - last


def fixed_letterbox(photo_size: tuple[int, int], size: tuple[int, int]) -> Letterbox:
    """Fit a photo (height, width) into an input of fixed size, which recorded graphs need."""
    factor = min(size[0] / photo_size[0], size[1] / photo_size[1])
    height, width = (max(1, min(int(side * factor + 0.5), most)) for side, most in zip(photo_size, size, strict=True))
    return Letterbox(photo_size, (height, width), size)


def pixels(plan: Plan, size: tuple[int, int], count: int) -> tuple[NDArray[np.uint8], list[Letterbox]]:
    """A batch (count, *size, 3) that repeats the photos, and the letterbox of each."""
    images, letterboxes = [], []
    for path in plan.photos[:count]:
        photo = read_photo(path)
        letterbox = fixed_letterbox((photo.shape[0], photo.shape[1]), size)
        images.append(letterbox.apply(photo))
        letterboxes.append(letterbox)
    order = [place % len(images) for place in range(count)]
    return np.stack([images[place] for place in order]), [letterboxes[place] for place in order]
