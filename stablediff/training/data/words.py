"""The little grammar that captions need: articles, plurals, names without their colour, and words in two languages."""

import re

from stablediff.training.data.colours import COLOURS

SOMETHING = {"en": "something", "ru": "что-то"}
NUMBERS = {2: "two", 3: "three", 4: "four"}
# The word for it in a caption, the largest side (as a share of the canvas) that it is said of.
SIZES = {"tiny": 0.3, "small": 0.5, "large": 1.0}

# Phrases that agree with nothing, so that no noun needs its gender or case.
RU_STYLES = {
    "flat": "в плоском стиле",
    "soft": "в мягком стиле",
    "retro": "в стиле ретро",
    "glossy": "в глянцевом стиле",
    "bold": "в ярком стиле",
    "pixel": "в пиксельном стиле",
    "line": "в контурном стиле",
    "plain": "в гладком стиле",
    "classic": "в классическом стиле",
    "simple": "в простом стиле",
}
RU_STYLE_NAMES = {
    "flat": "плоский стиль",
    "soft": "мягкий стиль",
    "retro": "ретро стиль",
    "glossy": "глянцевый стиль",
    "bold": "яркий стиль",
    "pixel": "пиксельный стиль",
    "line": "контурный стиль",
    "plain": "гладкий стиль",
    "classic": "классический стиль",
    "simple": "простой стиль",
}
RU_COLOURS = {  # genitive, prepositional
    "red": ("красного", "красном"),
    "orange": ("оранжевого", "оранжевом"),
    "yellow": ("желтого", "желтом"),
    "green": ("зеленого", "зеленом"),
    "teal": ("бирюзового", "бирюзовом"),
    "blue": ("синего", "синем"),
    "purple": ("фиолетового", "фиолетовом"),
    "pink": ("розового", "розовом"),
    "brown": ("коричневого", "коричневом"),
    "black": ("черного", "черном"),
    "white": ("белого", "белом"),
    "grey": ("серого", "сером"),
}
RU_NUMBERS = {2: "две штуки", 3: "три штуки", 4: "четыре штуки"}
RU_SIZES = {"tiny": "крошечного размера", "small": "маленького размера", "large": "большого размера"}

_ENGLISH_COLOUR = re.compile(rf"^((light|dark) )?({'|'.join(COLOURS)}|gray) (?=\w)", re.IGNORECASE)
_RUSSIAN_COLOUR = re.compile(
    r"^(темно-|светло-)?(красн|ал|оранжев|желт|жёлт|зелен|зелён|бирюзов|син|голуб|фиолетов|пурпурн|розов|коричнев|черн|чёрн"
    r"|бел|сер)(ый|ий|ой|ая|яя|ое|ее|ые|ие) (?=\w)",
    re.IGNORECASE,
)
_AFTER_NOUN = (
    "with|without|of|in|on|behind|over|under|not|done|showing|for|at|from|and|screaming|blowing|tilted|pointed|up|down"
)
_HEAD = re.compile(
    r"^(?P<head>person|man|woman)(?P<rest> .+|)$|"
    rf"^(?P<noun>.+?)(?P<more>(?:[:,]| (?:{_AFTER_NOUN})) .+| (?:up|down)|)$"
)
_ALIKE = ("fish", "blowfish", "jellyfish", "sheep", "deer", "moose", "shrimp", "bison", "aircraft", "rhinoceros")
_IRREGULAR = {
    "person": "people",
    "child": "children",
    "mouse": "mice",
    "goose": "geese",
    "foot": "feet",
    "tooth": "teeth",
    "ox": "oxen",
    "leaf": "leaves",
    "sheaf": "sheaves",
    "elf": "elves",
    "knife": "knives",
    "wolf": "wolves",
    "scarf": "scarves",
    "potato": "potatoes",
    "tomato": "tomatoes",
    "superhero": "superheroes",
    "merperson": "merpeople",
    "mosquito": "mosquitoes",
    "volcano": "volcanoes",
    **{same: same for same in _ALIKE},
}


def without_colour(name: str, language: str = "en") -> str:
    """ "red apple" -> "apple": what is left to be called blue."""
    return (_RUSSIAN_COLOUR if language == "ru" else _ENGLISH_COLOUR).sub("", name)


def names_a_colour(name: str) -> bool:
    return any(word in COLOURS or word == "gray" for word in re.split(r"\W+", name.lower()))


def plural(name: str) -> str:
    """ "face with tears" -> "faces with tears", by a few rules."""
    match = _HEAD.match(name)
    if match is None or re.match("(people|men|women) ", name):
        return name
    if match["head"]:  # "man running", "man teacher"
        head, rest = _plural_word(match["head"]), match["rest"]
        is_noun = re.fullmatch(" [^ ]+( [^ ]+)?", rest) and not re.match(rf" ([^ ]+ing|{_AFTER_NOUN})\b", rest)
        return head + (f" {plural(rest[1:])}" if is_noun else rest)
    before, blank, word = match["noun"].rpartition(" ")
    return before + blank + _plural_word(word) + match["more"]


def _plural_word(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("man"):
        return word[:-2] + "en"
    if re.search("[^su]s$|(people|men|feet|teeth)$", word):  # one already
        return word
    if re.search("(s|x|z|ch|sh)$", word):
        return word + "es"
    return word[:-1] + "ies" if re.search("[^aeiou]y$", word) else word + "s"


def with_article(phrase: str) -> str:
    """ "a cat", "an owl"; none before proper names and plurals."""
    noun = _noun(phrase)
    many = re.match(r"(people|men|women)\b(?!’)", phrase) or re.search("[^su]s$", noun)
    if phrase[:1].isupper() or phrase == SOMETHING["en"] or (many and noun not in _IRREGULAR):
        return phrase
    vowel = re.match(r"[aeio]|u(?!ni|k|s|fo)|hour|8", phrase) and not re.match("one|once|eu|ewe", phrase)
    return f"{'an' if vowel else 'a'} {phrase}"


def _noun(phrase: str) -> str:
    match = _HEAD.match(phrase)
    return (match["head"] or match["noun"]) if match else phrase
