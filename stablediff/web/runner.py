"""The row with which a tab starts its work and stops it, and the line below that says how it goes."""

from dataclasses import dataclass

import gradio as gr

from stablediff.web.voice import Voice


@dataclass(frozen=True)
class Runner:
    run: gr.Button
    stop: gr.Button
    status: gr.HTML


def make_runner(voice: Voice, name: str) -> Runner:
    """`name` is the button's key among the texts, and its id."""
    with gr.Row(elem_classes="tight"):
        run = voice(gr.Button, {"value": name}, variant="primary", elem_id=name, elem_classes="run")
        stop = voice(gr.Button, {"value": "stop"}, elem_id=f"{name}-stop", interactive=False)
    return Runner(run, stop, gr.HTML(elem_id=f"{name}-status", elem_classes="status"))
