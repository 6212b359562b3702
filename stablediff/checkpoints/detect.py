"""What kind of model a single file holds, read off its keys and shapes."""

import re
from collections.abc import Mapping
from dataclasses import replace

from stablediff.checkpoints.layouts import (
    SD1_OLD_TEXT_PREFIX,
    SD2_TEXT_PREFIX,
    SDXL_TEXT_PREFIXES,
    UNET_PREFIX,
    VAE_PREFIX,
    text_prefixes,
)
from stablediff.checkpoints.sanity import check_sizes
from stablediff.checkpoints.tensors import TensorSource
from stablediff.config import (
    OPENCLIP_BIGG,
    OPENCLIP_H,
    SDXL,
    CLIPConfig,
    Kind,
    ModelConfig,
    PredictionType,
    ScheduleConfig,
    UNetConfig,
    VAEConfig,
)
from stablediff.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]

# Keys that give away files that are something else, and what to say about them.
_OTHER_KINDS = (
    (
        r".*(lora[._](up|down|A|B)|hada_w1_a|lokr_w1).*",
        "a LoRA, which changes a model but is none: name the model that it was made for, and this file with --lora",
    ),
    (r"(model\.diffusion_model\.)?joint_blocks\..*", "Stable Diffusion 3, which has another architecture"),
    (r"(model\.diffusion_model\.)?double_blocks\..*", "Flux, which has another architecture"),
    (r"(control_model\.|controlnet_|input_hint_block\.).*", "a ControlNet, which steers a model but is none"),
    (
        rf"({re.escape(UNET_PREFIX)})?(input_blocks|middle_block)\..*",
        "a U-Net alone, without its text encoder and autoencoder: take the full checkpoint",
    ),
    (r"(emb_params|string_to_param.*)", "a textual inversion, which is a word and not a model"),
    (
        r"(down_blocks|conv_in|encoder|decoder|text_model|embeddings)\..*",
        "one part of a diffusers folder: name the folder that it came from (the one with model_index.json)",
    ),
)


def detect_single_file(tensors: TensorSource) -> ModelConfig:
    """The full config of an SD 1.x, SD 2.x or SDXL file. Raises CheckpointError that says what it is instead."""
    try:
        return _detect(tensors)
    except (LookupError, ValueError, ArithmeticError) as error:
        raise CheckpointError(
            f"the tensors of this file do not fit together ({str(error)[:200]}): it may be damaged, get it again."
        ) from error


def _detect(tensors: TensorSource) -> ModelConfig:
    shapes = tensors.shapes
    if f"{UNET_PREFIX}input_blocks.0.0.weight" not in shapes:
        raise CheckpointError(f"this file is not a whole Stable Diffusion checkpoint: it is {_what_else(shapes)}.")
    missing = [part for prefix, part in ((VAE_PREFIX, "autoencoder"),) if not _any(shapes, prefix)]
    if not any(_any(shapes, p) for p in (SD1_OLD_TEXT_PREFIX, SD2_TEXT_PREFIX, "conditioner.embedders.")):
        missing.append("text encoder")
    if missing:
        raise CheckpointError(
            f"this file has no {' and no '.join(missing)}: it is a part of a model. Take the full checkpoint."
        )

    kind = _kind(shapes)
    unet = _unet_config(_below(shapes, UNET_PREFIX), kind)
    vae = _vae_config(_below(shapes, VAE_PREFIX), kind)
    prediction = _prediction_type(tensors, kind)
    schedule = ScheduleConfig(prediction_type=prediction, rescale_zero_snr="ztsnr" in shapes)
    config = ModelConfig(kind, _text_configs(shapes, kind), unet, vae, schedule, zero_empty_negative=kind == "sdxl")
    check_sizes(config)
    return config


def _what_else(shapes: Shapes) -> str:
    for pattern, what in _OTHER_KINDS:
        if any(re.fullmatch(pattern, key) for key in shapes):
            return what
    return f"something unknown (its first tensors: {', '.join(sorted(shapes)[:3]) or 'none'})"


def _any(shapes: Shapes, prefix: str) -> bool:
    return any(key.startswith(prefix) for key in shapes)


def _below(shapes: Shapes, prefix: str) -> Shapes:
    return {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}


def _count(shapes: Shapes, pattern: str) -> int:
    """How many different numbers the one group of the pattern takes."""
    return len({match.group(1) for key in shapes if (match := re.match(pattern, key))})


def _kind(shapes: Shapes) -> Kind:
    if _any(shapes, "edm_"):
        raise CheckpointError(
            "this model was trained in the EDM framework (Playground 2.5, CosXL), which has another noise schedule and "
            "other latents: choose a usual SDXL checkpoint."
        )
    if f"{UNET_PREFIX}label_emb.0.0.weight" in shapes:
        if _any(shapes, "conditioner.embedders.0.model."):
            raise CheckpointError(
                "this is the SDXL refiner, which only finishes what a base model began: take the SDXL base checkpoint."
            )
        if not _any(shapes, SDXL_TEXT_PREFIXES[0]):
            raise CheckpointError(
                "this model is conditioned on more than text (unCLIP or video, perhaps): take a text-to-image model."
            )
        return "sdxl"
    return "sd2" if _any(shapes, SD2_TEXT_PREFIX) else "sd1"


def _unet_config(shapes: Shapes, kind: Kind) -> UNetConfig:
    downs = sorted(int(m.group(1)) for key in shapes if (m := re.fullmatch(r"input_blocks\.(\d+)\.0\.op\.weight", key)))
    if not downs:
        raise CheckpointError("this U-Net has a single level, which no Stable Diffusion has: the file may be damaged.")
    layers, levels = downs[0] - 1, len(downs) + 1
    firsts = [1 + level * (layers + 1) for level in range(levels)]
    try:
        channels = tuple(shapes[f"input_blocks.{first}.0.out_layers.3.weight"][0] for first in firsts)
        context_dim = next(s[1] for key, s in shapes.items() if key.endswith("attn2.to_k.weight"))
        linear = len(shapes["middle_block.1.proj_in.weight"]) == 2
        in_channels, out_channels = shapes["input_blocks.0.0.weight"][1], shapes["out.2.weight"][0]
    except (KeyError, StopIteration) as error:
        raise CheckpointError(f"this U-Net lacks {error}: the file may be damaged, get it again.") from error
    depth = tuple(_count(shapes, rf"input_blocks\.{first}\.1\.transformer_blocks\.(\d+)\.") for first in firsts)
    added = shapes.get("label_emb.0.0.weight")
    return UNetConfig(
        in_channels=in_channels,
        out_channels=out_channels,
        channels=channels,
        num_resnets=layers,
        transformer_depth=depth,
        mid_transformer_depth=_count(shapes, r"middle_block\.1\.transformer_blocks\.(\d+)\."),
        # Shapes do not tell heads: SD 1.x has eight everywhere, the later ones heads of 64 channels.
        num_heads=(8,) * levels if kind == "sd1" else tuple(max(c // 64, 1) for c in channels),
        context_dim=context_dim,
        linear_projection=linear,
        upcast_attention=kind == "sd2",  # SD 2.1's products overflow in float16
        added_conditioning="text_time" if added else "none",
        added_input_dim=added[1] if added else 2816,
    )


def _vae_config(shapes: Shapes, kind: Kind) -> VAEConfig:
    levels = _count(shapes, r"encoder\.down\.(\d+)\.")
    try:
        channels = tuple(shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in range(levels))
        latent_channels = shapes["decoder.conv_in.weight"][1]
    except KeyError as error:
        raise CheckpointError(f"this autoencoder lacks {error}: the file may be damaged, get it again.") from error
    sdxl = kind == "sdxl"
    return VAEConfig(
        channels=channels,
        num_resnets=_count(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
        latent_channels=latent_channels,
        mid_attention="encoder.mid.attn_1.q.weight" in shapes,
        quant_conv="quant_conv.weight" in shapes,
        post_quant_conv="post_quant_conv.weight" in shapes,
        scaling_factor=SDXL.vae.scaling_factor if sdxl else 0.18215,
        force_upcast=sdxl,
    )


def _text_configs(shapes: Shapes, kind: Kind) -> tuple[CLIPConfig, ...]:
    towers = [_below(shapes, prefix) for prefix in text_prefixes(kind, shapes)]
    if kind == "sd1":
        return (_clip_config(towers[0], CLIPConfig()),)
    if kind == "sd2":
        # The U-Net reads the layer before the last. Original files hold that last one, with the projection behind it;
        # those that were converted from a diffusers folder end before it, and have the 23 layers that are read.
        config = _clip_config(towers[0], OPENCLIP_H)
        has_last = config.num_layers > OPENCLIP_H.num_layers or "text_projection" in towers[0]
        return (replace(config, num_layers=config.num_layers - 1) if has_last else config,)
    return _clip_config(towers[0], SDXL.text_encoders[0]), _clip_config(towers[1], OPENCLIP_BIGG)


def _clip_config(shapes: Shapes, like: CLIPConfig) -> CLIPConfig:
    """`like` with the sizes of this tower; heads have 64 channels in every CLIP."""
    try:
        if "token_embedding.weight" in shapes:  # OpenCLIP's names
            vocab_size, hidden_size = shapes["token_embedding.weight"]
            max_length = shapes["positional_embedding"][0]
            inner = shapes["transformer.resblocks.0.mlp.c_fc.weight"][0]
            num_layers = _count(shapes, r"transformer\.resblocks\.(\d+)\.")
        else:
            vocab_size, hidden_size = shapes["embeddings.token_embedding.weight"]
            max_length = shapes["embeddings.position_embedding.weight"][0]
            inner = shapes["encoder.layers.0.mlp.fc1.weight"][0]
            num_layers = _count(shapes, r"encoder\.layers\.(\d+)\.")
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"this text encoder lacks {error}: the file may be damaged, get it again.") from error
    return replace(
        like,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=inner,
        num_layers=num_layers,
        num_heads=max(hidden_size // 64, 1),
        max_length=max_length,
        projection_size=shapes["text_projection"][1] if like.projection_size else None,
    )


def _prediction_type(tensors: TensorSource, kind: Kind) -> PredictionType:
    """ε or v. Shapes are the same, but SD 2's v-models show a wide spread in one norm's bias (a rule of ComfyUI's)."""
    if "v_pred" in tensors.shapes:
        return "v_prediction"
    key = f"{UNET_PREFIX}output_blocks.11.1.transformer_blocks.0.norm1.bias"
    if kind == "sd2" and key in tensors.shapes and tensors.shapes[f"{UNET_PREFIX}input_blocks.0.0.weight"][1] == 4:
        spread = tensors.read(key, lambda tensor: tensor.float()).std(unbiased=False).item()
        return "v_prediction" if spread > 0.09 else "epsilon"
    return "epsilon"
