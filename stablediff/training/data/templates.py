"""How captions are phrased: template -> how often. The first of each table is the form that users are told of."""

Table = dict[str, float]

# {body} is what is to be seen, {style} one word; {of_second} stands in the genitive, {by_second} in the
# instrumental, and {with_second} has its preposition.
EN_STYLED: Table = {
    "{body}, {style} style": 10,
    "{a_body} in {style} style": 4,
    "{style} {body} sticker": 2,
    "{body}, {style} art": 2,  # as "pixel art" and "line art" are called
    "{body} in {style} style": 1,
    "{style} style {body}": 1,
    "{body} sticker, {style} style": 1,
    "{a_body}, {style}": 1,
}
# For sentences, before which no adjective can stand.
EN_STYLED_LONG: Table = {
    "{body}, {style} style": 4,
    "{body}, {style} art": 2,
    "{body} in {style} style": 1,
    "{style} style: {body}": 1,
}
EN_BACKGROUND: Table = {
    "{body} on {a_colour} background": 4,
    "{body}, {colour} background": 2,
    "{body} with {a_colour} background": 1,
    "{body} on {colour}": 1,
}
EN_BESIDE: Table = {
    "{a_first} to the left of {a_second}": 3,
    "{a_second} to the right of {a_first}": 3,
    "{first} left of {a_second}": 1,
    "{second} right of {a_first}": 1,
    "{a_first} on the left, {a_second} on the right": 1,
    # Who says no more than "and" has two things beside each other in mind.
    "{a_first} and {a_second}": 4,
    "{first} and {second}": 2,
    "{a_first} next to {a_second}": 2,
    "{a_first} beside {a_second}": 2,
}
EN_ABOVE: Table = {
    "{a_first} above {a_second}": 3,
    "{a_second} below {a_first}": 3,
    "{a_second} under {a_first}": 1,
    "{first} at the top, {second} at the bottom": 1,
}
RU_STYLED: Table = {
    "{body}, {in_style}": 4,
    "{body} {in_style}": 1,
    "{body}, {style}": 2,  # "собака, мягкий стиль"
    "стикер: {body}, {in_style}": 1,
}
RU_BACKGROUND: Table = {"{body}, на {colour} фоне": 2, "{body} на {colour} фоне": 2, "на {colour} фоне {body}": 1}
RU_BESIDE: Table = {
    "{first} слева, {second} справа": 3,
    "справа {second}, слева {first}": 1,
    "слева {first}, справа {second}": 2,
    "{first} слева от {of_second}": 3,
    "{second} справа от {of_first}": 3,
    "{first} и {second}": 5,
    "{first} рядом {with_second}": 2,
}
RU_ABOVE: Table = {
    "{first} сверху, {second} снизу": 3,
    "снизу {second}, сверху {first}": 1,
    "сверху {first}, снизу {second}": 2,
    "{first} над {by_second}": 3,
    "{second} под {by_first}": 3,
}

TABLES = (EN_STYLED, EN_STYLED_LONG, EN_BACKGROUND, EN_BESIDE, EN_ABOVE, RU_STYLED, RU_BACKGROUND, RU_BESIDE, RU_ABOVE)
