"""Where in the picture the U-Net reads which word: the cross-attention of all layers, summed over a run.

As Tang et al. 2022 do ("What the DAAM", arXiv:2210.04885): maps of every resolution, brought to the latents' size.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from stablediff.images import over_white
from stablediff.models.layers import Attention
from stablediff.models.tokenizer import Tokenizer, spell

_LEVELS = 8  # a U-Net halves its maps at most as often


class Word(NamedTuple):
    text: str
    places: tuple[int, ...]  # of its tokens in the context


class AttentionMaps:
    """Sums up, while `listening`, where the first picture's conditional half looks. `total` is (S,h,w)."""

    def __init__(self) -> None:
        self.total: Tensor | None = None

    @contextmanager
    def listening(self, unet: nn.Module, height: int, width: int) -> Iterator[None]:
        """Hooks every cross-attention for as long as the block runs. `height`, `width`: the latents'."""

        def hear(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(module, Attention)
            x, context = inputs[0][:1], inputs[1][:1]
            maps = to_maps(probabilities(module, x, context), height, width)
            self.total = maps if self.total is None else self.total + maps

        hooks = [
            module.register_forward_pre_hook(hear) for name, module in unet.named_modules() if name.endswith("attn2")
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def of(self, word: Word) -> Tensor:
        """(h,w) in [0, 1]: the least where it is 0, the most where it is 1."""
        assert self.total is not None
        heat = self.total[list(word.places)].mean(dim=0)
        low, high = heat.min(), heat.max()
        return (heat - low) / (high - low).clamp(min=1e-12)


def probabilities(attention: Attention, x: Tensor, context: Tensor) -> Tensor:
    """softmax(q·k / √d), the mean over heads: x (1,T,D), context (1,S,C) -> (T,S) float32."""
    q = attention.to_q(x).float().unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
    k = attention.to_k(context).float().unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
    scale = 1 / math.sqrt(q.shape[-1])
    heads = zip(q[0], k[0], strict=True)  # one by one: all at once would take gigabytes where a prompt is long
    return torch.stack([(query @ key.T * scale).softmax(dim=-1) / len(q[0]) for query, key in heads]).sum(dim=0)


def to_maps(attention: Tensor, height: int, width: int) -> Tensor:
    """(T,S) over the cells of some level -> (S,height,width) on the CPU."""
    for level in range(_LEVELS):
        rows, columns = math.ceil(height / 2**level), math.ceil(width / 2**level)
        if rows * columns == len(attention):
            maps = attention.T.reshape(1, -1, rows, columns)
            return F.interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)[0].cpu()
    raise ValueError(f"{len(attention)} cells are no level of {height}x{width}")


def words_of(tokenizer: Tokenizer, prompt: str) -> list[Word]:
    """The prompt's words, and where their tokens stand in the context."""
    words: list[Word] = []
    for number, chunk in enumerate(tokenizer.tokenize(prompt).chunks):
        for place, token in enumerate(chunk, start=number * tokenizer.max_length + 1):
            if token.starts_word or not words:
                words.append(Word("", ()))
            words[-1] = Word(words[-1].text + token.text, (*words[-1].places, place))
    return [Word(spell(word.text), word.places) for word in words]


def overlay(image: Image.Image, heat: Tensor) -> Image.Image:
    """The picture, dim where the word is not read and glowing where it is."""
    picture = over_white(image)
    plane = Image.fromarray((heat * 255).round().byte().numpy(), mode="L").resize(
        picture.size, Image.Resampling.BICUBIC
    )
    glow = Image.merge("RGB", [plane, plane.point(lambda v: v * v // 400), plane.point(lambda v: 60 - v // 5)])
    return Image.blend(picture, glow, 0.6)


@torch.inference_mode()
def rms(x: Tensor) -> float:
    return float(x.float().square().mean().sqrt())
