"""What a stage of training has to say to the loop."""

from pathlib import Path

from PIL import Image
from torch import Tensor, nn

Batch = dict[str, Tensor]


class Stage(nn.Module):
    """Networks that learn together, the batches they learn from, and the loss.

    A batch is a pure function of the step, noise and all, so that a run that is resumed, or spread over several
    processes, sees exactly what an undisturbed run would have seen.
    """

    # Whether some parameters have no part in some batches; several processes must know.
    has_idle_parameters = False
    # The rows of a process must be a multiple of this.
    rows_multiple = 1

    def batch(self, step: int, rows: slice) -> Batch:
        """Those rows of the whole batch of this step, on the CPU. Called from another thread, ahead of time."""
        raise NotImplementedError

    def forward(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """-> scalars, means over the rows: "loss" is minimised, the others are written down. `progress` in [0, 1)."""
        raise NotImplementedError

    def parameter_groups(self) -> list[tuple[list[nn.Parameter], float]]:
        """What learns, in groups, each with a factor for its learning rate."""
        return [([p for p in self.parameters() if p.requires_grad], 1.0)]

    def measure(self) -> dict[str, float]:
        """Figures on held-out data, taken with the averaged weights together with each sheet."""
        return {}

    def sheet(self) -> Image.Image | None:
        """A picture that shows what has been learnt, always of the same prompts and seeds."""
        return None

    def export(self, folder: Path) -> None:
        """Writes what the next stage reads, atomically. Called with the averaged weights."""
        raise NotImplementedError
