"""The loaded parts of a model together, and nothing else."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from stablediff.checkpoints.fill import LoadReport
from stablediff.checkpoints.load import Parts, load_parts
from stablediff.checkpoints.locate import BUNDLED, DEFAULT_MODEL, Location, locate
from stablediff.checkpoints.lora import load_lora
from stablediff.checkpoints.progress import Progress, silent
from stablediff.checkpoints.save import save_parts
from stablediff.checkpoints.tiny_decoder import load_tiny_decoder, locate_decoder
from stablediff.config import ModelConfig, PredictionType
from stablediff.device import Compute, choose_compute
from stablediff.diffusion.schedule import NoiseSchedule
from stablediff.errors import CheckpointError, DeviceError, OutOfMemoryError, RequestError
from stablediff.fallback import is_out_of_memory
from stablediff.heap import keep_freed_memory
from stablediff.lexicon import FILE as LEXICON_FILE
from stablediff.lexicon import Lexicon, read_lexicon, read_things
from stablediff.models.clip import CLIPTextEncoder
from stablediff.models.compiled import check_compiler, compile_unet
from stablediff.models.fingerprint import fingerprint
from stablediff.models.frozen import count_weights
from stablediff.models.int8 import quantise
from stablediff.models.lora import merge_lora
from stablediff.models.offload import Turns
from stablediff.models.packed import can_pack, pack
from stablediff.models.tiny_decoder import TinyDecoder
from stablediff.models.tokenizer import Tokenizer
from stablediff.models.unet import UNet
from stablediff.models.vae import VAE

Part = TypeVar("Part", bound=nn.Module)


@dataclass
class Pipeline:
    """What `generate` draws with. `load` makes one; the parts may be exchanged (another `vae`, say) at will."""

    name: str
    config: ModelConfig
    text_encoders: list[CLIPTextEncoder]
    tokenizers: list[Tokenizer]
    unet: UNet
    vae: VAE
    compute: Compute
    report: LoadReport
    tiny_decoder: TinyDecoder | None = None  # which draws instead of the VAE's, faster and a little softer
    loras: tuple[tuple[str, float], ...] = ()  # names and scales of those that are merged in
    lexicon: Lexicon | None = None  # the words that it knows, where that is known
    turns: Turns | None = None  # with offload
    drawn_at: tuple[int, int] | None = None  # rows and columns of the latents that the U-Net was last asked about

    @property
    def networks(self) -> dict[str, nn.Module]:
        """What a LoRA can change, by the names in its files."""
        encoders = zip(("text_encoder", "text_encoder_2"), self.text_encoders, strict=False)
        return {"unet": self.unet, **dict(encoders)}

    @property
    def decoder(self) -> VAE | TinyDecoder:
        """What makes pixels of latents, with its `decode`."""
        return self.tiny_decoder or self.vae

    def present(self, part: Part) -> Part:
        """A part that is about to work: with offload it comes to the device now, and the one before it leaves."""
        if self.turns is not None:
            self.turns.bring(part)
        return part

    def is_warm(self, cells: tuple[int, int]) -> bool:
        """Whether the U-Net is ready for latents of this size: the first call reads its weights, and on a CPU every
        other size lays them out anew."""
        if self.drawn_at is None:
            return False
        return self.drawn_at == cells or self.device.type != "cpu" or self.unet.compiled

    @property
    def device(self) -> torch.device:
        return self.compute.device

    @property
    def schedule(self) -> NoiseSchedule:
        return NoiseSchedule(self.config.schedule)

    @property
    def takes_mask(self) -> bool:
        """Whether the U-Net was trained for inpainting: noise, mask and known picture go in side by side."""
        return self.config.unet.in_channels == 2 * self.config.vae.latent_channels + 1

    def as_read(self, prompt: str) -> str:
        """A prompt in the spelling that the model knows."""
        return self.lexicon.spell(prompt) if self.lexicon else prompt

    def things(self, language: str) -> list[str]:
        """What a bundled model can draw, in "en" or "ru"; empty for others, which keep no list."""
        return read_things(self.report.path, language) if self.name in BUNDLED else []

    def fingerprint(self) -> str:
        """A hash of all weights, and of the settings that say what they are."""
        weights = fingerprint(*self.text_encoders, self.unet, self.vae)
        return hashlib.sha256(f"{self.config!r} {weights}".encode()).hexdigest()

    def describe(self) -> str:
        """A line for the user: what was loaded, from where, and where it computes."""
        report = self.report
        millions = count_weights(self.unet) / 1e6
        prediction = self.config.schedule.prediction_type
        ways = [" · tiny decoder"] if self.tiny_decoder else []
        ways += [" · compiled"] if self.unet.compiled else []
        ways += [" · one part at a time on the GPU"] if self.turns else []
        loras = "".join(f" + {name} ({scale:g})" for name, scale in self.loras)
        return (
            f"{self.name}{loras}: {report.kind}, U-Net of {millions:.0f} M parameters, {prediction}, stored as "
            f"{report.stored_dtype.lower()}{''.join(ways)} · {self.compute.reason}"
        )

    def save(self, folder: str | Path, *, overwrite: bool = False, dtype: torch.dtype | None = None) -> None:
        """Writes a diffusers folder, whole or not at all. Raises CheckpointError if `folder` is taken."""
        if self.compute.int8:
            raise CheckpointError("weights that were rounded to int8 cannot be saved: load the model without int8")
        parts = (self.config, self.text_encoders, self.tokenizers, self.unet, self.vae)
        texts = {LEXICON_FILE: self.lexicon.to_text()} if self.lexicon else {}
        save_parts(Path(folder), *parts, overwrite, dtype, texts)


def _is_lora(item: object) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], int | float)


def load(
    model: str | Path = DEFAULT_MODEL,
    *,
    device: str | None = None,
    dtype: str | None = None,
    prediction_type: PredictionType | None = None,
    allow_pickle: bool = False,
    loras: Sequence[tuple[str | Path, float]] = (),
    decoder: str | Path | None = None,
    compiled: bool = False,
    offload: bool = False,
    trainable: bool = False,
    progress: Progress = silent,
) -> Pipeline:
    """Loads the bundled model ("sticker"), a diffusers folder, a single file, or a hub id ("owner/name").

    device: "cpu", "cuda", "cuda:1", "mps" or None for the best. dtype: "float32", "bfloat16", "float16" or None for
    the fastest that is safe there; "int8" (the U-Net, on a CPU) is faster, and a little less like the model. loras:
    those to merge into the weights, each a file, folder or hub id and a scale, as ("detail.safetensors", 0.8). decoder:
    a tiny one in TAESD's layout (file, folder or hub id): faster, and a little softer. compiled: the U-Net through
    torch.compile, whose first step at a size takes minutes. offload: parts are on the GPU only while they work, for one
    whose memory does not hold them all. trainable: leave all weights as torch's own layers have them. progress: called
    with "downloading" or "loading" and the share that is done. Raises CheckpointError, DeviceError, RequestError or
    OutOfMemoryError, whose text says what to do.
    """
    if not isinstance(loras, Sequence) or not all(map(_is_lora, loras)):
        raise RequestError('loras is a list of files and scales, as in loras=[("detail.safetensors", 0.8)]')
    compute = choose_compute(device, dtype)
    if compiled:
        check_compiler(compute.device)
        if compute.int8:
            raise DeviceError("int8 has kernels of its own, which torch.compile cannot read: choose one of the two")
    if offload and compute.device.type != "cuda":
        raise DeviceError("offload is for a GPU with a memory of its own, and this is none: leave --offload away")
    if compute.device.type == "cpu":
        keep_freed_memory()
    # Before the model is loaded, which takes longer.
    tiny = None if decoder is None else locate_decoder(decoder)
    location = locate(str(model), progress)
    placed = replace(compute, device=torch.device("cpu")) if offload else compute
    try:
        parts = load_parts(
            location, placed, prediction_type=prediction_type, allow_pickle=allow_pickle, progress=progress
        )
        pipeline = _assembled(location, parts, compute)
        if tiny is not None:
            pipeline.tiny_decoder = load_tiny_decoder(tiny, parts.config, placed)
        for file, scale in loras:
            name = load_lora(file, pipeline.networks, scale)
            for network in pipeline.networks.values():
                merge_lora(network)
            pipeline.loras += ((name, scale),)
        packs = compute.device.type == "cpu" and not trainable
        # Last, for none of them takes a LoRA.
        if compute.int8:
            quantise(pipeline.unet)
        elif compiled:
            compile_unet(pipeline.unet, compute.device)
        elif packs and can_pack(compute.dtype):
            pack(pipeline.unet)
        if packs and compute.dtype == torch.float32 and can_pack():
            pack(pipeline.vae)  # in bfloat16 there is nothing to win
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"{location.name} does not fit into the memory of {compute.device}: load it with offload (--offload), "
            "close other programs, or choose a smaller model or the device cpu"
        ) from error
    if offload:
        pipeline.turns = Turns(compute.device)
    return pipeline


def _assembled(location: Location, parts: Parts, compute: Compute) -> Pipeline:
    return Pipeline(
        name=location.name,
        config=parts.config,
        text_encoders=parts.text_encoders,
        tokenizers=parts.tokenizers,
        unet=parts.unet,
        vae=parts.vae,
        compute=compute,
        report=parts.report,
        lexicon=None if location.is_file else read_lexicon(location.path),
    )
