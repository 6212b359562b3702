"""A machine whose networks take the time that they are told to, by a clock of its own."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from toy import count_rows

from stablediff import Pipeline
from stablediff.pace import budget, speed


@dataclass
class Machine:
    """Seconds of a U-Net call for a latent cell of one row, of the decoder for a cell, of a size's first call."""

    cell: float = 0.001
    decoder_cell: float = 0.002
    warm_up: float = 0.0
    size: Any = None  # of the last call
    now: float = 0.0


@contextmanager
def machine(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, **times: float) -> Iterator[Machine]:
    """The pipeline's networks run on it while the context lasts."""
    made = Machine(**times)

    def step(_module: Any, inputs: Any) -> None:
        made.now += made.cell * count_rows(inputs) * inputs[0][0, 0].numel()
        if made.size != inputs[0].shape[2:]:
            made.now, made.size = made.now + made.warm_up, inputs[0].shape[2:]

    def decode(_module: Any, inputs: Any) -> None:
        made.now += made.decoder_cell * inputs[0][:, 0].numel()

    hooks = [
        pipeline.unet.register_forward_pre_hook(step),
        pipeline.vae.decoder.register_forward_pre_hook(decode),
    ]
    for module in (budget, speed, sys.modules["stablediff.generate"]):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: made.now))
    yield made
    for hook in hooks:
        hook.remove()
