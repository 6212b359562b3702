"""Prompts -> what the U-Net reads, and the U-Net with its prompt as a sampler sees it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from stablediff.models.deep_cache import DeepCache
from stablediff.models.layers import Attention, as_many
from stablediff.models.token_merging import merged_tokens
from stablediff.models.tokenizer import TokenizedPrompt
from stablediff.models.unet import UNet
from stablediff.pipeline import Pipeline


@dataclass(frozen=True)
class Conditioning:
    """A row a prompt: what to draw first, what to steer away from second (if it is asked for)."""

    context: Tensor  # (N,T,D)
    pooled: Tensor | None = None  # (N,P), SDXL only
    size_ids: Tensor | None = None  # (N,6), SDXL only


def encode_prompts(pipeline: Pipeline, prompts: list[str], width: int, height: int) -> Conditioning:
    """Encodes prompts of any length, in as many chunks as the longest needs. `width`, `height` in pixels."""
    contexts, pooled = [], None
    for tokenizer, encoder in zip(pipeline.tokenizers, pipeline.text_encoders, strict=True):
        tokenized = [tokenizer.tokenize(pipeline.as_read(prompt)) for prompt in prompts]
        num_chunks = max(len(prompt.chunks) for prompt in tokenized)
        rows, firsts = [], []
        for prompt in tokenized:
            ids, weights = tokenizer.to_tensors(prompt, num_chunks)
            encoding = pipeline.present(encoder)(ids.to(pipeline.device))
            rows.append(apply_weights(encoding.context, weights, prompt).flatten(0, 1))
            firsts.append(encoding.pooled[0])  # the first chunk speaks for the whole
        contexts.append(torch.stack(rows))
        pooled = torch.stack(firsts)
    length = max(c.shape[1] for c in contexts)  # two towers may split a prompt differently
    context = torch.cat([_lengthen(c, length) for c in contexts], dim=-1)

    if pipeline.config.unet.added_conditioning != "text_time" or pooled is None:
        return Conditioning(context)
    if pipeline.config.zero_empty_negative and len(prompts) > 1 and not prompts[1]:
        context[1], pooled[1] = 0, 0
    # As if the training picture had had this size and had not been cropped (Podell et al. 2023, arXiv:2307.01952).
    sizes = torch.tensor([[height, width, 0, 0, height, width]] * len(prompts), device=pipeline.device)
    return Conditioning(context, pooled, sizes)


def apply_weights(context: Tensor, weights: Tensor, prompt: TokenizedPrompt) -> Tensor:
    """Scales each token's vector by its weight, and all of them so that their mean stays: (N,T,D), (N,T) -> (N,T,D)."""
    if not prompt.weighted:
        return context
    weighted = context * weights.to(context)[..., None]
    ratio = context.float().mean() / weighted.float().mean()
    # Weights that cancel each other out (negative ones, say) leave a mean near zero, which says nothing.
    return weighted * ratio.nan_to_num(1.0).clamp(0.5, 2.0).to(context.dtype)


def _lengthen(context: Tensor, length: int) -> Tensor:
    """(N,T,D) -> (N,length,D), by repeating the last chunk's tokens from its start."""
    while context.shape[1] < length:
        context = torch.cat([context, context[:, -(length - context.shape[1]) :]], dim=1)
    return context


@dataclass(frozen=True)
class Shortcuts:
    """What makes a call cheaper and its answer a little different: see models/deep_cache.py and token_merging.py."""

    cache_interval: int = 1  # calls, of which one asks the deep layers anew
    merged_tokens: float = 0.0  # share of them


EXACT = Shortcuts()


class ConditionedUNet:
    """A `diffusion.denoiser.Network`: the U-Net, told what to draw. Holds `batch` copies of the prompt's rows.

    `extra` (B,C,h,w) joins the latents as further channels (inpainting models). `shortcuts` save work.
    """

    def __init__(
        self,
        unet: UNet,
        conditioning: Conditioning,
        batch: int,
        guidance_scale: float,
        extra: Tensor | None = None,
        shortcuts: Shortcuts = EXACT,
    ) -> None:
        self.unet, self.batch, self.extra, self.shortcuts = unet, batch, extra, shortcuts
        readers = [m for name, m in unet.named_modules() if name.endswith("attn2") and isinstance(m, Attention)]
        self._readers = [] if unet.compiled else readers  # a compiler would begin anew for every picture's memory
        self._memories: list[dict[int, tuple[Tensor, Tensor]]] = [{} for _ in self._readers]
        # What comes before the first reading of a prompt is the same for both branches, where no time embedding tells
        # them apart: SD 1.5 looks at itself there with all of its 64x64 cells.
        self._asks_once = bool(self._readers) and unet.config.added_conditioning == "none"
        self._ask = DeepCache(unet, shortcuts.cache_interval) if shortcuts.cache_interval > 1 else unet
        self.dtype = next(unet.parameters()).dtype
        self.context = self._per_image(conditioning.context)
        self.pooled = self._per_image(conditioning.pooled)
        self.size_ids = conditioning.size_ids
        if self.size_ids is not None:
            self.size_ids = self.size_ids.repeat_interleave(batch, dim=0)
        self.guidance = guidance_scale if unet.config.guidance_embedding_dim else None

    def _per_image(self, rows: Tensor | None) -> Tensor | None:
        return None if rows is None else rows.to(self.dtype).repeat_interleave(self.batch, dim=0)

    @contextmanager
    def _remembering(self) -> Iterator[None]:
        """Inside, what the layers read of the prompt is kept, for these calls alone: others have other prompts."""
        for layer, memory in zip(self._readers, self._memories, strict=True):
            layer.memory = memory
        try:
            yield
        finally:
            for layer in self._readers:
                layer.memory = None

    def __call__(self, x: Tensor, t: float, *, with_uncond: bool) -> Tensor:
        """x (B,C,h,w), timestep t -> (B,C,h,w), or (2B,C,h,w) with the unconditional half behind."""
        assert self.context is not None
        if self.extra is not None:
            x = torch.cat([x, self.extra], dim=1)
        rows, (height, width) = (2 if with_uncond else 1) * len(x), x.shape[-2:]
        if not self._asks_once:
            x = as_many(x, rows)
        x = x.to(self.dtype, memory_format=torch.channels_last)
        with self._remembering(), merged_tokens(self.unet, height, width, self.shortcuts.merged_tokens):
            return self._ask(
                x,
                torch.full((rows,), t, dtype=torch.float32, device=x.device),
                self.context[:rows],
                None if self.pooled is None else self.pooled[:rows],
                None if self.size_ids is None else self.size_ids[:rows],
                None if self.guidance is None else torch.full((rows,), self.guidance, device=x.device),
            )
