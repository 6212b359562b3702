"""Jobs: one worker draws them in their order, and any number of pages watch. A job outlives its page's refresh."""

import asyncio
import logging
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, field

from PIL import Image

from stablediff.errors import RequestError, StableDiffError
from stablediff.observer import Observer
from stablediff.request import Limits, Request
from stablediff.result import Result, Update
from stablediff.web.lent import generate
from stablediff.web.models import Models

_ALONE = 60.0  # seconds that a job goes on while nobody watches
_KEPT = 24  # finished jobs, for pages that come back,
_KEPT_FOR = 600.0  # and all that ended within so many seconds,
_MOST_PIXELS = 100_000_000  # as long as their pictures have no more
_GLANCE = 0.05  # seconds between two looks at a job
_REPORT = 0.2  # seconds between two that are told: a reader sees no more, and a phone draws each of them
_BREATH = 5.0  # seconds after which a job is shown again though nothing has changed

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """What to draw, one request after another, with which model, and who looks on (one observer a request)."""

    model: str
    requests: tuple[Request, ...]
    observers: tuple[Observer, ...] = ()


@dataclass(eq=False)
class Job:
    """`key` is a secret: who knows it may watch and stop the job."""

    key: str
    visitor: str
    crowd: str
    owner: str
    work: Work
    language: str = "en"  # the one that is spoken to its visitor
    gone: set[int] = field(default_factory=set)  # seeds of the pictures that the visitor has deleted
    state: str = "waiting"  # then "downloading", "loading", "measuring", "drawing", "done"
    share: float = 0.0  # of the loading
    results: list[Result] = field(default_factory=list)
    update: Update | None = None
    glimpse: tuple[tuple[Image.Image, ...], tuple[Image.Image, ...]] = ((), ())  # finished ones, and the last previews
    error: StableDiffError | None = None
    version: int = 0
    ended: float | None = None
    watched: float = field(default_factory=time.monotonic)
    context: Context = field(default_factory=copy_context)  # whose job it is, for who lends GPUs
    _stop: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        self._stop.set()
        self.version += 1  # so that who watches is told

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    @property
    def images(self) -> list[Image.Image]:
        """The finished ones."""
        return [image for result in self.results for image in result.images]

    @property
    def since_end(self) -> float:
        """Seconds since it was done; 0 before."""
        return 0.0 if self.ended is None else time.monotonic() - self.ended

    def should_stop(self) -> bool:
        return self.stopped or time.monotonic() - self.watched > _ALONE

    def tell(self, state: str, update: Update | None = None) -> None:
        if state == "done":
            self.ended = time.monotonic()
        self.state, self.update = state, update
        if update is not None and update.previews:  # kept for who looks again after later updates, which have none
            self.glimpse = (*self.images, *update.images), update.previews
        self.version += 1

    def tell_share(self, state: str, share: float) -> None:
        """Before there is an update: the share of the model that is there."""
        self.share = share
        self.tell(state)

    def speak(self, language: str) -> None:
        """Who watches is told again, in this language."""
        self.language = language
        self.version += 1


class Desk:
    """Takes jobs, hands them to its one worker, and answers who watches."""

    def __init__(self, models: Models, limits: Limits, keep: Callable[[Job], None] = lambda _job: None) -> None:
        """`keep` is called with every job that has ended, before anybody is told."""
        self.models, self.limits, self._keep = models, limits, keep
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._waiting: deque[Job] = deque()
        self._change = threading.Condition()
        self._worker: threading.Thread | None = None

    def submit(self, visitor: str, work: Work, crowd: str = "", owner: str = "") -> Job:
        """Raises RequestError if there is no room. `crowd`: all visitors that may be one, as those of one address.
        `owner`: for whom the pictures are kept."""
        with self._change:
            self._sweep()
            mine = [job for job in self._jobs.values() if job.visitor == visitor and job.state != "done"]
            if len(mine) >= self.limits.max_jobs:
                raise RequestError(f"you have {len(mine)} jobs in the queue: wait for one, or stop it")
            near = [job for job in self._jobs.values() if job.crowd == crowd != "" and job.state != "done"]
            if len(near) >= self.limits.max_crowd_jobs:
                raise RequestError(f"your network has {len(near)} jobs in the queue: wait for one")
            if len(self._waiting) >= self.limits.max_waiting:
                raise RequestError(f"the queue is full ({len(self._waiting)} jobs): try again in a minute")
            job = Job(secrets.token_urlsafe(16), visitor, crowd, owner, work)
            self._jobs[job.key] = job
            self._forget()
            self._waiting.append(job)
            if self._worker is None:
                self._worker = threading.Thread(target=self._run, name="stablediff-worker", daemon=True)
                self._worker.start()
            self._change.notify_all()
        return job

    def find(self, key: str) -> Job | None:
        return self._jobs.get(key)

    def place(self, job: Job) -> int:
        """How many are before it; 0 when it is its turn."""
        with self._change:
            self._sweep()
            return self._waiting.index(job) + 1 if job in self._waiting else 0

    async def watch(self, job: Job) -> AsyncIterator[Job]:
        """The job again when something has changed, or when some seconds have passed, and a last time when it is done.

        Whoever does not ask for the next time watches no more: nothing else tells that a visitor has gone.
        """
        seen, place, shown = -1, -1, 0.0
        job.watched = time.monotonic()
        while True:
            done, version = job.state == "done", job.version
            now, clock = self.place(job), time.monotonic()
            due = _REPORT if (version, now) != (seen, place) else _BREATH
            if done or clock - shown > due:
                seen, place, shown = version, now, clock
                yield job
                job.watched = time.monotonic()
            if done:
                return
            await asyncio.sleep(_GLANCE)

    def _sweep(self) -> None:
        """Jobs that were stopped, or whose visitor has gone, leave the queue before their turn."""
        for job in [job for job in self._waiting if job.should_stop()]:
            self._waiting.remove(job)
            job.tell("done")

    def _forget(self) -> None:
        finished = [job for job in self._jobs.values() if job.state == "done"]
        pixels = sum(image.width * image.height for job in finished for image in job.images)
        for job in finished[:-_KEPT]:
            if job.since_end > _KEPT_FOR or pixels > _MOST_PIXELS:
                pixels -= sum(image.width * image.height for image in job.images)
                del self._jobs[job.key]

    def _run(self) -> None:
        while True:
            with self._change:
                while not self._waiting:
                    self._change.wait()
                job = self._waiting.popleft()
            try:
                try:
                    job.context.run(self._draw, job)
                finally:
                    self._keep(job)
            except StableDiffError as error:
                job.error = error
            except Exception:
                _log.exception("a job failed")
                job.error = StableDiffError("something went wrong here, and was written to the server's log: try again")
            job.tell("done", job.update)

    def _draw(self, job: Job) -> None:
        if job.should_stop():
            return
        pipeline = self.models.get(job.work.model, job.tell_share)
        for number, request in enumerate(job.work.requests):
            if job.should_stop():
                return
            observer = job.work.observers[number] if job.work.observers else None
            for event in generate(pipeline, request, job.should_stop, observer, self.models.speed):
                if isinstance(event, Update):
                    job.tell("drawing", event)
                    continue
                job.results.append(event)
                if event.stopped:
                    job.stop()
