"""torch.compile for the U-Net: the same picture, what it costs is told, and what cannot go with it is refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import ImageChops
from torch._inductor.exc import InductorError
from toy import draw, toy_pipeline

from stablediff import DeviceError, Pipeline, RequestError, generate, load
from stablediff.insight.recorder import Recorder
from stablediff.models import compiled
from stablediff.models.compiled import can_compile, check_compiler, compile_unet
from stablediff.pace.estimate import Arrival
from stablediff.pace.speed import Speed
from stablediff.request import Request

CPU = torch.device("cpu")
WISHES: dict[str, Any] = {"prompt": "fox", "seed": 1, "num_steps": 4}


def small() -> Pipeline:
    return toy_pipeline(channels=(8,), transformer_depth=(1,), num_heads=(2,), norm_groups=4)


@pytest.mark.skipif(not can_compile(CPU), reason="no C++ compiler here")
def test_a_compiled_unet_draws_the_same_picture():
    plain, quick = small(), small()
    compile_unet(quick.unet, CPU)
    assert " · compiled · " in quick.describe()
    first = draw(quick, **WISHES)
    assert len(first.notes) == 1
    assert first.notes[0].startswith("compiling for this size took about ")
    for wishes in (WISHES, {**WISHES, "prompt": "cat"}, {**WISHES, "cache_interval": 2}):
        result = draw(quick, **wishes)
        assert result.notes == (), "another prompt is not compiled anew"
        difference = ImageChops.difference(result.images[0], draw(plain, **wishes).images[0])
        assert max(high for _, high in difference.getextrema()) <= 1


def test_its_times_are_its_own():
    pipeline = small()
    before = Speed(pipeline).about
    pipeline.unet.compiled = True
    assert Speed(pipeline).about != before


@pytest.mark.parametrize(
    ("steps", "remarks"),
    [
        ([61.0, 1.0, 1.2, 0.9], ["compiling for this size took about 60 s, once: a step takes 1 s now"]),
        ([1.0, 1.0], []),
        ([61.0], []),
        ([], []),
    ],
)
def test_what_compiling_cost_is_told_where_it_is_known(steps: list[float], remarks: list[str]):
    assert Arrival(steps=steps).remarks_on_compiling() == remarks


def test_what_changes_compiled_layers_is_refused():
    pipeline = small()
    pipeline.unet.compiled = True
    with pytest.raises(RequestError, match="merged_tokens changes layers that are compiled: leave it away, or load"):
        draw(pipeline, **WISHES, merged_tokens=0.5)
    with pytest.raises(RequestError, match="nobody can look into a compiled U-Net: load the model without compiled"):
        list(generate(pipeline, Request(**WISHES), observer=Recorder(pipeline, 4.0)))


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(DeviceError, match=r"needs a C\+\+ compiler, and there is none: install g\+\+ or clang"):
        load(compiled=True)
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(DeviceError, match="needs Triton on a GPU"):
        check_compiler(torch.device("cuda"))
    with pytest.raises(DeviceError, match="gains nothing on an Apple GPU"):
        check_compiler(torch.device("mps"))
    assert not can_compile(CPU)


@pytest.mark.skipif(not can_compile(CPU), reason="no C++ compiler here")
def test_loading_compiles_nothing_yet(tiny_model: Any):
    folder: Path = tiny_model("sd1").folder
    pipeline = load(folder, compiled=True)
    assert pipeline.unet.compiled
    assert not load(folder).unet.compiled


def test_a_compiler_that_fails_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch):
    def fail(_half: Any, **_: Any) -> Any:
        def half(*_arguments: Any, **_options: Any) -> None:
            raise InductorError(RuntimeError("g++ is broken"), None)

        return half

    pipeline = small()
    monkeypatch.setattr(torch, "compile", fail)
    monkeypatch.setattr(compiled, "check_compiler", lambda _device: None)
    compile_unet(pipeline.unet, CPU)
    with pytest.raises(DeviceError, match=r"torch.compile failed \(.*g\+\+ is broken.*\): mend the compiler, or leave"):
        draw(pipeline, **WISHES)
