"""`python -m stablediff models`: what is on this disk, and what a model is."""

import argparse
import textwrap

from stablediff.checkpoints.locate import BUNDLED, DEFAULT_MODEL
from stablediff.errors import CheckpointError
from stablediff.models.frozen import count_weights
from stablediff.pipeline import load


def show_models(arguments: argparse.Namespace) -> int:
    if arguments.model is None:
        for name, note in _list_models():
            print(f"{name:<40} {note}")
        return 0
    pipeline = load(arguments.model, device="cpu", dtype="float32", allow_pickle=arguments.allow_pickle)
    config, defaults = pipeline.config, pipeline.config.defaults
    parts = [*pipeline.text_encoders, pipeline.unet, pipeline.vae]
    names = [*(f"text encoder {i + 1}" for i in range(len(pipeline.text_encoders))), "U-Net", "autoencoder"]
    print(f"{pipeline.name}: {pipeline.report.kind}")
    print(f"  from           {pipeline.report.path}")
    print(f"  stored as      {pipeline.report.stored_dtype.lower()}")
    for name, part in zip(names, parts, strict=True):
        print(f"  {name:<14} {count_weights(part) / 1e6:.1f} M parameters")
    print(f"  predicts       {config.schedule.prediction_type}, {config.schedule.beta_schedule} schedule")
    print(
        f"  by default     {defaults.width}x{defaults.height}, {defaults.num_steps} steps of {defaults.sampler}, "
        f"guidance {defaults.guidance_scale:g}"
    )
    if pipeline.takes_mask:
        print("  made for       inpainting")
    if things := pipeline.things("en"):
        listed = f"  can draw       {len(things)} things: {', '.join(things)}"
        print(textwrap.fill(listed, 110, subsequent_indent=" " * 17))
    for key in pipeline.report.dropped:
        print(f"  not read       {key}")
    return 0


def _list_models() -> list[tuple[str, str]]:
    """(name, note): the bundled models, and those in the hub's cache that look like Stable Diffusion."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    rows = [(name, "bundled" + (", the default" if name == DEFAULT_MODEL else "")) for name in BUNDLED]
    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return rows
    except (ValueError, OSError) as error:
        raise CheckpointError(f"cannot look into the hub's cache ({error}): check HF_HOME and HF_HUB_CACHE") from error
    for repo in sorted(repos, key=lambda repo: repo.repo_id):
        files = {file.file_name for revision in repo.revisions for file in revision.files}
        if repo.repo_type == "model" and (
            "model_index.json" in files or any(f.endswith(".safetensors") for f in files)
        ):
            rows.append((repo.repo_id, f"in the hub's cache, {repo.size_on_disk / 1e9:.1f} GB"))
    return rows
