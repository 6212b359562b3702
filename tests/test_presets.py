"""The presets: how much work a picture is worth, by the kind of model and by what its pipeline can."""

import math
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image
from toy import draw

from stablediff import Pipeline, Request, RequestError
from stablediff.config import SD1, SD2, SDXL, Defaults, ModelConfig, ScheduleConfig
from stablediff.pace.presets import family, preset, preset_for


def distilled(**defaults: Any) -> ModelConfig:
    return replace(SD1, defaults=Defaults(num_steps=4, **defaults))


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (SD1, "diffusion"),
        (SD2, "diffusion"),
        (SDXL, "diffusion"),
        (distilled(sampler="lcm", guidance_scale=8.0), "lcm"),
        (distilled(sampler="euler_ancestral", guidance_scale=1.0), "turbo"),
        (ModelConfig(kind="custom", defaults=Defaults(num_steps=25, guidance_scale=4.0, sampler="ddim")), "custom"),
    ],
)
def test_presets_rise_from_draft_to_best(config: ModelConfig, name: str):
    assert family(config) == name
    draft, balanced, best = (preset(quality, config) for quality in ("draft", "balanced", "best"))
    assert draft.num_steps < balanced.num_steps < best.num_steps
    assert balanced.num_steps == config.defaults.num_steps


@pytest.mark.parametrize("schedule", [ScheduleConfig(rescale_zero_snr=True), ScheduleConfig(beta_schedule="linear")])
def test_schedules_that_the_tables_were_not_made_for_keep_their_own_levels(schedule: ScheduleConfig):
    assert preset("draft", replace(SD1, schedule=schedule)).spacing is None


def test_a_quality_sets_what_was_left_open(toy: Pipeline, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stablediff.pace.presets.has_matrix_unit", lambda: False)
    draft = draw(toy, quality="draft")
    assert (draft.request.num_steps, draft.request.spacing, draft.request.quality) == (8, "align_your_steps", None)
    assert draft.request.guidance_interval == (0.5, math.inf)
    everywhere = draw(toy, quality="draft", guidance_interval=(0.0, math.inf))
    assert everywhere.request.guidance_interval == (0.0, math.inf)
    plain = draw(toy, num_steps=8, sampler="dpmpp_2m", spacing="align_your_steps", seed=everywhere.request.seed)
    assert everywhere.images[0].tobytes() == plain.images[0].tobytes()
    assert draw(toy, quality="balanced").request.num_steps == 3
    mixed = draw(toy, quality="draft", num_steps=2, sampler="euler")
    assert (mixed.request.num_steps, mixed.request.sampler, mixed.request.spacing) == (2, "euler", "linspace")
    with pytest.raises(RequestError, match="quality 'great' is not known: choose one of draft, balanced, best"):
        Request(quality="great")


def test_guidance_ends_early_only_where_half_the_rows_cost_half(toy: Pipeline, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stablediff.pace.presets.has_matrix_unit", lambda: False)
    start = Image.new("RGB", (64, 64))
    assert preset_for("draft", toy).guidance_interval == (0.5, math.inf)
    assert draw(toy, quality="draft", init_image=start).request.guidance_interval is None
    monkeypatch.setattr("stablediff.pace.presets.has_matrix_unit", lambda: True)
    assert preset_for("draft", toy) == replace(preset("draft", toy.config), guidance_interval=None)
    monkeypatch.setattr("stablediff.pace.presets.has_matrix_unit", lambda: False)
    toy.unet.compiled = True
    assert preset_for("draft", toy).guidance_interval is None
