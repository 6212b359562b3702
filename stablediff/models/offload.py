"""Parts that take turns on a GPU whose memory does not hold them all: those that wait lie in the main memory."""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class Turns:
    """At any time at most one part is on `device`. All begin where they wait."""

    device: torch.device
    present: nn.Module | None = None

    def bring(self, part: nn.Module) -> None:
        """Puts a part on the device; the one before it leaves first."""
        if part is self.present:
            return
        if self.present is not None:
            self.present.to("cpu")
            self.present = None
        try:
            part.to(self.device)
        except torch.OutOfMemoryError:
            part.to("cpu")  # what came of it would stay in everybody's way
            raise
        self.present = part
