"""What a user wants by default, chosen with buttons."""

from typing import Any

from telegram import Message

from stablediff.checkpoints.locate import BUNDLED
from stablediff.diffusion.samplers import SAMPLERS
from stablediff.lexicon import CYRILLIC
from stablediff.pipeline import Pipeline
from stablediff.request import parse_size
from stablediff.telegram import keyboards
from stablediff.telegram.desk import Talk
from stablediff.telegram.outgoing import edit

_LANGUAGE_NAMES = {"en": "English", "ru": "Русский"}
# What is offered; a command can say anything that a request allows. "" is the model's own choice.
CHOICES: dict[str, tuple[str, ...]] = {
    "size": ("", "256x256", "512x512", "512x768", "768x512", "768x768", "1024x1024"),
    "steps": ("", "4", "8", "12", "20", "30", "50"),
    "pictures": ("1", "2", "4"),
    "sampler": ("", *SAMPLERS),
    "language": tuple(_LANGUAGE_NAMES),
}


def example(language: str, pipeline: Pipeline) -> str:
    """A prompt of words that the model knows."""
    if pipeline.name not in BUNDLED:
        return "a red fox in the snow"
    return "fox, flat style" if language == "en" or is_foreign(language, pipeline) else "лиса, в мягком стиле"


_LETTERS = {"ru": CYRILLIC}


def is_foreign(language: str, pipeline: Pipeline) -> bool:
    """Whether the model, by its list of words, knows none in this language's letters."""
    lexicon, letters = pipeline.lexicon, _LETTERS.get(language)
    return letters is not None and lexicon is not None and not any(letters.search(word) for word in lexicon.words)


def usual_fields(settings: dict[str, Any], *, sized: bool) -> dict[str, Any]:
    """The fields of a request that these settings fill; without `sized`, the picture's own size stays."""
    fields: dict[str, Any] = {}
    if settings.get("size") and sized:
        fields["width"], fields["height"] = parse_size(settings["size"])
    if settings.get("steps"):
        fields["num_steps"] = int(settings["steps"])
    if settings.get("pictures"):
        fields["num_images"] = int(settings["pictures"])
    if settings.get("sampler"):
        fields["sampler"] = settings["sampler"]
    return fields


async def show(talk: Talk) -> None:
    await talk.say("settings", keyboards.settings(_overview(talk)))


def _choices(talk: Talk, name: str) -> tuple[str, ...]:
    """Those that may be drawn here; the first is always there."""
    limits = talk.desk.limits
    fits = {
        "size": lambda choice: max(parse_size(choice)) <= limits.max_side,
        "steps": lambda choice: int(choice) <= limits.max_steps,
        "pictures": lambda choice: int(choice) <= limits.max_images,
    }
    first, *others = CHOICES[name]
    return (first, *(choice for choice in others if name not in fits or fits[name](choice)))


def _overview(talk: Talk) -> list[list[tuple[str, str]]]:
    return [[(f"{talk.text(name)}: {_label(talk, name, _current(talk, name))}", f"s:{name}")] for name in CHOICES]


def _current(talk: Talk, name: str) -> str:
    return talk.language if name == "language" else str(talk.settings.get(name, CHOICES[name][0]))


def _label(talk: Talk, name: str, value: str) -> str:
    if name == "language":
        return _LANGUAGE_NAMES[value]
    return (SAMPLERS[value].label if name == "sampler" else value) if value else talk.text("usual")


def _marked(label: str, is_current: bool) -> str:
    return f"· {label} ·" if is_current else label


async def press(talk: Talk, name: str, value: str | None) -> None:
    """`value` None shows what there is to choose from; else it is chosen."""
    query = talk.query
    if query is None or not isinstance(query.message, Message):  # which is out of the bot's reach
        await talk.toast("unknown button")
        return
    if query.message.chat.id != talk.user.id:  # in private only, where all buttons are one's own
        await talk.toast("not yours")
        return
    if name not in CHOICES or (value is not None and value not in _choices(talk, name)):
        await talk.toast("unknown button")
        return
    if value is None:
        current = _current(talk, name)
        options = [
            (_marked(_label(talk, name, choice), choice == current), f"s:{name}:{choice}")
            for choice in _choices(talk, name)
        ]
        rows = [options[start : start + 2] for start in range(0, len(options), 2)]
        rows.append([(talk.text("back"), f"s:{name}:{current}")])
        says = talk.text("choose", name=talk.text(name))
    else:
        talk.settings[name] = value
        talk.desk.store.set_settings(talk.user.id, talk.settings)
        rows, says = _overview(talk), talk.text("settings")
    await talk.toast()
    markup = keyboards.settings(rows)
    await edit(lambda: query.edit_message_text(says, reply_markup=markup), patience=60)
