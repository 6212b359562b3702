"""`python -m stablediff evaluate judge …`: trains the judge, as any stage is trained."""

import argparse
from pathlib import Path

import torch

from stablediff.errors import ConfigError
from stablediff.evaluation.judge.network import Judge
from stablediff.evaluation.judge.stage import JudgeStage, JudgeStageConfig
from stablediff.evaluation.prompts import World, make_prompts
from stablediff.evaluation.scoring import ceiling, shares_by_task
from stablediff.training.command import Commands, add_stage, read_config, run_stage
from stablediff.training.data.icons import Icons
from stablediff.training.data.split import read_split
from stablediff.training.material import ScenesConfig

_EXAM = 24  # prompts a task


def add_judge(reports: Commands) -> None:
    add_stage(reports, "judge", "train the examiner of the other reports", _run)


def make_stage(config: JudgeStageConfig, data: Path) -> JudgeStage:
    """Raises DataError or ConfigError."""
    icons, split = Icons(data), read_split(data / "split.json")
    wanted = ScenesConfig(things_file=config.things_file, num_things=config.num_things).recipe().things
    things = wanted or icons.things
    if strange := sorted(set(things) - set(icons.things)):
        raise ConfigError(f"there is no thing {strange[0]!r} among the icons: take its name from icons.jsonl")
    prompts = make_prompts(World(icons, split, things, icons.chosen_styles(config.styles)), _EXAM)

    def exam(judge: Judge) -> dict[str, float]:
        shares = shares_by_task(prompts, ceiling(judge, prompts, icons))
        return {f"right_{task.replace(' ', '_')}": share for task, share in shares.items()}

    return JudgeStage(config, icons, split, things, exam)


def _run(arguments: argparse.Namespace, device: torch.device) -> int:
    config = read_config(arguments, JudgeStageConfig)
    return run_stage(arguments, device, make_stage(config, arguments.data), config.loop)
