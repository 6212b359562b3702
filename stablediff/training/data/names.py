"""The things that pictures show, and what people call them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stablediff.errors import DataError
from stablediff.training.data import synonyms as synonyms_of
from stablediff.training.data.everyday import EVERYDAY
from stablediff.training.data.sources import KEYWORDS, LABELS, read_json

LANGUAGES = ("en", "ru")
_KEYWORDS = "dist/emoji-en-US.json"
_SHORTCODES = ("cldr", "emojibase", "github", "iamcal", "joypixels", "emojibase-legacy")
# Flags, skin tones, hair, and signs that are letters or numbers: pictures of writing, not of things.
_NO_GROUPS = ("component", "flags")
_NO_SUBGROUPS = ("keycap", "alphanum", "skin-tone", "hair-style")


@dataclass(frozen=True)
class Thing:
    """One concept: its English label, its emojibase group, and its names by language, the label first."""

    label: str
    group: str
    names: dict[str, tuple[str, ...]]


def plain_code(code: str) -> str:
    """A hexcode without the mark "show this as a picture", which some sets write and some leave out."""
    return "-".join(part for part in code.upper().split("-") if part != "FE0F")


def read_things(folder: Path) -> dict[str, Thing]:
    """The tarballs in `folder` -> code -> thing, in emojibase's order. Raises DataError."""
    labels = folder / LABELS.file
    groups = read_json(labels, "en/messages.json")
    group_names = {group["order"]: group["key"] for group in groups["groups"]}
    subgroup_names = {group["order"]: group["key"] for group in groups["subgroups"]}
    records: dict[str, dict[str, dict[str, Any]]] = {
        language: {plain_code(record["hexcode"]): record for record in read_json(labels, f"{language}/data.json")}
        for language in LANGUAGES
    }
    wanted = {
        code: record
        for code, record in sorted(records["en"].items(), key=lambda item: item[1].get("order", 0))
        if group_names.get(record.get("group"), "component") not in _NO_GROUPS
        and subgroup_names.get(record.get("subgroup")) not in _NO_SUBGROUPS
        and not record["label"].endswith(": facing right")  # the same again, mirrored
    }
    if not wanted:
        raise DataError(f"{labels} names nothing: delete it and run this again")
    keywords = {
        plain_code(_code(emoji)): words for emoji, words in read_json(folder / KEYWORDS.file, _KEYWORDS).items()
    }
    names = {language: {code: one["label"] for code, one in records[language].items()} for language in LANGUAGES}
    names = {language: {code: known[code] for code in wanted if code in known} for language, known in names.items()}
    tags = {language: {code: one.get("tags", ()) for code, one in records[language].items()} for language in LANGUAGES}
    synonyms = {
        "en": synonyms_of.english(names["en"], _grouped(shortcodes(folder)), tags["en"], keywords),
        "ru": synonyms_of.russian(names["ru"], tags["ru"]),
    }
    return {
        code: Thing(
            record["label"],
            group_names[record["group"]],
            {
                lang: _names(lang, names[lang][code], record["label"], synonyms[lang][code])
                for lang in LANGUAGES
                if code in names[lang]
            },
        )
        for code, record in wanted.items()
    }


def _names(language: str, name: str, label: str, synonyms: tuple[str, ...]) -> tuple[str, ...]:
    """All once, the label first and then what everybody says; Russian is mostly written without ё."""
    names = (name, *EVERYDAY[language].get(label, ()), *synonyms)
    return tuple(dict.fromkeys(name.replace("ё", "е") for name in names))


def shortcodes(folder: Path) -> Iterator[tuple[str, str]]:
    """(code, name): what things are called in chats, in the order of trust."""
    for table in _SHORTCODES:
        for code, names in read_json(folder / LABELS.file, f"en/shortcodes/{table}.json").items():
            for name in [names] if isinstance(names, str) else names:
                yield plain_code(code), name


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for code, name in pairs:
        groups.setdefault(code, []).append(name)
    return groups


def _code(emoji: str) -> str:
    return "-".join(f"{ord(letter):04X}" for letter in emoji)
