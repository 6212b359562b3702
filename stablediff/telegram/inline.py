"""`@bot fox` in any chat: one's own finished pictures, which Telegram has already."""

from telegram import InlineQueryResultCachedPhoto, InlineQueryResultCachedSticker, InlineQueryResultsButton
from telegram.error import BadRequest

from stablediff.telegram.desk import Talk, log
from stablediff.telegram.texts import shorten

A_PAGE = 20
_SEARCHED = 500  # jobs


async def on_inline(talk: Talk) -> None:
    query = talk.update.inline_query
    if query is None:
        return
    store, wanted = talk.desk.store, query.query.strip().lower()
    found: list[InlineQueryResultCachedPhoto | InlineQueryResultCachedSticker] = []
    for job in store.finished_jobs(talk.user.id, _SEARCHED):
        if wanted not in job.request["prompt"].lower():
            continue
        for picture in store.pictures(job.id):
            if picture.file_id is None:
                continue
            name = f"{job.id}:{picture.number}"
            if job.kind == "sticker":
                found.append(InlineQueryResultCachedSticker(name, picture.file_id))
            else:
                title = shorten(job.request["prompt"], 60)
                found.append(InlineQueryResultCachedPhoto(name, picture.file_id, title=title))
    start = int(query.offset) if query.offset.isdecimal() and len(query.offset) < 9 else 0
    following = str(start + A_PAGE) if start + A_PAGE < len(found) else ""
    hint = "inline none" if store.finished_jobs(talk.user.id, 1) else "inline hint"
    button = None if found else InlineQueryResultsButton(talk.text(hint), start_parameter="inline")
    try:
        await query.answer(
            found[start : start + A_PAGE], cache_time=5, is_personal=True, next_offset=following, button=button
        )
    except BadRequest as error:  # asked too long ago
        log.info("an inline query was not answered: %s", error)
