"""Checkpoints that are pickles: never read unasked, and then only plain tensors; nothing in them is ever called."""

import functools
import operator
import os
import pickle
import shutil
import subprocess
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from refusal import refusal
from safetensors.torch import load_file, save_file
from tiny import TinyModel

from stablediff import load

GetModel = Callable[[str], TinyModel]


def test_pickle_needs_permission_and_then_gives_the_same_tensors(tiny_model: GetModel, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": load_file(tiny_model("sd2").file), "epoch": 3, "hyper": {"lr": 1e-4}}, path)
    message = refusal(path)
    assert "can run code" in message
    assert "--allow-pickle" in message
    allowed = load(path, device="cpu", dtype="float32", allow_pickle=True)
    reference = tiny_model("sd2").reference
    for part, theirs in ((allowed.unet, reference.unet), (allowed.text_encoders[0], reference.text_encoder)):
        tensors = theirs.state_dict()
        assert all(torch.equal(tensor, tensors[key]) for key, tensor in part.state_dict().items())
    allowed.save(tmp_path / "saved")  # though q, k and v lie in one tensor there
    saved = load_file(tmp_path / "saved" / "text_encoder" / "model.safetensors")
    for key, tensor in reference.text_encoder.state_dict().items():
        assert torch.equal(saved[f"text_model.{key}"], tensor)


def test_pickles_in_a_folder(copied: Path) -> None:
    weights = copied / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    assert "only pickles" in refusal(copied)
    load(copied, device="cpu", dtype="float32", allow_pickle=True)
    canary = copied / "canary"
    torch.save({"a": Call(open, str(canary), "w")}, weights.with_suffix(".bin"))
    assert "plain tensors" in refusal(copied, allow_pickle=True)
    assert not canary.exists()


class Call:
    """What a pickle can make of any object: when it is opened, `function` is called."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.args


def harmful_calls(canary: Path) -> dict[str, Call]:
    """Each makes the file `canary` if it is called."""
    code, command = f"open({str(canary)!r}, 'w').close()", f"touch {canary}"
    return {
        "open": Call(open, str(canary), "w"),
        "eval": Call(eval, code),
        "exec": Call(exec, code),
        "exec in a list": Call(list, Call(map, exec, [code])),
        "compiled": Call(exec, Call(compile, code, "harmless", "exec")),
        "system": Call(os.system, command),
        "popen": Call(os.popen, command),
        "mkdir": Call(os.mkdir, str(canary)),
        "Popen": Call(subprocess.Popen, command.split()),
        "run": Call(subprocess.run, command.split()),
        "check_output": Call(subprocess.check_output, command.split()),
        "copy": Call(shutil.copy, __file__, str(canary)),
        "touch": Call(Path.touch, canary),
        "method": Call(operator.methodcaller("touch"), canary),
        "timeit": Call(timeit.timeit, code, "pass", timeit.default_timer, 1),
        "inner pickle": Call(pickle.loads, pickle.dumps(Call(exec, code))),
        "torch.save": Call(torch.save, 1, str(canary)),
        "save_file": Call(save_file, {}, str(canary)),
        "partial": Call(functools.partial(exec, code)),
        "reduce": Call(functools.reduce, exec, [code, {}]),
    }


@pytest.mark.parametrize("what", harmful_calls(Path("canary")))
def test_harmful_pickles_never_run(what: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    harm = harmful_calls(canary)[what]
    tensor = torch.zeros(2)
    contents = [harm, {"state_dict": harm}, {"state_dict": {"a": tensor, "b": harm}}]
    for i, content in enumerate(contents):
        path = tmp_path / f"{i}.ckpt"
        for is_zip in (True, False):
            torch.save(content, path, _use_new_zipfile_serialization=is_zip)
            assert "can run code" in refusal(path)
            assert "plain tensors" in refusal(path, allow_pickle=True)
        path.write_bytes(pickle.dumps(content))
        assert "plain tensors" in refusal(path, allow_pickle=True)
        shutil.copy(path, tmp_path / "disguised.safetensors")
        refusal(tmp_path / "disguised.safetensors", allow_pickle=True)
    assert not canary.exists()

    pickle.loads(pickle.dumps(harm))  # and it is harmful indeed
    for _ in range(100):
        if canary.exists():
            break
        time.sleep(0.05)
    assert canary.exists()


@pytest.mark.parametrize("data", [b"", b"\x80", b"PK\x03\x04", bytes(100), b"\x80\x02}q\x00.", b"text"])
def test_broken_pickles(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(data)
    refusal(path, allow_pickle=True)


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": 3}, {"a": "b"}, torch.zeros(3), {"a": torch.zeros(3)}])
def test_pickles_that_are_no_checkpoints(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "model.ckpt")
    refusal(tmp_path / "model.ckpt", allow_pickle=True)
