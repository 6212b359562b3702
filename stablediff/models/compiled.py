"""The U-Net through torch.compile: kernels made for this network and size, after a first call that takes minutes."""

import importlib.util
import os
import shutil
import sys

import torch

from stablediff.errors import DeviceError
from stablediff.models.unet import UNet


def compile_unet(unet: UNet, device: torch.device) -> None:
    """In place. What is compiled are the two halves that DeepCache asks, too; a new size is compiled anew.

    Raises DeviceError where there is no compiler.
    """
    check_compiler(device)
    for name in ("deep", "finish"):
        if device.type == "cpu":  # with weights as constants, so that they can be laid out once
            half = torch.compile(getattr(unet, name), dynamic=False, options={"freezing": True})
        else:
            half = torch.compile(getattr(unet, name), dynamic=False, mode="max-autotune-no-cudagraphs")
        setattr(unet, name, half)
    unet.compiled = True


def check_compiler(device: torch.device) -> None:
    """Raises DeviceError that names what is missing."""
    if device.type == "cpu":
        names = (os.environ.get("CXX", ""), "g++", "clang++", "cl" if sys.platform == "win32" else "")
        if not any(name and shutil.which(name) for name in names):
            raise DeviceError(
                "torch.compile needs a C++ compiler, and there is none: install g++ or clang, or leave --compile away"
            )
    elif device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise DeviceError("torch.compile needs Triton on a GPU: pip install triton, or leave --compile away")
    elif device.type == "mps":
        raise DeviceError("torch.compile gains nothing on an Apple GPU: leave --compile away")


def can_compile(device: torch.device) -> bool:
    try:
        check_compiler(device)
    except DeviceError:
        return False
    return True
