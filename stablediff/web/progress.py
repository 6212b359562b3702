"""The line that says how a job stands."""

import html

from stablediff.refusals import translate
from stablediff.result import Result
from stablediff.web.desk import Desk, Job
from stablediff.web.texts import decimal, text
from stablediff.web.trouble import wrong


def say(line: str) -> str:
    """A line for the status, with nothing in it that could be markup."""
    return f'<div role="status">{html.escape(line)}</div>'


def progress(desk: Desk, job: Job, language: str) -> str:
    """The queue position, what is being loaded, or a bar with the time that is left."""
    place = desk.place(job)
    if job.state == "waiting":
        return say(text("waiting", language, place=place) if place else text("starting", language))
    if job.state in ("downloading", "loading", "measuring"):
        words = text(job.state, language, model=job.work.model, percent=int(100 * job.share))
        return say(words) if job.state == "measuring" else _bar(job.share, language) + say(words)
    if job.stopped:
        return say(text("stopping", language))
    update = job.update
    if update is None:
        return say(text("starting", language))
    done, all_of_them = len(job.results), len(job.work.requests)
    left = update.seconds_left
    if left is not None:
        left *= all_of_them - done  # the others are like this one
    words = text(f"doing_{update.stage}", language, step=update.step, total=update.total)
    if all_of_them > 1:
        words = text("picture_of", language, number=done + 1, total=all_of_them) + " · " + words
    if left is not None and update.stage == "denoise":
        words += " · " + text("left", language, seconds=duration(left, language))
    share = (done + update.step / max(update.total, 1)) / all_of_them
    return _bar(share, language) + say(words)


def _bar(share: float, language: str) -> str:
    label = html.escape(text("progress", language))
    return f'<progress max="1" value="{share:.3f}" aria-label="{label}"></progress>'


def duration(seconds: float, language: str) -> str:
    """ "0.4 s", "12 s", "3 min"."""
    if seconds < 9.95:
        return text("seconds", language, number=decimal(seconds, 1, language))
    return (
        text("seconds", language, number=f"{seconds:.0f}")
        if seconds < 100
        else text("minutes", language, number=f"{seconds / 60:.0f}")
    )


def done(result: Result, language: str) -> str:
    """How long it took, the seeds, and what the user should know."""
    seeds, last = result.seeds, ""
    if len(seeds) > 1:
        last = text("seeds_to", language, last=seeds[-1])
    seconds = decimal(result.seconds["total"], 1, language)
    line = text("drawn", language, seconds=seconds, seed=seeds[0] if seeds else "")
    notes = [translate(note, language) for note in result.notes]
    notes = [note[:1].upper() + note[1:] + ("" if note.endswith("?") else ".") for note in notes]
    return say(" ".join([line + last + ".", *notes]))


def stopped(job: Job, language: str) -> str:
    kept = len(job.images)
    return say(text("stopped_with", language, kept=kept) if kept else text("stopped", language))


def closing(job: Job) -> str:
    """The last word on a job that is done."""
    if job.error is not None:
        return wrong(str(job.error), job.language)
    if not job.work.requests:  # it was only to load the model
        return say(text("loaded", job.language, model=job.work.model))
    if job.stopped or not job.results:
        return stopped(job, job.language)
    return done(job.results[-1], job.language)


def lost(language: str) -> str:
    """The server knows nothing of the job: it was started again meanwhile."""
    return wrong("the server no longer has this job: start it again", language)
