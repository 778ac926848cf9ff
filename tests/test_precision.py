"""bfloat16 where the device computes in it, float32 where it would only be emulated."""

import pytest
import torch

from posedet.training import precision
from posedet.training.muon import orthogonal
from posedet.training.precision import autocast


@pytest.mark.parametrize(
    ("amp", "has_bfloat16", "expected"),
    [
        ("none", True, torch.float32),
        ("bf16", True, torch.bfloat16),
        ("bf16", False, torch.float32),
        ("fp16", False, torch.float16),
    ],
)
def test_what_a_convolution_computes_in(
    amp: str, has_bfloat16: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "computes_bfloat16", lambda _: has_bfloat16)
    with autocast("cpu", amp):
        assert torch.nn.functional.conv2d(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 1, 1)).dtype == expected


@pytest.mark.parametrize(("has_bfloat16", "error"), [(True, 0.5), (False, 0.35)])
def test_muon_makes_matrices_orthogonal_in_either(
    has_bfloat16: bool, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All singular values near 1, however unequal they were."""
    monkeypatch.setattr("posedet.training.muon.computes_bfloat16", lambda _: has_bfloat16)
    matrices = torch.randn(3, 12, 20, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrices))
    assert (values - 1).abs().max() < error and values.dtype == torch.float32
