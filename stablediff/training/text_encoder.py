"""Stage 2, the text encoder: captions and pictures that belong together come close (Radford et al. 2021, CLIP)."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stablediff.checkpoints.parts import save_text_encoder
from stablediff.config import CLIPConfig
from stablediff.errors import ConfigError
from stablediff.lexicon import Lexicon
from stablediff.models.clip import CLIPTextEncoder
from stablediff.models.layers import ResnetBlock
from stablediff.models.tokenizer import Tokenizer
from stablediff.training.config import LoopConfig, check_range
from stablediff.training.distributed import gather_rows, rank
from stablediff.training.initialise import new_text_encoder
from stablediff.training.material import ScenesConfig, Shown
from stablediff.training.savable import check_savable_text_encoder
from stablediff.training.stage import Batch, Stage
from stablediff.training.vocabulary import to_ids

_JOINT = 256  # width of the space where captions and pictures meet
_FEWEST = 4  # latent cells in a row, which the image tower halves twice
_FURTHEST = 100.0  # the largest logit scale, as in CLIP


@dataclass(frozen=True)
class TextEncoderConfig:
    """A stage file. Latents of pictures `size` pixels wide are what captions are compared with."""

    loop: LoopConfig
    vae: Path
    # A text encoder to go on from, with its own vocabulary and sizes instead of those of `text`: a U-Net that reads it
    # has less to learn anew.
    init: Path | None = None
    text: CLIPConfig = field(default_factory=CLIPConfig)
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    size: int = 256
    # Weight of telling the picture's latents from its caption alone, beside the contrastive loss.
    coarse: float = 1.0

    def __post_init__(self) -> None:
        check_range("coarse", self.coarse, 0)
        check_savable_text_encoder(self.text)


class ImageTower(nn.Module):
    """Latents (B,L,h,w) -> one vector a picture (B,D): convolutions at three sizes, then their mean."""

    def __init__(self, channels: int, width: int = 128) -> None:
        super().__init__()
        widths = [width, 2 * width, 2 * width]
        self.conv_in = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            ResnetBlock(widths[max(i - 1, 0)], w, None, norm_groups=16, norm_eps=1e-5) for i, w in enumerate(widths)
        )
        self.out = nn.Linear(widths[-1], _JOINT)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.conv_in(latents)
        for i, block in enumerate(self.blocks):
            x = block(F.avg_pool2d(x, 2) if i else x)
        return self.out(F.silu(x.mean(dim=(2, 3))))


class TextEncoderStage(Stage):
    """Two tasks: find the picture of a caption among those of the batch, and tell its latents roughly.

    The U-Net reads every token, so the second task looks at the mean of all tokens as well as at the last one.
    """

    def __init__(
        self,
        config: TextEncoderConfig,
        tokenizer: Tokenizer,
        shown: Shown,
        held_out: Shown,
        encoder: CLIPTextEncoder | None = None,
        lexicon: Lexicon | None = None,
    ) -> None:
        super().__init__()
        self.lexicon = lexicon
        self.config, self.tokenizer, self.shown, self.held_out = config, tokenizer, shown, held_out
        channels, *cells = shown.latents.shape[1:]
        if min(cells) < _FEWEST:
            raise ConfigError(f"size is {config.size}, {min(cells)} latent cells wide: choose {_FEWEST} cells or more")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.loop.seed)
            self.encoder = encoder or new_text_encoder(config.text)
            self.text_out = nn.Linear(config.text.hidden_size, _JOINT, bias=False)
            self.image = ImageTower(channels)
            self.coarse = nn.Linear(2 * config.text.hidden_size, channels * cells[0] * cells[1])
            self.logit_scale = nn.Parameter(torch.tensor([1 / 0.07]).log())  # FSDP2 takes no scalars

    def batch(self, step: int, rows: slice) -> Batch:
        streams = [np.random.default_rng((self.config.loop.seed, step, row)) for row in range(rows.start, rows.stop)]
        indices = [int(stream.integers(len(self.shown))) for stream in streams]
        captions = [self.shown.caption(i, stream) for i, stream in zip(indices, streams, strict=True)]
        return {"ids": to_ids(self.tokenizer, captions), "latents": self.shown.latents_of(indices)}

    def forward(self, batch: Batch, progress: float) -> dict[str, Tensor]:  # noqa: ARG002
        context, pooled = self.encoder(batch["ids"])
        text = F.normalize(self.text_out(pooled).float(), dim=1)
        image = F.normalize(self.image(batch["latents"]).float(), dim=1)
        # Row i of this process belongs to row i of this process among all.
        scale = self.logit_scale.exp().clamp(max=_FURTHEST)
        answers = torch.arange(len(text), device=text.device) + rank() * len(text)
        logits = scale * text @ gather_rows(image).T
        contrast = (
            F.cross_entropy(logits, answers) + F.cross_entropy(scale * image @ gather_rows(text).T, answers)
        ) / 2
        told = self.coarse(torch.cat([context.mean(dim=1), pooled], dim=1)).float()
        error = (told - batch["latents"].flatten(1)).square().mean()
        return {
            "loss": contrast + self.config.coarse * error,
            "contrast": contrast,
            "coarse": error,
            "right": (logits.argmax(dim=1) == answers).float().mean(),
        }

    def measure(self) -> dict[str, float]:
        """Retrieval of held-out pictures by their captions, how far captions lie apart, and what they tell."""
        if not len(self.held_out):
            return {}
        device = self.logit_scale.device
        count = min(len(self.held_out), 1000)
        stream = np.random.default_rng(0)
        indices = list(range(count))
        ids = to_ids(self.tokenizer, [self.held_out.caption(i, stream) for i in indices]).to(device)
        latents = self.held_out.latents_of(indices).to(device)
        context, pooled = self.encoder(ids)
        text, image = F.normalize(self.text_out(pooled), dim=1), F.normalize(self.image(latents), dim=1)
        order = (text @ image.T).argsort(dim=1, descending=True)
        found = (order[:, :10] == torch.arange(count, device=device)[:, None]).any(dim=1)
        unit = F.normalize(pooled, dim=1)
        cosine = (unit @ unit.T).fill_diagonal_(0).sum() / (count * (count - 1))
        told = self.coarse(torch.cat([context.mean(dim=1), pooled], dim=1))
        unexplained = (told - latents.flatten(1)).square().mean() / latents.flatten(1).var(dim=0).mean()
        return {
            "recall_at_10": found.float().mean().item(),
            "mean_cosine": cosine.item(),
            "coarse_unexplained": unexplained.item(),
        }

    def export(self, folder: Path) -> None:
        save_text_encoder(folder, self.encoder, self.tokenizer, self.lexicon)
