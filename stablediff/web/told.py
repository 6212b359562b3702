"""A recorded run in words and small pictures: HTML for the third tab."""

import base64
import html
import io

from PIL import Image

from stablediff.images import over_white
from stablediff.insight.attention import words_of
from stablediff.insight.explain import Source, equations, schedule_plot, sources_of
from stablediff.insight.film import chosen
from stablediff.insight.recorder import Record
from stablediff.pipeline import Pipeline
from stablediff.request import ResolvedRequest
from stablediff.web.texts import text

_MOST_WORDS = 60  # more could not be chosen from
_MOST_FRAMES = 24  # of the strip


class Film:
    """A recorded run. `repository` is the address below which our files can be read, or nothing."""

    def __init__(self, request: ResolvedRequest, record: Record, pipeline: Pipeline, repository: str) -> None:
        self.request, self.record, self.repository = request, record, repository
        found = words_of(pipeline.tokenizers[0], pipeline.as_read(request.prompt))
        words = [word for word in found if any(map(str.isalnum, word.text))]
        self.words = words[:_MOST_WORDS]
        self.frames = [moment.index for moment in chosen(record.moments, _MOST_FRAMES)]


def strip(film: Film, language: str) -> str:
    """The run at a glance; a click on a frame goes to its step."""
    shown = []
    for index in film.frames:
        moment = film.record.moments[index]
        label = html.escape(text("strip_step", language, step=index + 1))
        pictures = "".join(f'<img alt="" src="{_data(picture)}">' for picture in (moment.seen, moment.believed))
        shown.append(f'<button type="button" data-step="{index + 1}" aria-label="{label}">{pictures}</button>')
    hint = html.escape(text("strip", language))
    return f'<div class="frames">{"".join(shown)}</div><p class="quiet">{hint}</p>'


def _data(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    over_white(picture).save(buffer, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def explain(film: Film, index: int, language: str) -> str:
    """The step's numbers, its equations, our lines that computed it, and where it lies on the noise schedule."""
    moment, request, sigmas = film.record.moments[index], film.request, film.record.sigmas
    delta = text("no_guidance", language) if moment.delta is None else f"{moment.delta:.4f}"
    rows = {
        "σ → σ'": f"{moment.sigma:.4f} → {moment.sigma_next:.4f}",
        "t": f"{moment.t:.1f}",
        text("eps_long", language): f"{moment.eps:.4f}",
        text("delta_long", language): delta,
    }
    table = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in rows.items()
    )
    lines = equations(request.sampler, sigmas, index, request.eta)
    shown = "".join(f"<div><code>{html.escape(line)}</code></div>" for line in lines)
    source = sources_of(request.sampler)[0]
    place = text("made_by", language, place=_link(film, source, source.marked[0], source.marked[-1], language))
    words = html.escape(text("noise_levels", language))
    caption = f'<figcaption class="quiet">{words}</figcaption>'
    plot = f"<figure>{caption}{schedule_plot(sigmas, index, words)}</figure>"
    mark = max(frame for frame in film.frames if frame <= index) + 1
    style = f'<style>#strip [data-step="{mark}"] {{ outline: 3px solid var(--color-accent); }}</style>'
    return f'<table class="steps">{table}</table>{shown}<p class="quiet">{place}</p>{plot}{style}'


def code(film: Film, language: str) -> str:
    """The source itself, with its line numbers, so that nothing but the page is needed to read it."""
    parts = []
    for source in sources_of(film.request.sampler):
        lines = []
        for number, line in enumerate(source.code.splitlines(), start=source.line):
            name = "mark" if number in source.marked else "span"
            lines.append(f"<i>{number:>4}</i> <{name}>{html.escape(line)}</{name}>")
        link = _link(film, source, source.line, source.last, language)
        parts.append(f'<p class="quiet">{link}</p><pre tabindex="0">{chr(10).join(lines)}</pre>')
    return "".join(parts)


def _link(film: Film, source: Source, first: int, last: int, language: str) -> str:
    words = html.escape(text("place", language, file=source.file, line=first))
    if not film.repository:
        return f"<code>{words}</code>"
    address = html.escape(f"{film.repository}/{source.file}#L{first}-L{last}")
    return f'<a href="{address}" target="_blank" rel="noopener"><code>{words}</code></a>'
