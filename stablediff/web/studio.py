"""What all tabs of the page share: the desk that draws, the words, and the language that they are said in."""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from stablediff.errors import RequestError
from stablediff.observer import Observer
from stablediff.request import Limits, Request
from stablediff.web.archive import Archive
from stablediff.web.database import COOKIE
from stablediff.web.desk import Desk, Job, Work
from stablediff.web.events import QUIET
from stablediff.web.models import Models
from stablediff.web.shelf import Drawn, Stage
from stablediff.web.trouble import beside
from stablediff.web.voice import Voice


def owner_of(visitor: gr.Request) -> str:
    """Whose pictures a server keeps: the login's, or those of the browser that knows its secret. "" is nobody."""
    login = getattr(visitor, "username", None)
    if login:
        return f"login {login}"
    secret = (getattr(visitor, "cookies", None) or {}).get(COOKIE) or ""
    return f"browser {secret}" if re.fullmatch(r"[\w-]{20,80}", secret) else ""


@dataclass
class Studio:
    models: Models
    limits: Limits
    desk: Desk
    voice: Voice
    language: gr.Radio
    repository: str = ""
    archive: Archive | None = None
    left: dict[str, gr.Textbox] = field(default_factory=dict)  # by tab: takes the job that was left there, on return
    kept: dict[str, list[Any]] = field(default_factory=dict)  # by tab: controls that come back as they were left

    def submit(self, visitor: gr.Request, work: Work) -> Job:
        """Raises RequestError. A page's own name can be forged by a script, the address that it calls from cannot."""
        login = getattr(visitor, "username", None)
        address = visitor.client.host if visitor.client else ""
        owner = owner_of(visitor) if self.archive else ""
        # All language models come through one session of Gradio's own, and are still many.
        is_mcp = (getattr(visitor, "headers", None) or {}).get("x-gradio-user") == "mcp"
        name = secrets.token_hex(8) if is_mcp else str(visitor.session_hash)
        return self.desk.submit(login or name, work, crowd=login or address, owner=owner)

    async def draw(
        self,
        visitor: gr.Request,
        stage: Stage,
        slots: dict[str, Any],
        language: str,
        before: Sequence[Drawn],
        make: Callable[[], Request],
        observe: Callable[[Request], Observer] | None = None,
    ) -> AsyncIterator[dict[Any, Any]]:
        """Submits what `make` returns and follows it on the stage; a refusal is said beside its control. `before`: the
        pictures that are there, and come back if it makes none."""

        def plan() -> tuple[Request, tuple[Observer, ...]]:
            request = make()
            return request, () if observe is None else (observe(request),)

        try:
            request, observers = await asyncio.to_thread(plan)  # pictures take their time to be read
            job = self.submit(visitor, Work(self.models.name, (request,), observers))
        except RequestError as error:
            yield {**beside(str(error), {"status": stage.status, **slots}, language), **stage.idle()}
            return
        clear = {slot: "" for name, slot in slots.items() if name != "estimate"}
        async for answer in stage.follow(self.desk, job, language, before):
            yield {**clear, **answer}
            clear = {}

    def connect_stop(self, button: gr.Button, ticket: gr.Textbox) -> None:
        """Stop sets a flag. Its effect is told by the job itself, so that no late update can come after it."""

        def stop(key: str) -> None:
            job = self.desk.find(key)
            if job is not None:
                job.stop()

        button.click(stop, ticket, None, **QUIET)
