"""A vocabulary of one's own: byte pairs learnt from captions, in the form of CLIP's."""

import json
from collections.abc import Iterable, Sequence

import torch
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models, trainers
from torch import Tensor

from stablediff.errors import ConfigError
from stablediff.models.tokenizer import CLIP_END, CLIP_START, Tokenizer, byte_letters, clip_bpe


def learn_vocabulary(captions: Iterable[str], size: int, max_length: int) -> Tokenizer:
    """The pairs of letters that occur most often (Sennrich et al. 2016, arXiv:1508.07909), until there are `size`.

    The same captions give the same vocabulary. Raises ConfigError if `size` has no room for the letters.
    """
    letters = byte_letters()
    alphabet = [*letters, *(letter + "</w>" for letter in letters)]
    if size < len(alphabet) + 2:
        raise ConfigError(f"vocab_size is {size}: choose {len(alphabet) + 2} or more")
    backend = clip_bpe({s: i for i, s in enumerate([*alphabet, CLIP_START, CLIP_END])}, []).backend
    learner = FastTokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=size - 2,
        # Equally frequent pairs come in the order of their letters' numbers. Those that are not given here would be
        # numbered in the order of a hash table, another one in every process.
        special_tokens=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(captions, trainer)
    merges = _merges(learner)[: size - 2 - len(alphabet)]
    symbols = [*alphabet, *(a + b for a, b in merges), CLIP_START, CLIP_END]
    symbols = list(dict.fromkeys(symbols))
    return clip_bpe({symbol: i for i, symbol in enumerate(symbols)}, merges, max_length=max_length)


def _merges(learner: FastTokenizer) -> list[tuple[str, str]]:
    pairs = json.loads(learner.to_str())["model"]["merges"]
    return [(a, b) for a, b in (pair.split(" ") if isinstance(pair, str) else pair for pair in pairs)]


def to_ids(tokenizer: Tokenizer, captions: Sequence[str]) -> Tensor:
    """Plain captions -> ids int64 (B,L), one chunk each: what is too long is cut at its end."""
    length = tokenizer.chunk_length
    rows = torch.full((len(captions), tokenizer.max_length), tokenizer.pad_id)
    for row, encoding in zip(
        rows, tokenizer.backend.encode_batch(list(captions), add_special_tokens=False), strict=True
    ):
        ids = [tokenizer.bos_id, *encoding.ids[:length], tokenizer.eos_id]
        row[: len(ids)] = torch.tensor(ids)
    return rows
