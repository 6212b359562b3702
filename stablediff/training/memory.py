"""Trading time for memory in big models."""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from stablediff.models.clip import CLIPLayer
from stablediff.models.layers import ResnetBlock, SpatialTransformer


def checkpoint_activations(module: nn.Module) -> None:
    """Blocks forget what they computed and compute it again on the way back (Chen et al. 2016, arXiv:1604.06174)."""
    for block in module.modules():
        if isinstance(block, (ResnetBlock, SpatialTransformer, CLIPLayer)):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
