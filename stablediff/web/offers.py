"""What a model offers its visitors: examples, styles, and the things that it knows, in their language."""

from collections.abc import Iterable

from stablediff.checkpoints.locate import BUNDLED
from stablediff.lexicon import CYRILLIC
from stablediff.pipeline import Pipeline
from stablediff.web.texts import FIRST, text

MOST_EXAMPLES = 6
_EXAMPLES = {
    "en": ("panda", "sunflower", "avocado", "rainbow", "fox", "red apple"),
    "ru": ("панда", "подсолнух", "авокадо", "радуга", "лиса", "красное яблоко"),
}
_BIG_EXAMPLES = ("a lighthouse at dusk", "an astronaut riding a horse", "a bowl of ramen, steam rising")
# Names of styles (keys of texts.py), and what each adds to a prompt of either alphabet.
_STYLES = {
    "style_flat": (", flat style", ", в плоском стиле"),
    "style_soft": (", soft style", ", в мягком стиле"),
    "style_glossy": (", glossy style", ", в глянцевом стиле"),
    "style_bold": (", bold style", ", в ярком стиле"),
    "style_pixel": (", pixel style", ", в пиксельном стиле"),
    "style_line": (", line style", ", в контурном стиле"),
}
_BIG_STYLES = {
    "style_photo": ", photograph, natural light, sharp focus",
    "style_oil": ", oil painting, visible brush strokes",
    "style_watercolour": ", watercolour on paper, soft washes",
    "style_ink": ", ink drawing, fine lines, white background",
    "style_render": ", 3d render, soft studio light",
}


def examples_of(pipeline: Pipeline, language: str) -> tuple[str, ...]:
    """At most `MOST_EXAMPLES` prompts of words that the model knows."""
    if pipeline.name not in BUNDLED:
        return _BIG_EXAMPLES
    words = _EXAMPLES[language]
    return words if _knows(pipeline, " ".join(words)) else _EXAMPLES[FIRST]


def style_choices(pipeline: Pipeline, language: str) -> list[tuple[str, str]]:
    """What is shown, and what `styled` takes for it: of the bundled model's, those whose words it has seen."""
    names: Iterable[str] = _BIG_STYLES
    if pipeline.name in BUNDLED:
        names = (name for name, (latin, _) in _STYLES.items() if _knows(pipeline, latin))
    return [(text("style_none", language), ""), *((text(name, language), name) for name in names)]


def styled(prompt: str, style: str | None, pipeline: Pipeline) -> str:
    """The prompt as it will be drawn, and as its recipe will have it."""
    prompt = prompt.strip()
    added = _added(prompt, style or "", pipeline)
    return prompt + added if prompt and added and not prompt.endswith(added) else prompt


def _added(prompt: str, style: str, pipeline: Pipeline) -> str:
    if pipeline.name not in BUNDLED:
        return _BIG_STYLES.get(style, "")
    latin, cyrillic = _STYLES.get(style, ("", ""))
    return cyrillic if CYRILLIC.search(prompt) and _knows(pipeline, cyrillic) else latin


def _knows(pipeline: Pipeline, words: str) -> bool:
    return pipeline.lexicon is None or not pipeline.lexicon.strangers(words)
