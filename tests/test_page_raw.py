"""Values that no control would send: each is answered by a line of ours beside its control, and nothing breaks."""

from typing import Any

import pytest
from gradio_client import Client
from PIL import Image
from raw import Raw

NOTHING = "nothing"


@pytest.fixture(scope="module")
def raw(address: str) -> Raw:
    return Raw(address)


def test_numbers_out_of_bounds_are_told_by_us(raw: Raw) -> None:
    picture = {"background": raw.upload_image(Image.new("RGB", (64, 64), "red")), "layers": [], "composite": None}
    for values, answer in [
        ({"strength": 5}, "strength is 5: choose 0 to 1"),
        ({"strength": "x"}, "strength is 'x': it must be a number"),
        ({"steps": 5000}, "steps is 5000: choose 1 to"),
        ({"steps": None}, "steps is empty: write a whole number"),
        ({"guidance": 1e9}, "guidance is 1000000000.0: choose 0 to 100"),
        ({"sampler": ["x"]}, "sampler ['x'] is not known"),
        ({"edit_prompt": "a" * 6000}, "prompt has 6,000 characters"),
    ]:
        assert answer in raw.refusal("edit", painted=picture, **values)
    assert "сила: 5. Выберите от 0 до 1" in raw.refusal("edit", painted=picture, strength=5, language="ru")
    assert "steps is -1" in raw.refusal("watch", prompt="cat", steps=-1)
    assert "guidance is 'nan'" in raw.refusal("watch", prompt="cat", guidance="nan")


def test_no_component_is_told_how_far_its_event_is(raw: Raw) -> None:
    """Gradio would tell all of them again at every later event."""
    ours = [one for one in raw.events if one["backend_fn"] and one["api_name"] != "generate"]
    assert len(ours) > 30
    assert [one["targets"] for one in ours if one["show_progress_on"] != []] == []
    assert not any(raw.ids["editor"] in one["inputs"] for one in ours)  # it would send its pixels each time


def test_pictures_are_measured_before_they_are_decoded(raw: Raw) -> None:
    good = raw.upload_image(Image.new("RGB", (64, 64), "red"))
    bomb = raw.upload_image(Image.new("1", (20_000, 20_000)))  # some kilobytes
    large = raw.upload_image(Image.new("1", (8_000, 8_000)))
    long = raw.upload_image(Image.new("1", (6_000, 6)))
    text = raw.upload(b"not a picture at all")

    def editor(background: Any, *layers: Any) -> dict[str, Any]:
        return {"background": background, "layers": list(layers), "composite": None}

    for painted, answer, russian in [
        (editor(None), "picture is missing", "картинки нет"),
        (editor(text), "must be a whole PNG", "картинка не читается"),
        (editor(bomb), "far too many pixels", "слишком много пикселей"),
        (editor(large), "has 8000 x 8000 pixels", "8000 × 8000 пикселей"),
        (editor(long), "crop it", "обрежьте её"),
        (editor(good, bomb), "paint again", "закрасьте ещё раз"),
        (editor(good, text), "paint again", "закрасьте ещё раз"),
    ]:
        assert answer in raw.refusal("edit", painted=painted)
        assert russian in raw.refusal("edit", painted=painted, language="ru")
    assert '"error"' in raw.press("edit", painted=editor({**good, "path": "/etc/passwd"}))


def test_the_browsers_own_way_of_sending_pictures_has_its_bounds(raw: Raw) -> None:
    def send(index: int | str, data: bytes) -> int:
        fields = {"component_id": raw.ids["editor"], "fn_name": "accept_blobs", "session_hash": "x", "id": "one"}
        words = {name: (None, str(value)) for name, value in (fields | {"type": "layer", "index": index}).items()}
        return raw.client.post("gradio_api/component_server", files={**words, "file": ("blob", data)}).status_code

    assert send(0, b"abc") == 200
    for index in (10**9, "+1000000000", " 1000000000", "1_000_000_000", "-1", "8"):
        assert send(index, b"abc") == 413, index  # a list as long as this would take the machine's memory
    assert send(0, b"a" * 11_000_000) == 413


@pytest.mark.parametrize(
    ("axes", "answer"),
    [
        (("guidance_scale", "nan", NOTHING, ""), "guidance is nan: choose 0 to 100"),
        (("num_steps", "1;2", "seed", ";".join("1" * 90)), "grid has 180 pictures: choose at most 16"),
        (("num_steps", "1e3", NOTHING, ""), "write numbers with commas"),
        (("seed", "9" * 30, NOTHING, ""), "seed is about 2^100"),
        (("size", "9999", NOTHING, ""), "width is 9999"),
        (("x", "1", NOTHING, ""), "axis 'x' is not known"),
        ((["a"], {"b": 1}, NOTHING, ""), "is not known"),
        ((None, None, NOTHING, ""), "axis 'None' is not known"),
        ((NOTHING, "", "prompt", "x" * 200_000), "prompt has 200,000 characters"),
        (("spacing", "lcm", "num_steps", "1,99"), "the lcm spacing has 50 timesteps"),
    ],
)
def test_grids_that_cannot_be_drawn(raw: Raw, axes: tuple[Any, ...], answer: str) -> None:
    names = ("axis_across", "values_across", "axis_down", "values_down")
    assert answer in raw.refusal("compare", **{"prompt": "cat", **dict(zip(names, axes, strict=True))})


def test_programs_are_told_what_was_wrong(address: str) -> None:
    client = Client(address, verbose=False)
    for values, answer in [
        ({"steps": "many"}, "num_steps is 'many': write a whole number"),
        ({"steps": 10**6}, "num_steps is 1000000: choose 1 to"),
        ({"guidance": "x"}, "guidance_scale is 'x': it must be a number"),
        ({"sampler": "x"}, "sampler 'x' is not known"),
        ({"size": "1x1"}, "width is 1: choose 64"),
        ({"pictures": 99}, "num_images is 99: choose"),
        ({"prompt": "a" * 6000}, "6,000 characters"),
    ]:
        with pytest.raises(Exception, match=answer):
            client.predict(**{"prompt": "cat", **values}, api_name="/generate")  # type: ignore[arg-type]
