"""Stable Diffusion from scratch: `load` a model, make a `Request`, and `generate`.

import stablediff

pipeline = stablediff.load()
for event in stablediff.generate(pipeline, stablediff.Request(prompt="red apple, flat style")):
    print(event)
"""

from stablediff import interrupt as interrupt  # first, for the others take their time
from stablediff.errors import (
    CheckpointError,
    DeviceError,
    NumericalError,
    OutOfMemoryError,
    RequestError,
    StableDiffError,
)
from stablediff.generate import generate
from stablediff.pipeline import Pipeline, load
from stablediff.request import Request
from stablediff.result import Result, Update
from stablediff.version import __version__

__all__ = [
    "CheckpointError",
    "DeviceError",
    "NumericalError",
    "OutOfMemoryError",
    "Pipeline",
    "Request",
    "RequestError",
    "Result",
    "StableDiffError",
    "Update",
    "__version__",
    "generate",
    "load",
]
