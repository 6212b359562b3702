"""What `generate` tells: how far it is, and at last the pictures."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from stablediff import recipe
from stablediff.images import save_png
from stablediff.request import ResolvedRequest
from stablediff.version import __version__


@dataclass(frozen=True)
class Update:
    """Where the work stands. `step` of `total` counts the denoising steps of all batches."""

    stage: str  # "encode", "denoise" or "decode"
    step: int
    total: int
    seconds_left: float | None = None  # of all that is to come, as far as it is known
    request: ResolvedRequest | None = None  # the first one says what will be drawn,
    memory: float | None = None  # and how many bytes all of it will take, about
    sigma: float | None = None  # the noise level that was reached
    previews: tuple[Image.Image, ...] = ()
    images: tuple[Image.Image, ...] = ()  # those that are finished
    notes: tuple[str, ...] = ()  # of the first one: the result's, as far as they are known


@dataclass(frozen=True)
class Result:
    """The pictures, and all that is needed to make them again. `request` has nothing left open."""

    images: tuple[Image.Image, ...]
    seeds: tuple[int, ...]
    request: ResolvedRequest
    model: str
    seconds: dict[str, float]  # per stage, and "total"
    notes: tuple[str, ...] = ()  # what happened on the way that the user should know
    stopped: bool = False
    loras: tuple[tuple[str, float], ...] = ()  # names and scales
    precision: str | None = None  # of the networks, as "bfloat16"
    tiny_decoder: bool = False  # whether one drew the pixels

    def parameters(self, index: int) -> str:
        """The recipe of one picture, in the form that other programs read."""
        seed, made_with = self.seeds[index], (self.loras, self.precision, self.tiny_decoder)
        return recipe.to_text(self.request, seed, self.model, __version__, *made_with)

    def save(self, path: str | Path, index: int = 0) -> None:
        """One picture as a PNG that carries its recipe. Raises OSError."""
        save_png(self.images[index], Path(path), self.parameters(index))
