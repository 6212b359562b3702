"""What a training loop reads: pictures, each with a caption to choose anew every time."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stablediff.errors import DataError
from stablediff.training.data.captions import caption
from stablediff.training.data.icons import Icons
from stablediff.training.data.scenes import Sampler, Scene, SceneRecipe, render_scene
from stablediff.training.data.split import Split


class Pictures(Protocol):
    """Numbered pictures (H,W,3 or 4) uint8 with captions."""

    def __len__(self) -> int: ...

    def picture(self, index: int) -> NDArray[np.uint8]: ...

    def caption(self, index: int, rng: np.random.Generator) -> str: ...


class IconScenes:
    """`num` scenes of a recipe, each a pure function of the seed and its number; captions in Russian now and then.

    Raises DataError for a recipe that the icons cannot fill.
    """

    def __init__(
        self,
        icons: Icons,
        split: Split,
        recipe: SceneRecipe,
        num: int,
        seed: int,
        size: int = 512,
        russian: float = 0.25,
    ) -> None:
        if num < 1 or size < 8 or not 0 <= russian <= 1:
            raise DataError(f"{num} scenes of {size} pixels, {russian:g} in Russian: use 1 or more, 8 or more, 0 to 1")
        self._icons, self._split, self._num, self._seed = icons, split, num, seed
        self._size, self._russian = size, russian
        self._sampler = Sampler(recipe, split, icons)

    def __len__(self) -> int:
        return self._num

    def scene(self, index: int) -> Scene:
        if not 0 <= index < self._num:
            raise IndexError(index)
        return self._sampler.sample(np.random.default_rng((self._seed, index)))

    def picture(self, index: int) -> NDArray[np.uint8]:
        """-> (size, size, 4), RGB and straight alpha."""
        return render_scene(self.scene(index), self._icons, self._size)

    def caption(self, index: int, rng: np.random.Generator) -> str:
        language = "ru" if rng.random() < self._russian else "en"
        return caption(self.scene(index), self._icons, rng, language, self._split)
