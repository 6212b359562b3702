"""A request refuses what cannot be drawn, in words that name the value and what to do instead."""

import dataclasses
import io
import math
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from stablediff import Request, RequestError
from stablediff.config import SD1, Defaults
from stablediff.images import png_bytes
from stablediff.request import Limits, interval_text, parse_interval, parse_size

PICTURE = Image.new("RGB", (64, 64))
NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("wish", "names"),
    [
        ({"num_steps": 0}, "num_steps is 0: choose 1 to 1000"),
        ({"num_steps": -1}, "num_steps is -1: choose 1 to 1000"),
        ({"num_steps": 1_000_000}, "num_steps is 1000000: choose 1 to 1000"),
        ({"num_images": 0}, "num_images is 0: choose 1 to 64"),
        ({"num_images": 65}, "num_images is 65: choose 1 to 64"),
        ({"seed": -1}, "seed is -1: choose 0 to 9223372036854775807"),
        ({"seed": 2**63}, "seed is 9223372036854775808: choose 0 to"),
        ({"preview_every": -1}, "preview_every is -1: choose 0 to 1000"),
        ({"guidance_scale": -0.1}, "guidance_scale is -0.1: choose 0 to 100"),
        ({"guidance_scale": 100.5}, "guidance_scale is 100.5: choose 0 to 100"),
        ({"guidance_scale": NAN}, "guidance_scale is nan: choose 0 to 100"),
        ({"guidance_scale": INF}, "guidance_scale is inf: choose 0 to 100"),
        ({"guidance_rescale": 1.1}, "guidance_rescale is 1.1: choose 0 to 1"),
        ({"guidance_rescale": NAN}, "guidance_rescale is nan: choose 0 to 1"),
        ({"eta": 2, "sampler": "ddim"}, "eta is 2: choose 0 to 1"),
        ({"eta": NAN, "sampler": "ddim"}, "eta is nan: choose 0 to 1"),
        ({"strength": 1.01}, "strength is 1.01: choose 0 to 1"),
        ({"strength": -INF}, "strength is -inf: choose 0 to 1"),
        ({"strength": NAN}, "strength is nan: choose 0 to 1"),
        ({"strength": 0}, "strength is 0, which would change nothing: choose more than 0, up to 1"),
        ({"width": 7}, "width is 7: choose 64 to 2048"),
        ({"height": 56}, "height is 56: choose 64 to 2048"),
        ({"width": 100_000}, "width is 100000: choose 64 to 2048"),
        ({"width": 513}, "width is 513: choose a multiple of 8, such as 512 or 520"),
        ({"height": 2047}, "height is 2047: choose a multiple of 8, such as 2040 or 2048"),
        ({"sampler": "eular"}, "sampler 'eular' is not known: choose one of ddpm, ddim, euler, "),
        ({"spacing": "even"}, "spacing 'even' is not known: choose one of leading, trailing, "),
        ({"eta": 0.5}, "eta is 0.5, which only the samplers ddim or euler_ancestral know: choose one of them"),
        ({"eta": 0.5, "sampler": "heun"}, "only the samplers ddim or euler_ancestral know: choose one of them"),
        ({"guidance_interval": (2.0, 1.0)}, "guidance_interval is 2.0 to 1.0: choose 0 <= low < high"),
        ({"guidance_interval": (-1.0, 1.0)}, "guidance_interval is -1.0 to 1.0: choose 0 <= low < high"),
        ({"guidance_interval": (0, 10**400)}, "guidance_interval is 0 to about 2^1329: choose 0 <= low < high"),
        ({"guidance_interval": (10**400, math.inf)}, "choose 0 <= low < high, in units of σ (up to 1000000000, or"),
        ({"guidance_interval": (0.0, 1e10)}, "guidance_interval is 0.0 to 10000000000.0: choose 0 <= low < high"),
        ({"guidance_interval": (0.0, NAN)}, "guidance_interval is 0.0 to nan: choose 0 <= low < high"),
        ({"prompt": "x" * 10_000}, "prompt has 10,000 characters: shorten it to at most 5,000"),
        ({"negative_prompt": "x" * 5_001}, "negative_prompt has 5,001 characters: shorten it to at most 5,000"),
        ({"mask_image": PICTURE}, "a mask_image and no init_image: give the picture that the mask belongs to"),
        ({"seed": 2**63 - 1, "num_images": 2}, "seed is 9223372036854775807 with 2 pictures: choose at most"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_values_out_of_bounds_are_refused_with_a_remedy(wish: dict[str, Any], names: str):
    with pytest.raises(RequestError) as caught:
        Request(**wish)
    assert names in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompt", None),
        ("prompt", b"a cat"),
        ("negative_prompt", 3),
        ("num_steps", 20.0),
        ("num_steps", "20"),
        ("num_steps", True),
        ("num_images", None),
        ("num_images", False),
        ("seed", 1.5),
        ("seed", True),
        ("preview_every", None),
        ("guidance_scale", "7.5"),
        ("guidance_scale", True),
        ("guidance_scale", 7 + 0j),
        ("guidance_rescale", None),
        ("strength", True),
        ("width", 512.0),
        ("width", True),
        ("sampler", 3),
        ("sampler", ["ddim"]),
        ("spacing", 3),
        ("guidance_interval", 5.0),
        ("guidance_interval", (1.0,)),
        ("guidance_interval", ("1", "2")),
        ("guidance_interval", (False, True)),
        ("init_image", "picture.png"),
        ("init_image", b"\x89PNG"),
    ],
)
def test_wrong_types_are_refused_by_name(name: str, value: Any):
    with pytest.raises(RequestError, match=f"^{name} "):
        Request(**{name: value})


def test_a_mask_of_the_wrong_type_is_refused_by_name():
    with pytest.raises(RequestError, match=r"^mask_image "):
        Request(init_image=PICTURE, mask_image="mask.png")


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(RequestError, match=r"^init_image has no pixels \(0 x 5\)"):
        Request(init_image=Image.new("RGB", (0, 5)))


@pytest.mark.parametrize("mode", ["LAB", "La"])
@pytest.mark.parametrize("name", ["init_image", "mask_image"])
def test_a_picture_of_a_mode_that_cannot_be_converted_is_refused(name: str, mode: str):
    pictures = {"init_image": Image.new("RGB", (8, 8)), name: Image.new(mode, (8, 8))}
    with pytest.raises(RequestError, match=rf"^{name} cannot be read \(.*\): choose another picture, in RGB or RGBA"):
        Request(**pictures)


@pytest.mark.parametrize("harm", ["truncated", "closed"])
def test_a_picture_that_was_only_opened_is_read_at_once(harm: str):
    data = png_bytes(Image.effect_noise((64, 64), 50), "")
    image = Image.open(io.BytesIO(data[:1000] if harm == "truncated" else data))
    if harm == "closed":
        image.close()
    with pytest.raises(RequestError, match=r"^init_image cannot be read \(.*\): choose another picture"):
        Request(init_image=image)


@pytest.mark.parametrize(
    "value", [10**400, -(10**400), 10**5000], ids=["large", "negative", "longer than Python prints"]
)
@pytest.mark.parametrize("name", ["num_steps", "seed", "guidance_scale", "strength", "width"])
def test_endless_numbers_are_refused_in_a_short_message(name: str, value: int):
    with pytest.raises(RequestError, match=f"^{name} ") as caught:
        Request(**{name: value})
    assert len(str(caught.value)) < 200


def test_messages_do_not_repeat_endless_names():
    with pytest.raises(RequestError, match=r"^sampler ") as caught:
        Request(sampler="x" * 100_000)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
def test_text_that_no_file_could_hold_is_refused(name: str):
    """Half of a surrogate pair: what Python makes of undecodable bytes on the command line."""
    with pytest.raises(RequestError, match=rf"^{name} .*retype"):
        Request(**{name: "caf\udce9"})


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"prompt": ""},
        {"prompt": "x" * 5_000},
        {"num_steps": 1},
        {"num_steps": 1000},
        {"num_images": 64},
        {"seed": 0},
        {"seed": 2**63 - 1},
        {"seed": 2**63 - 2, "num_images": 2},
        {"guidance_scale": 0},
        {"guidance_scale": 100},
        {"guidance_rescale": 1},
        {"guidance_interval": (0, INF)},
        {"guidance_interval": [0.3, 5.0]},
        {"eta": 0, "sampler": "ddim"},
        {"eta": 1.0, "sampler": "euler_ancestral"},
        {"strength": 1},
        {"strength": 1e-9},
        {"width": 64, "height": 2048},
        {"init_image": PICTURE, "mask_image": PICTURE},
    ],
    ids=lambda wish: ", ".join(wish) or "nothing",
)
def test_the_bounds_themselves_are_fine(wish: dict[str, Any]):
    assert all(getattr(Request(**wish), name) == value for name, value in wish.items())


def test_errors_are_value_errors_too():
    with pytest.raises(ValueError, match="num_steps"):
        Request(num_steps=0)


def test_a_request_is_frozen():
    request = Request(prompt="a cat")
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.prompt = "a dog"
    with pytest.raises(RequestError):
        dataclasses.replace(request, num_steps=0)


def test_resolve_leaves_nothing_open():
    defaults = Defaults(num_steps=7, guidance_scale=3.0, sampler="euler", width=320, height=256)
    resolved = Request(prompt="a cat").resolve(defaults)
    assert (resolved.num_steps, resolved.guidance_scale, resolved.sampler) == (7, 3.0, "euler")
    assert (resolved.width, resolved.height) == (320, 256)
    assert resolved.seed is not None
    assert resolved.resolve(Defaults()) == resolved


def test_resolve_keeps_what_was_asked_for_zeros_among_it():
    asked = {"num_steps": 3, "guidance_scale": 0, "sampler": "ddim", "seed": 0, "width": 64, "height": 72}
    assert asked.items() <= vars(Request(**asked).resolve(Defaults())).items()


def test_seeds_left_to_chance_differ():
    assert len({Request().resolve(Defaults()).seed for _ in range(20)}) == 20


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((512, 512), (512, 512)),
        ((203, 100), (200, 96)),  # its own size, to a multiple of 8
        ((4000, 2000), (728, 360)),  # about as many pixels as 512x512
        ((3000, 1), (2048, 64)),
        ((1, 1), (64, 64)),
    ],
)
def test_a_picture_to_start_from_gives_its_proportions(size: tuple[int, int], expected: tuple[int, int]):
    resolved = Request(init_image=Image.new("RGB", size)).resolve(Defaults())
    assert (resolved.width, resolved.height) == expected


def test_a_size_asked_for_wins_over_the_picture_to_start_from():
    resolved = Request(init_image=PICTURE, width=128, height=96).resolve(Defaults())
    assert (resolved.width, resolved.height) == (128, 96)


@pytest.mark.parametrize(
    ("text", "size"),
    [("512x768", (512, 768)), ("512", (512, 512)), (" 64 X 72 ", (64, 72)), ("64×72", (64, 72)), ("7x7", (7, 7))],
)
def test_sizes_are_read(text: str, size: tuple[int, int]):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("0.28-5.42", (0.28, 5.42)),
        (" 0.5 - ", (0.5, math.inf)),
        ("1e-3–2e1", (0.001, 20.0)),
        (".28-5,42", (0.28, 5.42)),
        ("0.45912345678901-", (0.45912345678901, math.inf)),
        ("0-inf", (0.0, math.inf)),
    ],
)
def test_intervals_are_read_and_written(text: str, interval: tuple[float, float]):
    assert parse_interval(text) == interval
    assert parse_interval(interval_text(interval)) == interval
    assert interval_text(None) == ""


@pytest.mark.parametrize("interval", [(-0.0, 1e-300), (1e-300, 1e9), (10**9 - 1, math.inf), (0.1 + 0.2, 1 / 3)])
def test_what_is_written_is_read_again(interval: tuple[float, float]):
    Request(guidance_interval=interval)
    assert parse_interval(interval_text(interval)) == interval


@pytest.mark.parametrize(
    "text", ["all", "", "5", "-5", "5-1", "1-1", "1--2", "nan-", "inf-", "1-2-3", "9" * 5000 + "-"]
)
def test_what_is_no_interval_is_refused(text: str):
    with pytest.raises(RequestError, match="is no interval: write two noise levels, the lower one first") as caught:
        parse_interval(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "text", ["banana", "", "512x", "x512", "-512x512", "5.5x5", "1x2x3", "9" * 5000, "1x" + "9" * 10]
)
def test_what_is_no_size_is_refused(text: str):
    with pytest.raises(RequestError, match="is not a size: write width x height") as caught:
        parse_size(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("limits", "steps", "width", "height"),
    [
        (Limits(), 12, 512, 768),
        (Limits(max_side=768), 12, 512, 768),
        (Limits(max_side=400), 12, 264, 400),
        (Limits(max_side=64), 12, 64, 64),
        (Limits(max_steps=5), 5, 512, 768),
    ],
)
def test_what_a_model_does_by_itself_is_within_the_limits(limits: Limits, steps: int, width: int, height: int):
    usual = replace(SD1.defaults, num_steps=12, width=512, height=768)
    narrowed = limits.within(replace(SD1, defaults=usual))
    assert narrowed.defaults == replace(usual, num_steps=steps, width=width, height=height)
    limits.check(Request(seed=0).resolve(narrowed.defaults, None))
