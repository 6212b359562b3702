"""`/gen red fox --steps 12 --no blurry` <-> what is asked for.

The first line is the prompt and the flags; the lines below it are the negative prompt.
"""

import re
from collections.abc import Callable
from typing import Any

from stablediff.errors import RequestError
from stablediff.request import ResolvedRequest, parse_size

_FLAG = re.compile(r"(?:^|(?<=\s))(--|—)([A-Za-z]+)(?:=|\s+|$)")  # phones make a dash of two hyphens


def _whole(flag: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise RequestError(f"--{flag} is {text[:30]!r}: write a whole number") from error


def _number(flag: str, text: str) -> float:
    try:
        return float(text.replace(",", "."))
    except ValueError as error:
        raise RequestError(f"--{flag} is {text[:30]!r}: write a number") from error


def _text(_flag: str, text: str) -> str:
    return text


_FLAGS: dict[str, tuple[str, Callable[[str, str], object]]] = {
    "steps": ("num_steps", _whole),
    "seed": ("seed", _whole),
    "guidance": ("guidance_scale", _number),
    "sampler": ("sampler", _text),
    "spacing": ("spacing", _text),
    "eta": ("eta", _number),
    "strength": ("strength", _number),
    "pictures": ("num_images", _whole),
    "no": ("negative_prompt", _text),
    "size": ("size", _text),
}
_SHORT = {"negative": "no", "n": "pictures", "cfg": "guidance"}


def parse(text: str) -> dict[str, Any]:
    """-> the fields of a `Request` that are spelt out. Raises RequestError."""
    line, _, below = text.strip().partition("\n")
    starts = [match for match in _FLAG.finditer(line) if match[1] == "--" or _name(match) in _FLAGS]
    words = [line[: starts[0].start()] if starts else line]
    fields: dict[str, Any] = {}
    for match, following in zip(starts, [*starts[1:], None], strict=False):
        flag = _name(match)
        if flag not in _FLAGS:
            raise RequestError(f"there is no --{flag[:30]}: I know --{', --'.join(_FLAGS)}")
        name, read = _FLAGS[flag]
        value = line[match.end() : following.start() if following else len(line)].strip()
        if not value:
            raise RequestError(f"--{flag} needs a value behind it")
        if flag != "no":  # one word; what follows is prompt again
            value, _, rest = value.partition(" ")
            words.append(rest)
        fields[name] = read(flag, value)
    fields["prompt"] = " ".join(filter(None, map(str.strip, words)))
    if "size" in fields:
        fields["width"], fields["height"] = parse_size(fields.pop("size"))
    if below.strip():
        fields["negative_prompt"] = below.strip()
    return fields


def _name(match: re.Match[str]) -> str:
    name = match[2].lower()
    return _SHORT.get(name, name)


def write(request: ResolvedRequest, seed: int, usual_spacing: str) -> str:
    """The command that draws this picture again, with nothing left open. `usual_spacing`: the one without the flag."""
    width, height = request.width, request.height
    flags = f"--steps {request.num_steps} --seed {seed} --size {width}x{height}"
    flags += f" --guidance {_plain(request.guidance_scale)} --sampler {request.sampler} --pictures 1"
    if request.spacing != usual_spacing:
        flags += f" --spacing {request.spacing}"
    if request.eta is not None:
        flags += f" --eta {_plain(request.eta)}"
    if request.init_image is not None:
        flags += f" --strength {_plain(request.strength)}"
    negative = request.negative_prompt
    if negative:  # on lines of its own where it could be taken for something else
        flags += f" --no {negative}" if negative.split("\n") == [negative] and "--" not in negative else f"\n{negative}"
    return f"/gen {request.prompt} {flags}"


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else repr(number)
