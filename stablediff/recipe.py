"""A picture's recipe as text, in the form that AUTOMATIC1111's web UI writes and most programs read.

prompt
Negative prompt: …
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.0, Seed: 1, Size: 512x512, Model: sticker, …
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

from stablediff.diffusion.samplers import SAMPLERS
from stablediff.diffusion.spacing import SPACINGS
from stablediff.errors import RequestError
from stablediff.request import Request, ResolvedRequest

_NEGATIVE = "Negative prompt: "
_NUMBER = r"(\d+\.?\d*(?:e[+-]?\d+)?|inf)"  # as Python writes them
_AUTOMATIC = "Automatic"  # schedule type of the web UI: what goes with the sampler
_KEY = re.compile(r" {0,9}([^:,\s][^:,]{0,63}): {0,9}")
_LORA = re.compile(r" ?<lora:([^<>]{1,200})>")
_VALUE = re.compile(r'"(?:\\.|[^\\"])*"|[^,]*')


def to_text(
    request: ResolvedRequest,
    seed: int,
    model: str,
    version: str,
    loras: Sequence[tuple[str, float]] = (),
    precision: str | None = None,
    tiny_decoder: bool = False,
) -> str:
    """The recipe of one picture of a resolved request. `loras`: names and scales; `precision` as "bfloat16"."""
    levels = [level + 0.0 for level in request.guidance_interval or ()]  # -0.0 is 0.0
    items: dict[str, object] = {
        "Steps": request.num_steps,
        "Sampler": SAMPLERS[request.sampler].label,
        "Schedule type": request.spacing.replace("_", " ").title(),
        "CFG scale": request.guidance_scale,
        "Seed": seed,
        "Size": f"{request.width}x{request.height}",
        "Model": model,
        "Lora": ", ".join(f"{name}:{scale:g}" for name, scale in loras) or None,
        "Precision": precision,
        "Decoder": "tiny" if tiny_decoder else None,
        "Eta": request.eta,
        "CFG rescale": request.guidance_rescale or None,
        "CFG interval": "{}-{}".format(*levels) if levels else None,
        "Cache interval": request.cache_interval if request.cache_interval > 1 else None,
        "Token merging ratio": request.merged_tokens or None,
        "Denoising strength": request.strength if request.init_image is not None else None,
        "Init image hash": fingerprint(request.init_image) if request.init_image is not None else None,
        "Mask hash": fingerprint(request.mask_image) if request.mask_image is not None else None,
        "Version": f"stablediff {version}",
    }
    text = _join(request, items)
    prompts = {"Prompt": request.prompt, "Negative prompt": request.negative_prompt}
    # A prompt with our own marks in it would be read as something else; it is kept in the last line, too.
    return text if prompts.items() <= parse(text).items() else _join(request, items | prompts)


def fingerprint(picture: Image.Image) -> str:
    """What a picture began from cannot stand in its recipe, but it can be told from others."""
    return hashlib.sha256(picture.convert("RGBA").tobytes()).hexdigest()[:10]


def _join(request: Request, items: dict[str, object]) -> str:
    line = ", ".join(f"{name}: {_quote(value)}" for name, value in items.items() if value is not None)
    negative = f"\n{_NEGATIVE}{request.negative_prompt}" if request.negative_prompt else ""
    return f"{request.prompt}{negative}\n{line}"


def _quote(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:"\n]|^\s|\s$', text) else text


def parse(text: str) -> dict[str, str]:
    """A recipe's fields by name, "Prompt" and "Negative prompt" among them. Never fails: unknown text is prompt."""
    head, _, last = text.rstrip().rpartition("\n")
    if not re.search(r"\bSteps: \d+", last):
        head, last = text, ""
    prompt, _, negative = f"\n{head}".partition(f"\n{_NEGATIVE}")
    fields = {"Prompt": prompt.removeprefix("\n"), "Negative prompt": negative}
    return fields | dict(_items(last))


def _items(line: str) -> Iterator[tuple[str, str]]:
    """`name: value, name: value`, from left to right; what has no name is passed over."""
    start = 0
    while 0 <= start < len(line):
        key = _KEY.match(line, start)
        value = key and _VALUE.match(line, key.end())
        if key and value:
            yield key[1].strip(), _unquote(value[0].strip())
        comma = line.find(",", value.end() if value else start)
        start = comma + 1 if comma >= 0 else -1


def _unquote(value: str) -> str:
    try:
        return str(json.loads(value, strict=False)) if value.startswith('"') else value
    except ValueError:  # a lone quotation mark
        return value


def loras(text: str) -> str | None:
    """The LoRAs that a picture was drawn with, as "name:scale, name:scale": files that its recipe cannot hold."""
    fields = parse(text)
    if "Lora hashes" in fields:  # the web UI has them as <lora:name:scale> in the prompt
        return ", ".join(_LORA.findall(fields["Prompt"])) or fields["Lora hashes"]
    return fields.get("Lora")


def to_request(text: str) -> Request:
    """The request that makes the picture again (image-to-image needs its `init_image` besides).

    Raises RequestError if a value is out of our bounds; what the recipe leaves out, or what only other programs know,
    is left to the model.
    """
    return Request(**wishes_of(text))


_ANEW = "give it anew, or set what it says yourself"


def wishes_of(text: str) -> dict[str, Any]:
    """What a recipe says, by the names of a request's fields. Raises RequestError for what should be a number."""
    fields = parse(text)

    def number(name: str) -> float | None:
        try:
            return float(fields[name]) if name in fields else None
        except ValueError as error:
            raise RequestError(f"the recipe has {name}: {fields[name][:40]!r}, which is no number: {_ANEW}") from error

    def whole(name: str) -> int | None:
        try:
            return int(fields[name]) if name in fields else None
        except ValueError as error:
            raise RequestError(
                f"the recipe has {name}: {fields[name][:40]!r}, which is no whole number: {_ANEW}"
            ) from error

    sampler, spacing = _sampler(fields.get("Sampler", ""))
    named = fields.get("Schedule type", "").lower().replace(" ", "_")
    size = re.fullmatch(r"(\d{1,9})x(\d{1,9})", fields.get("Size", ""))
    interval = re.fullmatch(f"{_NUMBER}-{_NUMBER}", fields.get("CFG interval", ""))
    return {
        "prompt": _LORA.sub("", fields["Prompt"]).strip() if "Lora hashes" in fields else fields["Prompt"],
        "negative_prompt": fields["Negative prompt"],
        "num_steps": whole("Steps"),
        "guidance_scale": number("CFG scale"),
        "guidance_rescale": number("CFG rescale") or 0.0,
        "guidance_interval": (float(interval[1]), float(interval[2])) if interval else None,
        "cache_interval": whole("Cache interval") or 1,
        "merged_tokens": number("Token merging ratio") or 0.0,
        "sampler": sampler,
        "spacing": named if named in SPACINGS else spacing,
        "eta": number("Eta") if sampler and SAMPLERS[sampler].takes_eta else None,
        "seed": whole("Seed"),
        "width": int(size[1]) if size else None,
        "height": int(size[2]) if size else None,
        "strength": number("Denoising strength") or None,
    }


def starts_from_picture(text: str) -> bool:
    """Whether another picture was what it began with; a second, larger pass (the web UI's) has a strength as well."""
    fields = parse(text)
    return "Denoising strength" in fields and not any(name.startswith("Hires ") for name in fields)


def precision(text: str) -> str | None:
    """What the networks computed in, if a recipe says so: of a picture it decides the last bits, and in int8 more."""
    return parse(text).get("Precision")


def has_mask(text: str) -> bool:
    """Whether it was drawn only where a mask was white."""
    return "Mask hash" in parse(text)


def began_elsewhere(text: str, init_image: Image.Image | None, mask_image: Image.Image | None) -> list[str]:
    """Which of the two, "picture" and "mask", are others than those that the recipe was written with."""
    fields = parse(text)
    if not fields.get("Version", "").startswith("stablediff "):  # others have hashes of their own
        return []
    given = {"picture": ("Init image hash", init_image), "mask": ("Mask hash", mask_image)}
    return [
        what
        for what, (name, picture) in given.items()
        if name in fields and picture is not None and fingerprint(picture) != fields[name]
    ]


def not_understood(text: str) -> list[str]:
    """What a recipe names and this program does not know, so that it is left to the model. As "Sampler: 'Restart'".

    Raises RequestError as `wishes_of` does.
    """
    fields, wishes = parse(text), wishes_of(text)
    understood = {
        "Sampler": "sampler",
        "Schedule type": "spacing",
        "Size": "width",
        "CFG interval": "guidance_interval",
    }
    strange = [name for name, wish in understood.items() if wishes[wish] is None]
    return [f"{name}: {fields[name][:40]!r}" for name in strange if fields.get(name, _AUTOMATIC) != _AUTOMATIC]


def _sampler(label: str) -> tuple[str | None, str | None]:
    """Our name, and the spacing that older recipes append to it ("DPM++ 2M Karras")."""
    for name, sampler in SAMPLERS.items():
        if label == sampler.label:
            return name, None
        if label == f"{sampler.label} Karras":
            return name, "karras"
    return None, None
