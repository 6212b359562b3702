"""What is distilled from a model: its U-Net once more, made ready to learn, and the settings that it is drawn with."""

from copy import deepcopy
from dataclasses import replace

import torch
from torch import nn

from stablediff.config import ModelConfig
from stablediff.models.lora import ATTENTION, CONVOLUTIONS, FEED_FORWARD, attach_lora
from stablediff.models.unet import UNet

# Of every residual block and transformer, as LCM-LoRA has it (Luo et al. 2023, arXiv:2311.05556).
_TARGETS = (*ATTENTION, *FEED_FORWARD, *CONVOLUTIONS, "time_emb_proj")
LOADED_GUIDANCE = 8.0  # what `load` suggests for a model that takes its guidance scale as an input


def make_student(teacher: UNet, embedding_dim: int | None, rank: int, seed: int) -> UNet:
    """A U-Net that answers as the teacher does; with a rank only a LoRA learns, and all else is the teacher's own.

    embedding_dim: the width of the guidance embedding, or None. It is added with weights of zero.
    """
    teacher.requires_grad_(requires_grad=False)
    if rank:
        student = deepcopy(teacher, {id(p): p for p in teacher.parameters()})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            attach_lora(student, rank, targets=_TARGETS)
        return student
    student = deepcopy(teacher).requires_grad_(requires_grad=True)
    if embedding_dim is not None:
        student.config = replace(teacher.config, guidance_embedding_dim=embedding_dim)
        with torch.random.fork_rng(devices=[]):
            projection = nn.Linear(embedding_dim, teacher.config.channels[0], bias=False)
        nn.init.zeros_(projection.weight)
        student.time_embedding.cond_proj = projection.to(student.conv_in.weight.device)
    return student


def as_distilled(config: ModelConfig, unet: UNet, method: str, num_steps: int) -> ModelConfig:
    """The student's settings: no guidance but what it takes as an input, and `num_steps` if it is progressive's."""
    given, schedule = config.defaults, config.schedule
    sampler = given.sampler
    if method == "consistency":
        sampler, num_steps = "lcm", 4
    elif method == "progressive":  # its last step ends at the picture, without noise
        sampler, schedule = "ddim", replace(schedule, spacing="trailing", set_alpha_to_one=True)
    else:
        num_steps = given.num_steps
    guidance = LOADED_GUIDANCE if unet.config.guidance_embedding_dim else 1.0
    defaults = replace(given, num_steps=num_steps, guidance_scale=guidance, sampler=sampler)
    return replace(config, unet=unet.config, schedule=schedule, defaults=defaults)
