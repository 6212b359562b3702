"""What an observer sees of a run is true, and its looking changes nothing."""

import gc
import io
import itertools
from pathlib import Path

import pytest
import torch
from PIL import Image
from toy import toy_pipeline

import stablediff
from stablediff import Pipeline, Request, Result, generate
from stablediff.diffusion.samplers import SAMPLERS
from stablediff.insight.attention import AttentionMaps, overlay, probabilities, to_maps, words_of
from stablediff.insight.explain import equations, schedule_plot, sources_of
from stablediff.insight.film import animate, chosen, letters
from stablediff.insight.recorder import Recorder
from stablediff.models.attention import attend
from stablediff.models.layers import Attention


def record(pipeline: Pipeline, **wishes: object) -> tuple[Recorder, Result]:
    recorder = Recorder(pipeline, guidance_scale=7.5)
    *_, result = generate(pipeline, Request(**wishes), observer=recorder)  # type: ignore[arg-type]
    assert isinstance(result, Result)
    return recorder, result


def test_who_looks_on_holds_no_model_back() -> None:
    pipeline = toy_pipeline()
    recorder, _ = record(pipeline, prompt="cat", num_steps=2)
    assert recorder.pipeline is pipeline
    del pipeline
    gc.collect()
    assert recorder.pipeline is None
    assert len(recorder.record.moments) == 2


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_looking_on_changes_nothing_and_every_step_is_told(sampler: str) -> None:
    pipeline = toy_pipeline()
    wishes = {"prompt": "a red cat", "sampler": sampler, "num_steps": 4, "seed": 3, "width": 64, "height": 72}
    recorder, result = record(pipeline, **wishes)
    *_, plain = generate(pipeline, Request(**wishes))  # type: ignore[arg-type]
    assert isinstance(plain, Result)
    assert result.images[0].tobytes() == plain.images[0].tobytes()
    assert [moment.index for moment in recorder.record.moments] == [0, 1, 2, 3]
    for moment, (sigma, after) in zip(recorder.record.moments, itertools.pairwise(recorder.record.sigmas), strict=True):
        assert (moment.sigma, moment.sigma_next) == (sigma, after)
        assert moment.delta == pytest.approx(6.5 * moment.difference)
        assert moment.eps > 0
        assert moment.seen.size == moment.believed.size == (8, 9)
        assert equations(sampler, recorder.record.sigmas, moment.index)
    assert not any(module._forward_pre_hooks for module in pipeline.unet.modules())


def test_numbers_of_a_deterministic_step_are_those_of_the_move() -> None:
    assert equations("euler", [10.0, 4.0, 0.0], 0) == ["x' = D + (σ'/σ)·(x - D) = D + 0.4000·(x - D)"]
    assert equations("dpmpp_2m", [8.0, 4.0, 2.0, 0.0], 1)[0].startswith("T = D + r·(D - D₋₁) = D + 0.5000·(D - D₋₁)")
    assert equations("ddpm", [5.0, 3.0, 0.0], 0)[0].startswith("σ_down = √(σ'² - σ_up²) = 1.8000")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_code_that_is_shown_is_the_one_that_runs(sampler: str) -> None:
    sources = sources_of(sampler)
    for source in sources:
        lines = (Path(stablediff.__file__).parent.parent / source.file).read_text().splitlines()
        assert lines[source.line - 1 : source.last] == source.code.splitlines()
        assert source.marked
        assert all(source.line < number <= source.last for number in source.marked)
    assert ("move" in {source.code[4:8] for source in sources}) == (sampler != "lcm")


def test_attention_is_what_the_layer_uses() -> None:
    layer = Attention(8, 2, context_dim=6)
    x, context = torch.randn(1, 12, 8), torch.randn(1, 5, 6)
    weights = probabilities(layer, x, context)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(12))
    one_head = Attention(8, 1, context_dim=6)
    expected = attend(one_head.to_q(x), one_head.to_k(context), one_head.to_v(context), 1)
    torch.testing.assert_close((probabilities(one_head, x, context) @ one_head.to_v(context)[0])[None], expected)
    assert to_maps(weights, 6, 8).shape == (5, 6, 8)  # 3x4 cells, one level down
    with pytest.raises(ValueError, match="no level"):
        to_maps(weights, 7, 7)


def test_every_word_has_a_map_of_its_own() -> None:
    pipeline = toy_pipeline()
    prompt = "a (red:1.3) étoile"
    recorder, result = record(pipeline, prompt=prompt, num_steps=2, seed=0)
    words = words_of(pipeline.tokenizers[0], prompt)
    assert [word.text for word in words] == ["a", "red", "étoile"]
    places = [place for word in words for place in word.places]
    assert places == list(range(1, len(places) + 1))
    maps = [recorder.record.attention.of(word) for word in words]
    for heat in maps:
        assert heat.shape == (8, 8)
        assert (heat.min(), heat.max()) == (0, 1)
    assert not torch.equal(maps[0], maps[1])
    assert overlay(result.images[0], maps[0]).size == result.images[0].size


def test_words_beyond_the_first_chunk_are_found() -> None:
    pipeline = toy_pipeline()
    words = words_of(pipeline.tokenizers[0], "cat " * 80)
    assert words[75].places == (78,)  # 77 of the first chunk, and the second one's start
    recorder, _ = record(pipeline, prompt="cat " * 80, num_steps=1)
    assert recorder.record.attention.of(words[-1]).shape == (8, 8)


def test_stopping_leaves_no_hook_behind() -> None:
    pipeline = toy_pipeline()
    recorder = Recorder(pipeline, 7.5)
    run = generate(pipeline, Request(prompt="cat", num_steps=5), observer=recorder)
    for _ in range(4):
        next(run)
    run.close()  # type: ignore[attr-defined]
    assert not any(module._forward_pre_hooks for module in pipeline.unet.modules())
    assert AttentionMaps().total is None


def test_the_plot_marks_the_step() -> None:
    plot = schedule_plot([10.0, 1.0, 0.0], 1, "levels")
    assert plot.count("<circle") == 3
    assert plot.count('r="5"') == 1
    assert "σ = 1" in plot


def test_the_film_is_an_animation_of_every_step_and_ends_with_the_picture() -> None:
    recorder, result = record(toy_pipeline(), prompt="cat", num_steps=3, width=64, height=72, seed=0)
    film = Image.open(io.BytesIO(animate(recorder.record.moments, result.images[0], side=144)))
    assert (film.format, film.n_frames, film.width) == ("GIF", 4, 2 * 128 + 3 * 8)  # type: ignore[attr-defined]
    film.seek(3)
    assert film.info["duration"] == 2500
    recorder, _ = record(toy_pipeline(), prompt="cat", num_steps=50, seed=0)
    indices = [moment.index for moment in chosen(recorder.record.moments, 12)]
    assert (indices[0], indices[-1], len(set(indices))) == (0, 49, 12)


def test_the_letters_are_there_in_both_languages() -> None:
    font = letters(20)
    unknown = bytes(font.getmask("\uffff"))
    for letter in "Aσжёя×…":
        assert bytes(font.getmask(letter)) != unknown
