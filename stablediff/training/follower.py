"""A copy of a network that is taught by nobody, and follows the network from step to step."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from stablediff.training.distributed import whole


class Follower(nn.Module):
    """What the network learns is kept here in buffers, so that a run's state has it; what is frozen is shared."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = deepcopy(network, {id(p): p for p in network.parameters() if not p.requires_grad})
        for module in self.network.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                if parameter.requires_grad:
                    delattr(module, name)
                    module.register_buffer(name, parameter.detach())

    def forward(self, *arguments: Any) -> Tensor:
        return self.network(*arguments)

    @torch.no_grad()
    def follow(self, network: nn.Module, decay: float) -> None:
        """θ' ← d·θ' + (1 - d)·θ; a decay of 0 copies."""
        learnt, kept = dict(network.named_parameters()), dict(self.network.named_buffers())
        weights = [whole(learnt[name].detach()) for name in kept]
        torch._foreach_lerp_(list(kept.values()), weights, 1 - decay)
