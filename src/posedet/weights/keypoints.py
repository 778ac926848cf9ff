"""Which part of which tensor belongs to one keypoint: a network starts from one that knows other keypoints."""

import re

import torch
from torch import Tensor

from posedet.errors import ModelError
from posedet.skeleton import Skeleton

# One part after the other for each keypoint along the first axis: a matrix, a row, or rows for y and x.
_BY_KEYPOINT = re.compile(
    r"anchor_pose|(score|refinements\.\d+|local)\.embedding\.weight|local\.(look|output|context\.(weight|bias))"
    r"|(bypass\.offsets|score\.output|refinements\.\d+\.output|heatmap\.output)\.(weight|bias)"
)
# Rows before those of the keypoints: the logit of the whole pose.
_BEFORE = {"score.output.weight": 1, "score.output.bias": 1}


def carry_over(
    tensors: dict[str, Tensor], own: dict[str, Tensor], theirs: Skeleton, ours: Skeleton
) -> dict[str, Tensor]:
    """`tensors` of a network with the skeleton `theirs`, brought to the keypoints of `ours` by their names.

    own: the state of the network that starts; what belongs to a keypoint of a new name stays as it is there, but for
    its share of the embeddings: nothing, until it is learnt, so that more keypoints do not disturb those there were.
    Tensors that differ in more than the keypoints are given back as they came.
    """
    shared = [(ours.index(name), theirs.index(name)) for name in ours.keypoints if name in theirs.keypoints]
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
        if shared and name.endswith(".embedding.weight"):  # all of it nothing would never learn: ReLU follows
            new[:] = 0
        new[to] = old[source].float()
        carried[name] = mixed
    return carried


def corrected_keypoint_scores(tensors: dict[str, Tensor], slope: float, offset: float) -> dict[str, Tensor]:
    """The same network, in which the logit x of every keypoint score is slope * x + offset: exactly, in its last layer.

    Raises ModelError for a network that gives no scores of keypoints.
    """
    corrected = dict(tensors)
    for name, before in _BEFORE.items():
        if name not in tensors or len(tensors[name]) <= before:
            raise ModelError("this network gives no scores of keypoints, so there is nothing to correct")
        rows = tensors[name].float().clone()
        rows[before:] = slope * rows[before:] + (offset if name.endswith("bias") else 0)
        corrected[name] = rows.to(tensors[name].dtype)
    return corrected


def _parts(tensor: Tensor, before: int, num_keypoints: int) -> Tensor | None:
    """A view (K, rows of a keypoint, ...) of what follows `before` rows; None if that is not K parts."""
    rows = len(tensor) - before if tensor.ndim else 0
    if rows <= 0 or rows % num_keypoints:
        return None
    return tensor[before:].view(num_keypoints, rows // num_keypoints, *tensor.shape[1:])
