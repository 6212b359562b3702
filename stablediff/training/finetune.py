"""Fine-tuning: any Stable Diffusion learns what is in a few pictures, whole or as a LoRA."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from stablediff.checkpoints.lora import save_lora
from stablediff.errors import ConfigError
from stablediff.generate import generate
from stablediff.lexicon import Lexicon
from stablediff.models.lora import ATTENTION, FEED_FORWARD, TEXT_ATTENTION, attach_lora
from stablediff.pipeline import Pipeline
from stablediff.request import Request
from stablediff.result import Result
from stablediff.training.config import LoopConfig, check_range
from stablediff.training.crops import to_model
from stablediff.training.data.folder import FolderPictures
from stablediff.training.diffusion import DiffusionStage
from stablediff.training.latents import check_size
from stablediff.training.material import Shown
from stablediff.training.objective import ObjectiveConfig
from stablediff.training.plain import check_plain
from stablediff.training.sheets import sheet_requests
from stablediff.training.stage import Batch


@dataclass(frozen=True)
class FinetuneConfig:
    """A stage file. `prior` is a prompt for what the model shall not forget, as in DreamBooth.

    `rank` is the LoRA's; `text` trains the text encoders too, at `text_rate` of the rate.
    """

    loop: LoopConfig
    model: str = "sticker"
    method: Literal["lora", "full"] = "lora"
    rank: int = 16
    text: bool = False
    text_rate: float = 0.2
    size: int | None = None
    condition_dropout: float = 0.05
    objective: ObjectiveConfig = field(default_factory=lambda: ObjectiveConfig(timesteps="uniform"))
    # Prior preservation (Ruiz et al. 2022, arXiv:2208.12242, eq. 2).
    prior: str = ""
    num_prior: int = 32
    prior_weight: float = 1.0
    prompts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_range("condition_dropout", self.condition_dropout, 0, 1)
        check_range("text_rate", self.text_rate, 0)
        check_range("prior_weight", self.prior_weight, 0)
        if self.size is not None:
            sheet_requests(self.prompts, self.size)
        if self.prior and self.num_prior < 1:
            raise ConfigError(f"num_prior is {self.num_prior}: choose 1 or more, or leave prior away")


class FinetuneStage(DiffusionStage):
    """Every other row is of the prior's pictures, if there are any, counted on from batch to batch."""

    def __init__(
        self, config: FinetuneConfig, pipeline: Pipeline, shown: Shown, prior: Shown | None, size: int
    ) -> None:
        check_plain(pipeline, "trained")
        super().__init__(
            pipeline,
            shown,
            Shown(shown.latents[:0], np.arange(0), shown.pictures),
            objective=config.objective,
            seed=config.loop.seed,
            size=size,
            condition_dropout=config.condition_dropout,
            text_rate=config.text_rate if config.text else 0.0,
            prompts=config.prompts,
        )
        self.config, self.prior = config, prior
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.loop.seed)
            self._choose_what_learns()

    def _choose_what_learns(self) -> None:
        chosen: list[nn.Module] = [self.unet, *self.encoders] if self.config.text else [self.unet]
        for network in (self.unet, *self.encoders):
            network.requires_grad_(requires_grad=self.config.method == "full" and network in chosen)
        if self.config.method == "lora":
            for network in chosen:
                targets = (*ATTENTION, *FEED_FORWARD) if network is self.unet else TEXT_ATTENTION
                attach_lora(network, self.config.rank, targets=targets)

    def batch(self, step: int, rows: slice) -> Batch:
        streams = [np.random.default_rng((self.seed, step, row)) for row in range(rows.start, rows.stop)]
        first = step * self.config.loop.batch_size + rows.start
        sources = [self.prior if self.prior and (first + i) % 2 else self.shown for i in range(len(streams))]
        chosen = [int(stream.integers(len(source))) for stream, source in zip(streams, sources, strict=True)]
        captions, latents = [], []
        for stream, source, index in zip(streams, sources, chosen, strict=True):
            caption = source.caption(index, stream)
            captions.append("" if stream.random() < self.condition_dropout else caption)
            latents.append(source.latents_of([index]))
        batch = self._noised(torch.cat(latents), captions, streams)
        weights = [self.config.prior_weight if source is self.prior else 1.0 for source in sources]
        return batch | {"weight": torch.tensor(weights)}

    def export(self, folder: Path) -> None:
        """A LoRA file, or the whole model."""
        if self.config.method == "full":
            if self.pipeline.lexicon is not None:
                stream = np.random.default_rng(0)
                captions = [self.shown.caption(i % len(self.shown), stream) for i in range(10 * len(self.shown))]
                self.pipeline.lexicon = Lexicon(self.pipeline.lexicon.words | Lexicon.of(captions).words)
            super().export(folder)
            return
        save_lora(folder, self.pipeline.networks, overwrite=True)


def draw_prior(pipeline: Pipeline, prompt: str, num: int, size: int, folder: Path) -> Path:
    """Captioned pictures of `prompt` by the model as it is, in a folder below `folder`; what is there is kept."""
    wish = hashlib.sha256(repr((pipeline.fingerprint(), prompt, size)).encode()).hexdigest()[:12]
    folder = folder / wish  # another wish has other pictures, and so has another model of that name
    folder.mkdir(parents=True, exist_ok=True)
    missing = [seed for seed in range(num) if not (folder / f"{seed:04d}.png").exists()]
    for seed in tqdm(missing, unit="picture", desc="prior", disable=None):
        request = Request(prompt, seed=seed, width=size, height=size)
        for event in generate(pipeline, request):
            if isinstance(event, Result):
                (folder / f"{seed:04d}.txt").write_text(prompt, encoding="utf-8")
                event.save(folder / f"{seed:04d}.png")
    return folder


def encode_folder(pipeline: Pipeline, data: Path, size: int) -> Shown:
    """A folder's pictures as latents, in memory: they are few. Raises DataError, or ConfigError for the size."""
    check_size(size, pipeline.vae)
    channels = pipeline.config.vae.image_channels
    pictures = FolderPictures(data, size, channels)
    latents: list[Tensor] = []
    with torch.inference_mode():
        for index in tqdm(range(len(pictures)), unit="picture", desc="encoding", disable=None):
            pixels = to_model(pictures.picture(index), channels)[None].to(pipeline.device)
            latents.append(pipeline.vae.encode(pixels).float().cpu())
    return Shown(torch.cat(latents).clone(), np.arange(len(latents)), pictures)
