"""Puts a trained model into the package as the bundled one, when its pictures are better than those of the former.

    python tools/ship_sticker.py runs/sticker/diffusion-512/model [--data runs/data] [--things FILE]

Beside the weights go known.txt (the things that it draws; their Russian names in known.ru.txt), LICENCES.md (of the
pictures it learnt from) and SHA256SUMS. Of words.txt stays what is said about these things. The model card, README.md,
is written by hand.
"""

import argparse
import hashlib
import shutil
import tomllib
from pathlib import Path

import numpy as np

from stablediff.lexicon import FILE, Lexicon, read_lexicon
from stablediff.training.data.icons import Icons
from stablediff.training.data.pictures import IconScenes
from stablediff.training.data.scenes import SceneRecipe
from stablediff.training.data.split import read_split
from stablediff.training.material import ScenesConfig

ROOT = Path(__file__).parent.parent
BUNDLED = ROOT / "stablediff" / "assets" / "sticker"
STAGE = ROOT / "configs" / "sticker" / "diffusion-512.toml"
THINGS = ROOT / "configs" / "sticker" / "things.txt"
CAPTIONS = 600_000  # enough for nearly every ending of a Russian word


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, default=Path("runs/data"))
    parser.add_argument("--things", type=Path, default=THINGS, help="what it draws, as `evaluate things` found")
    arguments = parser.parse_args()
    if not (arguments.model / "model_index.json").is_file():
        parser.error(f"there is no model in {arguments.model}: train one with `make sticker`")
    scenes = tomllib.loads(STAGE.read_text(encoding="utf-8"))["scenes"]
    recipe = ScenesConfig(things_file=arguments.things, styles=tuple(scenes["styles"]), mix=scenes["mix"]).recipe()
    icons, words = Icons(arguments.data), read_lexicon(arguments.model)
    if words is not None:  # before anything is removed
        words = words_about(recipe, words, icons)

    card = (BUNDLED / "README.md").read_bytes()
    shutil.rmtree(BUNDLED)
    shutil.copytree(arguments.model, BUNDLED)
    (BUNDLED / "README.md").write_bytes(card)
    russian = {icon.thing: icon.names["ru"][0] for icon in icons.records if icon.names.get("ru")}
    (BUNDLED / "known.txt").write_text("".join(f"{thing}\n" for thing in recipe.things), encoding="utf-8")
    (BUNDLED / "known.ru.txt").write_text("".join(f"{russian.get(t, t)}\n" for t in recipe.things), encoding="utf-8")
    if words is not None:
        (BUNDLED / FILE).write_text(words.to_text(), encoding="utf-8")
    shutil.copyfile(arguments.data / "LICENCES.md", BUNDLED / "LICENCES.md")
    files = sorted(p for p in BUNDLED.rglob("*") if p.is_file() and p.name not in ("README.md", "SHA256SUMS"))
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(BUNDLED).as_posix()}\n" for p in files]
    (BUNDLED / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    print(f"{sum(p.stat().st_size for p in files) / 1e6:.1f} MB in {BUNDLED}: now bring its README.md up to date")


def words_about(recipe: SceneRecipe, words: Lexicon, icons: Icons) -> Lexicon:
    """What was said of other things or in former styles alone is left out: whoever asks for it is told."""
    split, rng = read_split(icons.folder / "split.json"), np.random.default_rng(0)
    about = IconScenes(icons, split, recipe, CAPTIONS, seed=0, russian=0.5)
    said = Lexicon.of(about.caption(i, rng) for i in range(CAPTIONS))
    return Lexicon(words.words & said.words)


if __name__ == "__main__":
    main()
