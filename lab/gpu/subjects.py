"""The models that are measured, ready to run: the paper's three with weights at random, and the default one."""

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

# Of untrained models: how far keypoints lie from their location, in cells, and how many candidates pass the score
# threshold. Both as for real poses, so that samples meet the cache and duplicates are suppressed as for those.
SPREAD_CELLS = 3.0
PASSING = 100


class Model(NamedTuple):
    """A network and the input that a photo of 640 x 480 becomes: (height, width), sides as the paper has them."""

    name: str
    preset: str
    size: tuple[int, int]
    batch: int  # photos at once, for throughput
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


class Subject(NamedTuple):
    """A network on its device, to be run."""

    network: PoseDetNet
    config: Config
    skeleton: Skeleton


def build(model: Model, plan: Plan) -> Subject:
    """The model with its weights: the shipped ones, or random ones that find about as much as trained ones."""
    if model.preset == "posedet-s":
        path = model_file("posedet-s").with_suffix(".safetensors")
        network, config, skeleton = load_network(path)
        return Subject(network.to(plan.device).eval(), config, skeleton)
    torch.manual_seed(0)
    config = load_config(model.preset, [f"decode.candidates={TOY_CANDIDATES}"] if plan.toy else [])
    skeleton = find_skeleton(config.model.skeleton)
    with torch.device(plan.device):
        network = build_network(config.model, skeleton)
    photos = torch.from_numpy(pixels(plan, input_size(model, plan), 1)[0]).to(plan.device)
    with torch.no_grad():
        _make_plausible(network, photos.permute(0, 3, 1, 2).float(), config.decode.score_threshold)
    return Subject(network.eval(), config, skeleton)


def _make_plausible(network: PoseDetNet, images: Tensor, score_threshold: float) -> None:
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    network.train()(images)  # otherwise activations grow with the depth until float16 overflows
    network.eval()
    bias = network.bypass.offsets.bias
    assert bias is not None
    bias.normal_(std=SPREAD_CELLS)
    logits = network(images).logits[0]
    last = logits.topk(min(PASSING, len(logits))).values[-1]
    network.score.output.bias[0] += math.log(score_threshold / (1 - score_threshold)) - last


def fixed_letterbox(photo_size: tuple[int, int], size: tuple[int, int]) -> Letterbox:
    """A photo (height, width) as large as fits into an input of a given size: recorded graphs have only one."""
    factor = min(size[0] / photo_size[0], size[1] / photo_size[1])
    height, width = (max(1, min(int(side * factor + 0.5), most)) for side, most in zip(photo_size, size, strict=True))
    return Letterbox(photo_size, (height, width), size)


def pixels(plan: Plan, size: tuple[int, int], count: int) -> tuple[NDArray[np.uint8], list[Letterbox]]:
    """A batch (count, *size, 3) of the photos, again and again, and how each lies in it."""
    images, letterboxes = [], []
    for path in plan.photos[:count]:
        photo = read_photo(path)
        letterbox = fixed_letterbox((photo.shape[0], photo.shape[1]), size)
        images.append(letterbox.apply(photo))
        letterboxes.append(letterbox)
    order = [place % len(images) for place in range(count)]
    return np.stack([images[place] for place in order]), [letterboxes[place] for place in order]
