"""The U-Net through torch.compile: kernels made for this network and size, after a first call that takes minutes."""

import functools
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from stablediff.errors import DeviceError
from stablediff.models.unet import UNet

T = TypeVar("T")
_MOST_SIZES = 128


def compile_unet(unet: UNet, device: torch.device) -> None:
    """In place. What is compiled are the two halves that DeepCache asks, too; a new size is compiled anew.

    Raises DeviceError where there is no compiler.
    """
    check_compiler(device)
    from torch._dynamo import config  # a second to import

    # Of all U-Nets of this process together; what comes after is not compiled, and torch says so in a log only.
    config.recompile_limit = max(config.recompile_limit, _MOST_SIZES)
    for name in ("deep", "finish"):
        if device.type == "cpu":  # with weights as constants, so that they can be laid out once
            half = torch.compile(getattr(unet, name), dynamic=False, options={"freezing": True})
        else:
            half = torch.compile(getattr(unet, name), dynamic=False, mode="max-autotune-no-cudagraphs")
        setattr(unet, name, _or_say_why_not(half))
    unet.compiled = True


def _or_say_why_not(half: Callable[..., T]) -> Callable[..., T]:
    from torch._dynamo.exc import TorchDynamoException

    @functools.wraps(half)
    def call(*arguments: Any, **options: Any) -> T:
        try:
            return half(*arguments, **options)
        except TorchDynamoException as error:
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise DeviceError(
                f"torch.compile failed ({reason[:200]}): mend the compiler, or leave --compile away"
            ) from error

    return call


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
