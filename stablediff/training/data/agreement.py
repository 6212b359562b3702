"""Russian adjectives agree with their noun: "синяя рыба", "синий шар". By rules, silent where they may err."""

import re
from collections.abc import Sequence

from stablediff.training.data.dictionary import reading
from stablediff.training.data.words import RU_COLOURS

# Endings of hard and soft stems: masculine, feminine, neuter, plural.
_HARD = {"m": "ый", "f": "ая", "n": "ое", "pl": "ые"}
_SOFT = {"m": "ий", "f": "яя", "n": "ее", "pl": "ие"}

# Of a first word that others follow; "здание суда" is none of them.
_ADJECTIVE = [
    (r"(ани|ени|яти|стви)е", "n"),
    (r"(ый|ий|ой)", "m"),
    (r"(ая|яя)", "f"),
    (r"(ое|ее)", "n"),
    (r"(ые|ие)", "pl"),
]
_NOUN = [
    (r"(.*мя)", "n"),
    (r"(мужчина|папа|дедушка|дядя|юноша|судья|кофе|пони|кенгуру|такси|пюре|меню|метро|кимоно|манго)", None),
    (r".*[ая]", "f"),
    (r".*[оеё]", "n"),
    (r".*[ыи]", "pl"),
    (r".*(тель|арь|орь|ырь)", "m"),
    (r"(конь|олень|медведь|корабль|дождь|огонь|гусь|лебедь|голубь|рояль|автомобиль|тюлень|картофель|руль|пень)", "m"),
    (r"(король|бинокль|календарь|пароль|портфель|апрель|щавель|лось|шампунь|гвоздь|груздь|червь|журавль)", "m"),
    (r".*([жчшщ]ь|сть|знь|вь|адь|едь|оть)", "f"),
    (r"(рысь|соль|дверь|кровать|ель|медаль|ладонь|сеть|печень|сирень|осень|пыль|фасоль|тень|цепь|вермишель)", "f"),
    (r".*[бвгджзйклмнпрстфхцчшщ]", "m"),
]


def gender(name: str) -> str | None:
    """Of a thing's name, in the nominative: "m", "f", "n", "pl", or None where its letters do not tell."""
    words = name.lower().split()
    if not words or not re.fullmatch("[а-яё-]+", words[0]):
        return None
    if len(words) > 1:  # "воздушный шар"; a noun alone can end so, too ("кий")
        for ending, answer in _ADJECTIVE:
            if re.fullmatch(f".+{ending}", words[0]):
                return answer
    return next((answer for pattern, answer in _NOUN if re.fullmatch(pattern, words[0])), None)


def painted(name: str, colours: Sequence[str]) -> str | None:
    """ "рыба", ["blue"] -> "синяя рыба"; None where the gender is not known, or the name begins with no noun."""
    kind = gender(name)
    first = reading(name.split()[0], {"NOUN", "ADJF", "PRTF"}, number=None) if kind else None
    if kind is None or first is None or "Fixd" in first.tag:  # "киви" is one of them and many
        return None
    return f"{' и '.join(_adjective(colour, kind) for colour in colours)} {name}"


def _adjective(colour: str, kind: str) -> str:
    genitive = RU_COLOURS[colour][0]
    endings = _SOFT if genitive.endswith("его") else _HARD
    return genitive[:-3] + endings[kind]
