"""Stickers: the size, the outline, and the cut-out."""

import io

import pytest
from PIL import Image, ImageDraw

from stablediff import RequestError
from stablediff.sticker import MAX_BYTES, to_sticker, webp_bytes


def disc(mode: str, background: str) -> Image.Image:
    image = Image.new(mode, (480, 320), background)
    ImageDraw.Draw(image).ellipse((200, 100, 300, 200), fill="red")
    return image


@pytest.mark.parametrize(("mode", "background"), [("RGBA", "#00000000"), ("RGB", "white"), ("RGB", "navy")])
def test_a_figure_fills_the_sticker_and_has_a_white_rim(mode: str, background: str) -> None:
    sticker = to_sticker(disc(mode, background))
    assert (sticker.mode, sticker.size) == ("RGBA", (512, 512))
    assert sticker.getpixel((0, 0))[3] == 0
    assert sticker.getpixel((256, 256)) == (255, 0, 0, 255)
    left, top, right, bottom = sticker.getchannel("A").getbbox() or (0, 0, 0, 0)
    assert left < 15
    assert right > 497
    assert min(sticker.getpixel((256, top + 4))[:3]) > 200  # the rim
    assert bottom - top > 480


def test_a_sticker_survives_webp() -> None:
    data = webp_bytes(to_sticker(disc("RGB", "white")))
    assert len(data) <= MAX_BYTES
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.size, image.mode) == ("WEBP", (512, 512), "RGBA")


def test_noise_is_brought_below_the_limit() -> None:
    noise = Image.effect_noise((512, 512), 90).convert("RGBA")
    assert len(webp_bytes(Image.merge("RGBA", [*noise.split()[:3], Image.new("L", noise.size, 255)]))) <= MAX_BYTES


@pytest.mark.parametrize("empty", [Image.new("RGB", (64, 64), "white"), Image.new("RGBA", (64, 64))])
def test_nothing_makes_no_sticker(empty: Image.Image) -> None:
    with pytest.raises(RequestError, match="nothing"):
        to_sticker(empty)
