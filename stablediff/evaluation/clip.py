"""Pictures and captions -> the features of any CLIP (Radford et al. 2021, arXiv:2103.00020)."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stablediff.checkpoints.clip_model import ClipModel
from stablediff.evaluation.batches import batched
from stablediff.images import over_white

_MEAN, _DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_BATCH = 16


def clip_pixels(image: Image.Image, side: int) -> Tensor:
    """As CLIP's own code prepares it: the shorter side to `side`, the middle of the other. -> (3,side,side)."""
    image = over_white(image)
    short = min(image.size)
    size = (int(side * image.width / short), int(side * image.height / short))
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    pixels = torch.from_numpy(np.array(image.crop((left, top, left + side, top + side)))).permute(2, 0, 1)
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (_MEAN, _DEVIATION))
    return (pixels.float() / 255 - mean) / deviation


@torch.inference_mode()
def image_features(clip: ClipModel, pictures: Iterable[Image.Image]) -> Tensor:
    """(N,P) float32."""
    device, side = clip.vision.pre_layrnorm.weight.device, clip.vision.config.image_size
    rows = []
    for some in batched((clip_pixels(picture, side) for picture in pictures), _BATCH):
        rows.append(clip.vision(torch.stack(some).to(device)).float().cpu())
    return torch.cat(rows) if rows else torch.zeros(0, clip.vision.config.projection_size)


@torch.inference_mode()
def text_features(clip: ClipModel, texts: Sequence[str]) -> Tensor:
    """(N,P) float32; of a text that is too long for CLIP, its beginning."""
    device = clip.text.final_layer_norm.weight.device
    rows = []
    for text in texts:
        plain = clip.tokenizer.backend.encode(text, add_special_tokens=False).ids[: clip.tokenizer.chunk_length]
        ids = torch.full((1, clip.tokenizer.max_length), clip.tokenizer.pad_id)
        ids[0, : len(plain) + 2] = torch.tensor([clip.tokenizer.bos_id, *plain, clip.tokenizer.eos_id])
        rows.append(clip.text(ids.to(device)).pooled.float().cpu())
    return torch.cat(rows)
