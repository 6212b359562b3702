"""The U-Net: noisy latents, a timestep and the prompt in; what to take away out.

The picture goes down through coarser and coarser levels, through the middle, and up again; every level on the way up
also reads what the way down left there (the skips).
"""

import math

import torch
from torch import Tensor, nn

from stablediff.config import UNetConfig
from stablediff.models.attention import attend
from stablediff.models.layers import (
    Downsample,
    ResnetBlock,
    SpatialTransformer,
    TimestepEmbedding,
    Upsample,
    as_many,
    silu_,
    sinusoidal_embedding,
)


class UNetBlock(nn.Module):
    """Residual blocks of one level, with a transformer after each of the first `num_transformers`."""

    def __init__(
        self, config: UNetConfig, level: int, in_channels: list[int], depth: int, num_transformers: int
    ) -> None:
        """`in_channels` has an entry a residual block; `depth` counts the blocks of a transformer, 0 for none."""
        super().__init__()
        channels, time_dim = config.channels[level], 4 * config.channels[0]
        self.resnets = nn.ModuleList(
            ResnetBlock(c, channels, time_dim, norm_groups=config.norm_groups, norm_eps=config.norm_eps)
            for c in in_channels
        )
        self.attentions = nn.ModuleList(
            SpatialTransformer(
                channels,
                config.num_heads[level],
                depth,
                config.context_dim,
                norm_groups=config.norm_groups,
                linear=config.linear_projection,
                upcast=config.upcast_attention,
            )
            for _ in range(num_transformers if depth else 0)
        )

    def layer(self, index: int, x: Tensor, time_emb: Tensor, context: Tensor) -> Tensor:
        x = self.resnets[index](x, time_emb[: len(x)])
        return self.attentions[index](x, context) if index < len(self.attentions) else x


class DownBlock(UNetBlock):
    """One level on the way down, then half the size (but for the coarsest level)."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        channels, depth = config.channels[level], config.transformer_depth[level]
        in_channels = [config.channels[max(level - 1, 0)]] + [channels] * (config.num_resnets - 1)
        super().__init__(config, level, in_channels, depth, num_transformers=len(in_channels))
        is_last = level == len(config.channels) - 1
        self.downsamplers = nn.ModuleList([] if is_last else [Downsample(channels)])

    def forward(self, x: Tensor, time_emb: Tensor, context: Tensor) -> list[Tensor]:
        """(B,C,h,w) -> the output of every layer, for the skips; the last one goes on down."""
        outputs = []
        for index in range(len(self.resnets)):
            x = self.layer(index, x, time_emb, context)
            outputs.append(x)
        for downsample in self.downsamplers:
            outputs.append(downsample(x))
        return outputs


class MidBlock(UNetBlock):
    """The coarsest level once more: two residual blocks, and one transformer between them."""

    def __init__(self, config: UNetConfig) -> None:
        level, depth = len(config.channels) - 1, config.mid_transformer_depth
        super().__init__(config, level, [config.channels[level]] * 2, depth, num_transformers=1)

    def forward(self, x: Tensor, time_emb: Tensor, context: Tensor) -> Tensor:
        return self.layer(1, self.layer(0, x, time_emb, context), time_emb, context)


class UpBlock(UNetBlock):
    """One level on the way up, each layer reading a skip too, then twice the size (but for the finest level)."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        levels, channels = len(config.channels), config.channels[level]
        # From below comes the next coarser level; from the skips, this level's layers and then the finer level's last.
        below = [config.channels[min(level + 1, levels - 1)]] + [channels] * config.num_resnets
        skips = [channels] * config.num_resnets + [config.channels[max(level - 1, 0)]]
        in_channels = [b + s for b, s in zip(below, skips, strict=True)]
        super().__init__(config, level, in_channels, config.transformer_depth[level], len(in_channels))
        self.upsamplers = nn.ModuleList([] if level == 0 else [Upsample(channels)])

    def forward(self, x: Tensor, skips: list[Tensor], time_emb: Tensor, context: Tensor) -> Tensor:
        """Takes its skips off the end of the list, and leaves the map at the size of the next skip.

        The finest block leaves its last layer to `UNet.finish`.
        """
        layers = len(self.resnets) if len(self.upsamplers) else len(self.resnets) - 1
        for index in range(layers):
            x = self.layer(index, torch.cat([x, as_many(skips.pop(), len(x))], dim=1), time_emb, context)
        for upsample in self.upsamplers:
            x = upsample(x, size=(skips[-1].shape[-2], skips[-1].shape[-1]))
        return x


class AttentionPooling(nn.Module):
    """A sentence's mean token asks all tokens and itself: (B,T,D) -> (B,D)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.positional_embedding = nn.Parameter(torch.empty(1, dim))
        nn.init.normal_(self.positional_embedding, std=1 / math.sqrt(dim))
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=1, keepdim=True) + self.positional_embedding.to(x.dtype)
        x = torch.cat([mean, x], dim=1)
        return attend(self.q_proj(mean), self.k_proj(x), self.v_proj(x), self.num_heads)[:, 0]


class PooledTextEmbedding(nn.Module):
    """The whole prompt as one vector beside the time embedding: context (B,T,D) -> (B,E)."""

    def __init__(self, dim: int, out_dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.pool = AttentionPooling(dim, num_heads)
        self.proj = nn.Linear(dim, out_dim)
        self.norm2 = nn.LayerNorm(out_dim)

    def forward(self, context: Tensor) -> Tensor:
        return self.norm2(self.proj(self.pool(self.norm1(context))))


def guidance_embedding(scale: Tensor, dim: int) -> Tensor:
    """A guidance scale as waves, as LCM checkpoints expect it (arXiv:2310.04378, section 4.2): (B,) -> (B,dim)."""
    half = dim // 2
    # The angles are in the thousands, so that even the order of roundings shows: this is the one of the training code.
    rate = -math.log(10000) / (half - 1)
    frequencies = torch.exp(rate * torch.arange(half, dtype=torch.float32, device=scale.device))
    angles = 1000 * (scale.float() - 1)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class UNet(nn.Module):
    """Predicts the noise in latents (or v, or the latents themselves: what it was trained to)."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.compiled = False  # by models/compiled.py
        channels, time_dim = config.channels, 4 * config.channels[0]

        self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(channels[0], time_dim, config.guidance_embedding_dim)
        self.add_embedding: nn.Module | None = None
        if config.added_conditioning == "text":
            self.add_embedding = PooledTextEmbedding(config.context_dim, time_dim, config.added_text_heads)
        elif config.added_conditioning == "text_time":
            self.add_embedding = TimestepEmbedding(config.added_input_dim, time_dim)

        self.down_blocks = nn.ModuleList(DownBlock(config, level) for level in range(len(channels)))
        self.mid_block = MidBlock(config)
        self.up_blocks = nn.ModuleList(UpBlock(config, level) for level in reversed(range(len(channels))))

        self.conv_norm_out = nn.GroupNorm(config.norm_groups, channels[0], eps=config.norm_eps)
        self.conv_out = nn.Conv2d(channels[0], config.out_channels, 3, padding=1)

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        pooled: Tensor | None = None,
        size_ids: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """x (B,C,h,w), timestep (N,) in [0, num_train_timesteps), context (N,T,D) -> (N,C',h,w).

        N is B, or a multiple of it: then all of x is asked with the first B prompts, with the next B, … What comes
        before the first reading of a prompt is computed once, so the time embeddings have to be the same for all.

        SDXL also takes `pooled` (B,P) and `size_ids` (B,6): original height and width, crop top and left, target
        height and width, in pixels. LCM checkpoints take `guidance` (B,).
        """
        time_emb = self.embed_time(timestep, context, pooled, size_ids, guidance)
        x = self.conv_in(x)
        return self.finish(x, self.deep(x, time_emb, context), time_emb, context)

    def deep(self, x: Tensor, time_emb: Tensor, context: Tensor) -> Tensor:
        """All layers but the outermost ones: (B,C,h,w) from `conv_in` -> (B,C',h,w). Changes little between steps."""
        skips = [x]
        for down in self.down_blocks:
            skips.extend(down(skips[-1], time_emb, context))
        x = self.mid_block(skips[-1], time_emb, context)
        for up in self.up_blocks:
            x = up(x, skips, time_emb, context)
        return x

    def finish(self, x: Tensor, deep: Tensor, time_emb: Tensor, context: Tensor) -> Tensor:
        """The last layer, which reads what `conv_in` and `deep` gave -> (B,C',h,w)."""
        last = self.up_blocks[-1]
        assert isinstance(last, UpBlock)
        x = torch.cat([deep, as_many(x, len(deep))], dim=1)
        x = last.layer(len(last.resnets) - 1, x, time_emb, context)
        return self.conv_out(silu_(self.conv_norm_out(x)))

    def embed_time(
        self,
        timestep: Tensor,
        context: Tensor,
        pooled: Tensor | None = None,
        size_ids: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """How noisy the picture is, and what else concerns all of it: -> (B,E)."""
        config, dtype = self.config, context.dtype
        cond = None
        if config.guidance_embedding_dim and guidance is not None:
            cond = guidance_embedding(guidance, config.guidance_embedding_dim).to(dtype)
        time_emb = self.time_embedding(sinusoidal_embedding(timestep, config.channels[0]).to(dtype), cond)
        if config.added_conditioning == "text" and self.add_embedding is not None:
            return time_emb + self.add_embedding(context)
        if config.added_conditioning == "text_time" and self.add_embedding is not None:
            if pooled is None or size_ids is None:
                raise ValueError("this U-Net needs pooled (B,P) and size_ids (B,6)")
            sizes = sinusoidal_embedding(size_ids.flatten(), config.added_size_dim).reshape(len(size_ids), -1)
            return time_emb + self.add_embedding(torch.cat([pooled, sizes.to(dtype)], dim=-1))
        return time_emb
