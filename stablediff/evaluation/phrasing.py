"""Scenes -> the plainest caption, in the form that users are told of; and what their placing is called."""

from stablediff.training.data import words
from stablediff.training.data.scenes import Item, Scene
from stablediff.training.data.templates import EN_ABOVE, EN_BACKGROUND, EN_BESIDE, EN_STYLED, EN_STYLED_LONG, Table


def phrase(scene: Scene) -> str:
    """ "red apple, flat style", "a cat to the left of a blue car, soft style", "three keys, flat style"."""
    first = scene.items[0]
    long = scene.kind == "pair" or scene.background is not None
    if scene.kind == "pair":
        nouns = [noun(item) for item in scene.items]
        a_first, a_second = (words.with_article(name) for name in nouns)
        table = EN_ABOVE if is_upright(scene) else EN_BESIDE
        body = _plainest(table).format(first=nouns[0], second=nouns[1], a_first=a_first, a_second=a_second)
    elif len(scene.items) > 1:
        body = f"{words.NUMBERS[len(scene.items)]} {words.plural(noun(first))}"
    else:
        body = noun(first)
    if scene.background is not None:
        a_body = body if len(scene.items) > 1 else words.with_article(body)
        a_colour = words.with_article(scene.background)
        body = _plainest(EN_BACKGROUND).format(body=a_body, colour=scene.background, a_colour=a_colour)
    table = EN_STYLED_LONG if long else EN_STYLED
    return _plainest(table).format(body=body, a_body=body, style=scene.style)


def noun(item: Item) -> str:
    return f"{item.colour} {item.thing}" if item.colour else item.thing


def is_upright(scene: Scene) -> bool:
    """Of a pair: one above the other, and not beside it."""
    first, second = scene.items[:2]
    return abs(first.y - second.y) > abs(first.x - second.x)


def _plainest(table: Table) -> str:
    return next(iter(table))
