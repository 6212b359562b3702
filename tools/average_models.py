"""Averages the weights of two models, of which one was trained on from the other.

    python tools/average_models.py stablediff/assets/sticker runs/NAME/model --out runs/average/model [--share 0.5]

Such models lie close together, and between them there is often one that answers better than both: what the training
on has forgotten comes back, and much of what it has learnt stays (Wortsman et al. 2021, arXiv:2109.01903). All but
the weights is taken from the second.
"""

import argparse
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.5, help="of the second model, from 0 to 1")
    arguments = parser.parse_args()
    first, second, out, share = arguments.first, arguments.second, arguments.out, arguments.share
    if not 0 <= share <= 1:
        parser.error(f"--share is {share}: choose 0 (the first model) to 1 (the second)")
    if out.exists():
        parser.error(f"{out} is there already: choose another --out")
    names = sorted(path.relative_to(second) for path in second.rglob("*.safetensors"))
    if not names:
        parser.error(f"there are no weights in {second}: name a folder that training has written")
    if missing := [name for name in names if not (first / name).is_file()]:
        parser.error(f"{first} has no {missing[0]}: only models of one layout have an average")
    weights = {name: (load_file(first / name), load_file(second / name)) for name in names}
    for name, (ours, theirs) in weights.items():
        if {key: value.shape for key, value in ours.items()} != {key: value.shape for key, value in theirs.items()}:
            parser.error(
                f"{name} has other weights in {first} than in {second}: only one trained on from the other will do"
            )

    shutil.copytree(second, out)
    for name, (ours, theirs) in weights.items():
        mean = {
            key: (ours[key].float().lerp(value.float(), share)).to(value.dtype) if value.is_floating_point() else value
            for key, value in theirs.items()
        }
        save_file(mean, out / name, metadata={"format": "pt"})
    print(out)


if __name__ == "__main__":
    main()
