"""Refusals and notes of the package in Russian, as people on the page and in chats read them."""

import io
import re
from collections.abc import Callable

import pytest
from PIL import Image
from toy import toy_pipeline

from stablediff import Request, command, generate
from stablediff.errors import NumericalError, RequestError
from stablediff.fallback import Precisions
from stablediff.images import open_image
from stablediff.refusals import translate
from stablediff.request import Limits, parse_interval, parse_size
from stablediff.sticker import to_sticker
from stablediff.telegram.record import resolve


def _picture(size: tuple[int, int]) -> io.BytesIO:
    buffer = io.BytesIO()
    Image.new("1", size).save(buffer, "PNG")
    return buffer


def _limited(**wishes: object) -> Callable[[], object]:
    return lambda: Limits().check(resolve(toy_pipeline(), Request(**wishes)))


REFUSED: list[Callable[[], object]] = [
    lambda: Request("x" * 6000),
    lambda: Request("\ud800"),
    lambda: Request(num_steps=0),
    lambda: Request(num_steps=10**40),
    lambda: Request(num_images=65),
    lambda: Request(seed=-1),
    lambda: Request(seed=2**63 - 1, num_images=2),
    lambda: Request(guidance_scale=float("nan")),
    lambda: Request(strength=0),
    lambda: Request(strength=2),
    lambda: Request(width=100_000),
    lambda: Request(height=65),
    lambda: Request(sampler="it's magic"),
    lambda: Request(sampler="magic"),
    lambda: Request(spacing="magic"),
    lambda: Request(eta=0.5, sampler="heun"),
    lambda: parse_size("big"),
    lambda: parse_interval("all"),
    _limited(num_steps=101),
    _limited(width=2048),
    _limited(num_images=5),
    lambda: command.parse("fox --step 3"),
    lambda: command.parse("fox --steps three"),
    lambda: command.parse("fox --steps it's"),
    lambda: command.parse("fox --guidance much"),
    lambda: command.parse("fox --seed"),
    lambda: open_image(_picture((8000, 10000))),
    lambda: open_image(io.BytesIO(b"%PDF")),
    lambda: to_sticker(Image.new("RGB", (64, 64))),
    lambda: [*generate(toy_pipeline(in_channels=7), Request("fox"))],
    lambda: [*generate(toy_pipeline(), Request("fox", spacing="lcm", num_steps=60))],
    lambda: Precisions().widen([toy_pipeline().unet], "denoise", 3),
]


@pytest.mark.parametrize("ask", REFUSED)
def test_every_refusal_has_russian_words(ask: Callable[[], object]) -> None:
    with pytest.raises((RequestError, NumericalError)) as caught:
        ask()
    check(str(caught.value))


@pytest.mark.parametrize(
    "note",
    [
        "the negative prompt had no effect, because there is none without guidance (above 1)",
        "memory was short: 2 picture(s) at a time",
        "float16 overflowed (stage denoise, step 3), so that part was done again in bfloat16",
        "512x512 does not fit into memory, even one picture at a time and decoded in strips: choose a smaller size, "
        "close other programs, load it with offload (GPU), or use a smaller model",
    ],
)
def test_every_note_has_russian_words(note: str) -> None:
    check(note)


def test_words_that_the_model_never_saw_stay_as_they_were_typed() -> None:
    note = "the model has not learnt these words, and can only guess: foxx (near: fox, box); zzz"
    assert translate(note, "ru").endswith("догадываться: foxx (похожие: fox, box); zzz")


def test_english_and_unknown_messages_stay_as_they_are() -> None:
    assert translate("width is 63: choose 64 to 2048", "en") == "width is 63: choose 64 to 2048"
    assert translate("nobody knows this", "ru") == "nobody knows this"
    assert translate("width is 63: choose 64 to 2048", "ru") == "ширина: 63. Выберите от 64 до 2048"


def check(message: str) -> None:
    russian = translate(message, "ru")
    assert russian != message
    assert re.search("[А-Яа-я]", russian)
    assert not re.search(r"\b(is|are|the|choose|write|known|must|most|try)\b", russian), russian
    assert "{" not in russian
