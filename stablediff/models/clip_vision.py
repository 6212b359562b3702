"""CLIP's image tower: pixels (B,3,S,S) -> one vector a picture, in the space of its captions."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stablediff.config import CLIPConfig
from stablediff.models.clip import CLIPEncoder


@dataclass(frozen=True)
class CLIPVisionConfig:
    """A vision transformer (Dosovitskiy et al. 2020, arXiv:2010.11929); its layers are built like a text tower's."""

    layers: CLIPConfig
    image_size: int = 224
    patch_size: int = 32
    projection_size: int = 512


class CLIPVisionEmbeddings(nn.Module):
    """(B,3,S,S) -> (B,1+P,D): a token for the whole, one for each patch, and where each stands."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        dim, patch = config.layers.hidden_size, config.patch_size
        self.class_embedding = nn.Parameter(torch.zeros(dim))
        self.patch_embedding = nn.Conv2d(3, dim, patch, stride=patch, bias=False)
        self.position_embedding = nn.Embedding((config.image_size // patch) ** 2 + 1, dim)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        whole = self.class_embedding.expand(len(pixels), 1, -1)
        return torch.cat([whole, patches], dim=1) + self.position_embedding.weight


class CLIPVisionEncoder(nn.Module):
    """(B,3,S,S), normalised as CLIP wants it -> (B,P)."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.config = config
        dim, eps = config.layers.hidden_size, config.layers.layer_norm_eps
        self.embeddings = CLIPVisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(dim, eps=eps)  # so spelt in every checkpoint
        self.encoder = CLIPEncoder(config.layers, causal=False)
        self.post_layernorm = nn.LayerNorm(dim, eps=eps)
        self.visual_projection = nn.Linear(dim, config.projection_size, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        states = self.encoder(self.pre_layrnorm(self.embeddings(pixels)))
        return self.visual_projection(self.post_layernorm(states[-1][:, 0]))
