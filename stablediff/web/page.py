"""The page: its head, its tabs, and what happens when it opens."""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from stablediff.pipeline import Pipeline, load
from stablediff.request import Limits
from stablediff.web.api import make_api
from stablediff.web.archive import Archive
from stablediff.web.company import keep_controls
from stablediff.web.compare import make_compare
from stablediff.web.create import make_create
from stablediff.web.database import DATABASE
from stablediff.web.desk import Desk, Job, Work
from stablediff.web.edit import connect_edit_it, make_edit
from stablediff.web.events import QUIET
from stablediff.web.history import make_history
from stablediff.web.inside import make_inside
from stablediff.web.models import Models
from stablediff.web.scripts import KEYS, REMEMBER_LANGUAGE, TOGGLE_DARK, open_page
from stablediff.web.shelf import drawn
from stablediff.web.studio import Studio
from stablediff.web.switch import connect_switch
from stablediff.web.texts import LANGUAGES
from stablediff.web.theme import CSS, FRAME, make_theme
from stablediff.web.voice import Voice


def build_page(
    pipeline: Pipeline,
    *,
    models: Sequence[str] = (),
    limits: Limits | None = None,
    loader: Callable[..., Pipeline] = load,
    archive: Archive | None = None,
    repository: str = "",
) -> gr.Blocks:
    """A page that draws with this pipeline, one picture after another for all visitors.

    `models` are the names that can be switched to with `loader`, the first being this pipeline's own. `archive`: where
    visitors' pictures are kept besides in their browsers. `repository` is the address below which our files can be
    read, if there is one.
    """
    limits = limits or Limits()
    known = Models(pipeline, models, loader, limits)

    def keep(job: Job) -> None:
        if archive is not None and len(job.work.requests) == 1:  # a comparison's are of no use alone
            archive.add(job.owner, drawn(job.results))

    voice, desk = Voice(), Desk(known, limits, keep)
    with gr.Blocks(title="stablediff", analytics_enabled=False, delete_cache=(3600, 3600), elem_id="page") as page:
        with gr.Row(elem_id="head"):
            gr.HTML("<h1>stablediff</h1>", elem_classes="title")
            names = [(name, key) for key, name in LANGUAGES.items()]
            language = gr.Radio(
                names, value=next(iter(LANGUAGES)), show_label=False, container=False, elem_id="language"
            )
            model = voice(
                gr.Dropdown,
                {"label": "model"},
                choices=list(known.names),
                value=known.name,
                visible=len(known.names) > 1,
                elem_id="model",
                container=False,
            )
            dark = voice(gr.Button, {"value": "dark"}, size="sm", elem_id="dark")
        studio = Studio(known, limits, desk, voice, language, repository, archive)
        with gr.Tabs() as tabs:
            with voice(gr.Tab, {"label": "tab_create"}, id="create", elem_id="tab-create"):
                create = make_create(studio)
            with voice(gr.Tab, {"label": "tab_edit"}, id="edit", elem_id="tab-edit"):
                canvas = make_edit(studio, create)
            with voice(gr.Tab, {"label": "tab_inside"}, id="inside", elem_id="tab-inside"):
                make_inside(studio, create)
            with voice(gr.Tab, {"label": "tab_compare"}, id="compare", elem_id="tab-compare"):
                make_compare(studio, create)
            with voice(gr.Tab, {"label": "tab_history"}, id="history", elem_id="tab-history"):
                make_history(studio, create, tabs, page)
        connect_edit_it(create.edit, create.stage, canvas, tabs)
        dark.click(None, None, None, js=TOGGLE_DARK, api_visibility="private")
        language.change(voice.say, language, voice.components, **QUIET)
        language.input(None, language, None, js=REMEMBER_LANGUAGE, api_visibility="private")
        connect_switch(studio, create, canvas.strength, model, page)
        make_api(studio)
        studio.kept["create"] = [*create.named.values(), create.settings.quality, create.settings.seconds]
        for tab, controls in studio.kept.items():
            keep_controls(page, tab, controls)
        left = studio.left
        page.load(None, None, [language, *left.values()], js=open_page(left), api_visibility="private")
    desk.submit("", Work(known.name, ()))  # measures how fast this machine is
    return page


def look() -> dict[str, Any]:
    """What `launch` is told of the page's looks."""
    return {"theme": make_theme(), "css": CSS, "head": f"<script>{KEYS}{DATABASE}</script><style>{FRAME}</style>"}
