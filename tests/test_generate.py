"""The function behind every front end: what it promises to them, on the bundled model and on toys."""

import math
import threading
from contextlib import ExitStack
from importlib import import_module
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops, ImageDraw
from torch import nn
from toy import count_calls, draw, events, no_memory, spoil, toy_pipeline

from stablediff import NumericalError, OutOfMemoryError, Pipeline, Request, RequestError, Result, Update, generate
from stablediff.diffusion.samplers import SAMPLERS
from stablediff.diffusion.spacing import SPACINGS
from stablediff.images import over_white
from stablediff.recipe import to_request

APPLE: dict[str, Any] = {"prompt": "red apple, flat style", "num_steps": 2, "width": 96, "height": 64}
GENERATE = import_module("stablediff.generate")  # the package has a function of this name


@pytest.fixture
def toy() -> Pipeline:
    return toy_pipeline()


@pytest.fixture
def apple(sticker: Pipeline) -> Image.Image:
    return draw(sticker, **APPLE, seed=5).images[0]


def difference(one: Image.Image, other: Image.Image) -> int:
    """The largest of all pixels, as they look over white, in steps of 1/255."""
    return max(high for _, high in ImageChops.difference(over_white(one), over_white(other)).getextrema())


def mean_difference(one: Image.Image, other: Image.Image) -> float:
    histogram = ImageChops.difference(over_white(one), over_white(other)).convert("L").histogram()
    return sum(value * count for value, count in enumerate(histogram)) / sum(histogram)


def is_picture(image: Image.Image) -> bool:
    """Not of one colour, as pictures are whose numbers were not finite."""
    return any(low < high for low, high in over_white(image).getextrema())


# --- seeds -----------------------------------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_picture_again(sticker: Pipeline):
    first, second, other = (draw(sticker, **APPLE, seed=seed).images[0] for seed in (5, 5, 6))
    assert first.tobytes() == second.tobytes()
    assert is_picture(first)
    assert mean_difference(first, other) > 1


@pytest.mark.parametrize(
    ("pipeline", "sampler"),
    [("sticker", "euler_ancestral"), *(("toy", name) for name, sampler in SAMPLERS.items() if sampler.stochastic)],
)
def test_a_picture_does_not_depend_on_its_batch(pipeline: str, sampler: str, request: pytest.FixtureRequest):
    """Neither on its size nor on its place in it, and least of all where samplers draw fresh noise."""
    drawer, wishes = request.getfixturevalue(pipeline), {**APPLE, "sampler": sampler}
    batch = draw(drawer, **wishes, seed=10, num_images=3)
    assert batch.seeds == (10, 11, 12)
    for seed in (12, 10, 11):
        alone = draw(drawer, **wishes, seed=seed).images[0]
        assert difference(alone, batch.images[seed - 10]) <= 1
    shifted = draw(drawer, **wishes, seed=11, num_images=2)
    assert difference(shifted.images[0], batch.images[1]) <= 1


def test_a_picture_does_not_depend_on_how_many_fit_at_once(sticker: Pipeline, monkeypatch: pytest.MonkeyPatch):
    together = draw(sticker, **APPLE, seed=1, num_images=3)
    monkeypatch.setattr(GENERATE, "_CELLS_AT_ONCE", {"cpu": 12})  # two at a time
    with count_calls(sticker.unet) as calls:
        updates, apart = events(sticker, **APPLE, seed=1, num_images=3)
    assert calls == [4, 4, 2, 2], "with guidance, every picture counts twice"
    assert [u.step for u in updates if u.stage == "denoise"] == [1, 2, 3, 4]
    assert all(difference(a, b) <= 1 for a, b in zip(together.images, apart.images, strict=True))
    assert [len(u.images) for u in updates] == [0] * 5 + [2] * 3, "finished pictures are shown while others are drawn"


def test_seeds_left_to_chance_are_told(toy: Pipeline):
    one, other = draw(toy), draw(toy)
    assert one.seeds == (one.request.seed,)
    assert one.seeds != other.seeds
    assert draw(toy, seed=one.seeds[0]).images[0].tobytes() == one.images[0].tobytes()


def test_the_largest_seed_works(toy: Pipeline):
    result = draw(toy, seed=2**63 - 2, num_images=2)
    assert to_request(result.parameters(1)).seed == 2**63 - 1


def test_global_randomness_is_left_alone(sticker: Pipeline):
    """Nor does it change the picture."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = draw(sticker, **APPLE, seed=5, sampler="euler_ancestral", preview_every=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert draw(sticker, **APPLE, seed=5, sampler="euler_ancestral").images[0].tobytes() == first.images[0].tobytes()


# --- progress --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_and_reports_every_step(sticker: Pipeline, sampler: str):
    updates, result = events(sticker, **{**APPLE, "num_steps": 4, "width": 64, "height": 64}, sampler=sampler, seed=1)
    steps = [update for update in updates if update.stage == "denoise"]
    assert [update.step for update in steps] == [1, 2, 3, 4]
    assert {update.total for update in updates} == {4}
    sigmas = [update.sigma for update in steps]
    assert sigmas == sorted(sigmas, reverse=True)
    assert all(math.isfinite(sigma) for sigma in sigmas)
    assert steps[-1].seconds_left == 0
    assert all(update.seconds_left > 0 for update in steps[:-1])
    assert [update.stage for update in updates] == ["encode", "encode", *["denoise"] * 4, "decode"]
    assert is_picture(result.images[0])
    assert result.images[0].size == (64, 64)
    assert result.request.sampler == sampler
    assert not result.notes


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("num_steps", [1, 3])
def test_every_spacing_draws(toy: Pipeline, spacing: str, num_steps: int):
    with count_calls(toy.unet) as calls:
        result = draw(toy, spacing=spacing, num_steps=num_steps, seed=1)
    assert len(calls) == num_steps
    assert is_picture(result.images[0])
    assert result.request.spacing == spacing


def test_a_spacing_that_the_model_cannot_do_is_refused_with_another(sticker: Pipeline):
    with pytest.raises(RequestError, match="choose karras or trailing"):
        draw(sticker, **APPLE, spacing="align_your_steps")
    with pytest.raises(RequestError, match="choose fewer steps"):
        draw(sticker, **{**APPLE, "num_steps": 60}, spacing="lcm")


def test_a_model_that_takes_other_channels_is_refused():
    with pytest.raises(RequestError, match=r"takes 8 channels .* choose a text-to-image or inpainting model"):
        draw(toy_pipeline(in_channels=8))


def test_previews_have_a_pixel_a_latent_cell(sticker: Pipeline):
    wishes = {**APPLE, "num_steps": 3, "width": 200, "height": 264, "num_images": 2, "seed": 3}
    updates, result = events(sticker, **wishes, preview_every=2)
    steps = [update for update in updates if update.stage == "denoise"]
    assert [len(update.previews) for update in steps] == [0, 2, 0]
    assert {preview.size for preview in steps[1].previews} == {(7, 9)}, "a cell is 32 pixels wide here"
    plain = draw(sticker, **wishes)
    assert [a.tobytes() for a in plain.images] == [b.tobytes() for b in result.images], "previews change nothing"


def test_previews_look_like_their_pictures(sticker: Pipeline):
    previews, pictures = [], []
    for prompt in ("red apple", "blue car"):
        updates, result = events(sticker, prompt=prompt, num_steps=4, width=128, height=128, preview_every=4, seed=3)
        previews += [preview for update in updates for preview in update.previews]
        pictures.append(over_white(result.images[0]).resize((4, 4), Image.Resampling.BOX))
    for mine, other in ((0, 1), (1, 0)):
        assert 2 * mean_difference(previews[mine], pictures[mine]) < mean_difference(previews[mine], pictures[other])


def test_times_are_taken_of_every_stage(sticker: Pipeline):
    result = draw(sticker, **APPLE)
    stages = {name: seconds for name, seconds in result.seconds.items() if name != "total"}
    assert stages.keys() == {"encode", "denoise", "decode"}
    assert all(seconds > 0 for seconds in stages.values())
    assert sum(stages.values()) <= result.seconds["total"] < 30


def test_the_result_tells_how_to_draw_it_again(sticker: Pipeline):
    result = draw(sticker, **APPLE, num_images=2, seed=7)
    assert (result.model, result.stopped) == ("sticker", False)
    assert None not in (result.request.guidance_scale, result.request.sampler, result.request.spacing)
    again = to_request(result.parameters(1))
    assert again.seed == 8
    assert difference(draw(sticker, **vars(again)).images[0], result.images[1]) <= 1


# --- guidance and prompts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("guidance", "rows"), [(0, 1), (0.5, 1), (1, 1), (1.01, 2), (7.5, 2)])
def test_without_guidance_the_empty_prompt_is_never_run(toy: Pipeline, guidance: float, rows: int):
    with count_calls(toy.unet) as calls:
        draw(toy, guidance_scale=guidance, num_steps=2)
    assert calls == [rows, rows]


def test_guidance_can_be_kept_to_an_interval(toy: Pipeline):
    with count_calls(toy.unet) as calls:
        updates, _ = events(toy, guidance_interval=(0.5, 5.0), num_steps=10, spacing="karras")
    visited = [14.6, *(update.sigma for update in updates if update.sigma is not None)]
    assert calls == [2 if 0.5 < sigma <= 5 else 1 for sigma in visited[:-1]]
    assert set(calls) == {1, 2}


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "blue car"},
        {"negative_prompt": "blue"},
        {"guidance_scale": 2.0},
        {"guidance_rescale": 1.0},
        {"guidance_interval": (0.0, 1.0)},
        {"num_steps": 4},
        {"sampler": "heun"},
        {"spacing": "karras"},
        {"sampler": "ddim", "eta": 1.0},
        {"prompt": "red (apple:1.6), flat style"},
    ],
    ids=str,
)
def test_every_wish_changes_the_picture(sticker: Pipeline, apple: Image.Image, other: dict[str, Any]):
    assert difference(draw(sticker, **{**APPLE, **other}, seed=5).images[0], apple) > 2


@pytest.mark.parametrize("prompt", ["", "x" * 5000, "((((((" * 200, "🦔" * 500, "a, " * 1600, "\0\n\t", "[:-9e9:0)"])
def test_any_prompt_is_drawn(toy: Pipeline, prompt: str):
    result = draw(toy, prompt=prompt, num_steps=1, seed=1)
    assert is_picture(result.images[0])
    assert to_request(result.parameters(0)).prompt == prompt


# --- stopping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 4])
def test_should_stop_ends_the_work_within_a_step(toy: Pipeline, after: int):
    with count_calls(toy.unet) as calls:
        updates, result = events(toy, lambda: len(calls) >= after, num_steps=10, seed=1)
    assert len(calls) == after
    assert result.stopped
    assert result.images == result.seeds == ()
    assert len([update for update in updates if update.stage == "denoise"]) == after


def test_pictures_that_are_finished_survive_a_stop(toy: Pipeline, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(GENERATE, "_CELLS_AT_ONCE", {"cpu": 64})  # one at a time
    with count_calls(toy.unet) as calls:
        _, result = events(toy, lambda: len(calls) >= 8, num_steps=3, num_images=5, seed=20)
    assert len(calls) == 8, "two pictures, and two steps of the third"
    assert result.stopped
    assert result.seeds == (20, 21)
    assert result.images[1].tobytes() == draw(toy, num_steps=3, seed=21).images[0].tobytes()


@pytest.mark.parametrize("after", [0, 1, 4])
def test_closing_ends_the_work_at_once(toy: Pipeline, after: int):
    with count_calls(toy.unet) as calls:
        work = generate(toy, Request(num_steps=10, seed=1))
        for update in work:
            if update.step == after:
                break
        work.close()
    assert len(calls) == after
    assert next(work, None) is None
    assert is_picture(draw(toy, num_steps=1).images[0])


def test_an_error_of_the_consumer_leaves_the_model_usable(toy: Pipeline):
    work = generate(toy, Request(num_steps=10, seed=1))
    next(work)
    with pytest.raises(ZeroDivisionError):
        work.throw(ZeroDivisionError)
    assert is_picture(draw(toy, num_steps=1).images[0])


def test_nothing_is_computed_before_the_first_event_is_asked_for(toy: Pipeline):
    with count_calls(toy.text_encoders[0]) as calls:
        work = generate(toy, Request())
        assert calls == []
        assert next(work) == Update("encode", 0, 3)
        assert calls == []


def test_inference_mode_does_not_leak_to_the_consumer(toy: Pipeline):
    image = Image.new("RGB", (64, 64))
    for _event in generate(toy, Request(init_image=image, mask_image=image, preview_every=1)):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()
        weight = torch.ones(1, requires_grad=True)
        (weight * 2).backward()


def test_two_requests_at_once_do_not_disturb_each_other(toy: Pipeline):
    """Front ends may interleave them, or run them in threads."""
    expected = [draw(toy, num_steps=3, seed=seed).images[0].tobytes() for seed in (1, 2)]
    pair = [generate(toy, Request(num_steps=3, seed=seed)) for seed in (1, 2)]
    *_, last = zip(*pair, strict=True)
    assert [result.images[0].tobytes() for result in last] == expected

    found: dict[int, bytes] = {}
    threads = [
        threading.Thread(target=lambda s=seed: found.update({s: draw(toy, num_steps=3, seed=s).images[0].tobytes()}))
        for seed in (1, 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[1], found[2]] == expected


# --- sizes, and pictures to start from -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(200, 264), (64, 64), (72, 128), (328, 64)], ids=str)
def test_pictures_come_in_the_exact_size(sticker: Pipeline, size: tuple[int, int]):
    """Also where a latent cell, 32 pixels wide, does not divide it."""
    image = draw(sticker, **{**APPLE, "width": size[0], "height": size[1]}, seed=1).images[0]
    assert image.size == size
    assert is_picture(image)


@pytest.fixture(scope="module")
def landscape() -> Image.Image:
    image = Image.new("RGB", (128, 128), "skyblue")
    painter = ImageDraw.Draw(image)
    painter.rectangle((0, 80, 128, 128), "green")
    painter.ellipse((80, 16, 112, 48), "yellow")
    return image


def test_little_strength_keeps_the_picture(sticker: Pipeline, landscape: Image.Image):
    wishes = {"prompt": "red apple, flat style", "num_steps": 10, "seed": 1, "init_image": landscape}
    kept, changed = (draw(sticker, **wishes, strength=strength).images[0] for strength in (0.1, 1.0))
    assert kept.size == landscape.size, "it is as large as the picture to start from"
    assert mean_difference(kept, landscape) < 25, "of which the autoencoder alone makes 16"
    assert mean_difference(changed, landscape) > 60


@pytest.mark.parametrize(("strength", "steps"), [(1e-6, 1), (0.1, 1), (0.5, 5), (0.99, 9), (1.0, 10)])
def test_strength_is_the_share_of_steps(toy: Pipeline, strength: float, steps: int):
    with count_calls(toy.unet) as calls:
        updates, result = events(toy, num_steps=10, strength=strength, init_image=Image.new("RGB", (64, 64)))
    assert len(calls) == steps == updates[-1].total == updates[-1].step
    assert result.request.strength == strength


@pytest.mark.parametrize("size", [(64, 64), (100, 300), (1, 1), (2000, 30)])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_pictures_of_any_mode_and_size_can_be_the_start(toy: Pipeline, mode: str, size: tuple[int, int]):
    start, mask = Image.new(mode, size), Image.new("1", (30, 20), 1)
    result = draw(toy, init_image=start, mask_image=mask, num_steps=1, width=72, height=64)
    assert result.images[0].size == (72, 64)


@pytest.mark.parametrize("size", [(128, 128), (200, 264)], ids=str)
def test_inpainting_leaves_the_rest_as_it_is(sticker: Pipeline, size: tuple[int, int]):
    width, height = size
    start = Image.radial_gradient("L").resize(size).convert("RGB")
    mask = Image.new("L", size)
    mask.paste(255, (width // 2, 0, width, height))
    wishes = {**APPLE, "width": width, "height": height, "init_image": start, "mask_image": mask, "strength": 1.0}
    image = draw(sticker, **wishes, seed=1).images[0]
    edge = 32  # soft
    kept, drawn = (0, 0, width // 2 - edge, height), (width // 2 + edge, 0, width, height)
    assert difference(image.crop(kept), start.crop(kept)) == 0
    assert mean_difference(image.crop(drawn), start.crop(drawn)) > 10


def test_a_mask_without_white_leaves_everything(sticker: Pipeline, landscape: Image.Image):
    wishes = {"num_steps": 2, "init_image": landscape, "mask_image": Image.new("L", landscape.size)}
    image = draw(sticker, **wishes).images[0]
    assert difference(image, landscape) == 0


@pytest.fixture
def inpainter() -> Pipeline:
    """Its U-Net takes four channels of noise, the mask, and four of the known picture."""
    return toy_pipeline(in_channels=9)


def test_an_inpainting_model_sees_the_mask_and_the_known_picture(inpainter: Pipeline):
    start, mask = Image.linear_gradient("L").resize((64, 64)).convert("RGB"), Image.new("L", (64, 64))
    mask.paste(255, (32, 0, 64, 64))
    seen = []
    inpainter.unet.register_forward_pre_hook(lambda _unet, inputs: seen.append(inputs[0]))
    image = draw(inpainter, init_image=start, mask_image=mask, strength=1.0, seed=1).images[0]
    assert difference(image.crop((0, 0, 16, 64)), start.crop((0, 0, 16, 64))) == 0
    assert {tuple(x.shape) for x in seen} == {(2, 9, 8, 8)}
    assert (seen[0][:, 4] == (torch.arange(8) >= 4)).all()
    assert all(torch.equal(x[:, 4:], seen[0][:, 4:]) for x in seen), "only the noise changes"


@pytest.mark.parametrize("start", [None, Image.new("RGB", (64, 64), "red")], ids=["text", "picture"])
def test_an_inpainting_model_draws_without_a_mask(inpainter: Pipeline, start: Image.Image | None):
    seen = []
    inpainter.unet.register_forward_pre_hook(lambda _unet, inputs: seen.append(inputs[0]))
    assert is_picture(draw(inpainter, init_image=start, num_images=2, seed=1).images[1])
    assert (seen[0][:, 4] == 1).all(), "everything is drawn anew"


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_pictures_of_a_request_are_never_changed(sticker: Pipeline, mode: str):
    start, mask = Image.effect_noise((128, 128), 50).convert(mode), Image.effect_noise((128, 128), 50)
    before = start.copy(), mask.copy(), start.mode, mask.mode
    result = draw(sticker, **APPLE, init_image=start, mask_image=mask)
    assert (start.tobytes(), mask.tobytes()) == (before[0].tobytes(), before[1].tobytes())
    assert (start.mode, mask.mode) == before[2:]
    assert result.request.init_image is start


# --- numbers that overflow -------------------------------------------------------------------------------------------


def stages(pipeline: Pipeline) -> dict[str, nn.Module]:
    return {
        "text": pipeline.text_encoders[0],
        "encode": pipeline.vae.encoder,
        "denoise": pipeline.unet,
        "decode": pipeline.vae.decoder,
    }


START = Image.effect_noise((64, 64), 50).convert("RGB")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("text", r"\(stage encode, in float32\)"),
        ("encode", r"\(stage encode, in float32\)"),
        ("denoise", r"\(stage denoise, step 2, in float32\)"),
        ("decode", r"\(stage decode, in float32\)"),
    ],
)
def test_overflow_in_float32_is_an_error_that_names_the_place(toy: Pipeline, part: str, message: str):
    with (
        spoil(stages(toy)[part], when=lambda call: call == 2 or part != "denoise"),
        pytest.raises(NumericalError, match=f"{message}: try less guidance") as caught,
    ):
        draw(toy, init_image=START, strength=1.0, num_steps=4)
    assert "\n" not in str(caught.value)
    assert is_picture(draw(toy, num_steps=1).images[0]), "the next request works"


@pytest.mark.parametrize("part", ["text", "encode", "denoise", "decode"])
def test_overflow_in_bfloat16_is_done_again_in_float32(part: str):
    pipeline = toy_pipeline(torch.bfloat16)
    module = stages(pipeline)[part]
    first_nan = 3 if part == "denoise" else 1
    wishes = {"init_image": START, "strength": 1.0, "num_steps": 4, "seed": 1}
    with spoil(module, when=lambda call: call >= first_nan, upto=torch.bfloat16):
        updates, result = events(pipeline, **wishes)
    place = "stage denoise, step 3" if part == "denoise" else f"stage {'encode' if part == 'text' else part}"
    assert result.notes == (f"bfloat16 overflowed ({place}), so that part was done again in float32",)
    assert is_picture(result.images[0])
    steps = [update.step for update in updates if update.stage == "denoise"]
    assert steps == ([1, 2, 1, 2, 3, 4] if part == "denoise" else [1, 2, 3, 4])
    assert updates[-1].total == 4

    # The next request does not fall into the same hole, and draws the same.
    with spoil(module, upto=torch.bfloat16):
        again = draw(pipeline, **wishes)
    assert again.notes == ()
    assert difference(again.images[0], result.images[0]) <= 1


def test_overflow_in_float16_goes_by_way_of_bfloat16():
    pipeline = toy_pipeline()
    pipeline.unet.half()
    with ExitStack() as spoilt:
        spoilt.enter_context(spoil(pipeline.unet, upto=torch.float16))
        spoilt.enter_context(spoil(pipeline.unet, upto=torch.bfloat16))
        result = draw(pipeline, num_steps=2)
    assert len(result.notes) == 2
    assert "done again in bfloat16" in result.notes[0]
    assert "done again in float32" in result.notes[1]


def test_overflow_in_the_autoencoder_does_not_spoil_previews(monkeypatch: pytest.MonkeyPatch):
    """Previews of unknown autoencoders are fitted by encoding pictures."""
    pipeline = toy_pipeline(torch.bfloat16)
    monkeypatch.setattr("stablediff.preview._KNOWN", {})
    object.__setattr__(pipeline.config, "kind", "custom")
    with spoil(pipeline.vae.encoder, upto=torch.bfloat16):
        updates, _ = events(pipeline, num_steps=2, preview_every=1)
    assert all(is_picture(preview) for update in updates for preview in update.previews)
    assert len([update for update in updates if update.previews]) == 2


# --- memory that runs out --------------------------------------------------------------------------------------------

SHORTAGES = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried 2 bytes"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 2 bytes."),
    RuntimeError("MPS backend out of memory (MPS allocated: 5 GB). Tried to allocate 2 GB on private pool."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", SHORTAGES, ids=lambda error: str(error)[:20] or "MemoryError")
def test_when_memory_is_short_fewer_pictures_are_drawn_at_once(toy: Pipeline, error: Exception):
    expected = draw(toy, num_images=4, seed=1)
    with no_memory(toy.unet, when=lambda x: len(x) > 2, error=error):
        updates, result = events(toy, num_images=4, seed=1)
    assert result.notes == ("memory was short: 2 picture(s) at a time", "memory was short: 1 picture(s) at a time")
    assert all(difference(a, b) <= 1 for a, b in zip(result.images, expected.images, strict=True))
    assert (updates[-1].step, updates[-1].total) == (12, 12)
    assert all(update.step <= update.total for update in updates)


def test_progress_is_right_when_memory_runs_out_on_the_way(toy: Pipeline, monkeypatch: pytest.MonkeyPatch):
    """After pictures that were finished in larger batches, and in the middle of one."""
    monkeypatch.setattr(GENERATE, "_CELLS_AT_ONCE", {"cpu": 128})  # two at a time
    with count_calls(toy.unet) as calls, no_memory(toy.unet, when=lambda x: len(x) > 2 and len(calls) >= 5):
        updates, result = events(toy, num_images=5, num_steps=3, seed=1)
    assert len(result.images) == 5
    steps = [(update.step, update.total) for update in updates if update.stage == "denoise"]
    before = [(step, 9) for step in (1, 2, 3, 4, 5)]  # three batches were planned, of 2, 2 and 1
    after = [(step, 12) for step in range(4, 13)]  # one of 2, and three of 1
    assert steps == before + after


def test_when_memory_is_short_a_large_picture_is_decoded_in_tiles(toy: Pipeline):
    wishes = {"width": 520, "height": 72, "num_steps": 1, "seed": 1}
    with count_calls(toy.vae.decoder) as calls, no_memory(toy.vae.decoder, when=lambda x: x.shape[-1] > 64):
        result = draw(toy, **wishes)
    assert len(calls) == 2, "two tiles"
    assert result.notes == ("the picture was decoded in tiles, because memory was short",)
    assert result.images[0].size == (520, 72)
    assert mean_difference(result.images[0], draw(toy, **wishes).images[0]) < 5


def test_memory_of_the_failed_attempt_is_free_before_the_next(toy: Pipeline):
    """An exception holds on to all that was computed on the way to it."""
    alive: list[int] = []

    class Ballast:
        count = 0

        def __init__(self) -> None:
            Ballast.count += 1

        def __del__(self) -> None:
            Ballast.count -= 1

    def fail_once(_module: nn.Module, _inputs: Any) -> None:
        alive.append(Ballast.count)
        if len(alive) == 1:
            ballast = Ballast()  # noqa: F841 (lives in this frame)
            raise MemoryError

    handle = toy.vae.decoder.register_forward_pre_hook(fail_once)
    draw(toy, num_steps=1)
    handle.remove()
    assert alive == [0, 0]


@pytest.mark.parametrize("part", ["text", "encode", "denoise", "decode"])
def test_when_nothing_helps_the_error_says_what_would(toy: Pipeline, part: str):
    with (
        no_memory(stages(toy)[part]),
        pytest.raises(OutOfMemoryError, match=r"64x64 does not fit into memory.*choose a smaller size"),
    ):
        draw(toy, init_image=START, num_images=3, num_steps=2)
    assert is_picture(draw(toy, num_steps=1).images[0]), "the next request works"


@pytest.mark.parametrize("part", ["text", "encode", "denoise", "decode"])
def test_other_errors_are_not_taken_for_a_lack_of_memory(toy: Pipeline, part: str):
    with no_memory(stages(toy)[part], error=RuntimeError("a bug")), pytest.raises(RuntimeError, match=r"^a bug$"):
        draw(toy, init_image=START, num_steps=2)


def test_what_was_finished_before_a_failure_is_handed_over(monkeypatch: pytest.MonkeyPatch):
    pipeline = toy_pipeline()
    monkeypatch.setattr(GENERATE, "_CELLS_AT_ONCE", {"cpu": 1})  # one picture at a time
    spoil_after = iter([False, False, True])
    decode = pipeline.vae.decode
    monkeypatch.setattr(pipeline.vae, "decode", lambda z: decode(z) * float("nan") if next(spoil_after) else decode(z))
    run = generate(pipeline, Request("a cat", num_steps=1, width=64, height=64, num_images=3, seed=5))
    results = []
    with pytest.raises(NumericalError):
        results.extend(event for event in run if isinstance(event, Result))
    (result,) = results
    assert (result.seeds, result.stopped) == ((5, 6), True)
