"""How the judge learns: real renders, some of them spoilt, and what is to be seen in each cell."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stablediff.errors import ConfigError
from stablediff.evaluation.judge.files import save_judge, take_over
from stablediff.evaluation.judge.network import GRID, GROUPS, SIDE, Judge, JudgeConfig
from stablediff.evaluation.judge.scenes import JudgeScenes, SmallIcons
from stablediff.training.config import LoopConfig
from stablediff.training.crops import to_model
from stablediff.training.data.colours import COLOURS
from stablediff.training.data.icons import Icons
from stablediff.training.data.scenes import Scene, render_scene
from stablediff.training.data.split import Split
from stablediff.training.stage import Batch, Stage

_NEAR = 0.75  # cells: a cell as near as this to a thing's centre answers for it
_NOBODY = -100  # what cross_entropy leaves out
_BLURRED, _NOISY, _TINTED = 0.35, 0.35, 0.2
_RECOGNISED = 0.5  # a style that is always told from the thing is learnt by heart, picture by picture
_PRESENCE = 20.0  # weight of finding centres, a mean over mostly empty cells


@dataclass(frozen=True)
class JudgeStageConfig:
    """A stage file. `things_file` has a thing a line; `num_things` of them are learnt (0: all).

    They are learnt in `styles` (none: all), which are told from each other and from no others. `start_from` is the
    folder of another judge, whose weights are taken over as far as both know the same things and styles.
    """

    loop: LoopConfig
    things_file: Path | None = None
    num_things: int = 0
    styles: tuple[str, ...] = ()
    widths: tuple[int, ...] = (48, 96, 192)
    start_from: Path | None = None

    def __post_init__(self) -> None:
        if len(self.widths) != 3 or any(width < 1 or width % GROUPS for width in self.widths):
            raise ConfigError(
                f"widths are {list(self.widths)}: choose three positive multiples of {GROUPS}, as [48, 96, 192]"
            )


class JudgeStage(Stage):
    """Learns from random scenes; `exam` gives figures on held-out ones."""

    def __init__(
        self,
        config: JudgeStageConfig,
        icons: Icons,
        split: Split,
        things: tuple[str, ...],
        exam: Callable[[Judge], dict[str, float]] = lambda _: {},
    ) -> None:
        super().__init__()
        self.config, self.exam = config, exam
        styles = icons.chosen_styles(config.styles)
        self._icons, self._scenes = SmallIcons(icons), JudgeScenes(icons, split, things, styles)
        self._thing_ids = {thing: i for i, thing in enumerate(things)}
        self._style_ids = {style: i for i, style in enumerate(styles)}
        self._colour_ids = {colour: i for i, colour in enumerate(COLOURS)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.loop.seed)
            self.judge = Judge(JudgeConfig(things, styles, config.widths))
        if config.start_from is not None:
            take_over(self.judge, config.start_from)

    def batch(self, step: int, rows: slice) -> Batch:
        streams = [np.random.default_rng((self.config.loop.seed, step, row)) for row in range(rows.start, rows.stop)]
        scenes = [self._scenes.draw(stream) for stream in streams]
        pictures = [
            spoil(to_model(render_scene(scene, self._icons, SIDE), 4), stream)
            for scene, stream in zip(scenes, streams, strict=True)
        ]
        recognised = [float(stream.random() < _RECOGNISED) for stream in streams]
        maps = [self._maps(scene) for scene in scenes]
        return {
            "pixels": torch.stack(pictures),
            "recognised": torch.tensor(recognised),
            "things": torch.from_numpy(np.stack([things for things, _ in maps])),
            "colours": torch.from_numpy(np.stack([colours for _, colours in maps])),
            "style": torch.tensor([self._style_ids[scene.style] for scene in scenes]),
            "background": torch.tensor(
                [self._colour_ids.get(scene.background or "", len(COLOURS)) for scene in scenes]
            ),
        }

    def _maps(self, scene: Scene) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which thing, and which colour, has its centre in each cell: (8,8) twice, -100 for none."""
        things, colours = (np.full((GRID, GRID), _NOBODY, np.int64) for _ in range(2))
        centres = np.arange(GRID) + 0.5
        for item in scene.items:
            icon = self._icons.find(item.thing, scene.style)
            distance = np.hypot(centres[:, None] - item.y * GRID, centres - item.x * GRID)
            near = distance <= min(_NEAR, distance.min() + 0.3)
            things[near] = self._thing_ids[item.thing]
            own = icon.colours[0] if icon and icon.colours else ""
            colours[near] = self._colour_ids.get(item.colour or own, _NOBODY)
        return things, colours

    def forward(self, batch: Batch, progress: float) -> dict[str, Tensor]:  # noqa: ARG002
        reading = self.judge(batch["pixels"], batch["recognised"])
        here = (batch["things"] != _NOBODY).float()
        presence = F.binary_cross_entropy_with_logits(reading.presence.float(), here)
        things = F.cross_entropy(reading.things.float(), batch["things"], label_smoothing=0.05)
        style = F.cross_entropy(reading.style.float(), batch["style"])
        background = F.cross_entropy(reading.background.float(), batch["background"])
        # A batch without a colour would be a mean over nothing.
        colours = F.cross_entropy(reading.colours.float(), batch["colours"], reduction="sum")
        colours = colours / (batch["colours"] != _NOBODY).sum().clamp(min=1)
        right = (reading.things.argmax(dim=1) == batch["things"]).float().sum() / here.sum()
        return {
            "loss": _PRESENCE * presence + things + style + 0.5 * (background + colours),
            "presence": presence,
            "things": things,
            "colours": colours,
            "style": style,
            "background": background,
            "right": right,
        }

    def measure(self) -> dict[str, float]:
        return self.exam(self.judge)

    def export(self, folder: Path) -> None:
        save_judge(self.judge, folder)


def spoil(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """(4,H,W) in [-1, 1] -> as a model draws it at times: blurred, noisy, a little off in colour."""
    if rng.random() < _BLURRED:
        side = int(rng.integers(SIDE // 2, SIDE))
        small = F.interpolate(pixels[None], size=(side, side), mode="area")
        pixels = F.interpolate(small, size=pixels.shape[1:], mode="bilinear")[0]
    if rng.random() < _TINTED:
        factors = torch.tensor([*rng.uniform(0.88, 1.0, 3), 1.0], dtype=torch.float32)[:, None, None]
        pixels = (pixels + 1) * factors - 1
    if rng.random() < _NOISY:
        level = rng.uniform(0.02, 0.15)
        pixels = pixels + level * torch.from_numpy(rng.standard_normal(pixels.shape, dtype=np.float32))
    return pixels.clamp(-1, 1)
