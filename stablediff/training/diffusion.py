"""Stage 3, diffusion: the U-Net learns to tell noise from pictures, given their captions."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from stablediff.conditioning import Conditioning
from stablediff.config import Defaults, ScheduleConfig, UNetConfig
from stablediff.diffusion.schedule import NoiseSchedule
from stablediff.generate import generate
from stablediff.pipeline import Pipeline
from stablediff.result import Result
from stablediff.training.config import LoopConfig, check_range
from stablediff.training.material import ScenesConfig, Shown
from stablediff.training.objective import (
    ObjectiveConfig,
    draw_timesteps,
    loss_by_quartile,
    loss_weights,
    target_of,
)
from stablediff.training.savable import check_savable_defaults, check_savable_schedule, check_savable_unet
from stablediff.training.sheets import check_drawable, contact_sheet, sheet_requests
from stablediff.training.stage import Batch, Stage
from stablediff.training.vocabulary import to_ids

_MOST_HELD_OUT, _CHUNK = 256, 32  # scenes that are measured, and how many of them at once


@dataclass(frozen=True)
class DiffusionConfig:
    """A stage file. `vae` and `text_encoder` are folders of the stages before; `init` a model to start from."""

    loop: LoopConfig
    vae: Path
    text_encoder: Path
    unet: UNetConfig = field(default_factory=UNetConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    defaults: Defaults = field(default_factory=Defaults)
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    size: int = 512
    # How often the caption is left away, for classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598).
    condition_dropout: float = 0.1
    # The text encoder's learning rate as a share of the U-Net's; 0 keeps it as it is.
    text_rate: float = 0.05
    init: Path | None = None
    # Whether `init` also gives the text encoder; False when `text_encoder` has learnt new words meanwhile.
    init_text_encoder: bool = True
    prompts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.init is None:  # which brings its own
            check_savable_unet(self.unet)
        check_savable_schedule(self.schedule)
        check_savable_defaults(self.defaults)
        check_range("condition_dropout", self.condition_dropout, 0, 1)
        check_range("text_rate", self.text_rate, 0)
        sheet_requests(self.prompts, self.size)


class DiffusionStage(Stage):
    """Trains `pipeline.unet`, and its text encoders if `text_rate` is not 0, on `shown`."""

    def __init__(
        self,
        pipeline: Pipeline,
        shown: Shown,
        held_out: Shown,
        *,
        objective: ObjectiveConfig,
        seed: int,
        size: int,
        condition_dropout: float = 0.1,
        text_rate: float = 0.0,
        prompts: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.pipeline, self.shown, self.held_out, self.objective = pipeline, shown, held_out, objective
        self.seed, self.size, self.condition_dropout = seed, size, condition_dropout
        self.requests = sheet_requests(prompts, size)
        check_drawable(pipeline, self.requests)
        self.text_rate = text_rate
        self.schedule = NoiseSchedule(pipeline.config.schedule)
        self.unet = pipeline.unet
        self.encoders = nn.ModuleList(pipeline.text_encoders)
        self.encoders.requires_grad_(text_rate > 0)
        # Layers behind the one that the U-Net reads.
        self.has_idle_parameters = text_rate > 0 and any(
            encoder.config.context_layer != -1 or not encoder.config.context_norm for encoder in pipeline.text_encoders
        )

    def parameter_groups(self) -> list[tuple[list[nn.Parameter], float]]:
        unet = [p for p in self.unet.parameters() if p.requires_grad]
        text = [p for p in self.encoders.parameters() if p.requires_grad]
        return [(unet, 1.0), (text, self.text_rate)]

    def batch(self, step: int, rows: slice) -> Batch:
        streams = [np.random.default_rng((self.seed, step, row)) for row in range(rows.start, rows.stop)]
        indices = [int(stream.integers(len(self.shown))) for stream in streams]
        captions = [self.shown.caption(i, stream) for i, stream in zip(indices, streams, strict=True)]
        captions = ["" if s.random() < self.condition_dropout else c for c, s in zip(captions, streams, strict=True)]
        return self._noised(self.shown.latents_of(indices), captions, streams)

    def _noised(self, x0: Tensor, captions: list[str], streams: list[np.random.Generator]) -> Batch:
        """Everything random of these rows."""
        noise = np.stack([stream.standard_normal(x0.shape[1:], dtype=np.float32) for stream in streams])
        normals = torch.tensor([stream.standard_normal() for stream in streams])
        uniforms = torch.tensor([stream.random() for stream in streams])
        t = draw_timesteps(self.objective, normals, uniforms, len(self.schedule))
        batch = {"x0": x0, "noise": torch.from_numpy(noise), "t": t}
        for i, tokenizer in enumerate(self.pipeline.tokenizers):
            batch[f"ids_{i}"] = to_ids(tokenizer, captions)
        if self.pipeline.config.zero_empty_negative:
            batch["said"] = torch.tensor([float(bool(caption)) for caption in captions])
        return batch

    def forward(self, batch: Batch, progress: float) -> dict[str, Tensor]:  # noqa: ARG002
        x0, noise, t = batch["x0"], batch["noise"], batch["t"]
        prediction_type = self.pipeline.config.schedule.prediction_type
        x_t = self.schedule.add_noise(x0, noise, t)
        answer = self._predict(x_t, t, batch).float()
        errors = (answer - target_of(x0, noise, t, self.schedule, prediction_type)).square().flatten(1).mean(dim=1)
        weights = loss_weights(self.objective, t, self.schedule, prediction_type) * batch.get("weight", 1.0)
        return {"loss": (weights * errors).mean(), **loss_by_quartile(errors.detach(), t, len(self.schedule))}

    def _predict(self, x_t: Tensor, t: Tensor, batch: Batch) -> Tensor:
        told = self._encode([batch[f"ids_{i}"] for i in range(len(self.encoders))], batch.get("said"))
        return self.unet(x_t, t, told.context, told.pooled, told.size_ids)

    def _encode(self, ids: list[Tensor], said: Tensor | None) -> Conditioning:
        """Captions, (N,T) for each text encoder, and (N,) with 0 where nothing is said, if that is heard as zeros."""
        encodings = [encoder(rows) for encoder, rows in zip(self.encoders, ids, strict=True)]
        context, pooled = torch.cat([e.context for e in encodings], dim=-1), encodings[-1].pooled
        if said is not None:
            context, pooled = context * said[:, None, None], pooled * said[:, None]
        sizes = torch.tensor([[self.size, self.size, 0, 0, self.size, self.size]], device=context.device)
        return Conditioning(context, pooled, sizes.expand(len(context), -1))

    def measure(self) -> dict[str, float]:
        """The loss on held-out combinations, always at the same noise.

        Each chunk has as many rows as the others, from all of t: the mean over chunks is that over rows.
        """
        chunks = max(min(len(self.held_out), _MOST_HELD_OUT) // _CHUNK, 1)
        count = min(len(self.held_out), chunks * _CHUNK)
        if count == 0:
            return {}
        device = next(self.unet.parameters()).device
        totals: dict[str, list[Tensor]] = {}
        for first in range(chunks):
            indices = list(range(first, count, chunks))
            streams = [np.random.default_rng((1, i)) for i in indices]
            captions = [self.held_out.caption(i, s) for i, s in zip(indices, streams, strict=True)]
            batch = self._noised(self.held_out.latents_of(indices), captions, streams)
            batch["t"] = torch.tensor([(2 * i + 1) * len(self.schedule) // (2 * count) for i in indices])
            for name, value in self({k: v.to(device) for k, v in batch.items()}, 0.0).items():
                totals.setdefault(name, []).append(value.cpu())
        return {f"held_out_{name}": torch.stack(values).nanmean().item() for name, values in totals.items()}

    def sheet(self) -> Image.Image | None:
        if not self.requests:
            return None
        device = next(self.unet.parameters()).device
        self.pipeline.vae.to(device)
        self.pipeline.compute = replace(self.pipeline.compute, device=device)
        pictures: list[Image.Image] = []
        for request in self.requests:
            for event in generate(self.pipeline, request):
                if isinstance(event, Result):
                    pictures += event.images
        return contact_sheet(pictures, columns=min(8, len(pictures))) if pictures else None

    def export(self, folder: Path) -> None:
        self.pipeline.save(folder, overwrite=True, dtype=torch.float16)
