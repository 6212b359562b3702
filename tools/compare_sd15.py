"""SD 1.5 at full size with random weights, here and in diffusers: seconds a step and peak memory.

    python tools/compare_sd15.py FOLDER [--steps 4] [--dtype float32]

FOLDER is made on the first run (4.3 GB). Each engine runs in a process of its own, one after the other, with the same
weights, prompt embeddings' shapes, sampler (DDIM), guidance, size and threads.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

PROMPT = "a photo of an astronaut riding a horse on mars"


def make_model(folder: Path) -> None:
    """Random weights at true shapes, scaled so that activations stay finite."""
    from stablediff.checkpoints.locate import CLIP_MERGES
    from stablediff.checkpoints.save import save_parts
    from stablediff.config import SD1
    from stablediff.models.clip import CLIPTextEncoder
    from stablediff.models.tokenizer import clip_tokenizer
    from stablediff.models.unet import UNet
    from stablediff.models.vae import VAE

    torch.manual_seed(0)
    encoder, unet, vae = CLIPTextEncoder(SD1.text_encoders[0]), UNet(SD1.unet), VAE(SD1.vae)
    save_parts(folder, SD1, [encoder], [clip_tokenizer(CLIP_MERGES)], unet, vae)


def run_ours(folder: Path, steps: int, dtype: str) -> dict[str, float]:
    import stablediff

    start = time.perf_counter()
    pipeline = stablediff.load(folder, device="cpu", dtype=dtype)
    loaded = time.perf_counter() - start
    request = stablediff.Request(
        PROMPT, sampler="ddim", num_steps=steps, guidance_scale=7.5, seed=1, width=512, height=512
    )
    result = list(stablediff.generate(pipeline, request))[-1]
    assert isinstance(result, stablediff.Result)
    return {"load": loaded, "step": result.seconds["denoise"] / steps, "decode": result.seconds["decode"]}


def run_diffusers(folder: Path, steps: int, dtype: str) -> dict[str, float]:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    start = time.perf_counter()
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=getattr(torch, dtype))
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    loaded = time.perf_counter() - start
    pipeline.set_progress_bar_config(disable=True)
    start = time.perf_counter()
    latents = pipeline(PROMPT, num_inference_steps=steps, guidance_scale=7.5, output_type="latent").images
    stepped = (time.perf_counter() - start) / steps
    start = time.perf_counter()
    with torch.inference_mode():
        pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor)
    return {"load": loaded, "step": stepped, "decode": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--engine", choices=["stablediff", "diffusers"])
    arguments = parser.parse_args()
    if not arguments.folder.exists():
        make_model(arguments.folder)
    if arguments.engine:
        run = run_ours if arguments.engine == "stablediff" else run_diffusers
        measured = run(arguments.folder, arguments.steps, arguments.dtype)
        measured["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        assert all(math.isfinite(value) for value in measured.values())
        print(json.dumps(measured))
        return
    for engine in ("stablediff", "diffusers"):
        command = [sys.executable, __file__, str(arguments.folder), "--engine", engine]
        command += ["--steps", str(arguments.steps), "--dtype", arguments.dtype]
        print(
            engine, arguments.dtype, subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        )


if __name__ == "__main__":
    main()
