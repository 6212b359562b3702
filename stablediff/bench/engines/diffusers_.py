"""diffusers: as it comes, and as its own guide to speed on CPUs has it (channels-last and torch.compile)."""

from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.nn.functional import pixel_shuffle

from stablediff.bench.material import Material


class Stock:
    def __init__(self, material: Material, lane: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.dtype = getattr(torch, lane)
        self.vae_config = material.config.vae
        self.unet: Any = UNet2DConditionModel.from_pretrained(material.folder / "unet", torch_dtype=self.dtype).eval()
        self.vae: Any = AutoencoderKL.from_pretrained(material.folder / "vae", torch_dtype=self.dtype).eval()
        self.options = unet_options(material, self.dtype)

    def version(self) -> str:
        return f"diffusers {diffusers.__version__}, torch {torch.__version__}"

    def begin(self) -> None:
        """Nothing is kept from one step to the next."""

    def forward(self, x: Tensor, t: float) -> Tensor:
        return self.unet(x.to(self.dtype), t, return_dict=False, **self.options)[0].float()

    def decode(self, latents: Tensor) -> Tensor:
        z = (latents / self.vae_config.scaling_factor).to(self.dtype)
        return pixel_shuffle(self.vae.decode(z, return_dict=False)[0], self.vae_config.patch_size).float()


class Tuned(Stock):
    def __init__(self, material: Material, lane: str, threads: int) -> None:
        super().__init__(material, lane, threads)
        torch._inductor.config.freezing = True
        for part in (self.unet, self.vae):
            part.requires_grad_(False).to(memory_format=torch.channels_last)
        self.unet = torch.compile(self.unet)
        self.vae.decoder = torch.compile(self.vae.decoder)

    def forward(self, x: Tensor, t: float) -> Tensor:
        # A tensor, because a number would be compiled anew at every step.
        channels_last = x.to(self.dtype, memory_format=torch.channels_last)
        return self.unet(channels_last, torch.tensor(t), return_dict=False, **self.options)[0].float()


def unet_options(material: Material, dtype: torch.dtype) -> dict[str, Any]:
    """Context and the like under the names that diffusers has for them."""
    inputs, config = material.inputs, material.config.unet
    options: dict[str, Any] = {"encoder_hidden_states": inputs["context"].to(dtype)}
    if "pooled" in inputs:
        options["added_cond_kwargs"] = {
            "text_embeds": inputs["pooled"].to(dtype),
            "time_ids": inputs["size_ids"].to(dtype),
        }
    if config.guidance_embedding_dim:
        options["timestep_cond"] = inputs["guidance_embedding"].to(dtype)
    return options
