"""Files that are broken or of another kind: one clear CheckpointError, and nothing else happens."""

import json
import random
import re
import shutil
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from refusal import refusal
from safetensors.torch import load_file
from tiny import KINDS, TinyModel, save_tensors
from torch import Tensor

from stablediff import load
from stablediff.checkpoints import hub
from stablediff.checkpoints.detect import detect_single_file
from stablediff.checkpoints.fill import Builder
from stablediff.checkpoints.locate import locate
from stablediff.checkpoints.tensors import SafetensorsSource, open_tensors
from stablediff.errors import CheckpointError
from stablediff.models.clip import CLIPTextEncoder
from stablediff.models.unet import UNet
from stablediff.models.vae import VAE

GetModel = Callable[[str], TinyModel]


# --- broken files -----------------------------------------------------------------------------------------------------

_HEADER = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
BROKEN = {
    "empty": b"",
    "short": b"\x01",
    "zeros": bytes(1000),
    "garbage": random.Random(0).randbytes(5000),
    "page": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 4265\n",
    "header too long": struct.pack("<Q", 2**62) + _HEADER + bytes(8),
    "header of 99 MB": struct.pack("<Q", 99_000_000) + _HEADER + bytes(8),
    "no JSON": struct.pack("<Q", 20) + b"{" * 20 + bytes(8),
    "no table": struct.pack("<Q", 2) + b"[]",
    "no data": struct.pack("<Q", len(_HEADER)) + _HEADER,
    "too much data": struct.pack("<Q", len(_HEADER)) + _HEADER + bytes(16),
    "unknown type": struct.pack("<Q", len(_HEADER)) + _HEADER.replace(b"F32", b"Q32") + bytes(8),
    "negative shape": struct.pack("<Q", len(_HEADER) + 1) + _HEADER.replace(b"[2]", b"[-2]") + bytes(8),
    "no tensors": struct.pack("<Q", 2) + b"{}",
    "deep JSON": struct.pack("<Q", 100_000) + b"[" * 100_000,
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_file(what: str, copied: Path, tmp_path: Path) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(BROKEN[what])
    assert "safetensors" in refusal(path) or what == "no tensors"
    shutil.copy(path, copied / "vae" / "diffusion_pytorch_model.safetensors")
    assert "vae" in refusal(copied)


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999999])
def test_file_that_was_cut_off(share: float, tiny_model: GetModel, tmp_path: Path) -> None:
    whole = tiny_model("sd1").file.read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(whole[: int(share * len(whole))])
    assert "cut off" in refusal(path)


def test_file_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    refusal(tmp_path / "model.safetensors")
    (tmp_path / "loop.safetensors").symlink_to(tmp_path / "loop.safetensors")
    refusal(tmp_path / "loop.safetensors")
    refusal("x" * 5000)
    refusal("a\0b")
    refusal("")


@pytest.mark.parametrize("examples", [300, pytest.param(30_000, marks=pytest.mark.slow)])
def test_files_with_changed_bytes(examples: int, tmp_path: Path) -> None:
    rng = random.Random(0)
    path = save_tensors({f"layer.{i}.weight": torch.zeros(i, 3) for i in range(9)}, tmp_path / "model.safetensors")
    whole = path.read_bytes()
    for _ in range(examples):
        changed = bytearray(whole)
        for _ in range(rng.choice([1, 2, 8, 64])):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        path.write_bytes(changed[: rng.choice([None, None, rng.randrange(len(changed))])])
        with pytest.raises(CheckpointError):
            detect_single_file(open_tensors([path]))


@dataclass
class Shapes:
    """A file of which only the header is there."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str] = field(default_factory=dict)

    def read(self, name: str, convert: Callable[[Tensor], Tensor]) -> Tensor:
        return convert(torch.zeros(self.shapes[name]))


@pytest.mark.parametrize("examples", [8, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_files_with_changed_names_and_shapes(kind: str, examples: int, tiny_model: GetModel) -> None:
    """What is read off the shapes may be nonsense, but the only error is ours."""
    rng = random.Random(0)
    whole = SafetensorsSource([tiny_model(kind).file]).shapes
    # Most tensors are only compared with what these few say.
    telling = [key for key in whole if re.search(r"(\.0\.|\.op|proj|embedding|conv_in|attn2|ln_final)", key)]
    for _ in range(examples):
        shapes = dict(whole)
        for key in rng.sample(telling, rng.choice([1, 5, 50])):
            shape = shapes.pop(key)
            what = rng.choice(["remove", "rename", "reshape", "reshape"])
            if what == "rename":
                shapes[re.sub(r"\d+", lambda m: str(int(m[0]) + rng.randint(0, 3)), key)] = shape
            elif what == "reshape":
                sizes = [0, 1, 7, 33, 64, 2**20, 2**40, 2**62]
                shapes[key] = tuple(rng.choices(sizes, k=rng.choice([0, 1, 2, 4, 5])))
        with suppress(CheckpointError):
            config = detect_single_file(Shapes(shapes))
            Builder.build(VAE, config.vae)
            for text in config.text_encoders:
                Builder.build(CLIPTextEncoder, text)
            Builder.build(UNet, config.unet)


# --- files of another kind --------------------------------------------------------------------------------------------

_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
OTHERS: dict[str, tuple[list[str], str]] = {
    "LoRA of kohya": (["lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"], "a LoRA"),
    "LoRA of peft": (["unet.down_blocks.0.attentions.0.to_q.lora_A.weight"], "a LoRA"),
    "LoRA of old diffusers": (["unet.down_blocks.0.attn1.processor.to_q_lora.up.weight"], "a LoRA"),
    "LoHa": (["lora_unet_down_blocks_0_attentions_0_proj_in.hada_w1_a"], "a LoRA"),
    "LoKr": (["lora_unet_down_blocks_0_attentions_0_proj_in.lokr_w1"], "a LoRA"),
    "ControlNet": (["control_model.input_blocks.0.0.weight", "control_model.zero_convs.0.0.bias"], "a ControlNet"),
    "ControlNet of diffusers": (["controlnet_cond_embedding.conv_in.weight", "conv_in.weight"], "a ControlNet"),
    "Flux": (["double_blocks.0.img_attn.norm.key_norm.scale"], "Flux"),
    "whole Flux": ([f"{_UNET}double_blocks.0.img_attn.proj.bias", f"{_VAE}decoder.conv_in.bias"], "Flux"),
    "SD 3": ([f"{_UNET}joint_blocks.0.context_block.attn.qkv.weight"], "Stable Diffusion 3"),
    "textual inversion": (["emb_params"], "a word"),
    "LDM U-Net": ([f"{_UNET}input_blocks.0.0.weight"], "no autoencoder and no text encoder"),
    "bare LDM U-Net": (["input_blocks.0.0.weight", "time_embed.0.weight"], "a U-Net alone"),
    "diffusers U-Net": (["conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"], "one part of a diffusers folder"),
    "VAE": (["encoder.conv_in.weight", "decoder.conv_in.weight"], "one part"),
    "text tower": (["text_model.embeddings.token_embedding.weight"], "one part"),
    "no text": ([f"{_UNET}input_blocks.0.0.weight", f"{_VAE}decoder.conv_in.weight"], "no text encoder"),
    "other": (["blocks.0.weight", "head.bias"], "something unknown .*blocks.0.weight"),
    "refiner": (
        [
            f"{_UNET}input_blocks.0.0.weight",
            f"{_UNET}label_emb.0.0.weight",
            f"{_VAE}decoder.conv_in.weight",
            "conditioner.embedders.0.model.token_embedding.weight",
        ],
        "SDXL refiner",
    ),
    "unCLIP": (
        [
            f"{_UNET}input_blocks.0.0.weight",
            f"{_UNET}label_emb.0.0.weight",
            f"{_VAE}decoder.conv_in.weight",
            "cond_stage_model.model.token_embedding.weight",
        ],
        "more than text",
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_file_of_another_kind(kind: str, tmp_path: Path) -> None:
    keys, message = OTHERS[kind]
    path = save_tensors({key: torch.zeros(4, 4) for key in keys}, tmp_path / "model.safetensors")
    assert re.search(message, refusal(path))


def test_parts_of_a_folder_are_not_taken_for_the_whole(tiny_model: GetModel, tmp_path: Path) -> None:
    folder = tiny_model("sd1").folder
    assert "the folder above it" in refusal(folder / "unet")
    assert "one part of a diffusers folder" in refusal(folder / "vae" / "diffusion_pytorch_model.safetensors")
    assert "not a checkpoint by its name" in refusal(folder / "unet" / "config.json")
    assert "not a whole model" in refusal(tmp_path)
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").touch()
    assert "a.safetensors, b.safetensors" in refusal(tmp_path)


def test_model_of_the_edm_framework(tiny_model: GetModel, tmp_path: Path) -> None:
    """Same tensors, another noise schedule: it would draw mud without a word."""
    file = load_file(tiny_model("sdxl").file) | {"edm_vpred.sigma_max": torch.tensor(120.0)}
    assert "EDM" in refusal(save_tensors(file, tmp_path / "model.safetensors"))


# --- settings ---------------------------------------------------------------------------------------------------------

SETTINGS = (
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json",
)


@pytest.mark.parametrize("name", SETTINGS)
def test_broken_settings(name: str, copied: Path) -> None:
    path = copied / name
    for text in ("", "{", "[]", "null", "\x00", '{"a": ' * 10_000, " " * 2**20 + "{}"):
        path.write_text(text)
        assert path.name in refusal(copied)
    path.write_bytes(b"\xff\xfe{}")
    assert path.name in refusal(copied)
    if "tokenizer" not in name:  # whose settings have defaults
        path.unlink()
        assert name.split("/")[-1] in refusal(copied)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("unet/config.json", {"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift = 'scale_shift'"),
        ("unet/config.json", {"class_embed_type": "projection"}, "class_embed_type"),
        ("unet/config.json", {"addition_embed_type": "image"}, "addition_embed_type = 'image'"),
        ("unet/config.json", {"down_block_types": ["AttnDownBlock2D"] * 3}, "AttnDownBlock2D"),
        ("unet/config.json", {"down_block_types": ["DownBlock2D"] * 3}, "mirror"),
        ("unet/config.json", {"layers_per_block": [1, 2, 2]}, "layers a level"),
        ("unet/config.json", {"block_out_channels": [33, 64, 64]}, "do not fit"),
        ("unet/config.json", {"block_out_channels": []}, "goes down by"),
        ("unet/config.json", {"attention_head_dim": [8]}, "do not fit"),
        ("unet/config.json", {"attention_head_dim": 5}, "do not fit"),
        ("unet/config.json", {"attention_head_dim": 16}, None),  # cannot be seen
        ("unet/config.json", {"attention_head_dim": 1.5}, "attention_head_dim is 1.5, and no whole number"),
        ("unet/config.json", {"norm_num_groups": True}, "norm_num_groups is True, and no whole number"),
        ("unet/config.json", {"norm_eps": True}, "norm_eps is True, and no number"),
        ("vae/config.json", {"scaling_factor": False}, "scaling_factor is False, and no number"),
        ("unet/config.json", {"time_cond_proj_dim": "256"}, "time_cond_proj_dim is '256', and no whole number"),
        ("unet/config.json", {"use_linear_projection": "false"}, "use_linear_projection is 'false', and neither"),
        ("vae/config.json", {"use_quant_conv": []}, "use_quant_conv is \\[\\], and neither"),
        ("unet/config.json", {"upcast_attention": None}, None),  # not set
        ("unet/config.json", {"block_out_channels": 64}, "block_out_channels is 64, and no list"),
        ("vae/config.json", {"up_block_types": {}}, "up_block_types is {}, and no list"),
        ("scheduler/scheduler_config.json", {"_class_name": []}, "_class_name is \\[\\], and no name"),
        ("unet/config.json", {"cross_attention_dim": None}, "cross_attention_dim"),
        ("unet/config.json", {"norm_num_groups": 0}, "do not fit"),
        ("unet/config.json", {"in_channels": "four"}, "do not fit"),
        ("unet/config.json", {"layers_per_block": 10**9}, "do not fit"),
        ("text_encoder/config.json", {"num_hidden_layers": 10**9}, "do not fit"),
        ("text_encoder/config.json", {"hidden_act": "relu"}, "hidden_act = 'relu'"),
        ("text_encoder/config.json", {"num_attention_heads": 7}, "do not fit"),
        ("text_encoder/config.json", {"eos_token_id": 2**70}, "eos_token_id"),
        ("text_encoder/config.json", {"vocab_size": 100}, "tokenizer|wrong shape|eos_token_id"),
        ("vae/config.json", {"latents_mean": [0, 0, 0, 0]}, "latents_mean"),
        ("vae/config.json", {"down_block_types": ["AttnDownEncoderBlock2D"] * 4}, "AttnDownEncoderBlock2D"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "sigmoid"}, "beta_schedule = 'sigmoid'"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow_prediction"}, "flow_prediction"),
        ("scheduler/scheduler_config.json", {"trained_betas": [0.1]}, "trained_betas"),
        ("scheduler/scheduler_config.json", {"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler"),
        ("scheduler/scheduler_config.json", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatch"),
        ("scheduler/scheduler_config.json", {"timestep_spacing": "sideways"}, "sideways"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 0}, "num_train_timesteps"),
        ("scheduler/scheduler_config.json", {"beta_end": 2.0}, "beta_end"),
        ("model_index.json", {"text_encoder": [None, None]}, "lacks a text encoder"),
        ("model_index.json", {"unet": None, "_class_name": "FluxPipeline"}, "FluxPipeline"),
    ],
)
def test_settings_of_another_architecture(name: str, change: dict[str, Any], message: str | None, copied: Path) -> None:
    settings = json.loads((copied / name).read_text()) | change
    (copied / name).write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))
    if message is None:
        load(copied, device="cpu", dtype="float32")
    else:
        assert re.search(message, refusal(copied))


def test_missing_parts(copied: Path) -> None:
    (copied / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert "no .safetensors weights" in refusal(copied)
    shutil.rmtree(copied / "tokenizer")
    shutil.rmtree(copied / "unet")
    assert "unet/config.json is missing" in refusal(copied)


@pytest.mark.parametrize("text", ["", "{}", '{"model": {"type": "BPE"}}', "[" * 10_000])
def test_broken_tokenizer(text: str, copied: Path) -> None:
    (copied / "tokenizer" / "tokenizer.json").write_text(text)
    assert "tokenizer" in refusal(copied)


def test_tokenizer_with_more_words_than_its_tower(copied: Path) -> None:
    path = copied / "text_encoder" / "model.safetensors"
    settings = json.loads((copied / "text_encoder" / "config.json").read_text())
    (copied / "text_encoder" / "config.json").write_text(json.dumps(settings | {"vocab_size": 100, "eos_token_id": 99}))
    weights = load_file(path)
    save_tensors(weights | {(key := "embeddings.token_embedding.weight"): weights[key][:100]}, path)
    assert "does not fit its text encoder" in refusal(copied)


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/passwd",
        "~/.ssh/id_rsa",
        "a/../b",
        "owner/../../name",
        "owner/name/../x.safetensors",
        "owner/name/x.ckpt",
        "owner/name/\n.safetensors",
        "file:///etc/passwd",
        "https://example.org/model.safetensors",
        "\\\\host\\share",
        "a/b/c",
        "a//b",
        "a/.b",
        ".a/b",
        "-a/b",
        "a b/c",
        "a;b/c",
        "a\nb/c",
        "$HOME/x",
    ],
)
def test_odd_names_are_neither_read_nor_asked_of_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(name: str) -> Path:
        raise AssertionError(f"the hub was asked for {name}")

    monkeypatch.setattr(hub, "download", asked)
    with pytest.raises(CheckpointError):
        locate(name)
