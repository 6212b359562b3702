"""Puts a trained model into the package as the bundled one, when its pictures are better than those of the former.

    python tools/ship_sticker.py runs/sticker/diffusion-512/model [--data runs/data]

Beside the weights go known.txt (the things it was taught; their Russian names in known.ru.txt), LICENCES.md (of the
pictures it learnt from) and SHA256SUMS. The model card, README.md, is written by hand.
"""

import argparse
import hashlib
import shutil
from pathlib import Path

from stablediff.training.data.icons import Icons

BUNDLED = Path(__file__).parent.parent / "stablediff" / "assets" / "sticker"
THINGS = Path(__file__).parent.parent / "configs" / "sticker" / "things.txt"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, default=Path("runs/data"))
    arguments = parser.parse_args()
    if not (arguments.model / "model_index.json").is_file():
        parser.error(f"there is no model in {arguments.model}: train one with `make sticker`")

    card = (BUNDLED / "README.md").read_bytes()
    shutil.rmtree(BUNDLED)
    shutil.copytree(arguments.model, BUNDLED)
    (BUNDLED / "README.md").write_bytes(card)
    shutil.copyfile(THINGS, BUNDLED / "known.txt")
    russian = {icon.thing: icon.names["ru"][0] for icon in Icons(arguments.data).records if icon.names.get("ru")}
    things = THINGS.read_text(encoding="utf-8").splitlines()
    (BUNDLED / "known.ru.txt").write_text("".join(f"{russian.get(t, t)}\n" for t in things), encoding="utf-8")
    shutil.copyfile(arguments.data / "LICENCES.md", BUNDLED / "LICENCES.md")
    files = sorted(p for p in BUNDLED.rglob("*") if p.is_file() and p.name not in ("README.md", "SHA256SUMS"))
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(BUNDLED).as_posix()}\n" for p in files]
    (BUNDLED / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    print(f"{sum(p.stat().st_size for p in files) / 1e6:.1f} MB in {BUNDLED}: now bring its README.md up to date")


if __name__ == "__main__":
    main()
