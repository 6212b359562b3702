"""CLIP's text tower: token ids (B,T) -> context (B,T,D), which the U-Net reads, and pooled (B,P)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stablediff.config import CLIPConfig
from stablediff.models.attention import attend


class TextEncoding(NamedTuple):
    context: Tensor  # (B,T,D)
    pooled: Tensor  # (B,P): the end token's state, projected if the tower has a projection


def quick_gelu(x: Tensor) -> Tensor:
    """The sigmoid approximation of GELU that OpenAI trained CLIP with; OpenCLIP uses the exact one."""
    return x * torch.sigmoid(1.702 * x)


class CLIPAttention(nn.Module):
    """Each token attends to itself and to those before it, or (not causal) to all: (B,T,D) -> (B,T,D)."""

    def __init__(self, config: CLIPConfig, causal: bool) -> None:
        super().__init__()
        dim = config.hidden_size
        self.num_heads, self.causal = config.num_heads, causal
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(attend(self.q_proj(x), self.k_proj(x), self.v_proj(x), self.num_heads, causal=self.causal))


class CLIPMLP(nn.Module):
    """(B,T,D) -> (B,T,D)."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.activation = quick_gelu if config.activation == "quick_gelu" else F.gelu
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class CLIPLayer(nn.Module):
    """(B,T,D) -> (B,T,D)."""

    def __init__(self, config: CLIPConfig, causal: bool) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = CLIPAttention(config, causal)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = CLIPMLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class CLIPEmbeddings(nn.Module):
    """What each token means plus where it stands: ids (B,T) -> (B,T,D)."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_length, config.hidden_size)

    def forward(self, ids: Tensor) -> Tensor:
        return self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]


class CLIPEncoder(nn.Module):
    """The layers, one after another."""

    def __init__(self, config: CLIPConfig, causal: bool = True) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CLIPLayer(config, causal) for _ in range(config.num_layers))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B,T,D) -> the output of every layer, the input first."""
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1]))
        return states


class CLIPTextEncoder(nn.Module):
    """Token ids (B,T) -> context (B,T,D) and pooled (B,P)."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = CLIPEmbeddings(config)
        self.encoder = CLIPEncoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.text_projection = (
            nn.Linear(config.hidden_size, config.projection_size, bias=False) if config.projection_size else None
        )

    def forward(self, ids: Tensor) -> TextEncoding:
        states = self.encoder(self.embeddings(ids))
        last = self.final_layer_norm(states[-1])
        context = states[self.config.context_layer]
        if self.config.context_norm:
            context = last if self.config.context_layer == -1 else self.final_layer_norm(context)
        # The text ends at its first end token; the padding behind it may be end tokens too.
        end = (ids == self.config.eos_token_id).int().argmax(dim=-1)
        pooled = last[torch.arange(len(ids), device=ids.device), end]
        return TextEncoding(context, pooled if self.text_projection is None else self.text_projection(pooled))
