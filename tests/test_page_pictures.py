"""Pictures as files that a browser may ask for in any moment."""

from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from stablediff.web import lenient

PICTURE = Image.new("RGBA", (8, 8), "teal")
SHOWN: dict[Any, Any] = {
    gr.Image: PICTURE,
    gr.Gallery: [PICTURE, (PICTURE, "teal")],
    gr.ImageSlider: (PICTURE, PICTURE),
    gr.ImageEditor: {"background": PICTURE, "layers": [PICTURE], "composite": None},
}


@pytest.mark.parametrize("kind", SHOWN, ids=lambda kind: kind.__name__)
def test_a_picture_that_is_shown_is_not_written_again(kind: Any, tmp_path: Path) -> None:
    component = lenient.KINDS[kind](format="png")
    component.GRADIO_CACHE = str(tmp_path)
    shown = component.postprocess(SHOWN[kind])
    (file,) = tmp_path.rglob("*.*")  # one for all, and nothing half written beside it
    assert str(file) in str(shown)
    with Image.open(file) as kept:
        assert kept.tobytes() == PICTURE.tobytes()
    file.write_text("someone reads this")
    assert component.postprocess(SHOWN[kind]) == shown
    assert file.read_text() == "someone reads this"
    file.unlink()  # the page clears away what was not used for long
    component.postprocess(SHOWN[kind])
    assert file.exists()
