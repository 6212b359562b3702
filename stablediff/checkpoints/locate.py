"""A model's name -> where it lies: the bundled model, a folder or file, or a model on the Hugging Face hub."""

import re
from dataclasses import dataclass
from pathlib import Path

from stablediff.errors import CheckpointError

ASSETS = Path(__file__).parent.parent / "assets"
BUNDLED = {"sticker": ASSETS / "sticker"}
DEFAULT_MODEL = "sticker"
CLIP_MERGES = ASSETS / "clip" / "merges.txt"

WEIGHT_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(/[\w./ -]+\.safetensors)?")


@dataclass(frozen=True)
class Location:
    """A checkpoint on this disk: a diffusers folder, or a single file."""

    name: str
    path: Path

    @property
    def is_file(self) -> bool:
        return self.path.is_file()


def locate(name: str) -> Location:
    """Finds a model by name, path or hub id ("owner/name"). Raises CheckpointError that lists what there is.

    A path that exists wins over a hub id; the bundled names win over both, write `./sticker` for a folder of that name.
    """
    if name in BUNDLED:
        return Location(name, BUNDLED[name])
    if not name or "\0" in name:
        raise CheckpointError(f"the model's name is empty: {_choices()}")
    try:
        path = Path(name).expanduser()
        # A save that was killed between its two renames leaves the former folder under this name.
        former = path.with_name(path.name + ".previous") if path.name else path
        if not path.exists() and former.is_dir():
            path = former
        if path.is_dir():
            return _folder(path)
        if path.is_file():
            return _file(path)
    except OSError as error:
        raise CheckpointError(f"cannot look at {name[:200]}: {error.strerror}. {_choices()}") from error
    except RuntimeError as error:
        raise CheckpointError(f"there is no user {name.split('/')[0][:50]!r} here: {_choices()}") from error
    if _HUB_NAME.fullmatch(name) and ".." not in name and not name.startswith((".", "/", "~")):
        from stablediff.checkpoints.hub import download

        return Location(name, download(name))
    raise CheckpointError(f"there is no model {name[:200]!r}: {_choices()}")


def _choices() -> str:
    bundled = ", ".join(BUNDLED)
    return f"choose {bundled}, the path of a .safetensors file or diffusers folder, or a hub id such as owner/name"


def _folder(path: Path) -> Location:
    if (path / "model_index.json").is_file():
        return Location(path.resolve().name, path)
    singles = sorted(p for p in path.iterdir() if p.suffix.lower() in WEIGHT_SUFFIXES)
    if len(singles) == 1 and not (path / "config.json").is_file():
        return _file(singles[0])
    if singles and not (path / "config.json").is_file():
        names = ", ".join(p.name for p in singles[:5])
        raise CheckpointError(f"{path} holds several models ({names}): name one of the files")
    hint = "name the folder above it, which has model_index.json" if (path / "config.json").is_file() else _choices()
    raise CheckpointError(f"{path} has no model_index.json, so it is not a whole model: {hint}")


def _file(path: Path) -> Location:
    if path.name == "model_index.json":
        return _folder(path.parent)
    if path.suffix.lower() not in WEIGHT_SUFFIXES:
        raise CheckpointError(
            f"{path} is not a checkpoint by its name: it should end in .safetensors, or be a diffusers folder"
        )
    return Location(path.stem, path)
