"""The savings and the costs of computing embeddings only at some locations.

- The paper's model refines only the locations with the best scores, and scores all locations in parts. The poses stay
  the same (the tests prove it) and take less time.
- posedet-s scores and refines only the locations that a cheap first stage, the presence, ranks best. People whom the
  first stage misses are lost.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from posedet.benchmark.comparison import aligned
from posedet.benchmark.timing import Clock, Spread, interleaved, ratio
from posedet.config import load_config
from posedet.data.annotations import AnnotatedPhoto
from posedet.errors import ModelError
from posedet.evaluation.keypoint_ap import evaluate_keypoints
from posedet.evaluation.protocols import COCO_PROTOCOL
from posedet.evaluation.run import EVALUATED_SCORE
from posedet.files import no_terminal
from posedet.image import Letterbox, read_photo
from posedet.model.build import build_network
from posedet.model.embedding import TapTable, sample
from posedet.model.network import PoseDetNet, Proposals
from posedet.model.pyramid import PyramidMaps
from posedet.oks import oks
from posedet.runtime.decode import decode
from posedet.runtime.session import Outputs
from posedet.skeleton import find_skeleton
from posedet.weights.checkpoint import load_network

PRESET = "dla34-coco"
INPUT_SIZE = (512, 512)  # (height, width), at which the paper reports its speed
# Distance of keypoints from their location, in cells: sampling then uses the cache as with real poses.
SPREAD_CELLS = 3.0

CANDIDATES = (10, 30, 100, 300)
GOOD_OKS = (0.5, 0.75)


class _Given(nn.Module):
    """A stand-in for a module whose output is known."""

    def __init__(self, output: object) -> None:
        super().__init__()
        self._output = output

    def forward(self, _: object) -> object:
        return self._output


def time_refinement(threads: int, rounds: int, *, overrides: Sequence[str] = ()) -> dict[str, list[float]]:
    """Milliseconds of the paper's DLA-34 model in PyTorch, dense and sparse in turns, with random weights.

    The parts are the refinement (sampling, embedding and output), the scores of all locations (sparse: in parts), the
    head (everything after the pyramid), and the network.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = load_config(PRESET, list(overrides))
    network = build_network(config.model, find_skeleton(config.model.skeleton)).eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.inference_mode():
        bias = network.bypass.offsets.bias
        assert bias is not None
        bias.normal_(std=SPREAD_CELLS)
        images = torch.randint(0, 256, (1, 3, *INPUT_SIZE)).float().contiguous(memory_format=torch.channels_last)

        def choose(_: Proposals, logits: Tensor) -> Tensor:
            return logits.topk(min(config.decode.candidates, logits.shape[1]), dim=1).indices

        (refine, score), head = _parts(network, images), _head_alone(network, images)
        calls: dict[str, Callable[[], object]] = {
            "refinement, dense": lambda: refine(None),
            "refinement, sparse": lambda: refine(choose),
            "scores, dense": lambda: score(False),
            "scores, sparse": lambda: score(True),
            "head, dense": lambda: head(images),
            "head, sparse": lambda: head(images, choose),
            "network, dense": lambda: network(images),
            "network, sparse": lambda: network(images, choose),
        }
        timers = {name: (lambda _, call=call: _timed(call)) for name, call in calls.items()}
        interleaved(timers, [None], 1)
        return interleaved(timers, [None], rounds)


def _timed(call: Callable[[], object]) -> float:
    clock = Clock()
    with torch.inference_mode():
        call()
    clock.lap("all")
    return clock.ms["all"]


def _parts(network: PoseDetNet, images: Tensor) -> tuple[Callable[..., Tensor], Callable[[bool], Tensor]]:
    """Functions for the first refinement of all or of chosen coarse poses, and for the scores of all of them."""
    maps = network.pyramid(network.backbone((images - network.image_mean) / network.image_std))
    output = network(images)
    table = _table(network, maps, network.score_taps if network.refine_taps is None else network.refine_taps)
    score_table = _table(network, maps, network.score_taps)
    coarse = output.poses[0]

    def refine(choose: Callable[[Proposals, Tensor], Tensor] | None) -> Tensor:
        index = None if choose is None else choose(output.proposals, output.logits)
        poses = coarse if index is None else coarse[:, index[0]]
        correction: Tensor = network.refinements[0](sample(table, poses, index))
        return correction

    def score(in_parts: bool) -> Tensor:
        return network.score_all(score_table, coarse, output.proposals, in_parts=in_parts)

    return refine, score


def _table(network: PoseDetNet, maps: PyramidMaps, taps: nn.Module) -> TapTable:
    return TapTable.of(taps(maps.taps), maps.levels, network.geometry.tap_strides, network.geometry.origin)


def _head_alone(network: PoseDetNet, images: Tensor) -> PoseDetNet:
    """The network with the outputs of backbone and pyramid precomputed."""
    maps = network.pyramid(network.backbone((images - network.image_mean) / network.image_std))
    head = copy.deepcopy(network)
    head.backbone, head.pyramid = _Given(None), _Given(maps)
    return head


def refinement_table(samples: dict[str, list[float]]) -> str:
    """Plain text: the times of each part, dense and sparse, and their ratio."""
    rows: list[tuple[str, list[str]]] = [("ms", ["dense", "sparse", "dense / sparse"])]
    for part in dict.fromkeys(name.partition(",")[0] for name in samples):
        dense, sparse = samples[f"{part}, dense"], samples[f"{part}, sparse"]
        rows.append((part, [str(Spread.of(dense)), str(Spread.of(sparse)), str(ratio(dense, sparse))]))
    return aligned(rows)


class FirstStage(NamedTuple):
    """The recall of the first stage with a number of candidates, as shares of all annotated people."""

    candidates: int | None  # None: all locations
    best_kept: float  # people whose best location is among the candidates
    found: tuple[float, ...]  # people for whom a candidate's pose reaches each of GOOD_OKS
    mean_oks: float  # mean OKS of the best candidate
    ap: float


def first_stage(weights: Path, photos: Sequence[AnnotatedPhoto]) -> list[FirstStage]:
    """The recall of the first stage, and AP, by the number of candidates.

    photos: with COCO's keypoints. Embeddings are computed at every location, and the candidates are the locations with
    the highest presence. People with at least one labelled keypoint count. Raises ModelError for a model without a
    first stage.
    """
    network, config, skeleton = load_network(weights)
    network.eval()
    if not config.model.presence:
        raise ModelError(f"{weights}: has no first stage, because 'model.presence' is false")
    columns = [skeleton.index(name) for name in COCO_PROTOCOL.skeleton.keypoints]
    best: list[tuple[int, list[float]]] = []  # per person: rank of the best pose, best OKS among the first N
    results: dict[int | None, list[dict[str, Any]]] = {count: [] for count in (*CANDIDATES, None)}
    for photo in tqdm(photos, unit="photo", disable=no_terminal()):
        letterbox, scores, keypoints, visibility = _ranked(network, photo, config.decode.long_side)
        best += _people(photo, letterbox.to_photo(keypoints[:, columns]))
        for count, found in results.items():
            outputs = Outputs(scores[:count], keypoints[:count], visibility[:count])
            poses = decode(outputs, letterbox, skeleton, replace(config.decode, score_threshold=EVALUATED_SCORE))
            found += poses.select(COCO_PROTOCOL.skeleton).to_coco(photo.image_id)
    rows = []
    for place, (count, found) in enumerate(results.items()):
        reached = np.array([each[place] for _, each in best])
        kept = np.mean([count is None or rank < count for rank, _ in best])
        shares = tuple(float((reached >= threshold).mean()) for threshold in GOOD_OKS)
        ap = evaluate_keypoints(photos, found, COCO_PROTOCOL).ap
        rows.append(FirstStage(count, float(kept), shares, float(reached.mean()), ap))
    return rows


def _ranked(
    network: PoseDetNet, photo: AnnotatedPhoto, long_side: int
) -> tuple[Letterbox, NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Scores (M,), keypoints (M, K, 2) in input pixels and keypoint scores (M, K), by descending presence."""
    image = read_photo(photo.path)
    height, width = image.shape[:2]
    letterbox = Letterbox.fit((height, width), long_side=long_side)
    pixels = torch.from_numpy(letterbox.apply(image)[None]).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        output = network(pixels)
        assert output.proposals.presence is not None
        presence = output.proposals.presence[0].sigmoid()
        order = presence.argsort(descending=True, stable=True)
        scores = (presence * output.logits[0].sigmoid()).sqrt()[order]
        keypoints = output.poses[-1][0, order]
        each = scores[:, None].expand(keypoints.shape[:2])
        visibility = each if output.keypoint_logits is None else output.keypoint_logits[0, order].sigmoid()
    return letterbox, scores.numpy(), keypoints.numpy(), visibility.numpy()


def _people(photo: AnnotatedPhoto, poses: NDArray[np.floating[Any]]) -> list[tuple[int, list[float]]]:
    """For each person: the rank of the best of `poses` (M, K, 2), and the best OKS among the first N for each N."""
    found = []
    for person in photo.persons:
        labelled = person.labelled
        if person.ignore or not labelled.any():
            continue
        area = np.array(person.area)
        similarity = oks(poses, person.keypoints[None], COCO_PROTOCOL.skeleton.sigmas, area, labelled[None])[:, 0]
        found.append((int(similarity.argmax()), [float(similarity[:count].max()) for count in (*CANDIDATES, None)]))
    return found


def first_stage_table(rows: Sequence[FirstStage]) -> str:
    """Plain text: a row for each number of candidates, with shares in per cent."""
    titles = ["best pose kept", *(f"found at OKS {threshold:g}" for threshold in GOOD_OKS), "mean OKS", "AP"]
    lines: list[tuple[str, list[str]]] = [("candidates", titles)]
    for row in rows:
        shares = [row.best_kept, *row.found, row.mean_oks, row.ap]
        lines.append((str(row.candidates or "all"), [f"{100 * share:.1f}" for share in shares]))
    return aligned(lines)
