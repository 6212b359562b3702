"""What is measured: models at their true shapes (the speed does not depend on the weights), and what to draw."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from stablediff.checkpoints.locate import BUNDLED
from stablediff.config import SD1, SD2, SDXL, CLIPConfig, ModelConfig, UNetConfig, VAEConfig
from stablediff.errors import RequestError

Say = Callable[[str], None]  # how a bench tells where it is
LANES = ("float32", "bfloat16", "int8")  # never mixed
PROMPT = "a lighthouse at dusk, oil on canvas"  # of engines that only draw whole pictures


@dataclass(frozen=True)
class Workload:
    """One picture of `width` x `height` pixels in `steps` Euler steps. `config` None is the bundled model."""

    name: str
    about: str
    config: ModelConfig | None
    width: int
    height: int
    steps: int
    guidance: float  # 1 is none: one row a forward instead of two
    decodes: bool = True


_LCM = replace(SD1, unet=replace(SD1.unet, guidance_embedding_dim=256))

FULL = (
    Workload("sd15", "SD 1.5, 512x512, four guided steps", SD1, 512, 512, 4, 7.5),
    Workload("sd15-20", "SD 1.5, 512x512, twenty guided steps", SD1, 512, 512, 20, 7.5),
    Workload("turbo", "as SD-Turbo: SD 2.1's networks, 512x512, one step, no guidance", SD2, 512, 512, 1, 1.0),
    Workload("lcm", "as LCM: SD 1.5 with the guidance as an input, 512x512, four steps", _LCM, 512, 512, 4, 1.0),
    Workload("sdxl", "SDXL, 1024x1024, one forward, not decoded", SDXL, 1024, 1024, 1, 1.0, decodes=False),
    Workload("sticker", "the bundled model, 512x512, 25 guided steps", None, 512, 512, 25, 4.0),
)

_TINY_TEXT = CLIPConfig(hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2)
_TINY_VAE = VAEConfig(channels=(16, 16, 32, 32), num_resnets=1, norm_groups=8)
_TINY_UNET = UNetConfig(channels=(32, 64), num_resnets=1, transformer_depth=(1, 1), num_heads=(4, 4), context_dim=32)
TINY = ModelConfig(text_encoders=(_TINY_TEXT,), unet=_TINY_UNET, vae=_TINY_VAE)
_TINY_LCM = replace(TINY, unet=replace(_TINY_UNET, guidance_embedding_dim=32))
_TINY_XL = replace(
    TINY,
    kind="sdxl",
    text_encoders=(_TINY_TEXT, replace(_TINY_TEXT, projection_size=32)),
    unet=replace(
        _TINY_UNET,
        context_dim=2 * 32,
        linear_projection=True,
        added_conditioning="text_time",
        added_input_dim=32 + 6 * 256,
    ),
)

QUICK = (
    Workload("sd15", "a tiny network laid out like SD 1.5", TINY, 64, 64, 2, 7.5),
    Workload("lcm", "a tiny network laid out like LCM", _TINY_LCM, 64, 64, 2, 1.0),
    Workload("sdxl", "a tiny network laid out like SDXL", _TINY_XL, 64, 64, 1, 1.0, decodes=False),
    Workload("sticker", "the bundled model, 128x128, two guided steps", None, 128, 128, 2, 4.0),
)


def choose_workloads(names: str | None, *, quick: bool) -> tuple[Workload, ...]:
    """ "sd15,lcm" -> those; None -> all. Raises RequestError."""
    table = {workload.name: workload for workload in (QUICK if quick else FULL)}
    if names is None:
        return tuple(table.values())
    wanted = dict.fromkeys(name for name in re.split(r"[,\s]+", names) if name)
    if unknown := [name for name in wanted if name not in table] or ([] if wanted else [names]):
        raise RequestError(f"there is no workload {unknown[0][:40]!r}: choose some of {', '.join(table)}")
    return tuple(table[name] for name in wanted)


def bundled_model() -> str:
    return next(iter(BUNDLED))
