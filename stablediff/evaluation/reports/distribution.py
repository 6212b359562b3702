"""Report 2: how far the model's pictures are from real ones as a set, beside what real ones are from each other.

All sets have the same size. Half of the icons are the reference; the other half is drawn by the model from its
captions, stands for itself (the floor: nothing can be nearer), and goes through the autoencoder (the floor of this
model: its U-Net cannot be nearer).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stablediff.errors import EvaluationError
from stablediff.evaluation.features import Embed, embed_all, judge_features, random_features
from stablediff.evaluation.frechet import frechet_distance
from stablediff.evaluation.kernel import kernel_distance
from stablediff.evaluation.neighbours import compare_manifolds
from stablediff.evaluation.phrasing import phrase
from stablediff.evaluation.setting import Setting, draw_each, progress, table, write_section
from stablediff.images import to_images, to_pixels
from stablediff.pipeline import Pipeline
from stablediff.training.data.scenes import ALONE, Item, Scene, render_scene

_NEIGHBOURS, _LEAST = 5, 20
_TITLES = {
    "judge": "By the judge's features",
    "random": "By random convolutions",
    "inception": "By Inception's features, those of FID",
}
FIGURES = ("KID x 1000", "Fréchet distance", "precision", "recall", "density", "coverage")


def distances(real: Tensor, fake: Tensor, seed: int = 0) -> dict[str, float]:
    """All figures between two sets of features of the same size, (N,D) twice. Raises EvaluationError."""
    if len(real) != len(fake):
        raise EvaluationError(f"there are {len(real)} real and {len(fake)} fake pictures: compare equally many")
    size = max(2, min(100, len(real) // 2))
    kernel = kernel_distance(real, fake, subsets=50, subset_size=size, seed=seed)
    both = compare_manifolds(real, fake, _NEIGHBOURS)
    values = (
        1000 * kernel.mean,
        frechet_distance(real, fake),
        both.precision,
        both.recall,
        both.density,
        both.coverage,
    )
    return dict(zip(FIGURES, values, strict=True))


def report_distribution(setting: Setting, limit: int = 400, inception: Embed | None = None) -> Path:
    """Draws at most `limit` pictures, one a caption. Writes distribution.json and its section. -> the report."""
    reference, shown = halves(setting, limit)
    drawn = draw_each(setting.artist, [phrase(scene) for scene in shown])
    seconds = sum(one.seconds for one in drawn)
    ways = {"judge": judge_features(setting.judge), "random": random_features}
    if inception is not None:
        ways["inception"] = inception
    sets = {
        "real pictures": embed_all(_rendered(setting, shown), ways),
        "the same through the autoencoder": embed_all(_decoded(setting, shown), ways),
        setting.pipeline.name: embed_all((one.open() for one in drawn), ways),
    }
    real = embed_all(_rendered(setting, reference), ways)
    figures: dict[str, Any] = {"pictures": len(shown), "seconds": round(seconds, 1)}
    lines = [
        f"{len(reference)} real pictures against as many of other things and styles, of one thing each. Drawing took "
        f"{seconds / 60:.1f} minutes.",
    ]
    for name in ways:
        figures[name] = {what: distances(real[name], features[name]) for what, features in sets.items()}
        rows = [[what, *(f"{value:.3g}" for value in found.values())] for what, found in figures[name].items()]
        lines += ["", f"**{_TITLES[name]}**", "", *table(["", *FIGURES], rows)]
    lines += [
        "",
        f"These are distances of {len(shown)} pictures within this domain: they compare with each other, and with no "
        "published figure.",
    ]
    return write_section(setting.out, "distribution", "Do its pictures look like real ones?", lines, figures)


def halves(setting: Setting, limit: int) -> tuple[list[Scene], list[Scene]]:
    """All single things, shuffled and split into two equal sets of at most `limit`. Raises EvaluationError."""
    world = setting.world
    known, styles = set(world.things), set(world.styles)
    scenes = [
        Scene(icon.style, (Item(icon.thing, 0.5, 0.5, ALONE),), "single")
        for icon in world.icons.records
        if icon.thing in known and icon.style in styles
    ]
    size = min(limit, len(scenes) // 2)
    if size < _LEAST:
        raise EvaluationError(
            f"there are {size} pictures for each side, and {_LEAST} are needed: name more things or styles, or raise "
            "--limit"
        )
    order = np.random.default_rng(0).permutation(len(scenes)).tolist()
    return [scenes[i] for i in order[:size]], [scenes[i] for i in order[size : 2 * size]]


def _rendered(setting: Setting, scenes: Sequence[Scene]) -> Iterator[Image.Image]:
    size = setting.pipeline.config.defaults.width
    for scene in progress(scenes, "rendering"):
        yield Image.fromarray(render_scene(scene, setting.world.icons, size))


def _decoded(setting: Setting, scenes: Sequence[Scene]) -> Iterator[Image.Image]:
    size = setting.pipeline.config.defaults.width
    for scene in progress(scenes, "through the autoencoder"):
        picture = Image.fromarray(render_scene(scene, setting.world.icons, size))
        yield through_autoencoder(setting.pipeline, picture)


@torch.inference_mode()
def through_autoencoder(pipeline: Pipeline, picture: Image.Image) -> Image.Image:
    """Encoded and decoded again, with no noise."""
    vae = pipeline.vae
    pixels = to_pixels(picture, vae.config.image_channels).to(pipeline.device, next(vae.parameters()).dtype)
    return to_images(vae.decode(vae.encode(pixels)))[0]
