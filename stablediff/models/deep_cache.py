"""Steps that reuse what the U-Net's deep layers said a step before: DeepCache (Ma et al. 2023, arXiv:2312.00858).

The deep layers, nearly all of the work, see the picture as a whole, which hardly changes from one step to the next.
"""

from torch import Tensor

from stablediff.models.unet import UNet


def is_due(call: int, interval: int, rows: int, kept_rows: int) -> bool:
    """Whether the deep layers are asked anew at this call (from 0), when their last answer had `kept_rows` rows."""
    return call % interval == 0 or rows > kept_rows


class DeepCache:
    """Answers as `unet` does; at all calls but every `interval`-th one with only its outermost layers computed anew.

    For the calls of one picture (or batch): what is kept is the picture's own.
    """

    def __init__(self, unet: UNet, interval: int) -> None:
        self.unet, self.interval = unet, interval
        self._call = 0
        self._kept: Tensor | None = None

    def __call__(self, x: Tensor, timestep: Tensor, context: Tensor, *more: Tensor | None) -> Tensor:
        """As `UNet.forward`."""
        time_emb = self.unet.embed_time(timestep, context, *more)
        x = self.unet.conv_in(x)
        kept = self._kept
        rows = len(context)
        if kept is None or is_due(self._call, self.interval, rows, len(kept)):
            kept = self._kept = self.unet.deep(x, time_emb, context)
        self._call += 1
        return self.unet.finish(x, kept[:rows], time_emb, context)
