"""Pictures <-> tensors, and PNG files that carry their own recipe."""

import io
from pathlib import Path

import torch
from PIL import Image, ImageFilter, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from stablediff.errors import RequestError
from stablediff.files import write_whole

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 50_000_000
MAX_SIDE = 30_000  # longer and thinner ones only cost memory
_LONGEST_RECIPE = 2**16  # characters
# The IPTC's mark for pictures made by a generative model.
_AI_MARK = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    f'Iptc4xmpExt:DigitalSourceType="{_AI_MARK}"/></rdf:RDF></x:xmpmeta>'
)


def to_images(pixels: Tensor) -> list[Image.Image]:
    """(B,C,H,W) in [-1, 1] -> B pictures: RGB for 3 channels, RGBA for 4 (RGB over white, and alpha)."""
    pixels = (pixels.float() / 2 + 0.5).clamp(0, 1)
    if pixels.shape[1] == 4:
        pixels = torch.cat([_off_white(pixels[:, :3], pixels[:, 3:]), pixels[:, 3:]], dim=1)
    arrays = (pixels * 255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return [Image.fromarray(array) for array in arrays]


def _off_white(over_white: Tensor, alpha: Tensor) -> Tensor:
    """The colour that, at this opacity over white, looks like this: c = (o - (1 - α)) / α."""
    return torch.where(alpha > 1 / 255, (over_white - (1 - alpha)) / alpha.clamp(min=1 / 255), over_white).clamp(0, 1)


def has_alpha(image: Image.Image) -> bool:
    return "A" in image.getbands() or "transparency" in image.info


def over_white(image: Image.Image) -> Image.Image:
    """RGB: what is transparent becomes white."""
    if not has_alpha(image):
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def to_pixels(image: Image.Image, channels: int) -> Tensor:
    """A picture -> (1,C,H,W) in [-1, 1]: 3 channels over white, or these and alpha."""
    bands = [*over_white(image).split()]
    if channels == 4:
        bands.append(image.convert("RGBA").getchannel("A"))
    planes = [torch.frombuffer(bytearray(band.tobytes()), dtype=torch.uint8) for band in bands]
    return torch.stack(planes).view(1, channels, image.height, image.width).float() / 127.5 - 1


def fit_image(image: Image.Image, width: int, height: int) -> Image.Image:
    """Scales and crops about the middle, so that the picture fills the size."""
    return image if image.size == (width, height) else ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


def mask_to_tensor(mask: Image.Image) -> Tensor:
    """A mask of any mode -> (1,1,H,W) in [0, 1], 1 where it is white."""
    plane = torch.frombuffer(bytearray(mask.convert("L").tobytes()), dtype=torch.uint8)
    return plane.view(1, 1, mask.height, mask.width).float() / 255


def paste_known(drawn: Image.Image, known: Image.Image, mask: Image.Image, softness: int = 4) -> Image.Image:
    """The known picture with the drawn one where the mask is white, over an edge of about `softness` pixels."""
    soft = mask.convert("L").filter(ImageFilter.GaussianBlur(softness))
    return Image.composite(drawn, over_white(known) if drawn.mode == "RGB" else known.convert(drawn.mode), soft)


def open_image(source: str | Path | io.BytesIO) -> Image.Image:
    """Reads a PNG, JPEG or WebP upright. Raises RequestError for anything else, and for bombs before decoding them."""
    name = "that was sent" if isinstance(source, io.BytesIO) else source
    try:
        if isinstance(source, (str, Path)) and Path(source).exists() and not Path(source).is_file():
            raise RequestError(f"cannot read the picture {name}: it is no file; give a PNG, JPEG or WebP")
        image: Image.Image = Image.open(source, formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise RequestError(
                f"the picture {name} has {image.width} x {image.height} pixels: scale it down to at most "
                f"{MAX_PIXELS // 10**6} million"
            )
        if max(image.size) > MAX_SIDE:
            raise RequestError(
                f"the picture {name} has a side of {max(image.size)} pixels: scale it down to at most {MAX_SIDE}"
            )
        image.load()
        if image.mode == "I;16":  # convert() would make white of all but the darkest grey
            image = image.point(lambda grey: grey / 257).convert("L")
        return _upright(image)
    except RequestError:
        raise
    except Image.DecompressionBombError as error:
        raise RequestError(
            f"the picture {name} has far too many pixels: scale it down to at most {MAX_PIXELS // 10**6} million"
        ) from error
    except FileNotFoundError as error:
        raise RequestError(f"there is no picture {name}: check its name") from error
    except Exception as error:  # damaged files break Pillow in ways that it does not foresee
        reason = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise RequestError(f"cannot read the picture {name}: it must be a whole PNG, JPEG or WebP{reason}") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the note is damaged, in ways that Pillow does not foresee: the pixels are not
        return image


def png_bytes(image: Image.Image, parameters: str) -> bytes:
    """A PNG with its recipe where other programs look for it, and with the mark of an AI-made picture."""
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", parameters) if parameters.isascii() else info.add_itxt("parameters", parameters)
    info.add_itxt("XML:com.adobe.xmp", _XMP)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def save_png(image: Image.Image, path: Path, parameters: str) -> None:
    """Writes `path` whole or not at all. Raises OSError."""
    write_whole(path, png_bytes(image, parameters), lasting=True)


def read_parameters(source: str | Path | io.BytesIO) -> str | None:
    """The recipe in a PNG file, ours or another program's, or None."""
    try:
        if isinstance(source, (str, Path)) and not Path(source).is_file():
            return None
        with Image.open(source, formats=("PNG",)) as image:
            text = image.info.get("parameters")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return text if isinstance(text, str) and len(text) <= _LONGEST_RECIPE else None
