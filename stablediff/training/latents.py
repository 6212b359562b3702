"""Latents of many pictures, made once and read at every step: float16 on disk, mapped into memory."""

import hashlib
import json
import shutil
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from copy import copy
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from stablediff.errors import ConfigError, DataError
from stablediff.locks import in_turn
from stablediff.models.fingerprint import fingerprint
from stablediff.models.vae import VAE
from stablediff.training.crops import to_model
from stablediff.training.data.pictures import Pictures
from stablediff.training.distributed import main_first

_NOTED = 2048  # latents between two notes of how far it is
_MOST_THREADS = 8  # more would wait for each other at what Python does of the drawing


def cached_latents(
    folder: Path, name: str, pictures: Pictures, size: int, vae: VAE, device: torch.device, precision: torch.autocast
) -> Tensor:
    """(N,L,h,w) float16 of all pictures, `size` pixels wide, from `folder` or made there; a broken run goes on.

    `name` stands for the pictures; the autoencoder's weights and settings are part of the file's name. Of several
    processes the main one makes them.
    Raises DataError when the disk has no room, ConfigError for a size that the autoencoder cannot take.
    """
    check_size(size, vae)
    with main_first():
        return _cached_latents(folder, name, pictures, size, vae, device, precision)


def check_size(size: int, vae: VAE) -> None:
    """Raises ConfigError for a size that the autoencoder cannot take."""
    cell = vae.config.downscale
    if size < cell or size % cell:
        raise ConfigError(f"size is {size}: choose a multiple of {cell}, the side of a latent cell")


def _cached_latents(
    folder: Path, name: str, pictures: Pictures, size: int, vae: VAE, device: torch.device, precision: torch.autocast
) -> Tensor:
    config = vae.config
    cells = size // config.downscale
    shape = (len(pictures), config.latent_channels, cells, cells)
    with copy(precision):
        narrow = torch.is_autocast_enabled(device.type)
    key = hashlib.sha256(f"{name} {shape} {config} {narrow} {fingerprint(vae)}".encode()).hexdigest()[:16]
    path, counter = folder / f"latents-{key}.npy", folder / f"latents-{key}.json"
    folder.mkdir(parents=True, exist_ok=True)
    with in_turn(path.with_suffix(".lock")):
        _make(path, counter, shape, pictures, vae, device, precision)
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def _make(
    path: Path,
    counter: Path,
    shape: tuple[int, ...],
    pictures: Pictures,
    vae: VAE,
    device: torch.device,
    precision: torch.autocast,
) -> None:
    """What is still missing in the file."""
    done = _read_count(counter) if _is_whole(path, shape) else 0
    if done == 0:
        need = 2 * int(np.prod(shape))
        free = shutil.disk_usage(path.parent).free
        if need > free:
            raise DataError(
                f"{need / 1e9:.1f} GB are needed in {path.parent} for latents, and {free / 1e9:.1f} are free"
            )
        counter.unlink(missing_ok=True)  # first: it would say of the new file what was true of the former
        path.unlink(missing_ok=True)
    store = np.lib.format.open_memmap(path, "r+" if done else "w+", np.float16, shape)
    if done < len(pictures):
        vae.to(device).eval()
        encoded = _encoded(pictures, done, vae, device, precision)
        bar = tqdm(encoded, total=len(pictures), initial=done, unit="picture", desc="encoding")
        try:
            with closing(encoded):
                for latents in bar:
                    store[done] = latents.numpy()
                    done += 1
                    if done % _NOTED == 0:
                        _write_count(store, counter, done)
        finally:
            _write_count(store, counter, done)


def _encoded(
    pictures: Pictures, first: int, vae: VAE, device: torch.device, precision: torch.autocast
) -> Generator[Tensor, None, None]:
    """The latents (L,h,w) float16 of the pictures from `first` on, each drawn in a thread.

    On a CPU that thread encodes it too: two pictures on a core each are faster than one on two cores, and no core
    waits for a drawing. Another device encodes one after the other.
    """
    threads = min(torch.get_num_threads(), _MOST_THREADS)
    turn: AbstractContextManager[object] = nullcontext() if device.type == "cpu" else Lock()

    def encode(index: int) -> Tensor:
        pixels = to_model(pictures.picture(index), vae.config.image_channels)
        with turn, copy(precision), torch.inference_mode():  # a context of autocast is of one thread
            latents = vae.encode(pixels[None].to(device, memory_format=torch.channels_last))[0]
            return latents.float().cpu().half()

    pool = ThreadPoolExecutor(threads, "encode", torch.set_num_threads, (torch.get_num_threads() // threads,))
    try:
        yield from pool.map(encode, range(first, len(pictures)))
    finally:
        pool.shutdown(cancel_futures=True)


def _is_whole(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether the file is there with all its bytes; a shorter one would be read as zeros."""
    try:
        store = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return bool(store.shape == shape and store.dtype == np.float16)


def _read_count(counter: Path) -> int:
    try:
        return int(json.loads(counter.read_text())["done"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _write_count(store: "np.memmap[tuple[int, ...], np.dtype[np.float16]]", counter: Path, done: int) -> None:
    store.flush()
    draft = counter.with_suffix(".draft")
    draft.write_text(json.dumps({"done": done}))
    draft.replace(counter)
