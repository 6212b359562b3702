"""The pieces that the networks share: attention, transformer, residual block, timestep embedding."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stablediff.models.attention import attend


def silu_(x: Tensor) -> Tensor:
    """SiLU of what nobody else reads: in place, where nothing has to be learnt from it."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def add_(x: Tensor, other: Tensor) -> Tensor:
    """x + other, in x, which nobody else reads, where nothing has to be learnt from it."""
    return x + other if torch.is_grad_enabled() else x.add_(other)


def as_many(x: Tensor, rows: int) -> Tensor:
    """(B,…) -> (rows,…), the same again and again: where what was asked once is to be read with several prompts."""
    return x if len(x) == rows else torch.cat([x] * (rows // len(x)))


class Attention(nn.Module):
    """Self-attention, or cross-attention when it is given a context: x (B,T,D), context (B,S,C) -> (B,T,D)."""

    memory: dict[int, tuple[Tensor, Tensor]] | None = None  # by the number of rows

    def __init__(
        self, dim: int, num_heads: int, context_dim: int | None = None, *, qkv_bias: bool = False, upcast: bool = False
    ) -> None:
        super().__init__()
        self.num_heads, self.upcast = num_heads, upcast
        self.to_q = nn.Linear(dim, dim, bias=qkv_bias)
        self.to_k = nn.Linear(context_dim or dim, dim, bias=qkv_bias)
        self.to_v = nn.Linear(context_dim or dim, dim, bias=qkv_bias)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])  # a list, because the checkpoints say to_out.0

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        k, v = self.read(x if context is None else context)
        return self.to_out[0](attend(self.to_q(x), k, v, self.num_heads, upcast=self.upcast))

    def read(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values; with a `memory`, those from the first time on, as the prompt is the same at all steps."""
        if self.memory is None:
            return self.to_k(context), self.to_v(context)
        if len(context) not in self.memory:
            self.memory[len(context)] = self.to_k(context), self.to_v(context)
        return self.memory[len(context)]


class GEGLU(nn.Module):
    """Linear layer gated by the exact GELU of its second half (Shazeer 2020, arXiv:2002.05202): (…,D) -> (…,E)."""

    gates_itself = False  # whether `proj` does the rest as well, as packed.py lets it

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.proj: nn.Module = nn.Linear(dim, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        if self.gates_itself:
            return self.proj(x)
        value, gate = self.proj(x).chunk(2, dim=-1)
        gate = F.gelu(gate)
        return value * gate if torch.is_grad_enabled() else gate.mul_(value)


class FeedForward(nn.Module):
    """(…,D) -> (…,D) through 4 D gated units. The empty middle keeps the checkpoint's numbering (it was a dropout)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """The picture looks at itself, then at the prompt, then thinks: x (B,T,D), context (B,S,C) -> (B,T,D).

    With a multiple of B prompts it looks at itself once for all of them, and (N,S,C) -> (N,T,D).
    """

    def __init__(self, dim: int, num_heads: int, context_dim: int, upcast: bool = False) -> None:
        super().__init__()
        self.norm1, self.attn1 = nn.LayerNorm(dim), Attention(dim, num_heads, upcast=upcast)
        self.norm2, self.attn2 = nn.LayerNorm(dim), Attention(dim, num_heads, context_dim, upcast=upcast)
        self.norm3, self.ff = nn.LayerNorm(dim), FeedForward(dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = as_many(add_(self.attn1(self.norm1(x)), x), len(context))
        x = add_(self.attn2(self.norm2(x), context), x)
        return add_(self.ff(self.norm3(x)), x)


class SpatialTransformer(nn.Module):
    """Transformer blocks over the cells of a feature map: x (B,C,h,w), context (N,S,D) -> (N,C,h,w)."""

    def __init__(
        self,
        channels: int,
        num_heads: int,
        depth: int,
        context_dim: int,
        *,
        norm_groups: int,
        linear: bool,
        upcast: bool = False,
    ) -> None:
        super().__init__()
        self.linear = linear  # SD 1.x projects with 1x1 convolutions, SD 2.x and SDXL with linear layers
        self.norm = nn.GroupNorm(norm_groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, num_heads, context_dim, upcast) for _ in range(depth)
        )
        self.proj_out = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        residual = x
        x = self.norm(x)
        x = _to_tokens(x) if self.linear else _to_tokens(self.proj_in(x))
        x = self.proj_in(x) if self.linear else x
        for block in self.transformer_blocks:
            x = block(x, context)
        x = _to_map(self.proj_out(x), height, width) if self.linear else self.proj_out(_to_map(x, height, width))
        return add_(x, as_many(residual, len(x)))


def _to_tokens(x: Tensor) -> Tensor:
    """(B,C,h,w) -> (B,h·w,C): a view when x is channels-last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _to_map(x: Tensor, height: int, width: int) -> Tensor:
    """(B,h·w,C) -> (B,C,h,w), channels-last."""
    return x.unflatten(1, (height, width)).permute(0, 3, 1, 2)


class ResnetBlock(nn.Module):
    """Two normalised convolutions around a shortcut: x (B,C,h,w), time embedding (B,E) -> (B,D,h,w)."""

    def __init__(self, in_ch: int, out_ch: int, time_dim: int | None, *, norm_groups: int, norm_eps: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(norm_groups, in_ch, eps=norm_eps)
        self.conv1 = nn.Conv2d(in_ch, out_ch, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_dim, out_ch) if time_dim else None
        self.norm2 = nn.GroupNorm(norm_groups, out_ch, eps=norm_eps)
        self.conv2 = nn.Conv2d(out_ch, out_ch, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_ch, out_ch, 1) if in_ch != out_ch else None

    def forward(self, x: Tensor, time_emb: Tensor | None = None) -> Tensor:
        h = self.conv1(silu_(self.norm1(x)))
        if self.time_emb_proj is not None and time_emb is not None:
            h = add_(h, self.time_emb_proj(F.silu(time_emb))[:, :, None, None])
        self._halfway()
        h = self.conv2(silu_(self.norm2(h)))
        return add_(h, x if self.conv_shortcut is None else self.conv_shortcut(x))

    def _halfway(self) -> None:
        """Between the convolutions: for those whose maps are so large that freed ones matter."""


class Downsample(nn.Module):
    """Halves a feature map: (B,C,h,w) -> (B,C,⌈h/2⌉,⌈w/2⌉). The autoencoder pads right and bottom only."""

    def __init__(self, channels: int, *, asymmetric: bool = False) -> None:
        super().__init__()
        self.asymmetric = asymmetric
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if asymmetric else 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.asymmetric else x)


class Upsample(nn.Module):
    """Doubles a feature map, or brings it to `size` when the way down had to round: (B,C,h,w) -> (B,C,H,W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        return self.conv(F.interpolate(x, size=size or (2 * x.shape[-2], 2 * x.shape[-1]), mode="nearest"))


def sinusoidal_embedding(t: Tensor, dim: int) -> Tensor:
    """Positions as waves (Ho et al. 2020, arXiv:2006.11239, appendix B): t (B,) -> (B,dim) float32, cosines first."""
    half = dim // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimestepEmbedding(nn.Module):
    """(B,D) -> (B,E) through two layers. `cond_proj` adds an embedded guidance scale (LCM, arXiv:2310.04378)."""

    def __init__(self, in_dim: int, dim: int, cond_dim: int | None = None) -> None:
        super().__init__()
        self.cond_proj = nn.Linear(cond_dim, in_dim, bias=False) if cond_dim else None
        self.linear_1 = nn.Linear(in_dim, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        if self.cond_proj is not None and cond is not None:
            x = x + self.cond_proj(cond)
        return self.linear_2(F.silu(self.linear_1(x)))
