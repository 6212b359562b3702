"""What a stage learns from: pictures of icons or of one's own, their latents, and what is held out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stablediff.errors import ConfigError
from stablediff.models.vae import VAE
from stablediff.training.crops import Crops
from stablediff.training.data.folder import FolderPictures
from stablediff.training.data.icons import RECORDS, Icon, Icons
from stablediff.training.data.pictures import IconScenes, Pictures
from stablediff.training.data.render import SIZE
from stablediff.training.data.scenes import ALONE, Item, Scene, SceneRecipe, render_scene, scenes_mark
from stablediff.training.data.split import Split, read_split
from stablediff.training.data.styles import block_side, drawn_in
from stablediff.training.latents import cached_latents

_HELD_OUT = 64  # pictures that an autoencoder is measured on


@dataclass(frozen=True)
class ScenesConfig:
    """Which scenes are made of icons. `things_file` has a thing a line, most wanted first; `num_things` are taken.

    `num` scenes are drawn from `mix`; equal ones share their latents. `others` is the share of things that are not
    among those taken, `newest_share` that of the last `num_newest` of them alone, `russian` that of Russian captions.
    """

    num: int = 20_000
    things_file: Path | None = None
    num_things: int = 0
    styles: tuple[str, ...] = ()
    mix: dict[str, float] = field(default_factory=lambda: {"single": 1.0})
    others: float = 0.0
    num_newest: int = 0
    newest_share: float = 0.0
    russian: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("seed", "num_things", "num_newest"):
            if not 0 <= getattr(self, name) < 2**63:
                raise ConfigError(f"scenes.{name} is {getattr(self, name)}: choose 0 or more")

    def recipe(self) -> SceneRecipe:
        things = () if self.things_file is None else _read_things(self.things_file)[: self.num_things or None]
        newest = things[-self.num_newest :] if self.num_newest else ()
        return SceneRecipe(things, self.styles, dict(self.mix), self.others, newest, self.newest_share)


def _read_things(path: Path) -> tuple[str, ...]:
    """A thing a line, each once. Raises ConfigError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read things_file {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"cannot read things_file {path} ({error}): it must be text in UTF-8") from error
    things = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not things:
        raise ConfigError(f"things_file {path} names nothing: write a thing a line, or leave it away to take all")
    return things


@dataclass(frozen=True)
class Shown:
    """Captioned pictures by their latents: `rows[i]` is the row of picture i in `latents` (N,L,h,w)."""

    latents: Tensor
    rows: NDArray[np.int64]
    pictures: Pictures

    def __len__(self) -> int:
        return len(self.rows)

    def caption(self, index: int, stream: np.random.Generator) -> str:
        return self.pictures.caption(index, stream)

    def latents_of(self, indices: Sequence[int]) -> Tensor:
        return self.latents[torch.from_numpy(self.rows[list(indices)])].float()


class _Scenes:
    """Given scenes with plain captions."""

    def __init__(self, scenes: Sequence[Scene], icons: Icons, size: int) -> None:
        self.scenes, self.icons, self.size = scenes, icons, size

    def __len__(self) -> int:
        return len(self.scenes)

    def picture(self, index: int) -> NDArray[np.uint8]:
        return render_scene(self.scenes[index], self.icons, self.size)

    def caption(self, index: int, rng: np.random.Generator) -> str:  # noqa: ARG002
        scene = self.scenes[index]
        return f"{scene.items[0].thing}, {scene.style} style"

    def name(self) -> str:
        return scenes_mark(self.scenes, self.icons)


def is_icons(data: Path) -> bool:
    return (data / RECORDS).exists()


def crops_of(data: Path, channels: int, seed: int, styles: Sequence[str] = ()) -> tuple[Crops, list[NDArray[np.uint8]]]:
    """-> crops of the pictures in `styles` (none: all) but those held out; some of these, whole. Raises DataError."""
    if not is_icons(data):
        folder = FolderPictures(data, 512, channels)
        held_out = list(range(0, len(folder), 50))[:_HELD_OUT] if len(folder) >= 50 else []
        learnt = [i for i in range(len(folder)) if i not in set(held_out)]
        return Crops(lambda i: folder.picture(learnt[i]), len(learnt), channels), [folder.picture(i) for i in held_out]
    icons, split = Icons(data), read_split(data / "split.json")
    chosen = set(icons.chosen_styles(styles))
    wanted = [icon for icon in icons.records if icon.style in chosen]
    held = [icon for icon in wanted if split.holds_out_style(icon.thing, icon.style)]
    kept = [icon for icon in wanted if not split.holds_out_style(icon.thing, icon.style)]
    some = np.random.default_rng(seed).permutation(len(held))[:_HELD_OUT]

    def picture(icon: Icon) -> NDArray[np.uint8]:
        return drawn_in(icon.style, icons.picture(icon.index))

    crops = Crops(lambda i: picture(kept[i]), len(kept), channels, lambda i: block_side(kept[i].style, SIZE))
    return crops, [picture(held[i]) for i in some]


def shown_of(
    data: Path, scenes: ScenesConfig, size: int, vae: VAE, device: torch.device, precision: torch.autocast
) -> tuple[Shown, Shown]:
    """-> what is learnt from, and held-out combinations of a thing and a style (none for one's own pictures)."""
    cache = data / "latents"
    channels = vae.config.image_channels
    if not is_icons(data):
        folder = FolderPictures(data, size, channels)
        latents = cached_latents(cache, f"{folder.fingerprint()} {size}", folder, size, vae, device, precision)
        shown = Shown(latents, np.arange(len(folder)), folder)
        return shown, Shown(latents[:0], np.arange(0), folder)
    icons, split, recipe = Icons(data), read_split(data / "split.json"), scenes.recipe()
    pictures = IconScenes(icons, split, recipe, scenes.num, scenes.seed, size, scenes.russian)
    rows: dict[Scene, int] = {}
    places = np.array([rows.setdefault(pictures.scene(i), len(rows)) for i in range(len(pictures))])
    held_out = _held_out_styles(icons, split, recipe)

    def latents_for(chosen: Sequence[Scene]) -> Tensor:
        drawn = _Scenes(chosen, icons, size)
        return cached_latents(cache, drawn.name(), drawn, size, vae, device, precision)

    return (
        Shown(latents_for(list(rows)), places, pictures),
        Shown(latents_for(held_out), np.arange(len(held_out)), _Scenes(held_out, icons, size)),
    )


def _held_out_styles(icons: Icons, split: Split, recipe: SceneRecipe) -> list[Scene]:
    things, styles = recipe.things or icons.things, recipe.styles or icons.styles
    known = set(things)
    return [
        Scene(icon.style, (Item(icon.thing, 0.5, 0.5, ALONE),), "single")
        for icon in icons.records
        if split.holds_out_style(icon.thing, icon.style) and icon.thing in known and icon.style in styles
    ]
