"""Where randomness comes from: one generator a picture, always on the CPU."""

from collections.abc import Sequence

import torch
from torch import Tensor


class SeededNoise:
    """Standard normal noise, (B,…) for B seeds. A seed gives the same noise in every batch and on every device."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def sample(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """(B, *shape) float32; `shape` is one picture's."""
        return torch.stack([torch.randn(*shape, generator=g) for g in self.generators]).to(device)

    def __call__(self, x: Tensor) -> Tensor:
        return self.sample(x.shape[1:], x.device)
