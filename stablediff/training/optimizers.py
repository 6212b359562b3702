"""Optimisers by name, and the learning rate over a run."""

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn, optim

from stablediff.training.config import LoopConfig
from stablediff.training.muon import Muon


def make_optimizer(
    groups: list[tuple[list[nn.Parameter], float]],
    config: LoopConfig,
    tables: Collection[Tensor] = (),
    precision: torch.dtype = torch.float32,
) -> optim.Optimizer:
    """`groups` are parameters with a factor each for the learning rate; vectors (biases, norms) do not decay.

    `tables` are those of embeddings: a row for each token, of which a batch has a few. They are no matrices to Muon,
    whose products are computed in `precision` where that is enough.
    """
    settings: list[dict[str, Any]] = []
    known = {id(table) for table in tables}
    for parameters, factor in groups:
        vectors = [p for p in parameters if p.ndim < 2]
        rows = [p for p in parameters if p.ndim > 1 and id(p) in known]
        matrices = [p for p in parameters if p.ndim > 1 and id(p) not in known]
        for chosen, decay in ((matrices, config.weight_decay), (rows, config.weight_decay), (vectors, 0.0)):
            group = {"params": chosen, "lr": 0.0, "weight_decay": decay, "factor": factor}
            if config.optimizer == "muon":
                group["orthogonal"] = chosen is matrices
            if chosen:
                settings.append(group)
    rate, betas = config.learning_rate, (config.betas[0], config.betas[1])
    if config.optimizer == "adamw":
        return optim.AdamW(settings, lr=rate, betas=betas, fused=True)
    if config.optimizer == "muon":
        return Muon(settings, betas, precision=precision)
    if config.optimizer == "radam":
        return optim.RAdam(settings, lr=rate, betas=betas, decoupled_weight_decay=True, foreach=True)
    if config.optimizer == "adafactor":
        return optim.Adafactor(settings, lr=rate)
    return optim.SGD(settings, lr=rate, momentum=betas[0], foreach=True)


def learning_rate(step: int, config: LoopConfig) -> float:
    """A linear warm-up, then down to zero at the last step (or level, if `decay` is "constant")."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    if config.decay == "cosine":
        return config.learning_rate * (1 + math.cos(math.pi * min(done, 1.0))) / 2
    return config.learning_rate * (1 - min(done, 1.0) if config.decay == "linear" else 1.0)


def set_rate(optimizer: optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
