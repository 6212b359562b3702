"""A picture's recipe, to text and back: our own exactly, other programs' as far as we know their words."""

import contextlib
import math
from dataclasses import fields, replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from stablediff import Request, RequestError
from stablediff.config import Defaults
from stablediff.diffusion.samplers import SAMPLERS
from stablediff.diffusion.spacing import SPACINGS
from stablediff.recipe import (
    began_elsewhere,
    has_mask,
    loras,
    not_understood,
    parse,
    precision,
    starts_from_picture,
    to_request,
    to_text,
)

# What belongs to the occasion, not to the picture.
LEFT_OUT = {"num_images", "init_image", "mask_image", "preview_every"}

PROMPTS = st.one_of(
    st.text(max_size=60),
    st.text(alphabet='ab ,:"\\\n\r\t()', max_size=30),
    st.lists(
        st.sampled_from(["Negative prompt: ", "\n", "Steps: 20", ", ", "a cat", '"', "Seed: 5", "Prompt: "]), max_size=8
    ).map("".join),
)
UNIT = st.floats(0, 1, allow_nan=False)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Requests with nothing left open, as results hold them."""
    sampler = draw(st.sampled_from(list(SAMPLERS)))
    low = draw(st.floats(0, 1e6))
    return Request(
        prompt=draw(PROMPTS),
        negative_prompt=draw(PROMPTS),
        num_steps=draw(st.integers(1, 1000)),
        guidance_scale=draw(st.floats(0, 100)),
        guidance_rescale=draw(UNIT),
        guidance_interval=draw(st.none() | st.just((low, math.inf)) | st.just((0.0, low * 1.5 + 1e-9))),
        sampler=sampler,
        spacing=draw(st.sampled_from(SPACINGS)),
        eta=draw(st.none() | UNIT) if SAMPLERS[sampler].takes_eta else None,
        seed=draw(st.integers(0, 2**63 - 1)),
        width=draw(st.integers(8, 256)) * 8,
        height=draw(st.integers(8, 256)) * 8,
        init_image=Image.new("RGB", (8, 8)) if draw(st.booleans()) else None,
        strength=draw(st.floats(0, 1, exclude_min=True)),
    )


def assert_same(found: Request, expected: Request) -> None:
    skipped = LEFT_OUT | (set() if expected.init_image else {"strength"})
    for field in fields(Request):
        if field.name not in skipped:
            assert getattr(found, field.name) == getattr(expected, field.name), field.name


@given(requests(), st.text(max_size=20))
@settings(max_examples=500, deadline=None, derandomize=True)
@example(Request(prompt="a\nNegative prompt: b", seed=0).resolve(Defaults()), "toy")
@example(Request(prompt="Negative prompt: b\nSteps: 3, Seed: 9", seed=0).resolve(Defaults()), "a, b: c")
@example(Request(prompt="  spaces \n\n", negative_prompt="\n", seed=0).resolve(Defaults()), '"')
@example(Request(prompt="Negative prompt: ", negative_prompt="\r", seed=0).resolve(Defaults()), " toy ")
def test_a_request_comes_back_exactly(request_: Request, model: str):
    assert_same(to_request(to_text(request_, request_.seed, model, "1.0")), request_)


def test_the_text_is_as_other_programs_write_it():
    request = Request(
        prompt="a cat, sitting",
        negative_prompt="blurry",
        num_steps=20,
        guidance_scale=7.5,
        sampler="dpmpp_2m",
        spacing="karras",
        seed=5,
        width=512,
        height=768,
    )
    assert to_text(request, 7, "my: model", "1.0").splitlines() == [
        "a cat, sitting",
        "Negative prompt: blurry",
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 7, Size: 512x768, "
        'Model: "my: model", Version: stablediff 1.0',
    ]


def test_a_recipe_of_another_program_is_read():
    text = (
        "a cat\nNegative prompt: blurry\nSteps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 123, Size: 512x768, "
        'Model hash: abc, Model: x, Clip skip: 2, Lora hashes: "a: b, c: d", Version: v1.6.0'
    )
    found = parse(text)
    assert found["Lora hashes"] == "a: b, c: d"
    assert found["Model"] == "x"
    assert found["Version"] == "v1.6.0"
    assert to_request(text) == Request(
        prompt="a cat",
        negative_prompt="blurry",
        num_steps=20,
        sampler="dpmpp_2m",
        spacing="karras",
        guidance_scale=7,
        seed=123,
        width=512,
        height=768,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "masterpiece, (best quality:1.2),\nportrait of a woman\nNegative prompt: bad hands,\nlowres\n"
            "Steps: 28, Sampler: Euler a, Schedule type: Automatic, CFG scale: 5.5, Seed: 3867104221, Size: 832x1216, "
            "Model hash: 67ab2fd8ec, Model: ponyDiffusionV6XL, VAE hash: 235745af8d, Denoising strength: 0.4, "
            "Hires upscale: 1.5, Hires upscaler: Latent, Version: f2.0.1v1.10.1",
            Request(
                prompt="masterpiece, (best quality:1.2),\nportrait of a woman",
                negative_prompt="bad hands,\nlowres",
                num_steps=28,
                sampler="euler_ancestral",
                guidance_scale=5.5,
                seed=3867104221,
                width=832,
                height=1216,
                strength=0.4,
            ),
        ),
        (
            "a house\nSteps: 10, Sampler: DPM++ 2M SDE, Schedule type: Align Your Steps, CFG scale: 7, Seed: 1, "
            "Size: 512x512, Eta: 0.67, ENSD: 31337",
            Request(
                "a house", num_steps=10, spacing="align_your_steps", guidance_scale=7, seed=1, width=512, height=512
            ),
        ),
        (
            "\nSteps: 4, Sampler: LCM, Schedule type: SGM Uniform, CFG scale: 1, Seed: 0, Size: 512x512",
            Request(num_steps=4, sampler="lcm", guidance_scale=1, seed=0, width=512, height=512),
        ),
        (
            "Negative prompt: only this\nSteps: 1, Sampler: DDIM, CFG scale: 0, Seed: 2, Size: 64x64\n",
            Request(
                negative_prompt="only this", num_steps=1, sampler="ddim", guidance_scale=0, seed=2, width=64, height=64
            ),
        ),
        ("just a prompt,\nof two lines", Request("just a prompt,\nof two lines")),
        ("", Request()),
    ],
    ids=["portrait", "unknown sampler", "no prompt", "negative only", "text", "empty"],
)
def test_more_recipes_of_other_programs_are_read(text: str, expected: Request):
    assert to_request(text) == expected


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_are_known_by_their_labels(name: str):
    label = SAMPLERS[name].label
    assert to_request(f"a\nSteps: 1, Sampler: {label}").sampler == name
    karras = to_request(f"a\nSteps: 1, Sampler: {label} Karras")
    assert (karras.sampler, karras.spacing) == (name, "karras")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Steps: 0", "num_steps is 0: choose 1 to 1000"),
        ("Steps: 20, CFG scale: seven", "CFG scale: 'seven', which is no number"),
        ("Steps: 20, CFG scale: nan", "guidance_scale is nan"),
        ("Steps: 20, Seed: 1.5", "Seed: '1.5', which is no whole number"),
        ("Steps: 20, Size: 511x512", "width is 511: choose a multiple of 8"),
        ("Steps: 99999999999999999999999", "num_steps is about 2^76: choose 1 to 1000"),
    ],
)
def test_values_beyond_our_bounds_are_refused(line: str, message: str):
    with pytest.raises(RequestError) as caught:
        to_request(f"a cat\n{line}")
    assert message in str(caught.value)


def test_what_only_others_know_is_named():
    line = "Steps: 20, Sampler: Restart, Schedule type: {}, Size: wide, Seed: 1"
    strange = ["Sampler: 'Restart'", "Schedule type: 'Beta'", "Size: 'wide'"]
    assert not_understood(f"a cat\n{line.format('Beta')}") == strange
    assert not_understood(f"a cat\n{line.format('Automatic')}") == ["Sampler: 'Restart'", "Size: 'wide'"]
    assert not_understood("a cat\nSteps: 20, CFG interval: foo") == ["CFG interval: 'foo'"]
    assert not_understood("a cat\nSteps: 20, Sampler: Euler, Size: 64x64") == []


def test_a_recipe_tells_its_picture_and_its_mask_from_others():
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    mask = Image.new("L", (8, 8), 255)
    request = Request(prompt="a cat", seed=7, init_image=first, mask_image=mask).resolve(Defaults())
    text = to_text(request, 7, "sticker", "1.0")
    assert starts_from_picture(text)
    assert has_mask(text)
    assert not has_mask(to_text(replace(request, mask_image=None), 7, "sticker", "1.0"))
    assert began_elsewhere(text, first, mask) == []
    assert began_elsewhere(text, second, second) == ["picture", "mask"]
    assert began_elsewhere(text, None, None) == []
    assert began_elsewhere(text.replace("stablediff 1.0", "v1.6.0"), second, mask) == []  # whose hashes are others


def test_a_second_larger_pass_is_no_picture_to_start_from():
    line = "a cat\nSteps: 20, Denoising strength: 0.7"
    assert starts_from_picture(line)
    assert not starts_from_picture(f"{line}, Hires upscale: 2, Hires upscaler: Latent")


LINES = st.lists(
    st.sampled_from(
        ["Steps: 20", "Size: 64x64", "CFG interval: 1e-5", ", ", ": ", '"', "\\", "\n", "-1e", "Seed: ", "a", "Eta: .5"]
    )
    | st.text(max_size=5),
    max_size=12,
).map("".join)


@given(LINES)
@settings(max_examples=500, deadline=None, derandomize=True)
@example('Steps: 20, Model: "open')
@example('Steps: 20, Model: "\\q"')
@example("Steps: 20, CFG interval: 1e-1.2.3")
@example(f"Steps: 20, Size: {'9' * 5000}x64")
@example(f"Steps: {'9' * 5000}")
def test_any_text_is_read_or_refused_in_words(text: str):
    assert {"Prompt", "Negative prompt"} <= parse(text).keys()
    with contextlib.suppress(RequestError):
        to_request(text)


@pytest.mark.parametrize(
    "line", ["Steps: 1," + " " * 30_000 + "x", "Steps: 1, " + "x" * 60_000, 'Steps: 1, a: "' * 4000]
)
def test_a_recipe_made_to_hang_does_not(line: str):
    assert parse(f"a cat\n{line}")["Prompt"] == "a cat"


def test_loras_are_named_in_the_recipe():
    request = Request(prompt="a cat", seed=7).resolve(Defaults())
    text = to_text(request, 7, "toy", "1.0", [("detail", 0.8), ("a, b: c", 1.0)])
    assert 'Model: toy, Lora: "detail:0.8, a, b: c:1", ' in text
    assert loras(text) == "detail:0.8, a, b: c:1"
    assert_same(to_request(text), request)
    assert loras(to_text(request, 7, "toy", "1.0")) is None


def test_the_precision_is_named_in_the_recipe():
    request = Request(prompt="a cat", seed=7).resolve(Defaults())
    text = to_text(request, 7, "toy", "1.0", precision="int8")
    assert "Model: toy, Precision: int8, " in text
    assert precision(text) == "int8"
    assert_same(to_request(text), request)
    assert precision(to_text(request, 7, "toy", "1.0")) is None


@pytest.mark.parametrize(
    ("prompt", "found", "left"),
    [
        ("a cat <lora:detail:0.8>, sitting <lora:more:1:0.5>", "detail:0.8, more:1:0.5", "a cat, sitting"),
        ("<lora:detail:1>a cat", "detail:1", "a cat"),
        ("a cat", "detail: 0123abcd", "a cat"),
    ],
)
def test_loras_of_the_web_ui(prompt: str, found: str, left: str):
    """It names them in the prompt, takes them out before it reads it, and adds their hashes."""
    text = f'{prompt}\nSteps: 20, Seed: 1, Lora hashes: "detail: 0123abcd", Version: v1.10.1'
    assert loras(text) == found
    assert to_request(text).prompt == left
    without = f"{prompt}\nSteps: 20, Seed: 1"
    assert loras(without) is None
    assert to_request(without).prompt == prompt
