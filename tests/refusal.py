"""How loading refuses what it cannot read."""

from pathlib import Path
from typing import Any

import pytest

from stablediff import load
from stablediff.errors import CheckpointError


def refusal(path: Path | str, **options: Any) -> str:
    """What is said: one CheckpointError, short and without a traceback."""
    with pytest.raises(CheckpointError) as caught:
        load(path, device="cpu", dtype="float32", **options)
    message = str(caught.value)
    assert message
    assert len(message) < 700
    assert "Traceback" not in message
    return message
