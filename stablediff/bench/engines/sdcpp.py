"""stable-diffusion.cpp, through its Python bindings: whole pictures only, and no sizes but the real ones."""

from importlib.metadata import version

import numpy as np
import torch
from stable_diffusion_cpp import StableDiffusion
from torch import Tensor

from stablediff.bench.engines import UnableError
from stablediff.bench.material import Material
from stablediff.bench.workloads import PROMPT
from stablediff.config import SD1

_WEIGHTS = {"float32": "f32", "int8": "q8_0"}


class SdCpp:
    flash_attention = False

    def __init__(self, material: Material, lane: str, threads: int) -> None:
        if material.config.unet != SD1.unet or material.config.vae != SD1.vae:
            raise UnableError("it reads SD 1.5 at its true size only, of these workloads")
        self.workload = material.workload
        self.sigmas = ",".join(f"{sigma:.6f}" for sigma in material.sigmas)
        self.model = StableDiffusion(
            model_path=str(material.folder),
            n_threads=threads,
            wtype=_WEIGHTS[lane],
            rng_type="cpu",  # torch's
            sampler_rng_type="cpu",
            flash_attn=self.flash_attention,
            diffusion_flash_attn=self.flash_attention,
            vae_decode_only=True,
            verbose=False,
        )

    def version(self) -> str:
        return f"stable-diffusion-cpp-python {version('stable-diffusion-cpp-python')}"

    def picture(self, seed: int) -> Tensor:
        workload = self.workload
        (image,) = self.model.generate_image(
            prompt=PROMPT,
            width=workload.width,
            height=workload.height,
            cfg_scale=workload.guidance,
            sample_method="euler",
            sample_steps=workload.steps,
            sigmas=self.sigmas,
            seed=seed,
        )
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).float() / 127.5 - 1
        return pixels.permute(2, 0, 1)[None]


class Flash(SdCpp):
    flash_attention = True
