"""`/gen red fox --steps 12 --no blurry` <-> what is asked for, in a chat and on the command line.

The first line is the prompt and the flags. Lines below it that begin with a flag are flags, too; the others are the
negative prompt, and so is all that follows a line of two hyphens.
"""

import re
from collections.abc import Callable
from typing import Any

from stablediff.errors import RequestError
from stablediff.request import ResolvedRequest, parse_size

START = re.compile(r"/(?:gen|sticker)(?:@\w+)?(?:\s+|$)")
_FLAG = re.compile(r"(?:^|(?<=\s))(--|—)([^\W\d]\w*)(?:=|\s+|$)")  # phones make a dash of two hyphens
_SIZE = re.compile(r"\d+\s*[xX×*хХ]\s*\d+(?=\s|$)")
_END = "--"


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
_SHORT = {
    "negative": "no",
    "n": "pictures",
    "cfg": "guidance",
    "шаги": "steps",
    "зерно": "seed",
    "сэмплер": "sampler",
    "следование": "guidance",
    "расписание": "spacing",
    "сила": "strength",
    "картинок": "pictures",
    "без": "no",
    "размер": "size",
}


def parse(text: str) -> dict[str, Any]:
    """-> the fields of a `Request` that are spelt out. Raises RequestError."""
    line, *below = text.strip().split("\n")
    typed: dict[str, Any] = {}
    fields: dict[str, Any] = {"prompt": _read_line(line, typed)}
    negative = [str(typed.pop("negative_prompt"))] if "negative_prompt" in typed else []
    rest: list[str] = []
    for number, below_line in enumerate(below):
        if below_line.strip() == _END:
            rest += below[number + 1 :]
            break
        if not _begins_with_flag(below_line):
            rest.append(below_line)
            continue
        words = _read_line(below_line, typed)
        if words:
            raise RequestError(f"{words[:30]!r} stands behind a flag: put it into the first line, or on its own")
        negative += [str(typed.pop("negative_prompt"))] if "negative_prompt" in typed else []
    negative += ["\n".join(rest).strip()] if "".join(rest).strip() else []
    if "size" in typed:
        fields["width"], fields["height"] = parse_size(typed.pop("size"))
    fields |= typed
    if negative:
        fields["negative_prompt"] = ", ".join(negative)
    return fields


def _begins_with_flag(line: str) -> bool:
    match = _FLAG.match(line.lstrip())
    return match is not None and _name(match) in _FLAGS


def _read_line(line: str, typed: dict[str, Any]) -> str:
    """Puts the flags of a line into `typed`. -> the words that are left."""
    starts = [match for match in _FLAG.finditer(line) if match[1] == "--" or _name(match) in _FLAGS]
    words = [line[: starts[0].start()] if starts else line]
    for match, following in zip(starts, [*starts[1:], None], strict=False):
        flag = _name(match)
        if flag not in _FLAGS:
            raise RequestError(f"there is no --{flag[:30]}: I know --{', --'.join(_FLAGS)}")
        name, read = _FLAGS[flag]
        value = line[match.end() : following.start() if following else len(line)].strip()
        if not value:
            raise RequestError(f"--{match[2][:30]} needs a value behind it")
        if flag != "no":  # one word, or a size with spaces in it; what follows is prompt again
            size = _SIZE.match(value) if flag == "size" else None
            value, rest = (size[0], value[size.end() :]) if size else (value.split()[0], value[len(value.split()[0]) :])
            words.append(rest)
        typed[name] = read(flag, value)
    return " ".join(filter(None, map(str.strip, words)))


def _name(match: re.Match[str]) -> str:
    name = match[2].lower()
    return _SHORT.get(name, name)


def in_flags(message: str) -> str:
    """A refusal that begins with the name of a field, with the flag instead."""
    flags = {name: f"--{flag}" for flag, (name, _) in _FLAGS.items()} | {
        "width": "--size: width",
        "height": "--size: height",
    }
    first, space, rest = message.partition(" ")
    return flags.get(first, first) + space + rest


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
        on_a_line = negative.split("\n") == [negative] and "--" not in negative and "—" not in negative
        is_text = not any(_begins_with_flag(line) or line.strip() == _END for line in negative.split("\n"))
        guard = "" if is_text else f"{_END}\n"
        flags += f" --no {negative}" if on_a_line else f"\n{guard}{negative}"
    return f"/gen {request.prompt} {flags}"


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else repr(number)
