"""What is trained must be found again: settings are checked as loading checks them, and as they come back from a file.

All raise ConfigError that names the entry.
"""

from collections.abc import Callable
from dataclasses import fields
from typing import TypeVar

from stablediff.checkpoints.sanity import check_clip, check_schedule, check_sizes, check_unet, check_vae
from stablediff.checkpoints.save import clip_settings, schedule_settings, unet_settings, vae_settings
from stablediff.checkpoints.settings import clip_config, schedule_config, unet_config, vae_config
from stablediff.config import CLIPConfig, Defaults, ModelConfig, ScheduleConfig, UNetConfig, VAEConfig
from stablediff.errors import CheckpointError, ConfigError, RequestError
from stablediff.request import Request

T = TypeVar("T")
# What files and their refusals call our entries; a name that is a part of another comes after it.
_ENTRIES = {
    "the number of text layers": "num_layers",
    "the number of text heads": "num_heads",
    "max_position_embeddings": "max_length",
    "projection_dim": "projection_size",
    "the number of U-Net levels": "the number of levels in channels",
    "the number of VAE levels": "the number of levels in channels",
    "the VAE's ": "",
    "transformer_layers_per_block": "a depth of transformer_depth or mid_transformer_depth",
    "layers_per_block": "num_resnets",
    "cross_attention_dim": "context_dim",
    "norm_num_groups": "norm_groups",
    "block_out_channels": "channels",
    "attention_head_dim (the number of heads)": "num_heads",
    "addition_embed_type_num_heads": "added_text_heads",
    "addition_time_embed_dim": "added_size_dim",
    "projection_class_embeddings_input_dim": "added_input_dim",
    "time_cond_proj_dim": "guidance_embedding_dim",
}
_SDXL_ONLY = ("added_size_dim", "added_input_dim")  # which is not trained from nothing
_DEPTHS = "make mid_transformer_depth as large as the last level's transformer_depth, or that one 0"
_REMEDIES = {"transformer_depth": _DEPTHS, "mid_transformer_depth": _DEPTHS}


def check_savable_vae(config: VAEConfig) -> None:
    _check("vae", config, check_vae, lambda: vae_config(vae_settings(config)))


def check_savable_text_encoder(config: CLIPConfig) -> None:
    """As its stage saves it: read at its last layer, and without a projection."""
    _check_text("text", config, "CLIPTextModel")


def check_savable_unet(config: UNetConfig) -> None:
    if config.added_conditioning == "text_time":
        raise ConfigError("unet.added_conditioning is text_time, which takes SDXL's two encoders: choose text or none")
    if config.guidance_embedding_dim is not None:
        raise ConfigError("unet.guidance_embedding_dim is learnt by distillation alone: leave it away")
    _check("unet", config, check_unet, lambda: unet_config(unet_settings(config)))


def check_savable_schedule(config: ScheduleConfig) -> None:
    _check("schedule", config, check_schedule, lambda: schedule_config(schedule_settings(config, "ddim")))


def check_savable_defaults(defaults: Defaults) -> None:
    """They are what a request may say."""
    try:
        Request(**vars(defaults))
    except RequestError as error:
        raise ConfigError(f"[defaults] cannot be used: {error}") from error


def check_savable(config: ModelConfig) -> None:
    """A whole model, whose parts must fit together too."""
    check_savable_unet(config.unet)
    for tower in config.text_encoders:
        projected = "" if tower.projection_size is None else "WithProjection"
        _check_text("text_encoder", tower, f"CLIPTextModel{projected}")
    check_savable_vae(config.vae)
    check_savable_schedule(config.schedule)
    check_savable_defaults(config.defaults)
    try:
        check_sizes(config)
    except ValueError as error:
        raise ConfigError(f"the parts do not fit together: {error}") from error


def _check_text(table: str, config: CLIPConfig, architecture: str) -> None:
    _check(table, config, check_clip, lambda: clip_config(clip_settings(config, architecture), penultimate=False))


def _check(table: str, config: T, check: Callable[[T], None], read_again: Callable[[], T]) -> None:
    try:
        check(config)
        found = read_again()
    except (CheckpointError, ValueError) as error:
        raise ConfigError(f"[{table}] cannot be used: {_in_our_names(str(error))}") from error
    for entry in fields(config):  # type: ignore[arg-type]
        if entry.name in _SDXL_ONLY:
            continue
        ours, kept = getattr(config, entry.name), getattr(found, entry.name)
        if ours != kept:
            remedy = "leave it away" if kept is None else f"choose {_shown(kept)}"
            raise ConfigError(
                f"{table}.{entry.name} is {_shown(ours)}, and a saved model would have {_shown(kept)}: "
                f"{_REMEDIES.get(entry.name, remedy)}"
            )


def _shown(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return list(value)
    return "none" if value is None else value


def _in_our_names(message: str) -> str:
    for name, entry in _ENTRIES.items():
        message = message.replace(name, entry)
    return message
