"""The reference implementations (diffusers, transformers) built from our configs, on the very same weights as ours.

Both models of a pair are made on the meta device and share one set of random weights, drawn for the reference's keys
and loaded strictly: a name or shape that differs fails at once, and two SDXL U-Nets take no more memory than one.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from hypothesis import HealthCheck, Phase, settings
from torch import Tensor, nn

from stablediff.config import CLIPConfig, UNetConfig, VAEConfig
from stablediff.models.clip import CLIPTextEncoder, TextEncoding
from stablediff.models.unet import UNet
from stablediff.models.vae import VAE

TOLERANCE = 1e-5  # the largest absolute error for outputs of about unit variance, in float32

# Derandomised, so that a failure in CI is the same failure at home. Not shrunk: it takes minutes to save a few layers.
fifty_configs = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def draw_weights(like: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Weights that keep activations near unit variance, and in which no bias or norm is the neutral 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key, tensor in like.items():
        weight = torch.empty(tensor.shape).normal_(generator=generator)
        if tensor.ndim > 1:
            weight *= tensor[0].numel() ** -0.5
        else:
            weight *= 0.1
            weight += 1.0 if key.endswith("weight") else 0.0  # one-dimensional weights belong to norms
        weights[key] = weight
    return weights


def share_weights(ours: nn.Module, reference: nn.Module, weights: dict[str, Tensor]) -> None:
    reference.load_state_dict(weights, strict=True, assign=True)
    # A CLIP tower with a projection nests all the rest in `text_model`, one without does not; ours never does.
    renamed = {key.removeprefix("text_model."): weight for key, weight in weights.items()}
    ours.load_state_dict(renamed, strict=True, assign=True)
    for model in (ours, reference):
        model.eval().requires_grad_(False)


_RESIDUAL = re.compile(r"(conv_in|conv1|conv2|time_emb_proj|proj_out|to_out\.0)\.|(shortcut|samplers.*)\.bias")


def hush(model: nn.Module) -> None:
    """Scales what is added to the residual stream until variances are near the norms' eps, so that eps shows.

    At unit variance a wrong eps changes outputs by less than `TOLERANCE`. Acts on both models of a pair, which share
    their weights.
    """
    for name, parameter in model.named_parameters():
        if _RESIDUAL.search(name):
            parameter.mul_(1e-3)


def max_error(ours: Tensor, reference: Tensor) -> float:
    assert ours.shape == reference.shape
    assert reference.isfinite().all()
    return (ours - reference).abs().max().item()


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def clip_pair(config: CLIPConfig, seed: int = 0, *, legacy_eos: bool = False) -> tuple[CLIPTextEncoder, nn.Module]:
    """`legacy_eos`: checkpoints from before 2023 claim an end token of 2, and mean the largest id of the sentence."""
    reference_config = transformers.CLIPTextConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        max_position_embeddings=config.max_length,
        hidden_act=config.activation,
        layer_norm_eps=config.layer_norm_eps,
        projection_dim=config.projection_size or 1,
        eos_token_id=2 if legacy_eos else config.eos_token_id,
        bos_token_id=0,
        pad_token_id=1,
    )
    kind = transformers.CLIPTextModelWithProjection if config.projection_size else transformers.CLIPTextModel
    with torch.device("meta"):
        ours, reference = CLIPTextEncoder(config), kind(reference_config)
    share_weights(ours, reference, draw_weights(reference.state_dict(), seed))
    return ours, reference


def reference_encoding(reference: nn.Module, config: CLIPConfig, ids: Tensor) -> TextEncoding:
    # The position ids are a buffer that is in no checkpoint, hence still on the meta device.
    positions = torch.arange(ids.shape[1])[None]
    out = reference(ids, position_ids=positions, output_hidden_states=True)
    context = out.hidden_states[config.context_layer]
    if config.context_norm:
        context = getattr(reference, "text_model", reference).final_layer_norm(context)
    return TextEncoding(context, out.text_embeds if config.projection_size else out.pooler_output)


def unet_reference_config(config: UNetConfig) -> dict[str, Any]:
    depths = list(config.transformer_depth)
    assert depths[-1] in (0, config.mid_transformer_depth), "diffusers has one depth for the last level and the middle"
    has_attention = [depth > 0 for depth in depths]
    depths[-1] = config.mid_transformer_depth
    return {
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": config.channels,
        "layers_per_block": config.num_resnets,
        "down_block_types": ["CrossAttnDownBlock2D" if has else "DownBlock2D" for has in has_attention],
        "up_block_types": ["CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(has_attention)],
        "transformer_layers_per_block": [depth or 1 for depth in depths],
        "attention_head_dim": config.num_heads,  # named wrongly in diffusers: it is the number of heads
        "cross_attention_dim": config.context_dim,
        "use_linear_projection": config.linear_projection,
        "upcast_attention": config.upcast_attention,
        "norm_num_groups": config.norm_groups,
        "norm_eps": config.norm_eps,
        "addition_embed_type": None if config.added_conditioning == "none" else config.added_conditioning,
        "addition_embed_type_num_heads": config.added_text_heads,
        "addition_time_embed_dim": config.added_size_dim,
        "projection_class_embeddings_input_dim": config.added_input_dim,
        "time_cond_proj_dim": config.guidance_embedding_dim,
    }


def unet_pair(config: UNetConfig, seed: int = 0) -> tuple[UNet, UNet2DConditionModel]:
    with torch.device("meta"):
        ours, reference = UNet(config), UNet2DConditionModel(**unet_reference_config(config))
    share_weights(ours, reference, draw_weights(reference.state_dict(), seed))
    return ours, reference


def unet_inputs(config: UNetConfig, *, batch: int, size: tuple[int, int], seed: int = 0) -> dict[str, Tensor]:
    """Random arguments for our U-Net's forward, with those that `config` calls for and no others."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {
        "x": torch.randn(batch, config.in_channels, *size, generator=generator),
        "timestep": torch.randint(1000, (batch,), generator=generator),
        "context": torch.randn(batch, 7, config.context_dim, generator=generator),
    }
    if config.added_conditioning == "text_time":
        pooled_dim = config.added_input_dim - 6 * config.added_size_dim
        inputs["pooled"] = torch.randn(batch, pooled_dim, generator=generator)
        inputs["size_ids"] = torch.randint(2048, (batch, 6), generator=generator).float()
    if config.guidance_embedding_dim:
        inputs["guidance"] = 1 + 13 * torch.rand(batch, generator=generator)
    return inputs


def reference_prediction(reference: UNet2DConditionModel, inputs: dict[str, Tensor]) -> Tensor:
    added = {"text_embeds": inputs["pooled"], "time_ids": inputs["size_ids"]} if "pooled" in inputs else None
    cond = None
    if "guidance" in inputs:
        cond = reference_guidance_embedding(inputs["guidance"], reference.config.time_cond_proj_dim)
    return reference(
        inputs["x"], inputs["timestep"], inputs["context"], timestep_cond=cond, added_cond_kwargs=added
    ).sample


def reference_guidance_embedding(guidance: Tensor, dim: int) -> Tensor:
    from diffusers import LatentConsistencyModelPipeline  # slow to import

    return LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, guidance - 1, dim)


def vae_pair(config: VAEConfig, seed: int = 0) -> tuple[VAE, AutoencoderKL]:
    levels = len(config.channels)
    with torch.device("meta"):
        ours = VAE(config)
        reference = AutoencoderKL(
            in_channels=config.in_channels,
            out_channels=config.out_channels,
            latent_channels=config.latent_channels,
            block_out_channels=config.channels,
            layers_per_block=config.num_resnets,
            down_block_types=["DownEncoderBlock2D"] * levels,
            up_block_types=["UpDecoderBlock2D"] * levels,
            norm_num_groups=config.norm_groups,
            mid_block_add_attention=config.mid_attention,
            use_quant_conv=config.quant_conv,
            use_post_quant_conv=config.post_quant_conv,
            scaling_factor=config.scaling_factor,
        )
    share_weights(ours, reference, draw_weights(reference.state_dict(), seed))
    return ours, reference
