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

from stablediff.training import distributed

# The quintic a·X + b·(XXᵀ)X + c·(XXᵀ)²X takes every singular value to 0.7 ... 1.2 in five rounds (Jordan et al.).
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5
# A step's deviation per number as AdamW's are, so that learning rates mean the same (Liu et al. 2025,
# arXiv:2502.16982, section 2.2).
_STRENGTH = 0.2


# Up to so many columns a row, rounds of X in bfloat16 are faster than rounds of G in float32 (AVX512-BF16).
_WIDE = 4


def orthogonalise(matrices: Tensor, precision: torch.dtype = torch.float32) -> Tensor:
    """U·S·Vᵀ -> about U·Vᵀ, for each of (N,rows,columns): Newton-Schulz rounds, X <- Q·X.

    Here Q = a + b·G + c·G² and G = X·Xᵀ. `precision` bfloat16 is for where it is computed faster.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).float()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    rough = precision == torch.bfloat16 and x.shape[2] <= _WIDE * x.shape[1]
    x = _rounds(x.bfloat16()) if rough else _rounds_by_squares(x)
    return (x.mT if tall else x).to(matrices.dtype)


def _rounds(x: Tensor) -> Tensor:
    """As written; each round mends what the one before rounded, so that bfloat16 is enough (Jordan et al.)."""
    a, b, c = _QUINTIC
    for _ in range(_ROUNDS):
        g = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(g, g, g, beta=b, alpha=c), x, beta=a)
    return x


def _rounds_by_squares(x: Tensor) -> Tensor:
    """A round takes G to Q·G·Q. So the rounds need these squares alone, and X is multiplied once, by the product of all
    Q: less to do for a wide X. That takes float32, because rounding errors of G grow tenfold a round.
    """
    a, b, c = _QUINTIC
    g = x @ x.mT
    one = torch.eye(g.shape[1], device=g.device)
    q = product = a * one + b * g + c * (g @ g)
    for _ in range(_ROUNDS - 1):
        g = q @ g @ q
        q = a * one + b * g + c * (g @ g)
        product = q @ product
    return product @ x


class Muon(optim.Optimizer):
    """For groups with `orthogonal` set; others get AdamW. A convolution is a matrix of outputs x (inputs·kernel)."""

    def __init__(
        self,
        groups: list[dict[str, Any]],
        betas: tuple[float, float],
        momentum: float = 0.95,
        eps: float = 1e-8,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0, "orthogonal": False})
        self.betas, self.momentum, self.eps, self.precision = betas, momentum, eps, precision

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
        """Matrices of the same shape go through the rounds together, and processes take them by turns."""
        alike: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
        for p in parameters:
            alike[(p.shape[0], p[0].numel())].append(p)
        first = 0
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
            directions = self._by_turns(torch.stack(steps), first)
            first += len(same)
            for p, direction in zip(same, directions, strict=True):
                p.add_(direction.view(p.shape), alpha=-rate * strength)

    def _by_turns(self, matrices: Tensor, first: int) -> Tensor:
        """All of them orthogonalised, each by one process; `first` have had their turn before."""
        world = distributed.world_size()
        if world == 1:
            return orthogonalise(matrices, self.precision)
        mine = slice((distributed.rank() - first) % world, None, world)
        directions = torch.zeros_like(matrices)
        if len(matrices[mine]):
            directions[mine] = orthogonalise(matrices[mine], self.precision)
        return distributed.sum_over_processes(directions)

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
