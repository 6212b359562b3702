"""The two ways in which Stable Diffusion weights are named, as tables.

Our modules bear the names of the diffusers layout, so a diffusers folder needs almost no table. The single files of the
original code (LDM) do: each function below gives {our module: their module} for one network.
"""

import re
from collections.abc import Container, Iterable
from dataclasses import dataclass

from stablediff.config import CLIPConfig, Kind, UNetConfig, VAEConfig

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
SD1_TEXT_PREFIX = "cond_stage_model.transformer.text_model."
SD1_OLD_TEXT_PREFIX = "cond_stage_model.transformer."  # in files from 2022, and in merges of them
SD2_TEXT_PREFIX = "cond_stage_model.model."
SDXL_TEXT_PREFIXES = ("conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model.")

# Left out of a single file on purpose: training state, constants that the config implies, and what is never run.
LDM_DROPPED = (
    r"model_ema\..*",
    r"(betas|alphas_cumprod|alphas_cumprod_prev|log_one_minus_alphas_cumprod|logvar|posterior_.*|sqrt_.*|scale_factor)",
    r".*\.(position_ids|logit_scale|attn_mask)",
    r"first_stage_model\.(loss|model_ema)\..*",
    # The pooled prompt is used by SDXL's second tower alone.
    r"(cond_stage_model|conditioner\.embedders\.0)\.(model\.|transformer\.)?text_projection(\.weight)?",
    r"denoiser\..*",
    r"(v_pred|ztsnr)",  # flags without values
)
FOLDER_DROPPED = (r".*position_ids", r".*logit_scale")


@dataclass(frozen=True)
class Source:
    """Where one of our tensors lies in a file, and what to do with it."""

    key: str
    third: int | None = None  # of a fused q, k, v matrix
    transposed: bool = False


def is_dropped(key: str, patterns: Iterable[str]) -> bool:
    return any(re.fullmatch(pattern, key) for pattern in patterns)


# --- diffusers folders ------------------------------------------------------------------------------------------------

# Older folders name the autoencoder's attention as its first code did.
_OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def folder_source(name: str, available: Container[str]) -> Source | None:
    """The tensor called `name` in one of our networks, in a diffusers or transformers file."""
    old = name
    for ours, theirs in _OLD_ATTENTION.items():
        old = old.replace(f"attentions.0.{ours}.", f"attentions.0.{theirs}.")
    # transformers 5 writes the text tower without its former prefix.
    for candidate in (name, f"text_model.{name}", old):
        if candidate in available:
            return Source(candidate)
    return None


# --- single files -----------------------------------------------------------------------------------------------------


def text_prefixes(kind: Kind, available: Container[str]) -> tuple[str, ...]:
    """Where the text towers lie, the first one first."""
    if kind == "sdxl":
        return SDXL_TEXT_PREFIXES
    if kind == "sd2":
        return (SD2_TEXT_PREFIX,)
    is_old = f"{SD1_OLD_TEXT_PREFIX}embeddings.token_embedding.weight" in available
    return (SD1_OLD_TEXT_PREFIX if is_old else SD1_TEXT_PREFIX,)


_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_RESNET = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "conv_shortcut": "nin_shortcut"}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def _nested(ours: str, theirs: str, inner: dict[str, str]) -> dict[str, str]:
    return {f"{ours}.{a}": f"{theirs}.{b}" for a, b in inner.items()}


def ldm_unet(config: UNetConfig) -> dict[str, str]:
    """LDM counts one list of blocks down and one up: each level has its layers, then the change of size."""
    levels, layers = len(config.channels), config.num_resnets
    table = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "mid_block.attentions.0": "middle_block.1",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        **_nested("mid_block.resnets.0", "middle_block.0", _UNET_RESNET),
        **_nested("mid_block.resnets.1", "middle_block.2", _UNET_RESNET),
    }
    for level in range(levels):
        for layer in range(layers):
            block = f"input_blocks.{1 + level * (layers + 1) + layer}"
            table |= _nested(f"down_blocks.{level}.resnets.{layer}", f"{block}.0", _UNET_RESNET)
            table[f"down_blocks.{level}.attentions.{layer}"] = f"{block}.1"
        table[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{(level + 1) * (layers + 1)}.0.op"
        for layer in range(layers + 1):
            block = f"output_blocks.{level * (layers + 1) + layer}"
            table |= _nested(f"up_blocks.{level}.resnets.{layer}", f"{block}.0", _UNET_RESNET)
            table[f"up_blocks.{level}.attentions.{layer}"] = f"{block}.1"
        has_attention = config.transformer_depth[levels - 1 - level] > 0
        last = f"output_blocks.{level * (layers + 1) + layers}"
        table[f"up_blocks.{level}.upsamplers.0.conv"] = f"{last}.{2 if has_attention else 1}.conv"
    return table


def ldm_vae(config: VAEConfig) -> dict[str, str]:
    levels = len(config.channels)
    table = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for side in ("encoder", "decoder"):
        table |= {
            f"{side}.conv_in": f"{side}.conv_in",
            f"{side}.conv_norm_out": f"{side}.norm_out",
            f"{side}.conv_out": f"{side}.conv_out",
            **_nested(f"{side}.mid_block.resnets.0", f"{side}.mid.block_1", _VAE_RESNET),
            **_nested(f"{side}.mid_block.resnets.1", f"{side}.mid.block_2", _VAE_RESNET),
            **_nested(f"{side}.mid_block.attentions.0", f"{side}.mid.attn_1", _VAE_ATTENTION),
        }
    for level in range(levels):
        down, up = f"encoder.down.{level}", f"decoder.up.{levels - 1 - level}"
        for layer in range(config.num_resnets):
            table |= _nested(f"encoder.down_blocks.{level}.resnets.{layer}", f"{down}.block.{layer}", _VAE_RESNET)
        for layer in range(config.num_resnets + 1):
            table |= _nested(f"decoder.up_blocks.{level}.resnets.{layer}", f"{up}.block.{layer}", _VAE_RESNET)
        table[f"encoder.down_blocks.{level}.downsamplers.0.conv"] = f"{down}.downsample.conv"
        table[f"decoder.up_blocks.{level}.upsamplers.0.conv"] = f"{up}.upsample.conv"
    return table


def openclip_text(config: CLIPConfig) -> dict[str, Source]:
    """OpenCLIP's text tower, whose q, k and v are one matrix: {our tensor: where it lies}."""
    table = {
        "embeddings.token_embedding.weight": Source("token_embedding.weight"),
        "embeddings.position_embedding.weight": Source("positional_embedding"),
        "final_layer_norm.weight": Source("ln_final.weight"),
        "final_layer_norm.bias": Source("ln_final.bias"),
        "text_projection.weight": Source("text_projection", transposed=True),
    }
    for layer in range(config.num_layers):
        ours, theirs = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for kind in ("weight", "bias"):
            for a, b in (
                ("layer_norm1", "ln_1"),
                ("layer_norm2", "ln_2"),
                ("self_attn.out_proj", "attn.out_proj"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
            ):
                table[f"{ours}.{a}.{kind}"] = Source(f"{theirs}.{b}.{kind}")
            for third, name in enumerate("qkv"):
                table[f"{ours}.self_attn.{name}_proj.{kind}"] = Source(f"{theirs}.attn.in_proj_{kind}", third)
    return table


def ldm_source(name: str, table: dict[str, str]) -> Source | None:
    """The tensor called `name` in one of our networks, by the longest module of the table that holds it."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        theirs = table.get(".".join(parts[:length]))
        if theirs is not None:
            return Source(".".join([theirs, *parts[length:]]))
    return None
