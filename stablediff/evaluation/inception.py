"""The features that FID is defined on: Inception's last pooling, by the `pytorch-fid` package where it is installed."""

from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stablediff.errors import EvaluationError
from stablediff.evaluation.batches import batched
from stablediff.evaluation.features import Embed
from stablediff.images import over_white

_BATCH = 16


def inception_features(device: torch.device) -> Embed:
    """-> pictures to (N,2048) float32, as pytorch-fid computes them. Raises EvaluationError without package or weights.

    The package fetches the weights once (91 MB) and keeps them where torch.hub keeps its files.
    """
    try:
        from pytorch_fid.inception import InceptionV3
    except ImportError as error:
        raise EvaluationError(f"--inception needs the package pytorch-fid ({error}): pip install '.[fid]'") from error
    try:
        network = InceptionV3([InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).to(device).eval()
    except OSError as error:  # URLError is one
        folder = f"{torch.hub.get_dir()}/checkpoints"
        raise EvaluationError(
            f"Inception's weights cannot be fetched ({error}): put pt_inception-2015-12-05-6726825d.pth of the "
            f"pytorch-fid project into {folder}"
        ) from error

    @torch.inference_mode()
    def embed(pictures: Iterable[Image.Image]) -> Tensor:
        rows: list[Tensor] = []
        for some in batched((np.array(over_white(picture)) for picture in pictures), _BATCH):
            pixels = [torch.from_numpy(one).permute(2, 0, 1).float() / 255 for one in some]
            # One at a time where sizes differ: the network brings all to 299x299 by itself.
            alike = len({x.shape for x in pixels}) == 1
            batches = [torch.stack(pixels)] if alike else [x[None] for x in pixels]
            rows.extend(network(batch.to(device))[0].flatten(1).float().cpu() for batch in batches)
        return torch.cat(rows) if rows else torch.zeros(0, 2048)

    return embed
