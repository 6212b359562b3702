"""Muon: steps of even strength in every direction of a weight matrix.

AdamW scales each number of a gradient by itself. A weight is a matrix, and its gradient is often strong in a few
directions and faint in all others; Muon makes all of them equally strong, so that faint ones are learnt as well
(Jordan et al. 2024, kellerjordan.github.io/posts/muon).
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, optim

# The quintic a·X + b·(XXᵀ)X + c·(XXᵀ)²X takes every singular value to 0.7 ... 1.2 in five rounds (Jordan et al.).
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5
# A step's deviation per number as AdamW's are, so that learning rates mean the same (Liu et al. 2025,
# arXiv:2502.16982, section 2.2).
_STRENGTH = 0.2


def orthogonalise(matrices: Tensor) -> Tensor:
    """U·S·Vᵀ -> about U·Vᵀ, for each of (N,rows,columns): Newton-Schulz rounds.

    A round is X <- Q·X with Q = a + b·G + c·G² and G = X·Xᵀ, and takes G to Q·G·Q. So the rounds need the small squares
    alone, and X is multiplied once, by the product of all Q. That takes float32: rounding errors of G grow tenfold a
    round.
    """
    a, b, c = _QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).float()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    g = x @ x.mT
    one = torch.eye(g.shape[1], device=g.device)
    q = product = a * one + b * g + c * (g @ g)
    for _ in range(_ROUNDS - 1):
        g = q @ g @ q
        q = a * one + b * g + c * (g @ g)
        product = q @ product
    x = product @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(optim.Optimizer):
    """For groups with `orthogonal` set; others get AdamW. A convolution is a matrix of outputs x (inputs·kernel)."""

    def __init__(
        self, groups: list[dict[str, Any]], betas: tuple[float, float], momentum: float = 0.95, eps: float = 1e-8
    ) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0, "orthogonal": False})
        self.betas, self.momentum, self.eps = betas, momentum, eps

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None if closure is None else closure()
        for group in self.param_groups:
            learnt = [p for p in group["params"] if p.grad is not None]
            for p in learnt:
                p.mul_(1 - group["lr"] * group["weight_decay"])
            (self._orthogonal if group["orthogonal"] else self._adam)(learnt, group["lr"])
        return loss

    def _orthogonal(self, parameters: list[Tensor], rate: float) -> None:
        """Matrices of the same shape go through the rounds together."""
        alike: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
        for p in parameters:
            alike[(p.shape[0], p[0].numel())].append(p)
        for (rows, columns), same in alike.items():
            steps = []
            for p in same:
                assert p.grad is not None  # `step` has chosen
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                buffer = state["momentum"]
                buffer.lerp_(p.grad, 1 - self.momentum)
                steps.append(p.grad.lerp(buffer, self.momentum).reshape(rows, columns))
            strength = _STRENGTH * max(rows, columns) ** 0.5
            for p, direction in zip(same, orthogonalise(torch.stack(steps)), strict=True):
                p.add_(direction.view(p.shape), alpha=-rate * strength)

    def _adam(self, parameters: list[Tensor], rate: float) -> None:
        """Loshchilov and Hutter 2017, arXiv:1711.05101, algorithm 2."""
        for p in parameters:
            assert p.grad is not None  # `step` has chosen
            state = self.state[p]
            if not state:
                state.update(step=torch.zeros(()), mean=torch.zeros_like(p), square=torch.zeros_like(p))
            state["step"] += 1
            n = state["step"].item()
            state["mean"].lerp_(p.grad, 1 - self.betas[0])
            state["square"].lerp_(p.grad.square(), 1 - self.betas[1])
            mean = state["mean"] / (1 - self.betas[0] ** n)
            p.addcdiv_(mean, (state["square"] / (1 - self.betas[1] ** n)).sqrt().add_(self.eps), value=-rate)
