"""Muon: all directions of a step are equally long, what is no matrix is stepped by AdamW, memory order says nothing."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributed as dist

from posedet.config import load_config
from posedet.model.build import build_network
from posedet.skeleton import find_skeleton
from posedet.training.muon import Muon, _shares, is_matrix, orthogonal
from posedet.training.processes import ALONE, Processes


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000), st.floats(1e-6, 1e6))
@settings(max_examples=40, deadline=None)
def test_directions_are_those_of_the_singular_vectors(rows: int, columns: int, seed: int, scale: float) -> None:
    torch.manual_seed(seed)
    rank = min(rows, columns)
    u, v = (torch.linalg.qr(torch.randn(size, rank))[0] for size in (rows, columns))
    values = torch.linspace(1, 0.1, rank)
    found = orthogonal(scale * (u * values) @ v.T)
    assert found.shape == (rows, columns)
    # In the basis of its singular vectors: about 1 along each, next to nothing across.
    along = u.T @ found @ v
    assert (along.diagonal() > 0.6).all() and (along.diagonal() < 1.3).all()
    assert (along - along.diagonal().diag()).abs().max() < 0.1


def test_several_matrices_are_each_made_so() -> None:
    matrices = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    together, alone = orthogonal(matrices), torch.stack([orthogonal(matrix) for matrix in matrices])
    torch.testing.assert_close(together, alone, atol=0.02, rtol=0)


def stepped(parameters: list[torch.Tensor], optimiser: torch.optim.Optimizer) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for parameter in parameters:
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = gradient.contiguous(
                memory_format=torch.channels_last
                if parameter.is_contiguous(memory_format=torch.channels_last)
                else torch.contiguous_format
            )
        optimiser.step()
    return [parameter.detach().clone(memory_format=torch.contiguous_format) for parameter in parameters]


def test_what_is_no_matrix_is_stepped_by_adamw() -> None:
    def start() -> list[torch.Tensor]:
        return [torch.ones(4, requires_grad=True), torch.ones(2, 3, requires_grad=True)]

    own, other = start(), start()
    groups = [
        {"params": [own[0]], "matrices": False, "lr": 0.1, "weight_decay": 0.0},
        {"params": [own[1]], "matrices": True, "lr": 0.1, "weight_decay": 0.0},
    ]
    found = stepped(own, Muon(groups))
    wanted = stepped(other, torch.optim.AdamW(other, lr=0.1, weight_decay=0.0))
    torch.testing.assert_close(found[0], wanted[0], atol=0, rtol=0)
    assert not torch.equal(found[1], wanted[1])


def test_the_first_step_of_a_matrix() -> None:
    weight = torch.zeros(2, 3, requires_grad=True)
    weight.data += 1
    optimiser = Muon([{"params": [weight], "matrices": True, "lr": 0.1, "weight_decay": 0.5}])
    weight.grad = torch.tensor([[3.0, 0, 0], [0, 0, 0.5]])
    optimiser.step()
    direction = (weight.detach() - (1 - 0.1 * 0.5)) / (-0.1 * 0.2 * 3**0.5)
    torch.testing.assert_close(direction, torch.tensor([[1.0, 0, 0], [0, 0, 1]]), atol=0.3, rtol=0)


def test_the_order_in_memory_says_nothing() -> None:
    def run(memory_format: torch.memory_format) -> torch.Tensor:
        weight = torch.ones(6, 4, 3, 3).contiguous(memory_format=memory_format).requires_grad_()
        return stepped([weight], Muon([{"params": [weight], "matrices": True, "lr": 0.1}]))[0]

    torch.testing.assert_close(run(torch.channels_last), run(torch.contiguous_format), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("name", "matrix"),
    [
        ("backbone.stem.weight", True),
        ("bypass.tower.0.conv.weight", True),
        ("refinements.0.embedding.weight", True),
        ("local.look", True),
        ("bypass.offsets.weight", False),
        ("bypass.presence.weight", False),
        ("score.output.weight", False),
        ("local.output", False),
        ("score.mixing.0.bias", False),
    ],
)
def test_which_parameters_of_the_network_are_matrices(name: str, matrix: bool) -> None:
    network = build_network(load_config("posedet-s").model, find_skeleton("body19"))
    parameters = dict(network.named_parameters())
    assert is_matrix(name, parameters[name]) is matrix
    depthwise = [n for n, p in parameters.items() if p.ndim == 4 and p.shape[1] == 1 and n.startswith("backbone.")]
    assert depthwise and not any(is_matrix(n, parameters[n]) for n in depthwise)


SHAPES = ((8, 3), (4, 4), (2, 5, 6), (4, 3, 3, 3), (7,))


def muon(parameters: list[torch.Tensor], processes: Processes = ALONE) -> Muon:
    groups = [
        {"params": [each for each in parameters if (each.ndim > 1) == matrices], "matrices": matrices, "lr": 0.1}
        for matrices in (False, True)
    ]
    return Muon(groups, processes)


def step_together(rank: int, folder: Path) -> None:
    """What one of two processes does."""
    dist.init_process_group("gloo", init_method=(folder / "meeting").as_uri(), rank=rank, world_size=2)
    parameters = [torch.ones(shape, requires_grad=True) for shape in SHAPES]
    torch.save(stepped(parameters, muon(parameters, Processes(rank, 2))), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_processes_share_the_work_and_take_the_same_steps(tmp_path: Path) -> None:
    alone = [torch.ones(shape, requires_grad=True) for shape in SHAPES]
    wanted = stepped(alone, muon(alone))
    torch.multiprocessing.spawn(step_together, (tmp_path,), nprocs=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_work_is_shared_evenly() -> None:
    matrices = [torch.empty(size, size) for size in (10, 10, 8, 8, 5)]
    shares = _shares(matrices, 2)
    assert sorted(shares[:2]) == sorted(shares[2:4]) == [0, 1]
    assert set(_shares(matrices, 1)) == {0}
