"""Sizes that no Stable Diffusion has are refused before a network of that size is built."""

import math

from stablediff.config import CLIPConfig, ModelConfig, ScheduleConfig, UNetConfig, VAEConfig


def check_sizes(config: ModelConfig) -> None:
    """Raises ValueError that names the setting, its value and what it could be."""
    for tower in config.text_encoders:
        check_clip(tower)
    check_unet(config.unet)
    check_vae(config.vae)
    check_schedule(config.schedule)
    if config.unet.out_channels != config.vae.latent_channels:
        raise ValueError(
            f"the U-Net gives {config.unet.out_channels} channels, the VAE takes {config.vae.latent_channels}"
        )
    width = sum(tower.hidden_size for tower in config.text_encoders)
    if config.unet.context_dim != width:
        raise ValueError(f"the U-Net reads {config.unet.context_dim} numbers a token, the text encoders give {width}")


def _within(name: str, value: float, low: float, high: float) -> None:
    if not (isinstance(value, (int, float)) and math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{name} is {str(value)[:40]}, and should be {low:g} to {high:g}")


def _divides(name: str, divisor: int, of: str, whole: int) -> None:
    if whole % divisor:
        raise ValueError(f"{name} is {divisor}, which does not divide {of} of {whole}")


def check_clip(config: CLIPConfig) -> None:
    _within("vocab_size", config.vocab_size, 4, 10**6)
    _within("hidden_size", config.hidden_size, 1, 2**13)
    _within("intermediate_size", config.intermediate_size, 1, 2**16)
    _within("the number of text layers", config.num_layers, max(1, -config.context_layer), 100)
    _within("the number of text heads", config.num_heads, 1, config.hidden_size)
    _divides("the number of text heads", config.num_heads, "a hidden_size", config.hidden_size)
    _within("max_position_embeddings", config.max_length, 3, 2**12)
    _within("eos_token_id", config.eos_token_id, 0, 2**31)
    _within("layer_norm_eps", config.layer_norm_eps, 0, 1)
    if config.projection_size is not None:
        _within("projection_dim", config.projection_size, 1, 2**13)


def check_unet(config: UNetConfig) -> None:
    levels = len(config.channels)
    _within("the number of U-Net levels", levels, 1, 8)
    if not levels == len(config.transformer_depth) == len(config.num_heads):
        raise ValueError(f"the U-Net has {levels} levels, but other numbers of attention depths or heads")
    _within("in_channels", config.in_channels, 1, 2**10)
    _within("out_channels", config.out_channels, 1, 2**10)
    _within("layers_per_block", config.num_resnets, 1, 16)
    _within("cross_attention_dim", config.context_dim, 1, 2**14)
    _within("norm_num_groups", config.norm_groups, 1, 2**10)
    _within("norm_eps", config.norm_eps, 0, 1)
    for channels, depth, heads in zip(config.channels, config.transformer_depth, config.num_heads, strict=True):
        _within("block_out_channels", channels, 2, 2**13)
        _divides("norm_num_groups", config.norm_groups, "a width", channels)
        _within("transformer_layers_per_block", depth, 0, 64)
        _within("attention_head_dim (the number of heads)", heads, 1, 2**13)
        if depth:
            _divides("the number of heads", heads, "a width", channels)
    _within("transformer_layers_per_block", config.mid_transformer_depth, 0, 64)
    if config.added_conditioning == "text":
        _within("addition_embed_type_num_heads", config.added_text_heads, 1, config.context_dim)
        _divides("addition_embed_type_num_heads", config.added_text_heads, "a context", config.context_dim)
    if config.added_conditioning == "text_time":
        _within("addition_time_embed_dim", config.added_size_dim, 2, 2**12)
        _within("projection_class_embeddings_input_dim", config.added_input_dim, 1, 2**14)
    if config.guidance_embedding_dim is not None:
        _within("time_cond_proj_dim", config.guidance_embedding_dim, 4, 2**12)


def check_vae(config: VAEConfig) -> None:
    _within("the number of VAE levels", len(config.channels), 1, 8)
    _within("the VAE's latent_channels", config.latent_channels, 1, 2**8)
    _within("the VAE's layers_per_block", config.num_resnets, 1, 16)
    _within("the VAE's norm_num_groups", config.norm_groups, 1, 2**10)
    _within("scaling_factor", config.scaling_factor, 1e-6, 1e6)
    _within("patch_size", config.patch_size, 1, 16)
    for channels in config.channels:
        _within("the VAE's block_out_channels", channels, 1, 2**12)
        _divides("the VAE's norm_num_groups", config.norm_groups, "a width", channels)
    pixels = config.patch_size**2
    if config.in_channels != config.out_channels or config.in_channels not in (3 * pixels, 4 * pixels):
        raise ValueError(
            f"the VAE has {config.in_channels} channels in and {config.out_channels} out, and should have "
            f"{3 * pixels} (RGB) or {4 * pixels} (RGB and alpha) of both"
        )


def check_schedule(config: ScheduleConfig) -> None:
    _within("num_train_timesteps", config.num_train_timesteps, 2, 10**5)
    _within("beta_start", config.beta_start, 1e-9, 0.999)
    _within("beta_end", config.beta_end, config.beta_start, 0.999)
    _within("steps_offset", config.steps_offset, 0, config.num_train_timesteps - 1)
