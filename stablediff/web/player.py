"""Play and pause for a slider: its steps one after another, as fast as they can be shown."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from stablediff.web.events import QUIET
from stablediff.web.voice import Voice

_SECONDS = 0.5  # from step to step
_MOST_TICKS = 40  # of a film: longer ones skip steps


@dataclass(frozen=True)
class Player:
    play: gr.Button
    pause: gr.Button
    timer: gr.Timer
    scrub: gr.Slider

    def connect(self, film: gr.State, length: Callable[[Any], int]) -> None:
        """`length` tells how many steps the film has."""
        buttons = [self.play, self.pause, self.timer]

        def start(film: Any, step: float) -> tuple[Any, ...]:
            again = 1 if step >= length(film) else step
            return (again, *_playing(True))

        def tick(film: Any, step: float) -> tuple[Any, ...]:
            steps = length(film)
            following = min(int(step) + -(-steps // _MOST_TICKS), steps)
            # A tick never says that it goes on: the visitor may have paused before this answer arrives.
            return (following, *(_playing(False) if following == steps else [gr.skip()] * 3))

        state = [film, self.scrub]
        self.play.click(start, state, [self.scrub, *buttons], **QUIET)
        self.pause.click(lambda: _playing(False), None, buttons, **QUIET)
        # A tick that comes before the last one was answered is left out.
        self.timer.tick(tick, state, [self.scrub, *buttons], trigger_mode="once", **QUIET)


def make_player(voice: Voice, scrub: gr.Slider) -> Player:
    play = voice(gr.Button, {"value": "play"}, size="sm", elem_id="play")
    pause = voice(gr.Button, {"value": "pause"}, size="sm", elem_id="pause", interactive=False)
    return Player(play, pause, gr.Timer(_SECONDS, active=False), scrub)


def _playing(going: bool) -> tuple[Any, Any, Any]:
    """Updates for play, pause and the timer."""
    return gr.update(interactive=not going), gr.update(interactive=going), gr.Timer(active=going)
