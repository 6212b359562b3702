"""A request as a row of the store keeps it, and back."""

from dataclasses import fields
from typing import Any

from PIL import Image

from stablediff import command
from stablediff.pipeline import Pipeline
from stablediff.request import Request, ResolvedRequest

_NOT_KEPT = ("init_image", "mask_image", "preview_every")


def resolve(pipeline: Pipeline, request: Request) -> ResolvedRequest:
    config = pipeline.config
    return request.resolve(config.defaults, config.schedule.spacing)


def to_record(request: ResolvedRequest, init: str | None) -> dict[str, Any]:
    """`init` names the file that has the picture to start from."""
    kept = {field.name: getattr(request, field.name) for field in fields(request) if field.name not in _NOT_KEPT}
    return kept | {"init": init}


def from_record(record: dict[str, Any], init_image: Image.Image | None = None, **changes: Any) -> ResolvedRequest:
    kept = {name: value for name, value in record.items() if name != "init"}
    return ResolvedRequest(**{**kept, "init_image": init_image, **changes})


def as_command(pipeline: Pipeline, record: dict[str, Any], seed: int, kind: str = "picture") -> str:
    """What to type for this picture. One that started from a picture has to be typed as an answer to that."""
    started_from = Image.new("1", (1, 1)) if record["init"] else None
    request = from_record(record, started_from, num_images=1)
    usual = resolve(pipeline, Request(sampler=request.sampler)).spacing
    written = command.write(request, seed, usual)
    return f"/sticker{written.removeprefix('/gen')}" if kind == "sticker" else written
