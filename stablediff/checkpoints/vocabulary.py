"""The tokenizer folder of a diffusers model -> our tokenizer."""

import json
from pathlib import Path

from tokenizers import Tokenizer as FastTokenizer

from stablediff.checkpoints.settings import read_settings, read_text
from stablediff.config import CLIPConfig
from stablediff.errors import CheckpointError
from stablediff.models.tokenizer import CLIP_END, CLIP_START, Tokenizer, clip_bpe, read_merges

_LONGEST = 2**25  # bytes
_PROBE = "The quick brown fox, 42 é 中 😀!"  # what a vocabulary cannot spell shows before the drawing


def read_tokenizer(folder: Path, config: CLIPConfig) -> Tokenizer:
    """A diffusers `tokenizer` folder: CLIP's `vocab.json` and `merges.txt`, or any `tokenizer.json`."""
    settings: dict[str, object] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        # The map corrects the config in SD 2's folders, which pad with "!"; files of newer libraries do not need it.
        if (folder / name).is_file() and "added_tokens_decoder" not in settings:
            settings |= read_settings(folder / name)

    def special(role: str, default: str) -> str:
        value = settings.get(role) or default
        return str(value.get("content", default)) if isinstance(value, dict) else str(value)

    try:
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            vocabulary = json.loads(read_text(folder / "vocab.json", _LONGEST))
            backend = clip_bpe(vocabulary, read_merges(folder / "merges.txt")).backend
        else:
            backend = FastTokenizer.from_str(read_text(folder / "tokenizer.json", _LONGEST))
        backend.encode(_PROBE)
        highest = max(backend.get_vocab(with_added_tokens=True).values(), default=0)
    except CheckpointError:
        raise
    except Exception as error:  # the library raises bare Exceptions
        raise CheckpointError(
            f"cannot read the tokenizer in {folder} ({str(error)[:200]}): get the model again."
        ) from error
    bos, eos = special("bos_token", CLIP_START), special("eos_token", CLIP_END)
    bos_id, eos_id, pad_id = (backend.token_to_id(token) for token in (bos, eos, special("pad_token", eos)))
    if bos_id is None or eos_id is None or pad_id is None or highest >= config.vocab_size:
        raise CheckpointError(f"the tokenizer in {folder} does not fit its text encoder: get the model again.")
    return Tokenizer(backend, bos_id, eos_id, pad_id, config.max_length)
