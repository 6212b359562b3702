"""Parts that take turns on a GPU: who is there, and when. Played through on the CPU, where moving costs nothing."""

from typing import Any

import pytest
import torch
from PIL import ImageChops
from torch import nn
from toy import draw, toy_pipeline

from stablediff import DeviceError, OutOfMemoryError, Pipeline, Request, generate, load, pipeline
from stablediff.insight.recorder import Recorder
from stablediff.models.offload import Turns
from stablediff.pace.estimate import memory_for
from stablediff.pace.plan import make_plan
from stablediff.pace.speed import Speed

WISHES: dict[str, Any] = {"prompt": "fox", "negative_prompt": "cat", "seed": 1, "num_steps": 2, "num_images": 2}


class Watched(Turns):
    """Writes down who is brought, and lets nobody work who is not there."""

    def __init__(self, parts: dict[str, nn.Module]) -> None:
        super().__init__(torch.device("cpu"))
        self.log: list[str] = []
        self.names = {part: name for name, part in parts.items()}
        for part in parts.values():
            for layer in part.modules():
                layer.register_forward_pre_hook(lambda _layer, _inputs, part=part: self.check(part))

    def bring(self, part: nn.Module) -> None:
        if part is not self.present:
            self.log.append(self.names[part])
        super().bring(part)

    def check(self, part: nn.Module) -> None:
        there = self.names.get(self.present) if self.present is not None else None
        assert there == self.names[part], f"{self.names[part]} works while {there} is on the device"


def offloaded() -> tuple[Pipeline, Watched]:
    toy = toy_pipeline()
    turns = Watched({"text": toy.text_encoders[0], "unet": toy.unet, "vae": toy.vae})
    toy.turns = turns
    return toy, turns


def test_one_part_at_a_time_is_on_the_device_and_the_picture_is_the_same():
    toy, turns = offloaded()
    result = draw(toy, **WISHES)
    assert turns.log == ["text", "unet", "vae"], "both pictures fit into a batch"
    plain = draw(toy_pipeline(), **WISHES)
    for one, other in zip(result.images, plain.images, strict=True):
        assert ImageChops.difference(one, other).getbbox() is None


def test_pictures_to_start_from_previews_and_what_looks_on_take_their_turns_too():
    toy, turns = offloaded()
    picture = draw(toy_pipeline(), prompt="fox", seed=1).images[0]
    draw(toy, prompt="fox", init_image=picture, mask_image=picture.convert("L"), preview_every=1, num_steps=3)
    assert turns.log == ["text", "vae", "unet", "vae"]
    list(generate(toy, Request("fox", num_steps=2), observer=Recorder(toy, 4.0)))
    assert turns.log[-3:] == ["text", "unet", "vae"]


def test_measuring_its_speed_takes_turns():
    toy, turns = offloaded()
    result = draw(toy, prompt="fox", time_budget_s=20)
    assert result.images
    assert set(turns.log) == {"text", "unet", "vae"}
    assert Speed(toy).times


def test_who_is_there_is_not_moved_and_the_one_before_leaves():
    moves: list[tuple[str, str]] = []

    class Part(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def to(self, device: Any) -> "Part":  # type: ignore[override]
            moves.append((self.name, str(device)))
            return self

    turns, one, other = Turns(torch.device("cuda")), Part("one"), Part("other")
    for part in (one, one, other, one):
        turns.bring(part)
    assert moves == [("one", "cuda"), ("one", "cpu"), ("other", "cuda"), ("other", "cpu"), ("one", "cuda")]


def test_a_part_that_does_not_fit_leaves_nothing_behind():
    moves: list[str] = []

    class Part(nn.Module):
        def to(self, device: Any) -> "Part":  # type: ignore[override]
            moves.append(str(device))
            if str(device) == "cuda":
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self

    turns = Turns(torch.device("cuda"))
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            turns.bring(Part())
    assert moves == ["cuda", "cpu", "cuda", "cpu"]
    assert turns.present is None


def test_the_estimate_counts_the_largest_part_only():
    toy, _ = offloaded()
    plan = make_plan(Request("fox", seed=1).resolve(toy.config.defaults), toy)
    with_turns = memory_for(plan, toy)
    toy.turns = None
    assert with_turns < memory_for(plan, toy)


def test_where_it_makes_no_sense_it_is_refused():
    with pytest.raises(DeviceError, match="offload is for a GPU with a memory of its own, and this is none: leave"):
        load(device="cpu", offload=True)


def test_a_gpu_that_is_too_small_is_told_of_it(monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(pipeline, "load_parts", full)
    with pytest.raises(OutOfMemoryError, match=r"sticker does not fit into the memory of cpu: load it with offload"):
        load(device="cpu")
