"""Text -> token ids: byte-pair encoding, with weights, in chunks, and with nothing cut silently.

A text tower reads a fixed number of tokens (77 for CLIP: a start, 75 of the prompt, an end). Longer prompts become
several chunks, each with its own start and end; a chunk ends between two words, or where the prompt says BREAK.
"""

import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import torch
from tokenizers import Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer
from torch import Tensor

from stablediff.errors import ConfigError
from stablediff.models.emphasis import parse_emphasis

CLIP_START, CLIP_END = "<|startoftext|>", "<|endoftext|>"
_CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_SHORTEST = 3
_BREAK = re.compile(r"\bBREAK\b")


@dataclass(frozen=True)
class Token:
    id: int
    text: str
    weight: float
    starts_word: bool


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt as the text tower will see it: what is in which chunk, at which weight."""

    chunks: tuple[tuple[Token, ...], ...]

    @property
    def num_tokens(self) -> int:
        return sum(len(chunk) for chunk in self.chunks)

    @cached_property
    def weighted(self) -> bool:
        return any(token.weight != 1.0 for chunk in self.chunks for token in chunk)


class Tokenizer:
    """Wraps a byte-pair encoder with the special tokens and the length of one text tower."""

    def __init__(self, backend: FastTokenizer, bos_id: int, eos_id: int, pad_id: int, max_length: int) -> None:
        if max_length < _SHORTEST:
            raise ConfigError(f"max_length is {max_length}: choose {_SHORTEST} or more, a start, an end and a word")
        backend.no_truncation()
        backend.no_padding()
        self.backend, self.bos_id, self.eos_id, self.pad_id = backend, bos_id, eos_id, pad_id
        self.max_length = max_length

    @property
    def chunk_length(self) -> int:
        """Tokens of the prompt in one chunk: all but its start and end."""
        return self.max_length - 2

    def tokenize(self, prompt: str) -> TokenizedPrompt:
        """Splits into weighted tokens and chunks; an empty prompt is one empty chunk."""
        sections: list[list[Token]] = [[]]
        for text, weight in parse_emphasis(prompt):
            for i, part in enumerate(_BREAK.split(text)):
                if i:
                    sections.append([])
                sections[-1].extend(self._encode(part, weight))
        chunks = [chunk for section in sections for chunk in _split(section, self.chunk_length)]
        return TokenizedPrompt(tuple(tuple(chunk) for chunk in chunks if chunk) or ((),))

    def _encode(self, text: str, weight: float) -> list[Token]:
        encoding = self.backend.encode(text, add_special_tokens=False)
        return [
            Token(id=id_, text=token, weight=weight, starts_word=i == 0 or word != encoding.word_ids[i - 1])
            for i, (id_, token, word) in enumerate(zip(encoding.ids, encoding.tokens, encoding.word_ids, strict=True))
        ]

    def to_tensors(self, prompt: TokenizedPrompt, num_chunks: int | None = None) -> tuple[Tensor, Tensor]:
        """-> ids int64 (N,L) and weights float32 (N,L), a row a chunk, filled up with empty chunks to `num_chunks`."""
        chunks = [*prompt.chunks, *[()] * ((num_chunks or 0) - len(prompt.chunks))]
        ids = torch.full((len(chunks), self.max_length), self.pad_id)
        weights = torch.ones(len(chunks), self.max_length)
        for row, chunk in enumerate(chunks):
            ids[row, : len(chunk) + 2] = torch.tensor([self.bos_id, *(token.id for token in chunk), self.eos_id])
            weights[row, 1 : len(chunk) + 1] = torch.tensor([token.weight for token in chunk])
        return ids, weights


def _split(tokens: list[Token], length: int) -> list[list[Token]]:
    """Chunks of at most `length` tokens that end between words (unless one word alone is longer)."""
    chunks = []
    while len(tokens) > length:
        cut = next((i for i in range(length, 0, -1) if tokens[i].starts_word), length)
        chunks.append(tokens[:cut])
        tokens = tokens[cut:]
    return [*chunks, tokens]


def clip_tokenizer(merges_file: Path, pad_id: int | None = None, max_length: int = 77) -> Tokenizer:
    """CLIP's own byte-pair encoder from its list of merges (the vocabulary follows from it).

    OpenAI's tower pads with end tokens, OpenCLIP's with 0: pass `pad_id`.
    """
    merges = read_merges(merges_file)
    letters = byte_letters()
    symbols = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges), CLIP_START, CLIP_END]
    return clip_bpe({symbol: i for i, symbol in enumerate(symbols)}, merges, pad_id, max_length)


def read_merges(merges_file: Path) -> list[tuple[str, str]]:
    """The pairs to merge, most common first, from a `merges.txt`."""
    lines = merges_file.read_text(encoding="utf-8").splitlines()
    return [(a, b) for a, b in (line.split() for line in lines if line and not line.startswith("#version"))]


def clip_bpe(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], pad_id: int | None = None, max_length: int = 77
) -> Tokenizer:
    """CLIP's text cleaning and word splitting around any vocabulary of its form."""
    backend = FastTokenizer(
        models.BPE(
            vocab=vocabulary, merges=merges, unk_token=CLIP_END, continuing_subword_prefix="", end_of_word_suffix="</w>"
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    end = vocabulary[CLIP_END]
    return Tokenizer(backend, vocabulary[CLIP_START], end, end if pad_id is None else pad_id, max_length)


_PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]


def byte_letters() -> list[str]:
    """One printable letter for each of the 256 bytes, in CLIP's order: printable bytes first, then the others."""
    return [chr(b) for b in _PRINTABLE] + [chr(256 + i) for i in range(256 - len(_PRINTABLE))]


@cache
def _letter_bytes() -> dict[str, int]:
    numbers = [*_PRINTABLE, *(byte for byte in range(256) if byte not in _PRINTABLE)]
    return dict(zip(byte_letters(), numbers, strict=True))


def spell(symbols: str) -> str:
    """The text of a token, or of several in a row: undoes `byte_letters`."""
    bytes_of = _letter_bytes()
    letters = symbols.replace("</w>", "")
    return bytes(bytes_of.get(letter, ord("?")) for letter in letters).decode("utf-8", errors="replace")
