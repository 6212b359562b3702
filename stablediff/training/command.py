"""`python -m stablediff train …`: one sub-command a stage."""

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch

from stablediff import typed
from stablediff.checkpoints.locate import RESULT
from stablediff.checkpoints.parts import load_text_encoder, load_vae
from stablediff.device import choose_compute
from stablediff.errors import ConfigError
from stablediff.lexicon import read_lexicon
from stablediff.pipeline import load
from stablediff.training import distributed
from stablediff.training.autoencoder import AutoencoderConfig, AutoencoderStage
from stablediff.training.building import build_model, learn_lexicon, words_of
from stablediff.training.config import LoopConfig, from_table, override, read_table
from stablediff.training.data.command import DEFAULT_FOLDER, add_data_command
from stablediff.training.diffusion import DiffusionConfig, DiffusionStage
from stablediff.training.distill import DistillStage
from stablediff.training.distill_config import DistillConfig
from stablediff.training.finetune import FinetuneConfig, FinetuneStage, draw_prior, encode_folder
from stablediff.training.loop import autocast, train
from stablediff.training.material import crops_of, shown_of
from stablediff.training.stage import Stage
from stablediff.training.text_encoder import TextEncoderConfig, TextEncoderStage

C = TypeVar("C")
Commands: TypeAlias = "argparse._SubParsersAction[Any]"
StageCommand: TypeAlias = Callable[[argparse.Namespace, torch.device], int]


def add_stages(parser: argparse.ArgumentParser) -> None:
    stages = parser.add_subparsers(required=True, metavar="STAGE")
    add_data_command(stages)
    add_stage(stages, "autoencoder", "stage 1: pictures <-> latents", _autoencoder)
    add_stage(stages, "text-encoder", "stage 2: captions near their pictures", _text_encoder)
    add_stage(stages, "diffusion", "stage 3: pictures out of noise, as the caption says", _diffusion)
    add_stage(stages, "finetune", "teach any model what is in your own pictures", _finetune)
    add_stage(stages, "distill", "make any model draw in few steps", _distill)


def add_stage(stages: Commands, name: str, help_: str, run: StageCommand) -> None:
    parser = stages.add_parser(name, help=help_)
    parser.set_defaults(run=partial(_in_group, run))
    parser.add_argument("config", type=typed.file, help="a TOML file, such as those in configs/")
    parser.add_argument(
        "--data", type=typed.folder, default=DEFAULT_FOLDER, help="icons made by `train data`, or your own folder"
    )
    parser.add_argument(
        "--out", type=typed.folder, help="where the run lives (default: runs/CONFIG'S NAME); a run there goes on"
    )
    parser.add_argument("--set", action="append", metavar="NAME=VALUE", dest="settings", help="override")
    parser.add_argument("--minutes", type=float, default=math.inf, help="save and leave after this time")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument(
        "--sharded", action="store_true", help="with torchrun: split the weights over processes (FSDP2)"
    )


def read_config(arguments: argparse.Namespace, kind: type[C]) -> C:
    table = override(read_table(arguments.config), arguments.settings or [])
    try:
        return from_table(kind, table)
    except ConfigError as error:
        raise ConfigError(f"{arguments.config}: {error}") from error


def _folder(arguments: argparse.Namespace) -> Path:
    out: Path = arguments.out or Path("runs") / arguments.config.stem
    return out


def _in_group(run: StageCommand, arguments: argparse.Namespace) -> int:
    """Joins the other processes before there is data, which one of them makes ready for all; each has its device."""
    with distributed.processes(choose_compute(arguments.device, "float32").device) as device:
        return run(arguments, device)


def run_stage(arguments: argparse.Namespace, device: torch.device, stage: Stage, loop: LoopConfig) -> int:
    """Trains, and says where the result is. -> the exit code."""
    folder = _folder(arguments)
    outcome = train(stage, loop, folder, device=device, minutes=arguments.minutes, sharded=arguments.sharded)
    if outcome.exported:
        print(folder / RESULT)
    if outcome.finished:
        if not outcome.exported:
            print(f"now the same command without torchrun and --sharded writes {folder / RESULT}", file=sys.stderr)
        return 0
    print(f"saved at step {outcome.step} of {loop.steps}: the same command goes on from there", file=sys.stderr)
    return 130  # so that a chain of stages ends here


def _autoencoder(arguments: argparse.Namespace, device: torch.device) -> int:
    config = read_config(arguments, AutoencoderConfig)
    crops, held_out = crops_of(arguments.data, config.vae.image_channels, config.loop.seed, config.styles)
    return run_stage(arguments, device, AutoencoderStage(config, crops, held_out), config.loop)


def _text_encoder(arguments: argparse.Namespace, device: torch.device) -> int:
    config = read_config(arguments, TextEncoderConfig)
    precision = autocast(config.loop, device)
    shown, held_out = shown_of(arguments.data, config.scenes, config.size, load_vae(config.vae), device, precision)
    encoder, former = None, None
    if config.init is None:
        tokenizer, text = words_of(_folder(arguments), config.text, shown)
    else:
        encoder, tokenizer = load_text_encoder(config.init)
        text, former = encoder.config, read_lexicon(config.init)
    config, lexicon = replace(config, text=text), learn_lexicon(shown, former)
    stage = TextEncoderStage(config, tokenizer, shown, held_out, encoder, lexicon)
    return run_stage(arguments, device, stage, config.loop)


def _diffusion(arguments: argparse.Namespace, device: torch.device) -> int:
    config = read_config(arguments, DiffusionConfig)
    pipeline = build_model(config, device)
    precision = autocast(config.loop, device)
    shown, held_out = shown_of(arguments.data, config.scenes, config.size, pipeline.vae, device, precision)
    pipeline.lexicon = learn_lexicon(shown, pipeline.lexicon)
    stage = DiffusionStage(
        pipeline,
        shown,
        held_out,
        objective=config.objective,
        seed=config.loop.seed,
        size=config.size,
        condition_dropout=config.condition_dropout,
        text_rate=config.text_rate,
        prompts=config.prompts,
    )
    return run_stage(arguments, device, stage, config.loop)


def _finetune(arguments: argparse.Namespace, device: torch.device) -> int:
    config = read_config(arguments, FinetuneConfig)
    pipeline = load(config.model, device=str(device), dtype="float32", trainable=True)
    size = config.size or pipeline.config.defaults.width
    shown, prior = encode_folder(pipeline, arguments.data, size), None
    if config.prior:
        with distributed.main_first():
            drawn = draw_prior(pipeline, config.prior, config.num_prior, size, _folder(arguments) / "prior")
        prior = encode_folder(pipeline, drawn, size)
    return run_stage(arguments, device, FinetuneStage(config, pipeline, shown, prior, size), config.loop)


def _distill(arguments: argparse.Namespace, device: torch.device) -> int:
    config = read_config(arguments, DistillConfig)
    if arguments.sharded and config.rank:
        raise ConfigError("a LoRA shares its weights with the teacher, which cannot be split: leave --sharded away")
    pipeline = load(config.model, device=str(device), dtype="float32", trainable=True)
    size = config.size or pipeline.config.defaults.width
    precision = autocast(config.loop, device)
    shown, held_out = shown_of(arguments.data, config.scenes, size, pipeline.vae, device, precision)
    return run_stage(arguments, device, DistillStage(config, pipeline, shown, held_out, size), config.loop)
