"""The reference's tensors under the names that the original code (LDM, OpenCLIP) gave them: a "single file".

Found by walking the blocks in the order in which that code puts them into its lists, not from the tables of the
package, so that the two check each other.
"""

from itertools import count, takewhile

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

Tensors = dict[str, Tensor]

_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPENCLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def single_file(model: DiffusionPipeline) -> Tensors:
    """What `model` would be as one LDM file, with the constants and leftovers that the real files have."""
    out = {f"model.diffusion_model.{key}": t for key, t in ldm_unet(model.unet.state_dict()).items()}
    out |= {f"first_stage_model.{key}": t for key, t in ldm_vae(model.vae.state_dict()).items()}
    first = model.text_encoder.state_dict()
    if hasattr(model, "text_encoder_2"):
        out |= {f"conditioner.embedders.0.transformer.text_model.{key}": t for key, t in first.items()}
        out["conditioner.embedders.0.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
        second = openclip(model.text_encoder_2.state_dict()) | {"logit_scale": torch.tensor(4.6)}
        return out | {f"conditioner.embedders.1.model.{key}": t for key, t in second.items()}
    if model.unet.config.use_linear_projection:
        out |= {f"cond_stage_model.model.{key}": t for key, t in (openclip(first) | _sd2_leftovers(first)).items()}
    else:
        out |= {f"cond_stage_model.transformer.text_model.{key}": t for key, t in first.items()}
        out["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return out | {
        "alphas_cumprod": torch.linspace(1, 0, 1000),
        "betas": torch.linspace(0, 1, 1000),
        "sqrt_one_minus_alphas_cumprod": torch.linspace(0, 1, 1000),
        "posterior_mean_coef1": torch.linspace(0, 1, 1000),
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(470000, dtype=torch.int32),
        "model_ema.diffusion_modeltime_embed0weight": torch.zeros(3, 3),
    }


def ldm_unet(tensors: Tensors) -> Tensors:
    """openaimodel.py has one list of blocks down and one up, and each block is a list of modules."""

    def has(module: str) -> bool:
        return any(key.startswith(f"{module}.") for key in tensors)

    names = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "mid_block.attentions.0": "middle_block.1",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }

    def put_resnet(resnet: str, place: str) -> None:
        names.update({f"{resnet}.{ours}": f"{place}.{theirs}" for ours, theirs in _UNET_RESNET.items()})

    put_resnet("mid_block.resnets.0", "middle_block.0")
    put_resnet("mid_block.resnets.1", "middle_block.2")
    for way, blocks, index in (("down_blocks", "input_blocks", 1), ("up_blocks", "output_blocks", 0)):
        for level in takewhile(lambda i, way=way: has(f"{way}.{i}"), count()):
            block = f"{way}.{level}"
            for layer in takewhile(lambda i, block=block: has(f"{block}.resnets.{i}"), count()):
                put_resnet(f"{block}.resnets.{layer}", f"{blocks}.{index}.0")
                names[f"{block}.attentions.{layer}"] = f"{blocks}.{index}.1"
                index += 1
            if has(f"{block}.downsamplers.0"):  # a block of its own
                names[f"{block}.downsamplers.0.conv"] = f"{blocks}.{index}.0.op"
                index += 1
            # The last module of the block before, behind its attention if it has one.
            place = 2 if has(f"{block}.attentions.0") else 1
            names[f"{block}.upsamplers.0.conv"] = f"{blocks}.{index - 1}.{place}.conv"
    return _renamed(tensors, names)


def ldm_vae(tensors: Tensors) -> Tensors:
    """model.py counts the decoder's levels from the finest, and its attention is made of 1x1 convolutions."""
    levels = len({key.split(".")[2] for key in tensors if key.startswith("encoder.down_blocks.")})
    names = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for side in ("encoder", "decoder"):
        names |= {f"{side}.{name}": f"{side}.{name}" for name in ("conv_in", "conv_out")}
        names[f"{side}.conv_norm_out"] = f"{side}.norm_out"
        names |= {f"{side}.mid_block.resnets.{i}": f"{side}.mid.block_{i + 1}" for i in (0, 1)}
        for ours, theirs in _VAE_ATTENTION.items():
            names[f"{side}.mid_block.attentions.0.{ours}"] = f"{side}.mid.attn_1.{theirs}"
    for level in range(levels):
        down, up = f"encoder.down.{level}", f"decoder.up.{levels - 1 - level}"
        for layer in range(3):
            names[f"encoder.down_blocks.{level}.resnets.{layer}"] = f"{down}.block.{layer}"
            names[f"decoder.up_blocks.{level}.resnets.{layer}"] = f"{up}.block.{layer}"
        names[f"encoder.down_blocks.{level}.downsamplers.0.conv"] = f"{down}.downsample.conv"
        names[f"decoder.up_blocks.{level}.upsamplers.0.conv"] = f"{up}.upsample.conv"
    renamed = _renamed(tensors, names)
    return {
        key.replace("conv_shortcut", "nin_shortcut"): t[..., None, None] if ".attn_1." in key and t.ndim == 2 else t
        for key, t in renamed.items()
    }


def openclip(tensors: Tensors) -> Tensors:
    """OpenCLIP multiplies by the projection from the other side, and has one matrix for q, k and v."""
    tensors = {key.removeprefix("text_model."): tensor for key, tensor in tensors.items()}
    out = {
        "token_embedding.weight": tensors["embeddings.token_embedding.weight"],
        "positional_embedding": tensors["embeddings.position_embedding.weight"],
        "ln_final.weight": tensors["final_layer_norm.weight"],
        "ln_final.bias": tensors["final_layer_norm.bias"],
    }
    if "text_projection.weight" in tensors:
        out["text_projection"] = tensors["text_projection.weight"].T.contiguous()
    for layer in takewhile(lambda i: f"encoder.layers.{i}.layer_norm1.weight" in tensors, count()):
        ours, theirs = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for kind in ("weight", "bias"):
            out |= {f"{theirs}.{b}.{kind}": tensors[f"{ours}.{a}.{kind}"] for a, b in _OPENCLIP.items()}
            thirds = [tensors[f"{ours}.self_attn.{name}_proj.{kind}"] for name in "qkv"]
            out[f"{theirs}.attn.in_proj_{kind}"] = torch.cat(thirds)
    return out


def _sd2_leftovers(tensors: Tensors) -> Tensors:
    """SD 2's files hold what its U-Net never sees: the text tower's last layer, and the pooled prompt's projection."""
    named = openclip(tensors)
    layers = len({key.split(".")[2] for key in named if key.startswith("transformer.resblocks.")})
    width = len(named["ln_final.weight"])
    last = {
        key.replace("resblocks.0.", f"resblocks.{layers}."): torch.full_like(tensor, 7)
        for key, tensor in named.items()
        if key.startswith("transformer.resblocks.0.")
    }
    return last | {"text_projection": torch.zeros(width, width), "logit_scale": torch.tensor(4.6)}


def _renamed(tensors: Tensors, names: dict[str, str]) -> Tensors:
    """By the longest module in `names` that holds a tensor. Fails for a tensor that is in none."""

    def rename(key: str) -> str:
        module = max((name for name in names if key.startswith(f"{name}.")), key=len)
        return names[module] + key.removeprefix(module)

    return {rename(key): tensor for key, tensor in tensors.items()}
