"""Gradio's controls, with their values handed over as they were sent: what is wrong with one is for our own checks to
say, beside the control, in the visitor's language and before anything is decoded. And with pictures that are whole in
whatever moment a browser asks for them."""

import io
import os
from abc import ABCMeta
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import HTTPException
from gradio.components.base import server
from gradio.components.image_editor import AcceptBlobs, EditorData
from gradio.processing_utils import encode_pil_to_bytes, hash_bytes
from PIL import Image

from stablediff.files import write_whole

_MOST_BYTES = 10_000_000  # of one picture
_MOST_LAYERS = 8
_INDICES = {"null", *map(str, range(_MOST_LAYERS))}
_ALL_BYTES = 200_000_000  # of all pictures whose visitors have not yet pressed a button
_blobs: dict[str, Any] = {}  # what browsers have sent of their editors, until its button is heard


def _kind_of(component: type, **members: Any) -> Any:
    """A component with other members, which the browser draws as before.

    A class, because Gradio makes a component anew when one of its words changes; and without a class statement, for
    which Gradio would write a file of types beside this one.
    """
    return ABCMeta.__new__(type(component), component.__name__, (component,), {"is_template": True, **members})


def _as_sent(self: Any, payload: Any) -> Any:  # noqa: ARG001 (a method)
    return payload


def _files(self: Any, payload: EditorData | None) -> Any:  # noqa: ARG001 (a method)
    """{"background": file, "layers": [file, …]}: pictures as they were sent, or None for no picture."""
    if payload is None:
        return None
    sent: Any = payload if payload.id is None else _blobs.pop(payload.id, None)
    if sent is None:
        return None
    layers = [layer for layer in sent.layers or [] if layer][:_MOST_LAYERS]
    return {"background": _file(sent.background), "layers": list(map(_file, layers))}


@server  # type: ignore[untyped-decorator]
def _accept_blobs(self: Any, data: AcceptBlobs) -> None:
    """The browser sends pictures one by one before it says what to do with them."""
    blob, index = data.files[0][1], str(data.data.get("index") or 0)
    # Gradio makes a list as long as the index says, and reads "+9" and "1_000" as numbers.
    if len(blob) > _MOST_BYTES or index not in _INDICES:
        raise HTTPException(413, f"a picture has at most {_MOST_BYTES // 10**6} MB and {_MOST_LAYERS} layers")
    gr.ImageEditor.accept_blobs(self, data)
    while sum(map(_size, _blobs.values())) > _ALL_BYTES:
        del _blobs[next(iter(_blobs))]


def _showing(component: Any) -> Callable[..., Any]:
    """Gradio writes a picture again each time that it is shown, over the file that another visitor may be reading."""

    def postprocess(self: Any, value: Any) -> Any:
        return component.postprocess(self, _put_down(value, Path(self.GRADIO_CACHE), self.format))

    return postprocess


def _put_down(value: Any, cache: Path, kind: str) -> Any:
    """Pictures in lists, tuples and dictionaries -> paths of their files."""
    if isinstance(value, dict):
        return {key: _put_down(inner, cache, kind) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_put_down(inner, cache, kind) for inner in value)
    return str(_whole_file(value, cache, kind)) if isinstance(value, Image.Image) else value


def _whole_file(picture: Image.Image, cache: Path, kind: str) -> Path:
    """The picture's file, which appears with everything in it and is never written again."""
    data = encode_pil_to_bytes(picture, kind)  # type: ignore[no-untyped-call]
    path = cache.resolve() / hash_bytes(data) / f"image.{kind}"
    try:
        os.utime(path)  # an old file is removed, unless it is used again
    except FileNotFoundError:
        write_whole(path, data)
    return path


def _file(sent: Any) -> io.BytesIO | None:
    """What was sent, whether the browser sent the bytes or a program named what it had uploaded before."""
    if sent is None:
        return None
    return io.BytesIO(sent if isinstance(sent, bytes) else Path(sent.path).read_bytes())


def _size(blobs: Any) -> int:
    return sum(len(blob) for blob in (blobs.background, blobs.composite, *blobs.layers) if blob)


Slider = _kind_of(gr.Slider, preprocess=_as_sent)
Number = _kind_of(gr.Number, preprocess=_as_sent)
Dropdown = _kind_of(gr.Dropdown, preprocess=_as_sent)
Radio = _kind_of(gr.Radio, preprocess=_as_sent)
ImageEditor = _kind_of(
    gr.ImageEditor,
    blob_storage=property(lambda _: _blobs, lambda _, fresh: None),  # noqa: ARG005 (a setter)
    accept_blobs=_accept_blobs,
    postprocess=_showing(gr.ImageEditor),
)
# What an editor held when a button was pressed. The editor itself is no event's input: Gradio asks every component that
# was one how it stands, at each step of all later events, and an editor answers by sending all its pixels.
Painted = _kind_of(gr.JSON, data_model=EditorData, preprocess=_files)
Shown = _kind_of(gr.Image, postprocess=_showing(gr.Image))
Gallery = _kind_of(gr.Gallery, postprocess=_showing(gr.Gallery))
ImageSlider = _kind_of(gr.ImageSlider, postprocess=_showing(gr.ImageSlider))
KINDS: dict[Any, Any] = {
    gr.Slider: Slider,
    gr.Number: Number,
    gr.Dropdown: Dropdown,
    gr.Radio: Radio,
    gr.ImageEditor: ImageEditor,
    gr.Image: Shown,
    gr.Gallery: Gallery,
    gr.ImageSlider: ImageSlider,
}
