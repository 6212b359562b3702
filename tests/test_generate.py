"""The function behind every front end: what it promises to them, on the bundled model and on toys."""

import math
import threading
from typing import Any

import pytest
import torch
from PIL import Image
from toy import (
    APPLE,
    count_calls,
    difference,
    draw,
    events,
    is_picture,
    mean_difference,
    toy_pipeline,
)

from stablediff import Pipeline, Request, RequestError, Update, generate
from stablediff.diffusion.samplers import SAMPLERS
from stablediff.diffusion.spacing import SPACINGS
from stablediff.images import over_white
from stablediff.pace import plan
from stablediff.recipe import to_request

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
    monkeypatch.setattr(plan, "_CELLS_AT_ONCE", {"cpu": 12})  # two at a time
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
    updates, result = events(
        sticker,
        **{**APPLE, "num_steps": 4, "width": 256, "height": 256, "guidance_scale": 4.0},  # smaller, it draws little
        sampler=sampler,
        seed=1,
    )
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
    assert result.images[0].size == (256, 256)
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
    for prompt in ("red apple", "blue car"):  # at the size that the model has learnt: what is smaller is mush
        updates, result = events(sticker, prompt=prompt, num_steps=8, width=512, height=512, preview_every=8, seed=3)
        previews += [preview for update in updates for preview in update.previews]
        pictures.append(over_white(result.images[0]).resize((16, 16), Image.Resampling.BOX))
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
    monkeypatch.setattr(plan, "_CELLS_AT_ONCE", {"cpu": 64})  # one at a time
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
        first = next(work)
        assert isinstance(first, Update)
        assert (first.stage, first.step, first.total, first.seconds_left) == ("encode", 0, 3, None)
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
