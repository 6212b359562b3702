"""The emoji that a sticker stands for."""

import unicodedata

_USUAL_EMOJI = "🎨"


def emoji(prompt: str) -> str:
    """The emoji that Unicode names as the prompt does ("fox" is FOX FACE), or a palette."""
    words = ["".join(filter(str.isalpha, word)).upper() for word in prompt.split()]
    for length in (3, 2, 1):
        for start in range(len(words) - length + 1):
            phrase = " ".join(words[start : start + length])
            for name in (phrase, f"{phrase} FACE", f"{phrase} SYMBOL"):
                try:
                    letter = unicodedata.lookup(name)
                except KeyError:
                    continue
                if 0x1F300 <= ord(letter) <= 0x1FAFF:
                    return letter
    return _USUAL_EMOJI
