"""Models on the Hugging Face hub: downloaded once, resumed where broken off, checked, and then used offline."""

import contextlib
import fnmatch
import hashlib
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from stablediff.checkpoints.locate import LORA_FILE
from stablediff.checkpoints.progress import Progress, counting_bar, silent
from stablediff.errors import CheckpointError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

# The parts of a diffusers folder that are read; everything else (safety checkers, other formats) stays on the hub.
_SETTINGS = (
    "model_index.json",
    "defaults.json",
    "words.txt",
    "scheduler/scheduler_config.json",
    "tokenizer*/*.json",
    "tokenizer*/*.txt",
    "text_encoder*/config.json",
    "unet/config.json",
    "vae/config.json",
)
_WEIGHTS = ("text_encoder*/", "unet/", "vae/")
# A CLIP with both towers, which pictures are scored by.
_CLIP = ("config.json", "model.safetensors")
_CLIP_WORDS = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")


def download(name: str, progress: Progress = silent) -> Path:
    """`owner/name` or `owner/name/file.safetensors` -> a folder or file in the hub's cache on this disk.

    Shows progress, takes up broken connections, keeps whole files of a former attempt, and compares each weight file
    with the hub's SHA-256.
    With HF_HUB_OFFLINE=1, or when the hub cannot be reached, uses what is in the cache. Raises CheckpointError.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    owner, repo, *rest = name.split("/")
    repo_id, single = f"{owner}/{repo}", "/".join(rest)
    if constants.HF_HUB_OFFLINE:
        return _from_cache(repo_id, single, "HF_HUB_OFFLINE is set")
    try:
        info = HfApi().model_info(repo_id, files_metadata=True, timeout=15)
        files = _choose(info, single)
        sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or []}
        total, before = max(sum(sizes[file] for file in files), 1), 0
        for file in files:
            tell = partial(_tell, progress, before, total)
            path = Path(hf_hub_download(repo_id, file, revision=info.sha, tqdm_class=counting_bar(tell)))
            _check(path, file, info)
            before += sizes[file]
            progress("downloading", min(before / total, 1.0))
    except GatedRepoError as error:
        raise CheckpointError(
            f"{repo_id} asks its users to accept its terms: do that on its page on the hub, then log in (hf auth login)"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"the hub has no model {repo_id!r} (or it is private): check the spelling, or log in (hf auth login)"
        ) from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        if getattr(error, "errno", None) == 28:
            raise CheckpointError(
                f"the disk is full ({error}): free some space, or set HF_HOME to another disk"
            ) from error
        return _from_cache(repo_id, single, f"the hub cannot be reached ({_first_line(error)})")
    except CheckpointError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        why = f"the hub's answer makes no sense ({_first_line(error)[:100]}; is there a login page in between?)"
        return _from_cache(repo_id, single, why)
    except Exception as error:  # the HTTP library's own errors, which are not OSErrors
        if type(error).__module__.split(".")[0] not in ("httpx", "httpx2", "httpcore", "httpcore2", "requests"):
            raise
        return _from_cache(repo_id, single, f"the hub cannot be reached ({_first_line(error)})")
    # Every file of one revision lies below the same folder.
    snapshot = path.parents[files[-1].count("/")]
    _remember(snapshot)
    return path if single or len(files) == 1 else snapshot


def _tell(progress: Progress, before: int, total: int, there: int) -> None:
    progress("downloading", min((before + there) / total, 1.0))


def _remember(snapshot: Path) -> None:
    """Notes in the cache that this is the newest revision, now that all of it is here: it will be found offline."""
    note = snapshot.parent.parent / "refs" / "main"
    with contextlib.suppress(OSError):  # the cache may be read-only
        if not note.is_file() or note.read_text() != snapshot.name:
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(snapshot.name)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _choose(info: "ModelInfo", single: str) -> list[str]:
    """The files to fetch: one single file, or a diffusers folder's settings and the smaller of its weight sets."""
    names = [sibling.rfilename for sibling in info.siblings or []]
    if single:
        if single not in names:
            raise CheckpointError(f"{info.id} has no file {single}; it has {_list(names)}")
        return [single]
    if "model_index.json" in names:
        settings = [n for n in names if any(fnmatch.fnmatch(n, pattern) for pattern in _SETTINGS)]
        return [*settings, *(w for folder in _WEIGHTS for w in _weights(names, folder, info.id))]
    words = [n for n in names if n in _CLIP_WORDS]
    if words and set(_CLIP) <= set(names):
        return [*words, *_CLIP]
    files = [n for n in names if n.endswith(".safetensors") and "/" not in n]
    if LORA_FILE in files:
        return [LORA_FILE]
    if len(files) != 1:
        raise CheckpointError(
            f"{info.id} is not a diffusers folder. Name one of its files, as in {info.id}/FILE.safetensors; it has "
            f"{_list([n for n in names if n.endswith('.safetensors')])}"
        )
    return files


def _weights(names: list[str], pattern: str, repo_id: str) -> list[str]:
    """The safetensors files of one part; in float16 where there is a choice, which halves the download."""
    files = [n for n in names if fnmatch.fnmatch(n, f"{pattern}*.safetensors*")]
    folders = sorted({n.rsplit("/", 1)[0] for n in files})
    if not folders:
        raise CheckpointError(
            f"{repo_id} has no safetensors weights in {pattern.rstrip('*/')} (only pickles, perhaps, which can run "
            "code): choose another copy of this model"
        )
    chosen: list[str] = []
    for folder in folders:
        here = [n for n in files if n.startswith(f"{folder}/") and "non_ema" not in n]
        half = [n for n in here if re.search(r"\.fp16[.-]", n)]  # whole, or in shards
        chosen += half or here
    return chosen


def _list(names: list[str]) -> str:
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "") if names else "none"


def _check(path: Path, file: str, info: "ModelInfo") -> None:
    """Compares a weight file with the SHA-256 that the hub keeps for it, once a download."""
    expected = next((s.lfs.sha256 for s in info.siblings or [] if s.rfilename == file and s.lfs), None)
    blob = path.resolve()
    checked = blob.with_name(blob.name + ".checked")
    if expected is None or checked.exists():
        return
    digest = hashlib.sha256()
    with blob.open("rb") as stream:
        while block := stream.read(2**22):
            digest.update(block)
    if digest.hexdigest() != expected:
        blob.unlink()
        path.unlink(missing_ok=True)
        raise CheckpointError(f"{file} arrived damaged (its SHA-256 is not the hub's) and was deleted: run this again")
    checked.touch()


def _from_cache(repo_id: str, single: str, why: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        # Only these are asked for, because other programs may have left a list of files that we have no use for.
        folder = Path(snapshot_download(repo_id, local_files_only=True, allow_patterns=[single or "model_index.json"]))
    except (LocalEntryNotFoundError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{repo_id} is not on this disk, and {why}: connect and run this again, or use the bundled model (sticker)"
        ) from error
    path = folder / single
    if single and not path.is_file():
        raise CheckpointError(f"{repo_id}/{single} is not on this disk, and {why}: connect and run this again")
    if not single and not (folder / "model_index.json").is_file() and not (folder / "config.json").is_file():
        files = sorted(folder.glob("*.safetensors"))
        if len(files) != 1:
            raise CheckpointError(f"{repo_id} is not whole on this disk, and {why}: connect and run this again")
        return files[0]
    return path
