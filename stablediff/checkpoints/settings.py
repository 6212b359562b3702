"""The JSON files of a diffusers folder -> our configs. What we cannot draw with is refused here, by name."""

import contextlib
import json
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from stablediff.checkpoints.sanity import check_sizes
from stablediff.config import CLIPConfig, Kind, ModelConfig, ScheduleConfig, TimestepSpacing, UNetConfig, VAEConfig
from stablediff.errors import CheckpointError

Settings = Mapping[str, Any]

_USUAL = "choose a usual Stable Diffusion model."
_UNKNOWN = f"which this program does not know: {_USUAL}"


def read_text(path: Path, limit: int) -> str:
    """A file's text of at most `limit` bytes. Raises CheckpointError for what is longer, or no plain file."""
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path} is not a plain file: get the model again.")
    with path.open("rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise CheckpointError(f"{path} is larger than any such file ({limit:,} bytes): get the model again.")
    return data.decode("utf-8")


def read_settings(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises CheckpointError if it is missing or broken."""
    try:
        settings = json.loads(read_text(path, 2**20))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: the model's folder is not complete, get it again.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read {path}: {error}. Get the model again.") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path} is not a table of settings: get the model again.")
    return settings


def read_model_config(folder: Path) -> ModelConfig:
    """All configs of a folder with model_index.json. Raises CheckpointError for architectures that are not ours."""
    index = read_settings(folder / "model_index.json")
    if "unet" not in index or "vae" not in index:
        raise CheckpointError(
            f"{folder} holds a {index.get('_class_name', 'pipeline of an unknown class')}, and only Stable Diffusion "
            "1.x, 2.x and SDXL are supported. Choose one of those."
        )
    with fitting(folder):
        unet = unet_config(read_settings(folder / "unet" / "config.json"))
        vae = vae_config(read_settings(folder / "vae" / "config.json"))
        schedule = schedule_config(read_settings(folder / "scheduler" / "scheduler_config.json"))
        names = [name for name in ("text_encoder", "text_encoder_2") if _present(index, name)]
        if not names or (unet.added_conditioning == "text_time" and len(names) == 1):
            raise CheckpointError(f"{folder} lacks a text encoder (perhaps an SDXL refiner): take a full base model.")
        penultimate = unet.added_conditioning == "text_time"
        text = tuple(clip_config(read_settings(folder / name / "config.json"), penultimate) for name in names)
        kind = kind_of(unet)
        zero = _flag(index, "force_zeros_for_empty_prompt", default=kind == "sdxl")
        config = ModelConfig(kind, text, unet, vae, schedule, zero_empty_negative=zero)
        check_sizes(config)
    return config


@contextlib.contextmanager
def fitting(folder: Path) -> Iterator[None]:
    """What goes wrong where settings are read is a CheckpointError."""
    try:
        yield
    except KeyError as error:
        raise CheckpointError(
            f"the settings in {folder} do not fit together ({error} is missing): get the model again."
        ) from error
    except (TypeError, ValueError, IndexError, ArithmeticError, AttributeError) as error:
        raise CheckpointError(
            f"the settings in {folder} do not fit together ({str(error)[:200]}): get the model again."
        ) from error


def _present(index: Settings, name: str) -> bool:
    entry = index.get(name)
    return isinstance(entry, list) and entry != [None, None]


def kind_of(unet: UNetConfig) -> Kind:
    if unet.added_conditioning == "text_time":
        return "sdxl"
    if unet.added_conditioning == "text":
        return "custom"
    return "sd2" if unet.linear_projection else "sd1"


def _refuse_others(settings: Settings, supported: Mapping[str, Any], what: str) -> None:
    """Settings that change the arithmetic must have the value that ours has (or be absent)."""
    for name, value in supported.items():
        if settings.get(name, value) != value:
            raise CheckpointError(
                f"this {what} has {name} = {settings[name]!r}, and only {value!r} is supported: it is a variant of "
                "Stable Diffusion that this program does not know."
            )


def _value(settings: Settings, name: str, default: Any) -> Any:
    """Null is what the reference library writes for what is not set."""
    value = settings[name] if default is None else settings.get(name, default)
    return default if value is None else value


def _whole(settings: Settings, name: str, default: int | None = None) -> int:
    return _as_whole(name, _value(settings, name, default))


def _whole_or_none(settings: Settings, name: str) -> int | None:
    return None if settings.get(name) is None else _whole(settings, name)


def _as_whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value // 1:
        raise ValueError(f"{name} is {reprlib.repr(value)}, and no whole number")
    return int(value)


def _real(settings: Settings, name: str, default: float | None = None) -> float:
    value = _value(settings, name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} is {reprlib.repr(value)}, and no number")
    return float(value)


def _flag(settings: Settings, name: str, *, default: bool) -> bool:
    value = _value(settings, name, default)
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {reprlib.repr(value)}, and neither true nor false")
    return value


def _levels(settings: Settings, name: str) -> list[Any]:
    value = settings[name]
    if not isinstance(value, list):
        raise ValueError(f"{name} is {reprlib.repr(value)}, and no list with an entry for each level")
    return value


def _widths(settings: Settings) -> tuple[int, ...]:
    name = "block_out_channels"
    return tuple(_as_whole(name, value) for value in _levels(settings, name))


def clip_config(settings: Settings, penultimate: bool) -> CLIPConfig:
    hidden = _whole(settings, "hidden_size")
    activation = settings.get("hidden_act", "quick_gelu")
    if activation not in ("quick_gelu", "gelu"):
        raise CheckpointError(
            f"this text encoder has hidden_act = {activation!r}: only quick_gelu and gelu are known. "
            "Take the text encoder of a Stable Diffusion model."
        )
    architectures = settings.get("architectures") or ["CLIPTextModel"]
    vocab_size = _whole(settings, "vocab_size", 49408)
    eos = _whole(settings, "eos_token_id", 2)
    return CLIPConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=_whole(settings, "intermediate_size", 4 * hidden),
        num_layers=_whole(settings, "num_hidden_layers"),
        num_heads=_whole(settings, "num_attention_heads"),
        max_length=_whole(settings, "max_position_embeddings", 77),
        activation=activation,
        layer_norm_eps=_real(settings, "layer_norm_eps", 1e-5),
        projection_size=_whole(settings, "projection_dim") if "CLIPTextModelWithProjection" in architectures else None,
        # Old settings say 2 where they mean the end token, which is the last of CLIP's vocabulary.
        eos_token_id=vocab_size - 1 if eos == 2 else eos,
        context_layer=-2 if penultimate else -1,
        context_norm=not penultimate,
    )


def unet_config(settings: Settings) -> UNetConfig:
    _refuse_others(
        settings,
        {
            "act_fn": "silu",
            "center_input_sample": False,
            "class_embed_type": None,
            "conv_in_kernel": 3,
            "conv_out_kernel": 3,
            "cross_attention_norm": None,
            "downsample_padding": 1,
            "dual_cross_attention": False,
            "encoder_hid_dim": None,
            "flip_sin_to_cos": True,
            "freq_shift": 0,
            "mid_block_scale_factor": 1,
            "mid_block_type": "UNetMidBlock2DCrossAttn",
            "num_class_embeds": None,
            "only_cross_attention": False,
            "resnet_time_scale_shift": "default",
            "resnet_skip_time_act": False,
            "reverse_transformer_layers_per_block": None,
            "time_embedding_type": "positional",
            "time_embedding_dim": None,
            "time_embedding_act_fn": None,
            "timestep_post_act": None,
            "attention_type": "default",
        },
        "U-Net",
    )
    channels = _widths(settings)
    levels = len(channels)
    down, up = _levels(settings, "down_block_types"), _levels(settings, "up_block_types")
    known = {"CrossAttnDownBlock2D": True, "DownBlock2D": False, "CrossAttnUpBlock2D": True, "UpBlock2D": False}
    unknown = {*down, *up} - known.keys()
    if unknown:
        raise CheckpointError(f"this U-Net has blocks of type {', '.join(unknown)}, {_UNKNOWN}")
    has_attention = [known[name] for name in down]
    if len(down) != levels or has_attention != [known[name] for name in reversed(up)]:
        raise CheckpointError(
            f"this U-Net goes down by {down} and up by {up}, and only mirror images are supported: {_USUAL}"
        )

    def per_level(name: str, default: int) -> tuple[int, ...]:
        value = _value(settings, name, default)
        return tuple(_as_whole(name, one) for one in (value if isinstance(value, list) else [value] * levels))

    depth = per_level("transformer_layers_per_block", 1)
    layers = per_level("layers_per_block", 2)
    if len(set(layers)) != 1:
        raise CheckpointError(
            f"this U-Net has {layers} layers a level, and only the same number everywhere is supported: {_USUAL}"
        )
    # What the settings call the heads' width is, for historical reasons, their number.
    heads = "num_attention_heads" if settings.get("num_attention_heads") else "attention_head_dim"
    added: Any = settings.get("addition_embed_type") or "none"
    if added not in ("none", "text", "text_time"):
        raise CheckpointError(
            f"this U-Net has addition_embed_type = {added!r}, and only text and text_time are known: {_USUAL}"
        )
    return UNetConfig(
        in_channels=_whole(settings, "in_channels"),
        out_channels=_whole(settings, "out_channels"),
        channels=channels,
        num_resnets=layers[0],
        transformer_depth=tuple(d if has else 0 for d, has in zip(depth, has_attention, strict=True)),
        mid_transformer_depth=depth[-1],
        num_heads=per_level(heads, 8),
        context_dim=_whole(settings, "cross_attention_dim"),
        linear_projection=_flag(settings, "use_linear_projection", default=False),
        upcast_attention=_flag(settings, "upcast_attention", default=False),
        norm_groups=_whole(settings, "norm_num_groups", 32),
        norm_eps=_real(settings, "norm_eps", 1e-5),
        added_conditioning=added,
        added_text_heads=_whole(settings, "addition_embed_type_num_heads", 64),
        added_size_dim=_whole(settings, "addition_time_embed_dim", 256),
        added_input_dim=_whole(settings, "projection_class_embeddings_input_dim", 2816),
        guidance_embedding_dim=_whole_or_none(settings, "time_cond_proj_dim"),
    )


def vae_config(settings: Settings) -> VAEConfig:
    _refuse_others(settings, {"act_fn": "silu", "shift_factor": None, "latents_mean": None, "latents_std": None}, "VAE")
    types = {*_levels(settings, "down_block_types"), *_levels(settings, "up_block_types")}
    if types - {"DownEncoderBlock2D", "UpDecoderBlock2D"}:
        raise CheckpointError(f"this VAE has blocks of type {', '.join(types)}, {_UNKNOWN}")
    return VAEConfig(
        in_channels=_whole(settings, "in_channels", 3),
        out_channels=_whole(settings, "out_channels", 3),
        latent_channels=_whole(settings, "latent_channels", 4),
        channels=_widths(settings),
        num_resnets=_whole(settings, "layers_per_block", 1),
        norm_groups=_whole(settings, "norm_num_groups", 32),
        mid_attention=_flag(settings, "mid_block_add_attention", default=True),
        quant_conv=_flag(settings, "use_quant_conv", default=True),
        post_quant_conv=_flag(settings, "use_post_quant_conv", default=True),
        scaling_factor=_real(settings, "scaling_factor", 0.18215),
        force_upcast=_flag(settings, "force_upcast", default=False),
        patch_size=_whole(settings, "patch_size", 1),
    )


def schedule_config(settings: Settings) -> ScheduleConfig:
    _refuse_others(settings, {"trained_betas": None}, "scheduler")
    class_name = settings.get("_class_name", "")
    if not isinstance(class_name, str):
        raise ValueError(f"_class_name is {reprlib.repr(class_name)}, and no name")
    if class_name.startswith(("EDM", "FlowMatch")):
        raise CheckpointError(
            f"this model is made for the {class_name}, whose noise levels this program does not know: choose another."
        )
    beta_schedule = settings.get("beta_schedule", "linear")
    prediction = settings.get("prediction_type", "epsilon")
    spacing = settings.get("timestep_spacing")
    for name, value, known in (
        ("beta_schedule", beta_schedule, ("linear", "scaled_linear", "squaredcos_cap_v2")),
        ("prediction_type", prediction, ("epsilon", "v_prediction", "sample")),
        ("timestep_spacing", spacing, (None, "leading", "trailing", "linspace")),
    ):
        if value not in known:
            usual = ", ".join(choice for choice in known if choice)
            raise CheckpointError(f"this scheduler has {name} = {value!r}, and only {usual} are known: {_USUAL}")
    timesteps = _whole(settings, "num_train_timesteps", 1000)
    beta_start, beta_end = _real(settings, "beta_start", 0.0001), _real(settings, "beta_end", 0.02)
    return ScheduleConfig(
        num_train_timesteps=timesteps,
        beta_schedule=beta_schedule,
        beta_start=beta_start,
        beta_end=beta_end,
        prediction_type=prediction,
        rescale_zero_snr=_flag(settings, "rescale_betas_zero_snr", default=False),
        spacing=cast("TimestepSpacing | None", spacing),
        steps_offset=_whole(settings, "steps_offset", 0),
        set_alpha_to_one=_flag(settings, "set_alpha_to_one", default=True),
    )
