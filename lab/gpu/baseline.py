"""The baseline: the same network run as in the official code, dense, in float32, and with waits for the host.

Pixels are normalised on the host and uploaded as float32. Every location is refined. The heatmap branch runs although
its output is unused. The best 500 locations of each level are kept, a mask removes those with low scores, and OKS-NMS
reads a value from the device after each pose that it keeps.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lab.gpu.limits import set_tf32
from lab.gpu.rows import Measurement, Plan, attempt, milliseconds, peak_memory, timed
from lab.gpu.subjects import LoadedModel, Model, build, input_size, pixels, throughput_batch
from posedet.config import DecodeConfig
from posedet.image import Letterbox
from posedet.model.network import PoseDetNet
from posedet.model.pyramid import PyramidMaps
from posedet.runtime.decode import MAX_POSES

BEST_OF_LEVEL = 500
TITLE = "official style"


def baseline(plan: Plan, model: Model) -> Iterator[Measurement]:
    """Latency of one photo and throughput of batches; also with TF32, which is newer than the official code."""
    subject = build(model, plan)
    for precision in ("fp32", "tf32"):
        for batch in (1, throughput_batch(model, plan)):
            row = Measurement("baseline", model.name, TITLE, precision, batch)
            yield attempt(row, partial(_measure, plan, model, subject, precision, batch))


def _measure(plan: Plan, model: Model, subject: LoadedModel, precision: str, batch: int) -> dict[str, float]:
    set_tf32(precision != "fp32")
    torch.backends.cudnn.benchmark = True
    peak_memory(plan.device)
    images, letterboxes = pixels(plan, input_size(model, plan), batch)
    detector = Official(subject, plan.device)
    found: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        spread = timed(lambda: found.__setitem__(slice(None), detector(images, letterboxes)), plan.device, plan.seconds)
    people = sum(len(scores) for _, scores in found) / batch
    rate = 1e3 * batch / spread.median
    return {"images/s": rate, **milliseconds(spread), "people a photo": people, **peak_memory(plan.device)}


class Official:
    """The official inference: dense, and with a host that waits for the device."""

    def __init__(self, subject: LoadedModel, device: str) -> None:
        self.network: PoseDetNet = subject.network
        self.decode: DecodeConfig = subject.config.decode
        self.device = device
        self.sigmas = torch.tensor(subject.skeleton.sigmas, device=device)
        self.mean = self.network.image_mean.cpu().numpy().reshape(3)
        self.std = self.network.image_std.cpu().numpy().reshape(3)
        self._levels: list[Tensor] = []

    def __call__(self, images: NDArray[np.uint8], letterboxes: list[Letterbox]) -> list[tuple[Tensor, Tensor]]:
        """For each image (B, H, W, 3): poses (n, K, 2) in pixels of the photo and scores (n,), best first."""
        normal = ((images.astype(np.float32) - self.mean) / self.std).transpose(0, 3, 1, 2)
        uploaded = torch.from_numpy(np.ascontiguousarray(normal)).to(self.device)
        hook = self.network.pyramid.register_forward_hook(self._keep_levels)
        # The network normalises its input itself, so the normalisation is undone here.
        output = self.network(uploaded * self.network.image_std + self.network.image_mean)
        hook.remove()
        if self.network.heatmap is not None:
            self.network.heatmap(self._levels)
        scores = output.logits.sigmoid()
        sizes = [int((output.proposals.strides == stride).sum()) for stride in self.network.geometry.strides]
        return [
            self._poses(scores[place], output.poses[-1][place], sizes, letterbox)
            for place, letterbox in enumerate(letterboxes)
        ]

    def _keep_levels(self, _: object, __: object, maps: PyramidMaps) -> None:
        self._levels = maps.levels

    def _poses(
        self, scores: Tensor, keypoints: Tensor, sizes: list[int], letterbox: Letterbox
    ) -> tuple[Tensor, Tensor]:
        starts = np.cumsum([0, *sizes[:-1]]).tolist()
        best = [
            level.topk(min(BEST_OF_LEVEL, len(level))).indices + start
            for level, start in zip(torch.split(scores, sizes), starts, strict=True)
        ]
        index = torch.cat(best)
        scores, keypoints = scores[index], keypoints[index]
        (height, width), (to_height, to_width) = letterbox.photo_size, letterbox.resized_size
        factors = keypoints.new_tensor((to_width / width, to_height / height))
        placed = (keypoints + 0.5) / factors - 0.5
        placed = torch.minimum(placed.clamp(min=0), placed.new_tensor((width - 1, height - 1)))
        strong = scores > self.decode.score_threshold
        scores, order = scores[strong].sort(descending=True, stable=True)
        placed = placed[strong][order]
        kept = waiting_nms(placed, self.sigmas, self.decode.nms_threshold, self.decode.min_area)
        kept = kept[:MAX_POSES]
        return placed[kept], scores[kept]


def waiting_nms(keypoints: Tensor, sigmas: Tensor, oks_threshold: float, min_area: float) -> Tensor:
    """OKS-NMS of poses (N, K, 2), best first; the host waits after each kept pose. Returns indices (n,)."""
    extents = keypoints.amax(1) - keypoints.amin(1)
    areas = extents.prod(1).clamp(min=min_area)
    squared = (keypoints[:, None] - keypoints[None]).square().sum(3)
    both = (areas[:, None] + areas[None]) / 2
    similarity = (-squared / (4 * sigmas.square() * both[..., None])).exp().mean(2)
    left = torch.arange(len(keypoints), device=keypoints.device)
    kept = []
    while len(left):
        kept.append(left[0])
        left = left[1:][similarity[left[0], left[1:]] <= oks_threshold]
    return torch.stack(kept) if kept else left
