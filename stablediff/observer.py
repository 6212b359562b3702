"""Who looks over the sampler's shoulder: `generate` tells an observer what it does, and does nothing else for it."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from stablediff.conditioning import ConditionedUNet
from stablediff.diffusion.denoiser import Network
from stablediff.diffusion.samplers import Step


class Observer(Protocol):
    """Told of every batch, and of every step. It must not change what it sees."""

    def begin(self, network: ConditionedUNet, x: Tensor, sigmas: Sequence[float]) -> Network:
        """A batch starts at x (B,L,h,w) and visits these noise levels. Returns what the sampler shall ask: the network,
        or something around it that gives the same answers. Called again if a batch is done again."""
        ...

    def see(self, step: Step) -> None:
        """A step was made."""
        ...
