"""The controls' values, as a browser sends them -> a request."""

from collections.abc import Mapping
from typing import Any

from PIL import Image

from stablediff.errors import RequestError
from stablediff.pipeline import Pipeline
from stablediff.request import MAX_STEPS, Limits, Request, parse_interval, parse_size
from stablediff.web.models import resolve
from stablediff.web.offers import styled

PREVIEWS_A_PICTURE = 8


def check_is_said(prompt: Any) -> None:
    """Raises RequestError if nothing is asked for."""
    if not str(prompt or "").strip():
        raise RequestError("prompt is empty: write what to draw")


def to_request(
    values: Mapping[str, Any],
    pipeline: Pipeline,
    limits: Limits,
    init_image: Image.Image | None = None,
    mask_image: Image.Image | None = None,
) -> Request:
    """`values` by the controls' names (prompt, negative, style, steps, guidance, interval, sampler, spacing, size,
    seed, count, strength). Raises RequestError."""
    width = height = None
    if str(values.get("size") or "").strip():
        width, height = parse_size(values["size"])
    steps = whole("num_steps", values["steps"])
    if not 1 <= steps <= limits.max_steps:  # a request itself would name a bound that is of no use here
        raise RequestError(f"num_steps is {steps}: choose 1 to {limits.max_steps}")
    seed, interval = (str(values.get(name) or "").strip() for name in ("seed", "interval"))
    request = Request(
        prompt=styled(str(values.get("prompt") or ""), str(values.get("style") or ""), pipeline),
        negative_prompt=str(values.get("negative") or "").strip(),
        num_steps=steps,
        guidance_scale=_number("guidance_scale", values["guidance"]),
        guidance_interval=parse_interval(interval) if interval else None,
        sampler=values["sampler"],
        spacing=values.get("spacing") or None,
        seed=whole("seed", seed) if seed else None,
        num_images=whole("num_images", values.get("count", 1)),
        init_image=init_image,
        mask_image=mask_image,
        strength=_number("strength", values["strength"]) if "strength" in values else None,
        preview_every=min(max(1, steps // PREVIEWS_A_PICTURE), MAX_STEPS),
        width=width,
        height=height,
    )
    limits.check(resolve(request, pipeline))
    return request


def budget(seconds: Any) -> float:
    """Raises RequestError."""
    return float(Request(time_budget_s=_number("time_budget_s", seconds)).time_budget_s or 0.0)


def whole(name: str, value: Any) -> int:
    """Seeds come as text, because a browser's numbers lose the digits of large ones."""
    if value is None:  # a number box that was emptied
        raise RequestError(f"{name} is empty: write a whole number")
    try:
        return int(value)
    except (ValueError, OverflowError, TypeError) as error:
        raise RequestError(f"{name} is {str(value)[:30]!r}: write a whole number") from error


def _number(name: str, value: Any) -> Any:
    """The value as it is, unless nothing was written: the request itself says what it must be."""
    if value is None:
        raise RequestError(f"{name} is empty: write a number")
    return value
