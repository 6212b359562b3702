"""What distillation is told: the method, the guidance, and how far the student goes."""

import math
from dataclasses import dataclass, field
from typing import Literal

from stablediff.errors import ConfigError
from stablediff.training.config import LoopConfig
from stablediff.training.material import ScenesConfig
from stablediff.training.sheets import sheet_requests
from stablediff.training.student import LOADED_GUIDANCE


@dataclass(frozen=True)
class DistillConfig:
    """A stage file. `method` is one of

    - "consistency": x_0 at once from anywhere on the teacher's path (Luo et al. 2023, arXiv:2310.04378, algorithm 1);
    - "progressive": one DDIM step for two, again and again (Salimans and Ho 2022, arXiv:2202.00512, algorithm 2);
    - "guidance": the guided teacher in one evaluation, in as many steps as before (Meng et al. 2022, arXiv:2210.03142,
      section 3.1). The two others have this in them.

    `guidance` is one scale, which becomes a part of the student, or the ends of a range, of which the student takes its
    scale as an input; none is the model's own scale. `rank` other than 0 makes a LoRA.
    """

    loop: LoopConfig
    model: str = "sticker"
    method: Literal["consistency", "progressive", "guidance"] = "consistency"
    guidance: tuple[float, ...] = ()
    guidance_embedding_dim: int = 256
    rank: int = 0
    # Consistency: along how many timesteps (the LCM sampler visits those of 50), how many of them the teacher's step
    # skips, how slowly the target follows the student (0: it is the student), and where the loss turns from squares
    # to absolute values.
    num_ddim_timesteps: int = 50
    skip: int = 1
    target_decay: float = 0.95
    huber: float = 0.001
    # Progressive: from how many steps, and how often they are halved.
    teacher_steps: int = 32
    halvings: int = 3
    condition_dropout: float = 0.0
    size: int | None = None
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    prompts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.size is not None:
            sheet_requests(self.prompts, self.size)
        scales, usual = self.guidance, LOADED_GUIDANCE
        if len(scales) > 2 or not all(1 <= scale <= 30 for scale in scales) or list(scales) != sorted(set(scales)):
            raise ConfigError(
                f"guidance is {list(scales)}: choose one scale, 1 to 30, or a rising range, such as [3, 15]"
            )
        if len(scales) == 2 and not scales[0] <= usual <= scales[1]:
            raise ConfigError(
                f"guidance is {list(scales)}: choose a range around {usual:g}, with which it will be drawn"
            )
        if self.rank and len(scales) == 2:
            raise ConfigError("a LoRA cannot take the guidance scale as an input: choose one scale, or rank = 0")
        for name, low, high in (
            ("guidance_embedding_dim", 4, 4096),
            ("rank", 0, 4096),
            ("num_ddim_timesteps", 1, math.inf),
            ("skip", 1, self.num_ddim_timesteps),
            ("halvings", 1, min(self.loop.steps, 16) if self.method == "progressive" else 16),
            ("condition_dropout", 0, 1),
        ):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} is {getattr(self, name)}: choose {low} to {high}")
        if not 0 <= self.target_decay < 1:
            raise ConfigError(f"target_decay is {self.target_decay}: choose 0 to less than 1")
        if not 0 < self.huber < math.inf:
            raise ConfigError(f"huber is {self.huber}: choose more than 0, such as 0.001")
        parts = 2**self.halvings
        if self.teacher_steps < 1 or self.teacher_steps % parts:
            raise ConfigError(
                f"teacher_steps is {self.teacher_steps}: for {self.halvings} halvings, choose a multiple of {parts}"
            )
