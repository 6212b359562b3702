"""What the model will read of a prompt, before it is drawn: every token, its weight, its chunk, and unknown words."""

import html

from stablediff.models.tokenizer import Token, TokenizedPrompt, spell
from stablediff.pipeline import Pipeline
from stablediff.request import MAX_PROMPT_LENGTH
from stablediff.web.texts import text
from stablediff.web.trouble import remark

_MOST = 300  # chips on the page; the count goes on
_LONGEST, _MOST_PIECES = 60, 20  # letters of a chip, and tokens that it names


def read_prompt(pipeline: Pipeline, prompt: str, language: str) -> str:
    """HTML. Empty for an empty prompt, and for one that is too long to be a request."""
    if not prompt.strip() or len(prompt) > MAX_PROMPT_LENGTH:
        return ""
    tokenizer = pipeline.tokenizers[0]
    tokens = tokenizer.tokenize(pipeline.as_read(prompt))
    length = tokenizer.chunk_length
    key = "tokens_one" if len(tokens.chunks) == 1 else "tokens_more"
    count = text(key, language, count=tokens.num_tokens, length=length, chunks=len(tokens.chunks))
    plain = " ".join(word for chunk in tokens.chunks for word, _ in _words(chunk))
    knows = pipeline.lexicon if not pipeline.loras else None  # a LoRA may have taught it more
    strangers = knows.strangers(plain) if knows else {}
    parts = [f'<span class="count">{html.escape(count)}</span>', *_chips(tokens, strangers, language)]
    if strangers:
        told = [f"{word} → {', '.join(near)}" if near else word for word, near in strangers.items()]
        parts.append(remark(text("strangers", language, words="; ".join(told))))
    return f'<div class="chips">{"".join(parts)}</div>'


def _chips(tokens: TokenizedPrompt, strangers: dict[str, list[str]], language: str) -> list[str]:
    parts, shown = [], 0
    for number, chunk in enumerate(tokens.chunks):
        if number:
            cut = text("chunk", language, number=number + 1)
            parts.append(f'<div class="cut">{html.escape(cut)}</div>')
        for word, pieces in _words(chunk):
            if shown == _MOST:
                return [*parts, "…"]
            shown += 1
            weight = pieces[0].weight
            marks = f" <small>×{weight:.3g}</small>" if weight != 1 else ""
            if len(pieces) > 1:
                named = " + ".join(piece.text for piece in pieces[:_MOST_PIECES])
                named += " + …" * (len(pieces) > _MOST_PIECES)
                marks += f' <small title="{html.escape(named)}">{len(pieces)}</small>'
            strange = " strange" if word.lower() in strangers else ""
            parts.append(f'<span class="chip{strange}">{html.escape(_shorten(word))}{marks}</span>')
    return parts


def _shorten(word: str) -> str:
    return word if len(word) <= _LONGEST else word[:_LONGEST] + "…"


def _words(chunk: tuple[Token, ...]) -> list[tuple[str, list[Token]]]:
    """The tokens of each word together, with the word as one reads it."""
    words: list[list[Token]] = []
    for token in chunk:
        if token.starts_word or not words:
            words.append([])
        words[-1].append(token)
    return [(spell("".join(piece.text for piece in pieces)), pieces) for pieces in words]
