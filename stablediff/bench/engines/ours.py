"""This package, as `generate` uses it."""

import torch
from torch import Tensor

from stablediff.bench.engines import UnableError
from stablediff.bench.material import Material
from stablediff.bench.workloads import PROMPT
from stablediff.conditioning import ConditionedUNet, Conditioning
from stablediff.errors import DeviceError
from stablediff.fallback import dtype_of
from stablediff.generate import generate
from stablediff.heap import give_back
from stablediff.images import to_pixels
from stablediff.pipeline import load
from stablediff.request import Request
from stablediff.result import Result
from stablediff.version import __version__


class Ours:
    def __init__(self, material: Material, lane: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.inputs, self.workload = material.inputs, material.workload
        try:
            self.pipeline = load(material.folder, device="cpu", dtype=lane)
        except DeviceError as error:
            raise UnableError(str(error)) from error

    def version(self) -> str:
        return f"stablediff {__version__}, torch {torch.__version__}"

    def begin(self) -> None:
        inputs = self.inputs
        conditioning = Conditioning(inputs["context"], inputs.get("pooled"), inputs.get("size_ids"))
        scale = inputs["guidance"][0].item() if "guidance" in inputs else 1.0
        self.unet = ConditionedUNet(self.pipeline.unet, conditioning, 1, scale)

    def forward(self, x: Tensor, t: float) -> Tensor:
        rows = len(self.inputs["context"])  # all the same where there are two, as guidance asks twice of one picture
        return self.unet(x[: len(x) // rows], t, with_uncond=rows == 2).float()

    def picture(self, seed: int) -> Tensor:
        """As other programs draw it that take a prompt and a seed: (1,3,H,W)."""
        workload = self.workload
        request = Request(
            PROMPT,
            num_steps=workload.steps,
            guidance_scale=workload.guidance,
            sampler="euler",
            spacing="trailing",
            seed=seed,
            width=workload.width,
            height=workload.height,
        )
        *_, result = generate(self.pipeline, request)
        if not isinstance(result, Result):
            raise TypeError("generate ended without a result")
        return to_pixels(result.images[0], 3)

    def decode(self, latents: Tensor) -> Tensor:
        give_back()
        return self.pipeline.vae.decode(latents.to(dtype_of(self.pipeline.vae))).float()
