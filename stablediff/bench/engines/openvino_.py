"""OpenVINO: diffusers' networks, converted directly, with static shapes."""

import shutil
from pathlib import Path
from typing import Any

import openvino as ov
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle

from stablediff.bench.engines.diffusers_ import unet_options
from stablediff.bench.material import Material

_HINTS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVino:
    """The converted networks are kept beside the model; the conversion is no part of the load."""

    def __init__(self, material: Material, lane: str, threads: int) -> None:
        self.given, self.vae_config = _given(material), material.config.vae
        core = ov.Core()
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": _HINTS[lane],
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        folder = converted(material)
        self.unet, self.vae = (
            core.compile_model(folder / f"{name}.xml", "CPU", options) for name in ("unet", "decoder")
        )
        self.hint = self.unet.get_property("INFERENCE_PRECISION_HINT").get_type_name()

    def version(self) -> str:
        return f"openvino {ov.__version__.split('-')[0]}, precision {self.hint}"

    def begin(self) -> None:
        """Nothing is kept from one step to the next."""

    def forward(self, x: Tensor, t: float) -> Tensor:
        inputs = (x, torch.tensor([t]), *self.given)
        return torch.from_numpy(self.unet([tensor.numpy() for tensor in inputs])[0])

    def decode(self, latents: Tensor) -> Tensor:
        pixels = torch.from_numpy(self.vae([(latents / self.vae_config.scaling_factor).numpy()])[0])
        return pixel_shuffle(pixels, self.vae_config.patch_size)


def _given(material: Material) -> list[Tensor]:
    """What the U-Net takes beside latents and timestep, the same at every step."""
    inputs = material.inputs
    return [inputs[name].float() for name in ("context", "pooled", "size_ids", "guidance_embedding") if name in inputs]


class _UNetOfTensors(nn.Module):
    """Takes its inputs in one row, as a converted network does."""

    def __init__(self, unet: nn.Module, material: Material) -> None:
        super().__init__()
        self.unet: Any = unet
        self.given = unet_options(material, torch.float32)

    def forward(self, x: Tensor, t: Tensor, context: Tensor, *more: Tensor) -> Tensor:
        options: dict[str, Any] = {"encoder_hidden_states": context}
        if "added_cond_kwargs" in self.given:
            options["added_cond_kwargs"] = {"text_embeds": more[0], "time_ids": more[1]}
        if "timestep_cond" in self.given:
            options["timestep_cond"] = more[0]
        return self.unet(x, t, return_dict=False, **options)[0]


class _Decoder(nn.Module):
    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae: Any = vae

    def forward(self, z: Tensor) -> Tensor:
        return self.vae.decode(z, return_dict=False)[0]


def converted(material: Material) -> Path:
    """The folder of the converted networks, whole."""
    folder = material.work / "openvino"
    if folder.is_dir():
        return folder
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    inputs = material.inputs
    rows = len(inputs["context"])
    x = inputs["latents"].expand(rows, -1, -1, -1).contiguous()
    example = (x, torch.ones(1), *_given(material))
    unet = UNet2DConditionModel.from_pretrained(material.folder / "unet").eval()
    _save(_UNetOfTensors(unet, material), example, part / "unet.xml")
    vae = AutoencoderKL.from_pretrained(material.folder / "vae").eval()
    _save(_Decoder(vae), (inputs["latents"],), part / "decoder.xml")
    part.rename(folder)
    return folder


@torch.inference_mode()
def _save(network: nn.Module, example: tuple[Tensor, ...], path: Path) -> None:
    shapes = [list(tensor.shape) for tensor in example]
    ov.save_model(ov.convert_model(network, example_input=example, input=shapes), path, compress_to_fp16=False)
