"""Transfer weights between networks with different keypoints, by the parts of tensors that belong to a keypoint."""

import re

import torch
from torch import Tensor

from posedet.errors import ModelError
from posedet.keypoint_names import find_names
from posedet.model.uncertainty import LOGIT_SCALE, seen_features
from posedet.skeleton import Skeleton

# Tensors whose first axis consists of one part per keypoint: a matrix, a row, or rows for x and y.
_BY_KEYPOINT = re.compile(
    r"anchor_pose|(score|refinements\.\d+|local)\.embedding\.weight|local\.(look|output|context\.(weight|bias))"
    r"|(bypass\.offsets|score\.output|refinements\.\d+\.output|heatmap\.output)\.(weight|bias)"
)
# The number of rows before those of the keypoints: the logit of the whole pose.
_BEFORE = {"score.output.weight": 1, "score.output.bias": 1}


def carry_over(
    tensors: dict[str, Tensor], own: dict[str, Tensor], theirs: Skeleton, ours: Skeleton
) -> dict[str, Tensor]:
    """Convert `tensors` of a network with the skeleton `theirs` to the keypoints of `ours`, by name.

    own: the state of the new network, which provides the weights of new keypoints. Their parts of the embeddings are
    set to zero, so that they do not disturb the reused keypoints. Tensors that differ in more than the keypoints are
    returned unchanged.
    """
    places = find_names(ours.keypoints, theirs.keypoints)
    shared = [(place, old) for place, old in enumerate(places) if old is not None]
    to, source = torch.tensor(shared, dtype=torch.long).reshape(-1, 2).unbind(1)
    carried = dict(tensors)
    for name, tensor in tensors.items():
        if name not in own or not _BY_KEYPOINT.fullmatch(name):
            continue
        before = _BEFORE.get(name, 0)
        mixed = own[name].detach().cpu().float().clone(memory_format=torch.contiguous_format)
        new = _parts(mixed, before, ours.num_keypoints)
        old = _parts(tensor.contiguous(), before, theirs.num_keypoints)
        if new is None or old is None or new.shape[1:] != old.shape[1:]:
            continue
        mixed[:before] = tensor[:before]
        if shared and name.endswith(".embedding.weight"):  # all zeros could never learn, because ReLU follows
            new[:] = 0
        new[to] = old[source].float()
        carried[name] = mixed
    return carried


def corrected_keypoint_scores(tensors: dict[str, Tensor], slope: float, offset: float) -> dict[str, Tensor]:
    """Change the last layer so that the logit x of every keypoint score becomes slope * x + offset.

    A head for uncertainty, which reads these logits, is changed so that it says the same as before.

    Raises ModelError if the network does not predict keypoint scores.
    """
    corrected = dict(tensors)
    for name, before in _BEFORE.items():
        if name not in tensors or len(tensors[name]) <= before:
            raise ModelError("this network does not predict keypoint scores, so there is nothing to correct")
        rows = tensors[name].float().clone()
        rows[before:] = slope * rows[before:] + (offset if name.endswith("bias") else 0)
        corrected[name] = rows.to(tensors[name].dtype)
    weight, bias = (f"uncertainty.look.{part}" for part in ("weight", "bias"))
    if weight in tensors:
        columns = seen_features(len(tensors["score.output.weight"]) - 1)
        look = tensors[weight].float().clone()
        look[:, columns] /= slope
        shift = look[:, columns].sum(dim=1) * offset / LOGIT_SCALE
        corrected |= {weight: look, bias: tensors[bias].float() - shift}
    return corrected


def _parts(tensor: Tensor, before: int, num_keypoints: int) -> Tensor | None:
    """Return a view (K, rows per keypoint, ...) of the rows from `before` on; None if they are not K equal parts."""
    rows = len(tensor) - before if tensor.ndim else 0
    if rows <= 0 or rows % num_keypoints:
        return None
    return tensor[before:].view(num_keypoints, rows // num_keypoints, *tensor.shape[1:])
