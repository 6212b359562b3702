"""What happens when numbers overflow or memory runs out."""

import sys
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from toy import (
    count_calls,
    difference,
    draw,
    events,
    is_picture,
    no_memory,
    spoil,
    toy_pipeline,
)

from stablediff import NumericalError, OutOfMemoryError, Pipeline, Request, Result, generate
from stablediff.fallback import Precisions
from stablediff.pace import plan

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
    wishes = {"num_steps": 4, "seed": 1}
    if part != "decode":  # after which START would be encoded in another precision than before
        wishes |= {"init_image": START, "strength": 1.0}
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
    with no_memory(toy.unet, when=lambda x: len(x) > 1, error=error):
        updates, result = events(toy, num_images=4, seed=1)
    assert result.notes == ("memory was short: 2 picture(s) at a time", "memory was short: 1 picture(s) at a time")
    assert all(difference(a, b) <= 1 for a, b in zip(result.images, expected.images, strict=True))
    assert (updates[-1].step, updates[-1].total) == (12, 12)
    assert all(update.step <= update.total for update in updates)


def test_progress_is_right_when_memory_runs_out_on_the_way(toy: Pipeline, monkeypatch: pytest.MonkeyPatch):
    """After pictures that were finished in larger batches, and in the middle of one."""
    monkeypatch.setattr(plan, "_CELLS_AT_ONCE", {"cpu": 128})  # two at a time
    with count_calls(toy.unet) as calls, no_memory(toy.unet, when=lambda x: len(x) > 1 and len(calls) >= 5):
        updates, result = events(toy, num_images=5, num_steps=3, seed=1)
    assert len(result.images) == 5
    steps = [(update.step, update.total) for update in updates if update.stage == "denoise"]
    before = [(step, 9) for step in (1, 2, 3, 4, 5)]  # three batches were planned, of 2, 2 and 1
    after = [(step, 12) for step in range(4, 13)]  # one of 2, and three of 1
    assert steps == before + after


def test_when_memory_is_short_a_picture_is_decoded_in_strips_and_is_the_same(toy: Pipeline):
    wishes = {"width": 520, "height": 72, "num_steps": 1, "seed": 1}
    with count_calls(toy.vae.decoder) as calls, no_memory(toy.vae.decoder):
        result = draw(toy, **wishes)
    assert calls == []
    assert result.notes == ()
    assert difference(result.images[0], draw(toy, **wishes).images[0]) <= 1


def test_large_pictures_are_decoded_in_strips_from_the_start(toy: Pipeline, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.modules["stablediff.generate"], "_LARGE", 64 * 64)
    with count_calls(toy.vae.decoder) as calls:
        large, _ = draw(toy, width=72, seed=1), draw(toy, width=64, seed=1)
    assert calls == [1], "the small one"
    monkeypatch.undo()
    assert difference(large.images[0], draw(toy, width=72, seed=1).images[0]) <= 1


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

    handle = toy.vae.decoder.conv_in.register_forward_pre_hook(fail_once)  # which decoding in strips calls as well
    draw(toy, num_steps=1)
    handle.remove()
    assert alive == [0, 0]


@pytest.mark.parametrize("part", ["text", "encode", "denoise", "decode"])
def test_when_nothing_helps_the_error_says_what_would(toy: Pipeline, part: str):
    with (
        no_memory(toy.vae.decoder.conv_in if part == "decode" else stages(toy)[part]),
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
    monkeypatch.setattr(plan, "_CELLS_AT_ONCE", {"cpu": 1})  # one picture at a time
    spoil_after = iter([False, False, True])
    decode = pipeline.vae.decode
    monkeypatch.setattr(pipeline.vae, "decode", lambda z: decode(z) * float("nan") if next(spoil_after) else decode(z))
    run = generate(pipeline, Request("a cat", num_steps=1, width=64, height=64, num_images=3, seed=5))
    results = []
    with pytest.raises(NumericalError):
        results.extend(event for event in run if isinstance(event, Result))
    (result,) = results
    assert (result.seeds, result.stopped) == ((5, 6), True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_nothing_helps_is_left_as_it_was(dtype: torch.dtype):
    part = torch.nn.Linear(64, 64).to(dtype)
    before = part.weight.clone()
    precisions = Precisions()
    for wider in (torch.bfloat16, torch.float32)[0 if dtype == torch.float16 else 1 :]:
        precisions.widen([part], "denoise", 1)
        assert part.weight.dtype == wider
    with pytest.raises(NumericalError):
        precisions.widen([part], "denoise", 1)
    assert part.weight.dtype == dtype
    assert torch.equal(part.weight, before)
