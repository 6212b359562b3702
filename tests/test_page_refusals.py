"""Refusals that a visitor can meet are said in the visitor's language."""

import ast
import re
from pathlib import Path

import pytest

import stablediff
from stablediff.refusals import translate
from stablediff.web.trouble import control_of

_HERE = Path(stablediff.__file__).parent
# What refuses a visitor: wishes, pictures, recipes, models. Not the command line, training, or a server's settings.
_REFUSING = ["request.py", "recipe.py", "images.py", "sticker.py", "generate.py", "web/*.py", "checkpoints/*.py"]
_NOT_MET = re.compile(
    "STABLEDIFF_|generate takes|already|attach|cannot save|CLIP|train that stage|axis 7|alpha|ADAPTER|"
    "this LoRA's|twice|cannot write|is no precision|is there and is no model|prediction_type|^7(: 7)*$"
)


def messages() -> list[str]:
    """Every literal refusal, with a 7 in each gap."""
    found = []
    for path in sorted(path for pattern in _REFUSING for path in _HERE.glob(pattern)):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.args):
                continue
            if re.fullmatch(r"(Request|Checkpoint|OutOfMemory|StableDiff)Error", call.func.id):
                found.append(_fill(call.args[0]))
    return sorted({message for message in found if message and not _NOT_MET.search(message)})


def _fill(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "7" for part in node.values)  # type: ignore[misc]
    return ""


def test_there_are_messages_to_test() -> None:
    assert len(messages()) > 60


@pytest.mark.parametrize("message", messages())
def test_a_refusal_is_said_in_russian(message: str) -> None:
    said = translate(message, "ru")
    assert said != message
    assert re.search("[а-я]", said)
    assert translate(message, "en") == message


@pytest.mark.parametrize(
    ("message", "control"),
    [
        ("prompt is empty: write what to draw", "prompt"),
        ("num_steps is empty: write a whole number", "steps"),
        ("guidance_scale is 99: choose 0 to 20", "guidance"),
        ("'huge' is not a size: write width x height in pixels, as 512x512", "size"),
        ("the queue is full (32 jobs): try again in a minute", None),
    ],
)
def test_a_refusal_stands_beside_its_control(message: str, control: str | None) -> None:
    assert control_of(message) == control
