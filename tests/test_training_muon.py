"""Muon: even steps for matrices, AdamW for the rest."""

import pytest
import torch
from torch import nn

from stablediff.training.config import LoopConfig
from stablediff.training.muon import Muon, orthogonalise
from stablediff.training.optimizers import make_optimizer


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 16, 40), (2, 8, 40), (2, 40, 8)])
def test_every_direction_becomes_about_as_strong(shape: tuple[int, int, int], precision: torch.dtype) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    even = orthogonalise(matrices, precision)
    assert even.shape == matrices.shape
    assert even.dtype == matrices.dtype
    strengths = (u.mT @ even @ v.mT).diagonal(dim1=1, dim2=2)  # in the directions that the matrix had
    # Directions a hundred times fainter than the strongest need more rounds.
    clear = s > 0.05 * s.amax(dim=1, keepdim=True)
    assert strengths[clear].min() > 0.5
    assert strengths[clear].max() < 1.4


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 8, 90), (2, 90, 8)])
@pytest.mark.parametrize("rank", [3, 99])
def test_the_short_way_through_the_squares_is_that_through_the_matrices(shape: tuple[int, int, int], rank: int) -> None:
    """Jordan et al. 2024: five rounds of a·X + b·(XXᵀ)X + c·(XXᵀ)²X, here in float64."""
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    matrices = u[..., :rank] @ s[:, :rank].diag_embed() @ v[:, :rank]
    x = matrices.double() / matrices.double().norm(dim=(1, 2), keepdim=True)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x - 4.7750 * square @ x + 2.0315 * square @ square @ x
    assert torch.allclose(orthogonalise(matrices).double(), x, atol=1e-4)


@pytest.mark.parametrize("shape", [(5, 64, 64), (3, 96, 64), (2, 48, 400)])
def test_bfloat16_takes_a_matrix_the_same_way(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -3, shape[2])
    exact, rough = (orthogonalise(matrices, t).flatten(1) for t in (torch.float32, torch.bfloat16))
    assert nn.functional.cosine_similarity(exact, rough).min() > 0.999
    assert torch.equal(exact, rough) == (shape[2] > 4 * shape[1])  # what is wide goes through the squares


def test_nothing_becomes_nothing() -> None:
    assert not orthogonalise(torch.zeros(1, 4, 4)).any()
    assert not orthogonalise(torch.zeros(1, 4, 4), torch.bfloat16).any()


def test_vectors_learn_as_under_adamw() -> None:
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(2))
    settings = {"lr": 0.1, "weight_decay": 0.05}
    muon = Muon([{"params": [ours], "orthogonal": False, **settings}], betas=(0.9, 0.99))
    adamw = torch.optim.AdamW([theirs], betas=(0.9, 0.99), **settings)
    for step in range(5):
        for parameter, optimizer in ((ours, muon), (theirs, adamw)):
            parameter.grad = (parameter.detach() - 0.3) * (step + 1)
            optimizer.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_matrix_moves_by_the_learning_rate_whatever_its_gradient() -> None:
    moved = []
    for scale in (1e-6, 1.0, 1e6):
        weight = nn.Parameter(torch.zeros(32, 8, 3, 3))
        optimizer = Muon([{"params": [weight], "orthogonal": True, "lr": 0.01}], betas=(0.9, 0.99))
        weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * scale
        optimizer.step()
        moved.append(weight.detach().std().item())
    # 0.2 times the rate, as AdamW moves a number, for the 32 of 72 directions that 32 rows can have.
    assert moved == pytest.approx([moved[1]] * 3, rel=0.02)
    assert moved[1] == pytest.approx(0.2 * 0.01, rel=0.3)


def test_tables_and_vectors_are_no_matrices() -> None:
    net = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2), nn.LayerNorm(2))
    config = LoopConfig(steps=1, batch_size=1, learning_rate=0.1, weight_decay=0.5, optimizer="muon")
    optimizer = make_optimizer([(list(net.parameters()), 1.0)], config, [net[0].weight])
    found = {
        id(p): (group["orthogonal"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]
    }
    wanted = [(False, 0.5), (True, 0.5), (False, 0.0), (False, 0.0), (False, 0.0)]
    assert [found[id(p)] for p in net.parameters()] == wanted
