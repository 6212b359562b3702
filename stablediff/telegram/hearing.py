"""Every update comes through here, to whoever answers it."""

import secrets

from telegram import Update
from telegram.error import Forbidden, TelegramError

from stablediff.telegram.buttons import on_button
from stablediff.telegram.desk import Desk, Talk, log
from stablediff.telegram.disk import is_full
from stablediff.telegram.inbox import Inbox
from stablediff.telegram.inline import on_inline
from stablediff.telegram.messages import on_message


async def hear(desk: Desk, inbox: Inbox, update: Update) -> None:
    """What breaks is logged under a number that the user is told."""
    talk = Talk.begin(desk, update)
    if talk is None:
        return
    try:
        if talk.user.id in inbox.flooding:
            inbox.flooding.discard(talk.user.id)
            await talk.say("too fast")
        if desk.store.is_banned(talk.user.id) and not talk.is_admin and not _wants_to_go(talk):
            await _turn_away(talk)
        elif update.inline_query is not None:
            await on_inline(talk)
        elif update.callback_query is not None:
            await on_button(talk)
        elif update.message is not None:
            await on_message(talk)
    except Forbidden as error:
        log.info("not allowed to answer: %s", error)
    except Exception as error:
        code = secrets.token_hex(4)
        log.exception("error %s", code)
        try:
            if is_full(error):
                await talk.say("no room for more")
            else:
                await talk.say("broken", code=code)
        except TelegramError as told:
            log.warning("error %s could not be told: %s", code, told)


def _wants_to_go(talk: Talk) -> bool:
    """Whoever may do nothing else may still ask what is kept of them, and have it deleted."""
    if talk.query is not None:
        return (talk.query.data or "").startswith("d:")
    words = (talk.update.message.text or "") if talk.update.message else ""
    return talk.is_private and words.partition(" ")[0].partition("@")[0].lower() in ("/delete", "/privacy")


async def _turn_away(talk: Talk) -> None:
    if talk.query is not None:
        await talk.toast("banned")
    elif talk.is_private and talk.update.inline_query is None:
        await talk.say("banned")
