"""Pictures that start from others: sizes, image-to-image, inpainting."""

import pytest
import torch
from PIL import Image, ImageDraw
from toy import APPLE, count_calls, difference, draw, events, is_picture, mean_difference, toy_pipeline

from stablediff import Pipeline

# --- sizes, and pictures to start from -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(200, 264), (64, 64), (72, 128), (328, 136)], ids=str)
def test_pictures_come_in_the_exact_size(sticker: Pipeline, size: tuple[int, int]):
    """Also where a latent cell, 32 pixels wide, does not divide it."""
    image = draw(sticker, **{**APPLE, "width": size[0], "height": size[1]}, guidance_scale=4.0, seed=1).images[0]
    assert image.size == size
    assert is_picture(image)


@pytest.fixture(scope="module")
def landscape() -> Image.Image:
    image = Image.new("RGB", (128, 128), "skyblue")
    painter = ImageDraw.Draw(image)
    painter.rectangle((0, 80, 128, 128), "green")
    painter.ellipse((80, 16, 112, 48), "yellow")
    return image


def test_little_strength_keeps_the_picture(sticker: Pipeline, landscape: Image.Image):
    wishes = {"prompt": "red apple, flat style", "num_steps": 10, "seed": 1, "init_image": landscape}
    kept, changed = (draw(sticker, **wishes, strength=strength).images[0] for strength in (0.1, 1.0))
    assert kept.size == landscape.size, "it is as large as the picture to start from"
    assert mean_difference(kept, landscape) < 25, "of which the autoencoder alone makes 16"
    assert mean_difference(changed, landscape) > 60


@pytest.mark.parametrize(("strength", "steps"), [(1e-6, 1), (0.1, 1), (0.5, 5), (0.99, 9), (1.0, 10)])
def test_strength_is_the_share_of_steps(toy: Pipeline, strength: float, steps: int):
    with count_calls(toy.unet) as calls:
        updates, result = events(toy, num_steps=10, strength=strength, init_image=Image.new("RGB", (64, 64)))
    assert len(calls) == steps == updates[-1].total == updates[-1].step
    assert result.request.strength == strength


@pytest.mark.parametrize("size", [(64, 64), (100, 300), (1, 1), (2000, 30)])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_pictures_of_any_mode_and_size_can_be_the_start(toy: Pipeline, mode: str, size: tuple[int, int]):
    start, mask = Image.new(mode, size), Image.new("1", (30, 20), 1)
    result = draw(toy, init_image=start, mask_image=mask, num_steps=1, width=72, height=64)
    assert result.images[0].size == (72, 64)


@pytest.mark.parametrize("size", [(128, 128), (200, 264)], ids=str)
def test_inpainting_leaves_the_rest_as_it_is(sticker: Pipeline, size: tuple[int, int]):
    width, height = size
    start = Image.radial_gradient("L").resize(size).convert("RGB")
    mask = Image.new("L", size)
    mask.paste(255, (width // 2, 0, width, height))
    wishes = {**APPLE, "width": width, "height": height, "init_image": start, "mask_image": mask, "strength": 1.0}
    image = draw(sticker, **wishes, seed=1).images[0]
    edge = 32  # soft
    kept, drawn = (0, 0, width // 2 - edge, height), (width // 2 + edge, 0, width, height)
    assert difference(image.crop(kept), start.crop(kept)) == 0
    assert mean_difference(image.crop(drawn), start.crop(drawn)) > 10


def test_a_mask_without_white_leaves_everything(sticker: Pipeline, landscape: Image.Image):
    wishes = {"num_steps": 2, "init_image": landscape, "mask_image": Image.new("L", landscape.size)}
    image = draw(sticker, **wishes).images[0]
    assert difference(image, landscape) == 0


@pytest.fixture
def inpainter() -> Pipeline:
    """Its U-Net takes four channels of noise, the mask, and four of the known picture."""
    return toy_pipeline(in_channels=9)


def test_an_inpainting_model_sees_the_mask_and_the_known_picture(inpainter: Pipeline):
    start, mask = Image.linear_gradient("L").resize((64, 64)).convert("RGB"), Image.new("L", (64, 64))
    mask.paste(255, (32, 0, 64, 64))
    seen = []
    inpainter.unet.register_forward_pre_hook(lambda _unet, inputs: seen.append(inputs[0]))
    image = draw(inpainter, init_image=start, mask_image=mask, strength=1.0, seed=1).images[0]
    assert difference(image.crop((0, 0, 16, 64)), start.crop((0, 0, 16, 64))) == 0
    assert {tuple(x.shape) for x in seen} == {(1, 9, 8, 8)}
    assert (seen[0][:, 4] == (torch.arange(8) >= 4)).all()
    assert all(torch.equal(x[:, 4:], seen[0][:, 4:]) for x in seen), "only the noise changes"


@pytest.mark.parametrize("start", [None, Image.new("RGB", (64, 64), "red")], ids=["text", "picture"])
def test_an_inpainting_model_draws_without_a_mask(inpainter: Pipeline, start: Image.Image | None):
    seen = []
    inpainter.unet.register_forward_pre_hook(lambda _unet, inputs: seen.append(inputs[0]))
    assert is_picture(draw(inpainter, init_image=start, num_images=2, seed=1).images[1])
    assert (seen[0][:, 4] == 1).all(), "everything is drawn anew"


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_pictures_of_a_request_are_never_changed(sticker: Pipeline, mode: str):
    start, mask = Image.effect_noise((128, 128), 50).convert(mode), Image.effect_noise((128, 128), 50)
    before = start.copy(), mask.copy(), start.mode, mask.mode
    result = draw(sticker, **APPLE, init_image=start, mask_image=mask)
    assert (start.tobytes(), mask.tobytes()) == (before[0].tobytes(), before[1].tobytes())
    assert (start.mode, mask.mode) == before[2:]
    assert result.request.init_image is start
