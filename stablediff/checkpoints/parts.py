"""One part of a model at a time, as training makes them: an autoencoder, a text encoder with its tokenizer.

A folder is either the part's own (config.json and weights) or a whole model's, which has the part inside.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from stablediff.checkpoints import layouts
from stablediff.checkpoints.fill import Builder
from stablediff.checkpoints.load import weight_files
from stablediff.checkpoints.sanity import check_clip, check_vae
from stablediff.checkpoints.save import (
    clip_settings,
    draft_folder,
    replace_folder,
    transformers_name,
    vae_settings,
    write_json,
    write_tokenizer,
    write_weights,
)
from stablediff.checkpoints.settings import clip_config, fitting, read_settings, vae_config
from stablediff.checkpoints.tensors import open_tensors
from stablediff.checkpoints.vocabulary import read_tokenizer
from stablediff.config import VAEConfig
from stablediff.device import Compute
from stablediff.errors import CheckpointError
from stablediff.files import write_whole
from stablediff.lexicon import FILE as WORDS
from stablediff.lexicon import Lexicon
from stablediff.models.clip import CLIPTextEncoder
from stablediff.models.tokenizer import Tokenizer
from stablediff.models.vae import VAE

_CPU = Compute(torch.device("cpu"), torch.float32, "to be trained")


def load_vae(folder: Path) -> VAE:
    """In float32 on the CPU, ready to learn. Raises CheckpointError."""
    return _filled(VAE, load_vae_config(folder), _inside(folder, "vae"))


def load_vae_config(folder: Path) -> VAEConfig:
    """Raises CheckpointError."""
    own = _inside(folder, "vae")
    with fitting(own):
        config = vae_config(read_settings(own / "config.json"))
        check_vae(config)
    return config


def load_text_encoder(folder: Path) -> tuple[CLIPTextEncoder, Tokenizer]:
    """In float32 on the CPU, ready to learn. Raises CheckpointError."""
    own = _inside(folder, "text_encoder")
    with fitting(own):
        config = clip_config(read_settings(own / "config.json"), penultimate=False)
        check_clip(config)
    encoder: CLIPTextEncoder = _filled(CLIPTextEncoder, config, own)
    return encoder, read_tokenizer(own.parent / "tokenizer", config)


def save_vae(folder: Path, vae: VAE) -> None:
    """Writes `folder`/vae, whole or not at all. Raises CheckpointError."""
    with _draft(folder, "vae") as draft:
        write_json(draft / "config.json", vae_settings(vae.config))
        write_weights(draft / "diffusion_pytorch_model.safetensors", vae)


def save_text_encoder(
    folder: Path, encoder: CLIPTextEncoder, tokenizer: Tokenizer, lexicon: Lexicon | None = None
) -> None:
    """Writes text_encoder, tokenizer and words.txt into `folder`, each whole or not at all. Raises CheckpointError."""
    save_tokenizer(folder, tokenizer)
    if lexicon is not None:
        with _told(folder / WORDS):
            write_whole(folder / WORDS, lexicon.to_text().encode())
    with _draft(folder, "text_encoder") as draft:
        write_json(draft / "config.json", clip_settings(encoder.config, "CLIPTextModel"))
        write_weights(draft / "model.safetensors", encoder, rename=transformers_name)


def save_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Writes `folder`/tokenizer, whole or not at all. Raises CheckpointError."""
    with _draft(folder, "tokenizer") as draft:
        write_tokenizer(draft, tokenizer)


def _inside(folder: Path, part: str) -> Path:
    for candidate in (folder / part, folder):
        if (candidate / "config.json").is_file():
            return candidate
    raise CheckpointError(f"there is no {part} in {folder}: train that stage first, or name another folder.")


def _filled(kind: type[nn.Module], config: object, folder: Path):  # type: ignore[no-untyped-def]
    builder = Builder(_CPU)
    module = builder.build(kind, config)
    tensors = open_tensors(weight_files(folder, allow_pickle=False), allow_pickle=False)
    builder.fill(
        module,
        tensors,
        lambda key: layouts.folder_source(key, tensors.shapes),
        used=tensors.shapes,
        what=str(folder),
        dtype=torch.float32,
        dropped=layouts.FOLDER_DROPPED,
    )
    return module.requires_grad_(requires_grad=True)


@contextmanager
def _draft(folder: Path, part: str) -> Iterator[Path]:
    """A folder to write into, which then takes the place of `folder`/`part`."""
    draft: Path | None = None
    try:
        with _told(folder / part):
            draft = draft_folder(folder / part)
            yield draft
            replace_folder(draft, folder / part)
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _told(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"cannot save {place}: {error.strerror or error}. Free some space.") from error
