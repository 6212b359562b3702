"""Stage 4, distillation: a student draws in few steps what its teacher, any Stable Diffusion, draws in many."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from stablediff.checkpoints.lora import save_lora
from stablediff.conditioning import Conditioning
from stablediff.pipeline import Pipeline
from stablediff.training.diffusion import DiffusionStage
from stablediff.training.distill_config import DistillConfig
from stablediff.training.follower import Follower
from stablediff.training.material import Shown
from stablediff.training.objective import ObjectiveConfig, loss_by_quartile
from stablediff.training.plain import check_plain
from stablediff.training.solver import (
    boundary,
    consistency_grid,
    ddim_step,
    halved_grid,
    huber,
    level_at,
    target_of_jump,
    to_x0,
)
from stablediff.training.stage import Batch
from stablediff.training.student import as_distilled, make_student
from stablediff.training.vocabulary import to_ids


class DistillStage(DiffusionStage):
    """Trains a student of `pipeline`, whose own networks stay as they are."""

    phase: Tensor

    def __init__(self, config: DistillConfig, pipeline: Pipeline, shown: Shown, held_out: Shown, size: int) -> None:
        check_plain(pipeline, "distilled")
        scales = config.guidance or (max(pipeline.config.defaults.guidance_scale, 1.0),)
        embedding_dim = config.guidance_embedding_dim if len(scales) == 2 else None
        student = make_student(pipeline.unet, embedding_dim, config.rank, config.loop.seed)
        settings = as_distilled(
            pipeline.config, student, config.method, num_steps=config.teacher_steps >> config.halvings
        )
        super().__init__(
            replace(pipeline, unet=student, config=settings),
            shown,
            held_out,
            objective=ObjectiveConfig(timesteps="uniform"),
            seed=config.loop.seed,
            size=size,
            condition_dropout=config.condition_dropout,
            prompts=config.prompts,
        )
        self.config, self.scales = config, (scales[0], scales[-1])
        self.teacher: nn.Module = Follower(student) if config.method == "progressive" else pipeline.unet
        follows = config.method == "consistency" and config.target_decay > 0
        self.target = Follower(student) if follows else None
        for i, tokenizer in enumerate(pipeline.tokenizers):
            self.register_buffer(f"nothing_{i}", to_ids(tokenizer, [""]))
        self.grid = consistency_grid(len(self.schedule), config.num_ddim_timesteps, config.skip)
        if config.method == "progressive":
            halved_grid(self.schedule, config.teacher_steps)  # refuses too many
        self.register_buffer("phase", torch.tensor(0))  # how often the teacher was replaced: it is what it was then
        self._begun = -1.0

    def _noised(self, x0: Tensor, captions: list[str], streams: list[np.random.Generator]) -> Batch:
        low, high = self.scales
        batch = super()._noised(x0, captions, streams)
        return batch | {"guidance": torch.tensor([low + (high - low) * stream.random() for stream in streams])}

    def forward(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        if self.training and progress != self._begun:  # once a step, whatever its micro-batches
            self._begun = progress
            self._begin_step(round(progress * self.config.loop.steps))
        method = {"consistency": self._consistency, "progressive": self._progressive, "guidance": self._guidance}
        errors, t = method[self.config.method](batch, self._read(batch))
        return {"loss": errors.mean(), **loss_by_quartile(errors.detach(), t, len(self.schedule))}

    def _begin_step(self, step: int) -> None:
        """What follows the student does so before a step, which is a function of the step alone."""
        if self.target is not None:
            self.target.follow(self.unet, self.config.target_decay)
        if isinstance(self.teacher, Follower):
            due = step * self.config.halvings // self.config.loop.steps
            if due > self.phase:
                self.phase.fill_(due)
                self.teacher.follow(self.unet, decay=0.0)

    def _consistency(self, batch: Batch, told: Conditioning) -> tuple[Tensor, Tensor]:
        """d(f(x_{t_{n+k}}), f⁻(x_{t_n})), where the guided teacher has gone from the one to the other."""
        grid, guidance = self.grid.to(batch["t"].device), batch["guidance"]
        n = batch["t"] * self.config.num_ddim_timesteps // len(self.schedule)
        start, end = grid[n + self.config.skip], grid[n]
        x_start = self.schedule.add_noise(batch["x0"], batch["noise"], start)
        # The student goes first: what autocast keeps of its weights must know of their gradients.
        answer = self._consistent(self.unet, x_start, start, told, guidance)
        with torch.no_grad():
            x_end = self._step(x_start, start, end, told, guidance)
            target = self._consistent(self.target or self.unet, x_end, end, told, guidance)
        return huber(answer, target, self.config.huber), start

    def _progressive(self, batch: Batch, told: Conditioning) -> tuple[Tensor, Tensor]:
        """The student's one step of DDIM and the teacher's two, from and to the same noise levels."""
        steps, guidance = self.config.teacher_steps >> int(self.phase), batch["guidance"]
        grid = halved_grid(self.schedule, steps).to(batch["t"].device)
        n = batch["t"] * (steps // 2) // len(self.schedule)
        start, middle, end = grid[2 * n + 2], grid[2 * n + 1], grid[2 * n]
        x_start = self.schedule.add_noise(batch["x0"], batch["noise"], start)
        answer = self._denoised(self.unet, x_start, start, told, guidance)
        with torch.no_grad():
            x_end = self._step(self._step(x_start, start, middle, told, guidance), middle, end, told, guidance)
            target = target_of_jump(x_start, x_end, level_at(self.schedule, start), level_at(self.schedule, end))
        return self._errors_in_v(answer, target, start), start

    def _guidance(self, batch: Batch, told: Conditioning) -> tuple[Tensor, Tensor]:
        """What the student says in one evaluation and the teacher in two."""
        t, guidance = batch["t"], batch["guidance"]
        x_t = self.schedule.add_noise(batch["x0"], batch["noise"], t)
        answer = self._denoised(self.unet, x_t, t, told, guidance)
        with torch.no_grad():
            target = self._taught(x_t, t, told, guidance)
        return self._errors_in_v(answer, target, t), t

    def _errors_in_v(self, answer: Tensor, target: Tensor, t: Tensor) -> Tensor:
        """Squared errors of x_0 weighed by SNR + 1 (Salimans and Ho 2022, section 4): (B,)."""
        return ((answer - target) / level_at(self.schedule, t).noise).square().flatten(1).mean(dim=1)

    def _consistent(self, network: nn.Module, x_t: Tensor, t: Tensor, told: Conditioning, guidance: Tensor) -> Tensor:
        """f(x_t, t), which is x_t at t = 0 (Luo et al. 2023, eq. 9)."""
        skip, out = boundary(t)
        return skip * x_t + out * self._denoised(network, x_t, t, told, guidance)

    def _step(self, x_t: Tensor, start: Tensor, end: Tensor, told: Conditioning, guidance: Tensor) -> Tensor:
        """A guided DDIM step of the teacher."""
        x0 = self._taught(x_t, start, told, guidance)
        return ddim_step(x_t, x0, level_at(self.schedule, start), level_at(self.schedule, end))

    def _taught(self, x_t: Tensor, t: Tensor, told: Conditioning, guidance: Tensor) -> Tensor:
        """x_0 as the teacher sees it; a teacher that was a student has its guidance within."""
        if self.phase or self.scales[1] <= 1:
            return self._denoised(self.teacher, x_t, t, told, guidance)
        cond, uncond = self._denoised(self.teacher, x_t.repeat(2, 1, 1, 1), t.repeat(2), told, None).chunk(2)
        return uncond + guidance.view(-1, 1, 1, 1) * (cond - uncond)

    def _denoised(
        self, network: nn.Module, x_t: Tensor, t: Tensor, told: Conditioning, guidance: Tensor | None
    ) -> Tensor:
        """x_0 as a network sees it: (B,C,h,w), or (2B,C,h,w) with the half that is told nothing behind."""
        context, pooled, sizes = (
            None if rows is None else rows[: len(x_t)] for rows in (told.context, told.pooled, told.size_ids)
        )
        output = network(x_t, t, context, pooled, sizes, guidance).float()
        return to_x0(output, x_t, level_at(self.schedule, t), self.pipeline.config.schedule.prediction_type)

    def _read(self, batch: Batch) -> Conditioning:
        """The captions, and as many rows of nothing: (2B,T,D)."""
        count, said = len(batch["t"]), batch.get("said")
        ids = [torch.cat([batch[f"ids_{i}"], self.get_buffer(f"nothing_{i}")]) for i in range(len(self.encoders))]
        told = self._encode(ids, None if said is None else torch.cat([said, said.new_zeros(1)]))
        rows = torch.arange(2 * count, device=told.context.device).clamp(max=count)
        context, pooled, sizes = (x if x is None else x[rows] for x in (told.context, told.pooled, told.size_ids))
        assert context is not None
        return Conditioning(context, pooled, sizes)

    def export(self, folder: Path) -> None:
        """A LoRA file, or the whole model."""
        if not self.config.rank:
            super().export(folder)
            return
        save_lora(folder, {"unet": self.unet}, overwrite=True)
