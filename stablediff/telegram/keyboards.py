"""The buttons. What they carry is short (Telegram takes 64 bytes) and is checked again when it comes back."""

from collections.abc import Sequence

from telegram import CopyTextButton, InlineKeyboardButton, InlineKeyboardMarkup

from stablediff.telegram.texts import text

LONGEST_COPY = 256
_NUMBERS_A_ROW = 8


def cancel(language: str, job: int) -> InlineKeyboardMarkup:
    return InlineKeyboardMarkup([[_button(language, "cancel", f"x:{job}")]])


def under_picture(
    language: str, job: int, number: int, command: str | None, *, larger: bool = True
) -> InlineKeyboardMarkup:
    """`larger`: it may be enlarged."""

    def button(key: str, action: str) -> InlineKeyboardButton:
        return _button(language, key, f"{action}:{job}:{number}")

    copy = button("copy", "c")  # sends it, where it is too long to be copied by a button, or does not say everything
    if command is not None and len(command.encode("utf-16-le")) <= 2 * LONGEST_COPY:
        copy = InlineKeyboardButton(text(language, "copy"), copy_text=CopyTextButton(command))
    return InlineKeyboardMarkup(
        [
            [button("again", "a"), button("variations", "v"), *([button("upscale", "u")] if larger else [])],
            [button("file", "f"), button("to pack", "p")],
            [_button(language, "settings button", "s"), copy],
        ]
    )


def with_choice(buttons: InlineKeyboardMarkup, job: int, count: int, chosen: int) -> InlineKeyboardMarkup:
    """Above the buttons of one picture, its album's numbers from 1: they choose another."""
    labels = [f"· {number} ·" if number == chosen + 1 else f"{number}" for number in range(1, count + 1)]
    numbers = [InlineKeyboardButton(label, callback_data=f"n:{job}:{number}") for number, label in enumerate(labels)]
    rows = [numbers[start : start + _NUMBERS_A_ROW] for start in range(0, count, _NUMBERS_A_ROW)]
    return InlineKeyboardMarkup([*rows, *buttons.inline_keyboard])


def send_again(language: str, job: int, number: int) -> InlineKeyboardMarkup:
    return InlineKeyboardMarkup([[_button(language, "send again", f"r:{job}:{number}")]])


def history(pictures: Sequence[tuple[int, int]]) -> InlineKeyboardMarkup:
    """Numbers from 1, five a row."""
    buttons = [
        InlineKeyboardButton(str(place), callback_data=f"h:{job}:{number}")
        for place, (job, number) in enumerate(pictures, 1)
    ]
    return InlineKeyboardMarkup([buttons[start : start + 5] for start in range(0, len(buttons), 5)])


def delete(language: str, user: int) -> InlineKeyboardMarkup:
    return InlineKeyboardMarkup([[_button(language, "yes", f"d:{user}:yes"), _button(language, "no", f"d:{user}:no")]])


def settings(rows: Sequence[Sequence[tuple[str, str]]]) -> InlineKeyboardMarkup:
    """Rows of what a button says and carries."""
    return InlineKeyboardMarkup(
        [[InlineKeyboardButton(says, callback_data=data) for says, data in row] for row in rows]
    )


def _button(language: str, key: str, data: str) -> InlineKeyboardButton:
    return InlineKeyboardButton(text(language, key), callback_data=data)
