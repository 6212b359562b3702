"""The name of a model or a LoRA -> where it lies: bundled, a folder or file, or on the Hugging Face hub."""

import re
from dataclasses import dataclass
from pathlib import Path

from stablediff.checkpoints.progress import Progress, silent
from stablediff.errors import CheckpointError

ASSETS = Path(__file__).parent.parent / "assets"
BUNDLED = {"sticker": ASSETS / "sticker"}
DEFAULT_MODEL = "sticker"
CLIP_MERGES = ASSETS / "clip" / "merges.txt"
STATE, RESULT = "state.safetensors", "model"  # in the folder of a run: what it goes on from, and what came of it
LORA_FILE = "pytorch_lora_weights.safetensors"  # what diffusers calls it

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


def former_place(folder: Path) -> Path:
    """Where a save puts the former folder until the new one has its place; one that was killed leaves it there."""
    return folder.with_name(folder.name + ".previous")


def locate(name: str, progress: Progress = silent) -> Location:
    """Finds a model by name, path or hub id ("owner/name"). Raises CheckpointError that lists what there is.

    A path that exists wins over a hub id; the bundled names win over both, write `./sticker` for a folder of that name.
    """
    if name in BUNDLED:
        return Location(name, BUNDLED[name])
    if not name or "\0" in name:
        raise CheckpointError(f"the model's name is empty: {_choices()}")
    try:
        path = Path(name).expanduser()
        former = former_place(path) if path.name else path
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
    if _is_hub_name(name):
        from stablediff.checkpoints.hub import download

        return Location(name, download(name, progress))
    raise CheckpointError(f"there is no model {name[:200]!r}: {_choices()}")


def locate_lora(name: str) -> Location:
    """Finds a LoRA: a .safetensors file, a folder that holds one, or a hub id. Raises CheckpointError."""
    choices = f"choose a .safetensors file, a folder with {LORA_FILE}, or a hub id such as owner/name"
    try:
        path = Path(name).expanduser()
        if name and path.is_dir():
            return Location(_name_of(path), _only_lora(path))
        if path.is_file():
            return Location(path.stem, _only_safetensors(path))
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"cannot look at {name[:200]!r} ({error}): {choices}") from error
    if _is_hub_name(name):
        from stablediff.checkpoints.hub import download

        path = download(name)
        return Location(name, _only_lora(path) if path.is_dir() else _only_safetensors(path))
    raise CheckpointError(f"there is no LoRA {name[:200]!r}: {choices}")


def locate_weights(name: str, what: str, example: str) -> Location:
    """Finds a part of a model: a .safetensors file, a folder, or a hub id. Raises CheckpointError."""
    try:
        path = Path(name).expanduser()
        if name and (path.is_dir() or path.is_file()):
            return Location(path.stem, path if path.is_dir() else _only_safetensors(path, what))
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"cannot look at {name[:200]!r} ({error}): check the name") from error
    if not _is_hub_name(name):
        raise CheckpointError(
            f"there is no {what} {name[:200]!r}: choose a .safetensors file, a folder that holds one, or a hub id such "
            f"as {example}"
        )
    from stablediff.checkpoints.hub import download

    return Location(name, download(name))


def locate_clip(name: str) -> Location:
    """Finds a CLIP with both towers: a folder with config.json, or a hub id. Raises CheckpointError."""
    choices = (
        "name a folder with config.json, model.safetensors and tokenizer files, or a hub id such as "
        "openai/clip-vit-large-patch14"
    )
    path = Path(name)
    if path.is_dir() or not _is_hub_name(name):
        if not (path / "config.json").is_file():
            raise CheckpointError(f"there is no CLIP in {name[:200]}: {choices}")
        return Location(path.resolve().name, path)
    from stablediff.checkpoints.hub import download

    path = download(name)
    if not path.is_dir():
        raise CheckpointError(f"{name} on the hub is no CLIP with both towers: {choices}")
    return Location(name, path)


def _only_lora(folder: Path) -> Path:
    for place in (folder, *_results(folder)):
        if (place / LORA_FILE).is_file():
            return place / LORA_FILE
    if (folder / "model_index.json").is_file():
        raise CheckpointError(f"{folder} is a whole model and no LoRA: give it with --model")
    files = sorted(file for file in folder.glob("*.safetensors") if file.name != STATE)
    if len(files) != 1:
        found = f"several files ({', '.join(file.name for file in files[:5])})" if files else "no .safetensors file"
        raise CheckpointError(f"{folder} holds {found}: name the file of the LoRA")
    return files[0]


def _only_safetensors(path: Path, what: str = "LoRA") -> Path:
    if path.suffix.lower() != ".safetensors":
        raise CheckpointError(
            f"{path} does not end in .safetensors, and only such files are read as {what}: take that version of it"
        )
    return path


def _is_hub_name(name: str) -> bool:
    return bool(_HUB_NAME.fullmatch(name)) and ".." not in name and not name.startswith((".", "/", "~"))


def _choices() -> str:
    bundled = ", ".join(BUNDLED)
    return f"choose {bundled}, the path of a .safetensors file or diffusers folder, or a hub id such as owner/name"


def _folder(path: Path) -> Location:
    for place in (path, *_results(path)):
        if (place / "model_index.json").is_file():
            name = _name_of(place)  # only the bundled one is called as it is
            return Location(place.resolve().name if name in BUNDLED else name, place)
        if (place / LORA_FILE).is_file():
            raise CheckpointError(f"{place} holds a LoRA and no whole model: give it with --lora")
    singles = sorted(p for p in path.iterdir() if p.suffix.lower() in WEIGHT_SUFFIXES and p.name != STATE)
    if len(singles) == 1 and not (path / "config.json").is_file():
        return _file(singles[0])
    if singles and not (path / "config.json").is_file():
        names = ", ".join(p.name for p in singles[:5])
        raise CheckpointError(f"{path} holds several models ({names}): name one of the files")
    hint = "name the folder above it, which has model_index.json" if (path / "config.json").is_file() else _choices()
    raise CheckpointError(f"{path} has no model_index.json, so it is not a whole model: {hint}")


def _results(run: Path) -> tuple[Path, Path]:
    return run / RESULT, former_place(run / RESULT)


def _name_of(folder: Path) -> str:
    """A training run writes to NAME/model, and all models of one's own would be called "model"."""
    folder = folder.resolve()
    return (folder.parent.name if folder in _results(folder.parent) else "") or folder.name


def _file(path: Path) -> Location:
    if path.name == "model_index.json":
        return _folder(path.parent)
    if path.suffix.lower() not in WEIGHT_SUFFIXES:
        raise CheckpointError(
            f"{path} is not a checkpoint by its name: it should end in .safetensors, or be a diffusers folder"
        )
    return Location(path.stem, path)
