"""Pictures <-> tensors <-> files: exact where they can be, and safe with whatever is opened."""

import errno
import io
import os
import resource
import struct
import time
import zlib
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngInfo

from stablediff import RequestError
from stablediff.images import (
    fit_image,
    mask_to_tensor,
    open_image,
    over_white,
    paste_known,
    png_bytes,
    read_parameters,
    save_png,
    to_images,
    to_pixels,
)

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"


def noise(mode: str = "RGB", size: tuple[int, int] = (13, 7)) -> Image.Image:
    """Every picture of its own, the same every time."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    values = torch.randint(256, (size[0] * size[1] * bands,), generator=torch.Generator().manual_seed(0))
    return Image.frombytes(mode, size, bytes(values.tolist()))


def difference(one: Image.Image, other: Image.Image) -> int:
    """The largest of all bands, in steps of 1/255."""
    assert one.mode == other.mode
    extrema = ImageChops.difference(one, other).getextrema()
    return max(high for _, high in (extrema if isinstance(extrema[0], tuple) else [extrema]))


def as_file(image: Image.Image, form: str = "PNG", **options) -> io.BytesIO:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    buffer.seek(0)
    return buffer


def test_a_picture_survives_the_way_through_a_tensor():
    for picture in (noise("RGB"), Image.new("RGB", (5, 5), (0, 128, 255))):
        pixels = to_pixels(picture, 3)
        assert pixels.shape == (1, 3, picture.height, picture.width)
        assert -1 <= pixels.min() <= pixels.max() <= 1
        assert difference(to_images(pixels)[0], picture) == 0


def test_values_out_of_range_are_clamped():
    image = to_images(torch.tensor([-9.0, 9.0, 0.0]).view(1, 3, 1, 1))[0]
    assert image.getpixel((0, 0)) == (0, 255, 128)


def test_a_batch_becomes_as_many_pictures():
    pixels = torch.cat([to_pixels(Image.new("RGB", (4, 2), colour), 3) for colour in ("red", "blue")])
    assert [image.getpixel((0, 0)) for image in to_images(pixels)] == [(255, 0, 0), (0, 0, 255)]


def test_transparent_pictures_look_over_white_as_the_model_painted_them():
    """Four channels are RGB over white, and alpha: the file's colours must be divided by alpha to look the same."""
    generator = torch.Generator().manual_seed(0)
    alpha = torch.rand(1, 1, 60, 60, generator=generator)
    seen = alpha * torch.rand(1, 3, 60, 60, generator=generator) + (1 - alpha)  # any colour at this opacity
    image = to_images(torch.cat([seen, alpha], dim=1) * 2 - 1)[0]
    assert image.mode == "RGBA"
    assert difference(over_white(image), to_images(seen * 2 - 1)[0]) <= 1
    assert difference(image.getchannel("A"), to_images(alpha.expand(-1, 3, -1, -1) * 2 - 1)[0].getchannel(0)) == 0


def test_transparent_pictures_survive_the_way_through_a_tensor():
    picture = noise("RGBA", (40, 40))
    back = to_images(to_pixels(picture, 4))[0]
    assert difference(back.getchannel("A"), picture.getchannel("A")) == 0
    assert difference(over_white(back), over_white(picture)) <= 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F"])
@pytest.mark.parametrize("channels", [3, 4])
def test_pictures_of_any_mode_become_pixels(mode: str, channels: int):
    pixels = to_pixels(Image.new(mode, (5, 3)), channels)
    assert pixels.shape == (1, channels, 3, 5)
    assert pixels.isfinite().all()
    if channels == 4:
        assert (pixels[:, 3] == (-1 if mode in ("LA", "PA", "RGBA") else 1)).all()


def test_what_is_transparent_becomes_white():
    assert over_white(Image.new("RGBA", (1, 1), (255, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert over_white(Image.new("RGBA", (1, 1), (255, 0, 0, 255))).getpixel((0, 0)) == (255, 0, 0)
    palette = Image.new("P", (1, 1), 0)
    palette.info["transparency"] = 0
    assert over_white(palette).getpixel((0, 0)) == (255, 255, 255)


def test_a_picture_is_cropped_about_its_middle_to_fill_a_size():
    picture = Image.new("RGB", (300, 100), "white")
    picture.paste("red", (100, 0, 200, 100))
    fitted = fit_image(picture, 50, 50)
    assert fitted.size == (50, 50)
    assert {fitted.getpixel((x, 25)) for x in (5, 25, 45)} == {(255, 0, 0)}
    assert fit_image(picture, 300, 100) is picture


def test_masks_are_one_where_they_are_white():
    mask = Image.new("RGB", (2, 1), "black")
    mask.putpixel((1, 0), (255, 255, 255))
    assert mask_to_tensor(mask).tolist() == [[[[0, 1]]]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_pasting_leaves_what_lies_outside_of_the_soft_edge_identical(mode: str):
    known, drawn, mask = noise(mode, (64, 64)), Image.new(mode, (64, 64), "red"), Image.new("L", (64, 64))
    mask.paste(255, (32, 0, 64, 64))
    pasted = paste_known(drawn, known, mask)
    assert difference(pasted.crop((0, 0, 16, 64)), known.crop((0, 0, 16, 64))) == 0
    assert difference(pasted.crop((48, 0, 64, 64)), drawn.crop((48, 0, 64, 64))) == 0


def test_transparent_parts_of_the_known_picture_are_pasted_as_white():
    """What is hidden below them is often black."""
    known = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    pasted = paste_known(Image.new("RGB", (8, 8), "red"), known, Image.new("L", (8, 8)))
    assert pasted.getpixel((4, 4)) == (255, 255, 255)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_the_three_formats_open(form: str, tmp_path: Path):
    path = tmp_path / "no.suffix"
    path.write_bytes(as_file(noise(), form).getvalue())
    assert open_image(path).size == open_image(str(path)).size == (13, 7)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(orientation: int):
    upright = Image.new("RGB", (48, 32), "white")
    upright.paste("red", (0, 0, 16, 16))
    turned = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for form, options in (("PNG", {}), ("JPEG", {"quality": 100, "subsampling": 0})):
        opened = open_image(as_file(turned, form, exif=exif, **options))
        assert opened.size == (48, 32)
        assert difference(opened, upright) <= 3, "no more than JPEG's own error"


def test_greys_of_16_bits_keep_their_values():
    picture = Image.new("I;16", (2, 1), 32896)
    picture.putpixel((1, 0), 65535)
    opened = over_white(open_image(as_file(picture)))
    assert [opened.getpixel((x, 0))[0] for x in (0, 1)] == [128, 255]


def png_claiming(width: int, height: int, *chunks: bytes) -> bytes:
    """A PNG whose header promises that size, and which has next to no pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(b"zTXt", c) for c in chunks) + pixels + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(8_000, 8_000), (10_000, 10_000), (50_000, 50_000), (2**31 - 1, 2**31 - 1)], ids=str)
def test_bombs_are_refused_before_they_are_decoded(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch):
    def explode(*_) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", explode)
    started = time.perf_counter()
    with pytest.raises(RequestError, match=r"scale it down to at most 50 million|it must be a whole PNG"):
        open_image(io.BytesIO(png_claiming(*size)))
    assert read_parameters(io.BytesIO(png_claiming(*size))) is None
    assert time.perf_counter() - started < 1


def test_text_that_unpacks_without_end_is_not_read():
    bomb = b"parameters\0\0" + zlib.compress(b"\0" * 10**8)
    with pytest.raises(RequestError, match="cannot read the picture"):
        open_image(io.BytesIO(png_claiming(8, 8, bomb)))
    assert read_parameters(io.BytesIO(png_claiming(8, 8, bomb))) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\x89PNG\r\n\x1a\n",
        png_claiming(64, 64),
        as_file(noise(size=(64, 64))).getvalue()[:-100],
        as_file(noise(size=(64, 64)), "JPEG").getvalue()[:200],
        as_file(noise(), "GIF").getvalue(),
        as_file(noise(), "BMP").getvalue(),
        as_file(noise(), "TIFF").getvalue(),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        as_file(noise()).getvalue().replace(b"IEND", b"iCCP"),
    ],
    ids=[
        "empty",
        "text",
        "signature",
        "no pixels",
        "cut PNG",
        "cut JPEG",
        "GIF",
        "BMP",
        "TIFF",
        "SVG",
        "PostScript",
        "colours at the end",
    ],
)
def test_broken_files_and_other_formats_are_refused(data: bytes, tmp_path: Path):
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    with pytest.raises(RequestError, match=r"picture\.png: it must be a whole PNG, JPEG or WebP"):
        open_image(path)
    with pytest.raises(RequestError, match="the picture that was sent"):
        open_image(io.BytesIO(data))
    assert read_parameters(path) is None


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_broken_exif_is_refused_with_words():
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description that is long enough to lie outside of the table"
    data = as_file(noise(), "JPEG", exif=exif).getvalue()
    start = data.index(b"Exif")
    for place in range(start, start + 60):
        for value in (0, 1, 255):
            damaged = data[:place] + bytes([value]) + data[place + 1 :]
            try:
                assert open_image(io.BytesIO(damaged)).size in ((13, 7), (7, 13))
            except RequestError as error:
                assert "cannot read the picture" in str(error)  # noqa: PT017 (either is fine)


@pytest.mark.parametrize("name", ["missing.png", "folder", "nul\0.png", "x" * 300])
def test_what_cannot_be_opened_is_named(name: str, tmp_path: Path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(RequestError, match=r"there is no picture .* check its name|cannot read the picture"):
        open_image(f"{tmp_path}/{name}")


@pytest.mark.parametrize("parameters", ["a cat\nSteps: 20", "кот, 猫 🐈\nSteps: 20", "", "x" * 20_000, "a\0b\r\n\t"])
def test_a_png_carries_its_recipe_and_its_pixels(parameters: str, tmp_path: Path):
    for picture in (noise("RGB"), noise("RGBA")):
        path = tmp_path / "picture.png"
        save_png(picture, path, parameters)
        assert read_parameters(path) == parameters
        assert difference(Image.open(path), picture) == 0


def test_a_png_carries_the_mark_of_pictures_made_by_ai():
    with Image.open(io.BytesIO(png_bytes(noise(), "a cat"))) as opened:
        (description,) = ElementTree.fromstring(opened.info["XML:com.adobe.xmp"]).iter(f"{{{RDF}}}Description")
    assert description.attrib == {
        "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType": (
            "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
        )
    }


def test_recipes_of_other_programs_are_read(tmp_path: Path):
    info = PngInfo()
    info.add_text("parameters", "a cat\nSteps: 20", zip=True)
    noise().save(tmp_path / "theirs.png", pnginfo=info)
    assert read_parameters(tmp_path / "theirs.png") == "a cat\nSteps: 20"


def test_pictures_without_a_recipe_have_none(tmp_path: Path):
    noise().save(tmp_path / "plain.png")
    noise().save(tmp_path / "photo.jpg")
    for name in ("plain.png", "photo.jpg", "missing.png", "."):
        assert read_parameters(tmp_path / name) is None


def test_saving_makes_the_folder_and_a_file_that_others_may_read(tmp_path: Path):
    path = tmp_path / "new" / "folder" / "picture.png"
    save_png(noise(), path, "")
    assert path.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in path.parent.iterdir()] == ["picture.png"]


def test_on_a_full_disk_nothing_is_left_and_the_former_picture_stays(tmp_path: Path):
    path, picture = tmp_path / "picture.png", noise(size=(200, 200))
    for former in (None, noise(size=(5, 5))):
        if former:
            save_png(former, path, "former")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                save_png(picture, path, "new")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert [p.name for p in tmp_path.iterdir()] == (["picture.png"] if former else [])
    assert read_parameters(path) == "former"


@pytest.mark.parametrize("failing", ["os.fsync", "pathlib.Path.chmod", "pathlib.Path.replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_save_that_breaks_off_anywhere_leaves_no_draft(
    failing: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_) -> None:
        raise error

    monkeypatch.setattr(failing, fail)
    with pytest.raises(type(error)):
        save_png(noise(), tmp_path / "picture.png", "")
    assert os.listdir(tmp_path) == []  # noqa: PTH208 (pathlib is broken here)


def test_names_as_long_as_the_disk_allows_are_fine(tmp_path: Path):
    path = tmp_path / ("x" * 251 + ".png")
    save_png(noise(), path, "")
    assert path.exists()
