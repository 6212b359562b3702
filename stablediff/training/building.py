"""A model from its stages: what the diffusion stage starts with."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from stablediff.checkpoints.fill import LoadReport
from stablediff.checkpoints.locate import STATE
from stablediff.checkpoints.parts import load_text_encoder, load_vae, save_tokenizer
from stablediff.checkpoints.vocabulary import read_tokenizer
from stablediff.config import CLIPConfig, Kind, ModelConfig
from stablediff.device import Compute
from stablediff.errors import CheckpointError, ConfigError
from stablediff.lexicon import Lexicon, read_lexicon
from stablediff.locks import alone_in
from stablediff.models.tokenizer import Tokenizer
from stablediff.pipeline import Pipeline, load
from stablediff.request import Request
from stablediff.training.diffusion import DiffusionConfig
from stablediff.training.distributed import is_main, main_first
from stablediff.training.initialise import new_unet
from stablediff.training.material import Shown
from stablediff.training.savable import check_savable
from stablediff.training.sheets import check_drawable
from stablediff.training.vocabulary import learn_vocabulary

_CAPTIONS = 50_000  # what a vocabulary is learnt from


def build_model(config: DiffusionConfig, device: torch.device) -> Pipeline:
    """The autoencoder and the text encoder of the stages before, with a U-Net that knows nothing yet (or `init`'s)."""
    vae = load_vae(config.vae).requires_grad_(requires_grad=False)
    encoder, tokenizer = load_text_encoder(config.text_encoder)
    compute = Compute(device, torch.float32, "training")
    lexicon = read_lexicon(config.text_encoder)
    if config.init is not None:
        former = load(config.init, device="cpu", dtype="float32", trainable=True)
        unet = former.unet.requires_grad_(requires_grad=True)
        predicts, asked = former.config.schedule.prediction_type, config.schedule.prediction_type
        if predicts != asked:
            raise ConfigError(
                f"{config.init} predicts {predicts}, and [schedule] says {asked}: write prediction_type = "
                f'"{predicts}" there'
            )
        if config.init_text_encoder:
            encoder, tokenizer, lexicon = former.text_encoders[0], former.tokenizers[0], former.lexicon
        elif encoder.config.hidden_size != unet.config.context_dim:
            raise ConfigError(
                f"{config.text_encoder} has {encoder.config.hidden_size} channels, and {config.init} reads "
                f"{unet.config.context_dim}: choose a text encoder of that width, or leave init_text_encoder away"
            )
        if unet.config.in_channels != vae.config.latent_channels:
            raise ConfigError(
                f"{config.init} draws latents of {unet.config.in_channels} channels, and {config.vae} makes "
                f"{vae.config.latent_channels}: choose the autoencoder that it was trained with"
            )
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.loop.seed)
            unet = new_unet(config.unet, vae.config.latent_channels, encoder.config)
    kinds: dict[str, Kind] = {"text": "custom", "text_time": "sdxl"}
    kind = kinds.get(unet.config.added_conditioning, "sd2" if unet.config.linear_projection else "sd1")
    model = ModelConfig(kind, (encoder.config,), unet.config, vae.config, config.schedule, config.defaults)
    check_savable(model)
    report = LoadReport(kind, config.vae, "float32", ())
    built = Pipeline("training", model, [encoder], [tokenizer], unet, vae.to(device), compute, report, lexicon=lexicon)
    check_drawable(built, [Request("a picture")])
    return built


def words_of(folder: Path, config: CLIPConfig, shown: Shown) -> tuple[Tokenizer, CLIPConfig]:
    """The vocabulary that the run in `folder` began with; it is learnt at the beginning. All processes have the same.

    -> it, and the config with its true size. Raises ConfigError if it is larger than the config says.
    """
    kept = folder / "tokenizer"
    with main_first(), alone_in(folder) if is_main() else contextlib.nullcontext():  # another run reads what is there
        if is_main() and not (kept.exists() and (folder / STATE).exists()):
            save_tokenizer(folder, learn_vocabulary(_captions(shown), config.vocab_size, config.max_length))
    try:
        tokenizer = read_tokenizer(kept, config)
    except CheckpointError as error:
        raise ConfigError(
            f"the run in {folder} began with another vocabulary ({error}): change the config back, or choose another "
            "folder"
        ) from error
    return tokenizer, replace(config, vocab_size=tokenizer.backend.get_vocab_size(), eos_token_id=tokenizer.eos_id)


def learn_lexicon(shown: Shown, former: Lexicon | None) -> Lexicon:
    """The words of the captions, so that the model can say which it never saw; what it has seen before stays known."""
    learnt = Lexicon.of(_captions(shown))
    return learnt if former is None else Lexicon(learnt.words | former.words)


def _captions(shown: Shown) -> Iterator[str]:
    stream = np.random.default_rng(0)
    return (shown.caption(int(stream.integers(len(shown))), stream) for _ in range(_CAPTIONS))
