"""A recipe -> the controls that it was written from, and the wishes that start from a finished picture."""

import html
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from stablediff import recipe
from stablediff.errors import RequestError
from stablediff.images import read_parameters
from stablediff.request import UPSCALE_STRENGTH, VARIATION_STRENGTH, Limits, Request, interval_text
from stablediff.web.models import Models, resolve
from stablediff.web.settings import OWN
from stablediff.web.shelf import Drawn
from stablediff.web.texts import text
from stablediff.web.trouble import wrong

_LONGEST_RECIPE = 20_000


def to_controls(words: str, named: dict[str, Any], models: Models, limits: Limits) -> dict[Any, Any]:
    """Updates for the first tab's controls. Raises RequestError."""
    pipeline = models.current
    request = resolve(recipe.to_request(words), pipeline)
    limits.check(request)
    values = {
        "prompt": request.prompt,
        "negative": request.negative_prompt,
        "style": "",
        "steps": request.num_steps,
        "guidance": max(request.guidance_scale, 1),
        "interval": interval_text(request.guidance_interval),
        "sampler": request.sampler,
        "spacing": request.spacing,
        "size": f"{request.width}x{request.height}",
        "seed": recipe.parse(words).get("Seed", ""),
        "count": 1,
    }
    return {named[name]: gr.update(value=value) for name, value in values.items()}


def make_restorer(
    named: dict[str, Any], quality: gr.Dropdown, message: gr.HTML, models: Models, limits: Limits
) -> Callable[..., Any]:
    """(language, recipe) -> updates for `named`, the quality and the message."""

    def restore(language: str, words: str) -> dict[Any, Any]:
        try:
            if len(words) > _LONGEST_RECIPE:
                raise RequestError(f"the recipe has {len(words):,} characters: at most {_LONGEST_RECIPE:,} are read")
            answer = to_controls(words, named, models, limits)
        except RequestError as error:
            return {message: wrong(str(error), language)}
        loras = recipe.loras(words)
        line = text("restored_loras", language, loras=html.escape(loras)) if loras else text("restored", language)
        return {**answer, quality: OWN, message: line}

    return restore


def read_file(path: str | None) -> str:
    """The recipe in a dropped PNG. Raises RequestError."""
    words = read_parameters(Path(path)) if path else None
    if words is None:
        raise RequestError("the picture has no recipe: drop a PNG from here or from AUTOMATIC1111's web UI")
    return words


def variations(picture: Drawn, limits: Limits) -> Request:
    """Pictures like this one: each starts from it, with other noise. Raises RequestError."""
    request = recipe.to_request(picture.recipe)
    image = picture.image
    count = min(limits.max_images, 4)
    return replace(
        request,
        guidance_interval=None,  # a draft's leaves the last steps without, and here there are no others
        init_image=image,
        strength=VARIATION_STRENGTH,
        width=image.width,
        height=image.height,
        seed=None,
        num_images=count,
        preview_every=4,
    )


def upscaled(picture: Drawn, _limits: Limits) -> Request:
    """The same picture at twice the size, with its details drawn anew. Raises RequestError."""
    request = recipe.to_request(picture.recipe)
    image = picture.image
    return replace(
        request,
        guidance_interval=None,  # a draft's leaves the last steps without, and here there are no others
        init_image=image,
        strength=UPSCALE_STRENGTH,
        width=2 * image.width,
        height=2 * image.height,
        seed=picture.seed,
        num_images=1,
        preview_every=4,
    )
