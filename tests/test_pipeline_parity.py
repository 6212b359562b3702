"""Whole pictures: a model's folder in the reference's pipelines and in ours, from the same noise, pixel by pixel.

The models are tiny and random, except for the bundled one. Their pictures mean nothing, but they depend on every part:
prompts, both towers, sizes, schedule, sampler, guidance, U-Net, decoder.
"""

import json
import random
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from schedulers import REFERENCES
from tiny import TinyModel, clip_tokenizer

from stablediff import Pipeline, Request, Result, generate, load
from stablediff.checkpoints.locate import ASSETS, CLIP_MERGES
from stablediff.images import over_white
from stablediff.models import tokenizer as our_tokenizer
from stablediff.models.tokenizer import Tokenizer

GetModel = Callable[[str], TinyModel]
PROMPT = "a Cat's café, 3 dogs & the 北京 skyline"
NEGATIVE = "blurry"
SEED = 1234


@pytest.fixture(scope="session")
def ours(tiny_model: GetModel) -> Callable[[str], Pipeline]:
    return cache(lambda kind: load(tiny_model(kind).folder, device="cpu", dtype="float32"))


def draw(pipeline: Pipeline, **wishes: Any) -> list[Image.Image]:
    request = Request(**{"prompt": PROMPT, "seed": SEED, "width": 64, "height": 64} | wishes)
    *_, result = generate(pipeline, request)
    assert isinstance(result, Result)
    assert not result.notes
    return list(result.images)


def draw_reference(pipeline: DiffusionPipeline, scheduler: Any, *, num_images: int = 1, **wishes: Any) -> Any:
    """-> the pictures, or what the pipeline gives for another `output_type`."""
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = scheduler
    generators = [torch.Generator().manual_seed(SEED + i) for i in range(num_images)]
    return pipeline(**{"prompt": PROMPT, "generator": generators, "num_images_per_prompt": num_images} | wishes).images


def scheduler_like(model: TinyModel, sampler: str, spacing: str | None) -> Any:
    """As one exchanges schedulers in the reference: by the settings of the model's own."""
    options: dict[str, Any] = {"clip_sample": False}
    if spacing == "karras":
        options["use_karras_sigmas"] = True
    elif spacing:
        options["timestep_spacing"] = spacing
    settings = json.loads((model.folder / "scheduler" / "scheduler_config.json").read_text())
    return REFERENCES[sampler].from_config(settings | options)


def difference(a: Image.Image, b: Image.Image) -> int:
    """The largest of all pixels and channels. A picture that is mostly black or white would prove little."""
    first, second = (np.asarray(image.convert("RGB"), dtype=int) for image in (a, b))
    assert first.shape == second.shape
    assert ((second > 0) & (second < 255)).mean() > 0.5
    assert second.std() > 10
    return int(np.abs(first - second).max())


def assert_alike(ours: list[Image.Image], theirs: list[Image.Image]) -> None:
    assert len(ours) == len(theirs)
    differences = [difference(a, b) for a, b in zip(ours, theirs, strict=True)]
    assert max(differences) <= 2


# --- from text --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "sampler", "spacing", "num_steps"),
    [
        ("sd1", "ddim", None, 10),
        ("sd1", "ddim", "trailing", 8),
        ("sd1", "ddpm", None, 5),
        ("sd1", "euler", "linspace", 6),
        ("sd1", "euler", "leading", 6),
        ("sd1", "euler_ancestral", "linspace", 6),
        ("sd1", "heun", "linspace", 4),
        ("sd1", "dpmpp_2m", None, 8),
        ("sd1", "dpmpp_2m", "karras", 8),
        ("sd1", "unipc", "linspace", 8),
        ("sd2", "ddim", None, 10),
        ("sd2", "euler", "trailing", 5),
        ("sd2", "dpmpp_2m", "linspace", 6),
        ("sdxl", "euler", None, 5),
        ("sdxl", "ddim", None, 5),
        ("sdxl", "unipc", "linspace", 5),
        ("sdxl", "dpmpp_2m", "karras", 5),
    ],
)
def test_picture_from_text(
    kind: str, sampler: str, spacing: str | None, num_steps: int, tiny_model: GetModel, ours: Callable[[str], Pipeline]
) -> None:
    wishes: dict[str, Any] = {"negative_prompt": NEGATIVE, "guidance_scale": 5.0, "height": 64, "width": 72}
    drawn = draw(ours(kind), sampler=sampler, spacing=spacing, num_steps=num_steps, **wishes)
    model = tiny_model(kind)
    scheduler = scheduler_like(model, sampler, spacing)
    assert_alike(drawn, draw_reference(model.reference, scheduler, num_inference_steps=num_steps, **wishes))


def test_pictures_of_one_batch_have_the_seeds_that_follow(
    tiny_model: GetModel, ours: Callable[[str], Pipeline]
) -> None:
    model = tiny_model("sd1")
    drawn = draw(ours("sd1"), sampler="euler_ancestral", spacing="leading", num_steps=4, num_images=3)
    scheduler = scheduler_like(model, "euler_ancestral", "leading")
    theirs = draw_reference(model.reference, scheduler, num_images=3, num_inference_steps=4, height=64, width=64)
    assert_alike(drawn, theirs)
    assert difference(drawn[0], drawn[1]) > 50


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize(
    "wishes",
    [
        {"guidance_scale": 1.0},  # a single branch
        {"guidance_scale": 7.5, "guidance_rescale": 0.7},
        {"guidance_scale": 3.0, "prompt": ""},
        {"guidance_scale": 3.0, "prompt": "word " * 75},  # as long as one reading of the tower
    ],
)
def test_guidance_and_prompts(
    kind: str, wishes: dict[str, Any], tiny_model: GetModel, ours: Callable[[str], Pipeline]
) -> None:
    """Without a negative prompt, whose place the encoding of "" takes; in SDXL, zeros do."""
    model = tiny_model(kind)
    drawn = draw(ours(kind), sampler="ddim", spacing="trailing", num_steps=4, **wishes)
    scheduler = scheduler_like(model, "ddim", "trailing")
    theirs = draw_reference(model.reference, scheduler, num_inference_steps=4, height=64, width=64, **wishes)
    assert_alike(drawn, theirs)


@pytest.mark.parametrize("guidance_scale", [2.0, 8.0])
def test_lcm_takes_its_guidance_as_an_input(
    guidance_scale: float, tiny_model: GetModel, ours: Callable[[str], Pipeline]
) -> None:
    drawn = draw(ours("lcm"), guidance_scale=guidance_scale)  # the model's own choice: four steps of lcm
    model = tiny_model("lcm")
    wishes = {"num_inference_steps": 4, "guidance_scale": guidance_scale, "height": 64, "width": 64}
    assert_alike(drawn, draw_reference(model.reference, scheduler_like(model, "lcm", None), **wishes))


def test_lcm_with_a_usual_model(tiny_model: GetModel, ours: Callable[[str], Pipeline]) -> None:
    wishes: dict[str, Any] = {"guidance_scale": 1.5, "negative_prompt": NEGATIVE}
    model = tiny_model("sdxl")
    scheduler = scheduler_like(model, "lcm", None)
    theirs = draw_reference(model.reference, scheduler, num_inference_steps=5, height=64, width=64, **wishes)
    assert_alike(draw(ours("sdxl"), sampler="lcm", num_steps=5, **wishes), theirs)


# --- from pictures ----------------------------------------------------------------------------------------------------


@pytest.fixture
def picture() -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC)


@pytest.fixture
def mean_of_posterior(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference draws from the encoder's Gaussian, ours takes its middle."""
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, *_: self.mode())


@pytest.mark.usefixtures("mean_of_posterior")
@pytest.mark.parametrize(
    ("kind", "sampler", "strength"),
    [
        ("sd1", "ddim", 0.6),
        ("sd1", "euler", 0.35),
        ("sd1", "heun", 0.5),
        ("sd1", "dpmpp_2m", 0.75),
        ("sd1", "unipc", 1.0),
        ("sdxl", "euler_ancestral", 0.5),
    ],
)
def test_picture_from_a_picture(
    kind: str,
    sampler: str,
    strength: float,
    picture: Image.Image,
    tiny_model: GetModel,
    ours: Callable[[str], Pipeline],
) -> None:
    model = tiny_model(kind)
    wishes: dict[str, Any] = {"negative_prompt": NEGATIVE, "guidance_scale": 3.0, "strength": strength}
    drawn = draw(ours(kind), sampler=sampler, num_steps=8, init_image=picture, **wishes)
    pipeline_class = StableDiffusionXLImg2ImgPipeline if kind == "sdxl" else StableDiffusionImg2ImgPipeline
    components = {key: value for key, value in model.reference.components.items() if value is not None}
    if kind != "sdxl":
        components |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    scheduler = scheduler_like(model, sampler, None)
    theirs = draw_reference(pipeline_class(**components), scheduler, image=picture, num_inference_steps=8, **wishes)
    assert_alike(drawn, theirs)


@pytest.mark.usefixtures("mean_of_posterior")
@pytest.mark.parametrize("strength", [0.8, 1.0])
def test_picture_with_a_hole(
    strength: float, picture: Image.Image, tiny_model: GetModel, ours: Callable[[str], Pipeline]
) -> None:
    model = tiny_model("inpaint")
    mask = Image.new("L", picture.size)
    mask.paste(255, (24, 0, 64, 64))
    wishes: dict[str, Any] = {"guidance_scale": 3.0, "strength": strength}
    drawn = draw(ours("inpaint"), sampler="ddim", num_steps=10, init_image=picture, mask_image=mask, **wishes)
    components = {key: value for key, value in model.reference.components.items() if value is not None}
    components |= {"safety_checker": None, "feature_extractor": None}
    pipeline = StableDiffusionInpaintPipeline(**components, requires_safety_checker=False)
    wishes |= {"image": picture, "mask_image": mask, "height": 64, "width": 64, "num_inference_steps": 10}
    theirs = draw_reference(pipeline, scheduler_like(model, "ddim", None), **wishes)
    inside = (40, 0, 64, 64)  # ours fades into the known part over some pixels
    assert_alike([drawn[0].crop(inside)], [theirs[0].crop(inside)])
    assert difference(drawn[0].crop((0, 0, 8, 64)), picture.crop((0, 0, 8, 64))) == 0


# --- the bundled model ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sticker_reference() -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(ASSETS / "sticker", dtype=torch.float32)


@pytest.mark.parametrize(("sampler", "num_steps"), [("ddim", 25), ("dpmpp_2m", 10)])
def test_bundled_model(
    sampler: str, num_steps: int, sticker: Pipeline, sticker_reference: StableDiffusionPipeline
) -> None:
    """The reference knows neither patches nor alpha: it decodes to folded pixels, which are unfolded here."""
    prompt = "red apple, flat style"
    wishes: dict[str, Any] = {"prompt": prompt, "guidance_scale": 4.0}
    (drawn,) = draw(sticker, sampler=sampler, num_steps=num_steps, width=512, height=512, **wishes)
    scheduler = REFERENCES[sampler].from_config(sticker_reference.scheduler.config)
    latents = draw_reference(
        sticker_reference,
        scheduler,
        num_inference_steps=num_steps,
        height=128,
        width=128,
        output_type="latent",
        **wishes,
    )
    with torch.inference_mode():
        pixels = torch.nn.functional.pixel_shuffle(sticker_reference.vae.decode(latents).sample, 4)
    planes = ((pixels[0] / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    alpha = planes[..., 3].astype(int)
    assert drawn.mode == "RGBA"
    assert np.abs(np.asarray(drawn.getchannel("A"), dtype=int) - alpha).max() <= 2
    # Over white no opacity makes a colour darker than 1 - alpha, whatever a decoder says.
    colours = np.maximum(planes[..., :3], 255 - alpha[..., None])
    off = np.abs(np.asarray(over_white(drawn), dtype=int) - colours).max()
    assert off <= 2


# --- words ------------------------------------------------------------------------------------------------------------

ODD_STRINGS = (
    "",
    "|",
    "I'm you're he's we'd they'll I've don't 'tis 'S 'T 'RE rock'n'roll",
    "CAFÉ café cafe\u0301 ﬁne Ⅷ ½ ² ª ǆ ß ẞ İ ı ſ Å",
    "北京 東京タワー 서울 กรุงเทพ नमस्ते مرحبا שלום Ελλάδα Привет",
    "🐈 👩\u200d👩\u200d👧 🏳\ufe0f\u200d🌈 👍🏽 1\ufe0f\u20e3 ©\ufe0f ™ 🇩🇪",
    "tabs\tand\vother\fspaces\r\nlines\u00a0\u2003\u3000\u200b\u2060\ufeff end ",
    "a_b-c/d\\e.f,g;h:i!j?k\"l'm`n~o@p#q$r%s^t&u*v=w+x{y}z|<>",
    "3.14 1,000 12345 1st 2nd v1.5 (((x))) [y] {z} <lora:x:1>",
    "...!!! ??? --- *** ____ ''' \"\"\"",
    "Antidisestablishmentarianism supercalifragilisticexpialidocious " + "a" * 100,
    "&amp; &lt;b&gt; <b>bold</b> \\n \\u0041",
    "\x00\x01\x1b[31m\x7f\x80\x9f\ud7ff\ue000\ufffd\U0010ffff",
)


def odd_strings() -> list[str]:
    rng = random.Random(0)
    blocks = [(0x20, 0x7F), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x530), (0x590, 0x700), (0x900, 0x980)]
    blocks += [(0x1E00, 0x2070), (0x2190, 0x2800), (0x3000, 0x3100), (0x4E00, 0x5000), (0xFE00, 0x10000)]
    blocks += [(0x1F300, 0x1FA00), (0xE0000, 0xE0080), (0x09, 0x20)]
    drawn = ["".join(chr(rng.randrange(*rng.choice(blocks))) for _ in range(rng.randint(1, 30))) for _ in range(400)]
    return [*ODD_STRINGS, " ".join(ODD_STRINGS), *drawn]


@pytest.mark.parametrize("source", ["merges", "folder"])
def test_token_ids_are_those_of_the_reference(source: str, ours: Callable[[str], Pipeline]) -> None:
    reference = clip_tokenizer()
    tokenizer = our_tokenizer.clip_tokenizer(CLIP_MERGES) if source == "merges" else ours("sd1").tokenizers[0]
    for text in odd_strings():
        theirs = reference(text, add_special_tokens=False).input_ids
        assert ids_of(tokenizer, text) == theirs, repr(text)


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """Brackets, which for us weigh words, are escaped."""
    prompt = tokenizer.tokenize(re.sub(r"([\\()\[\]])", r"\\\1", text))
    return [token.id for chunk in prompt.chunks for token in chunk]


@pytest.mark.parametrize(("kind", "tower"), [("sd1", 0), ("sd2", 0), ("sdxl", 0), ("sdxl", 1)])
def test_prompts_are_filled_up_as_by_the_reference(
    kind: str, tower: int, tiny_model: GetModel, ours: Callable[[str], Pipeline]
) -> None:
    tokenizer = ours(kind).tokenizers[tower]
    reference = getattr(tiny_model(kind).reference, "tokenizer_2" if tower else "tokenizer")
    for text in ("", PROMPT, "word " * 74, "word " * 75):
        theirs = reference(text, padding="max_length", truncation=True, return_tensors="pt").input_ids
        assert torch.equal(tokenizer.to_tensors(tokenizer.tokenize(text))[0], theirs)
