"""What a run goes on from is its own, and lies where it did; what only looks at it does not end it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from stages import loop
from test_training_distill import distill
from test_training_loop import STEPS, Toy, config

from stablediff.errors import ConfigError, OutOfMemoryError
from stablediff.training.loop import train, uses_bfloat16
from stablediff.training.stage import Batch
from stablediff.training.state import _placed


@pytest.mark.parametrize(("fused", "device"), [(True, "meta"), (None, "cpu")])
def test_counters_are_where_the_optimiser_looks_for_them(fused: bool | None, device: str) -> None:
    weights = torch.empty(2, device="meta")  # in place of a GPU
    optimizer = SimpleNamespace(defaults={"fused": fused})
    assert _placed(torch.tensor(3.0), weights, optimizer).device.type == device  # type: ignore[arg-type]
    assert _placed(torch.zeros(2), weights, optimizer).device.type == "meta"  # type: ignore[arg-type]


class Buffered(Toy):
    def __init__(self, *names: str, size: int = 2) -> None:
        super().__init__()
        for name in names:
            self.register_buffer(name, torch.zeros(size))


def test_buffers_of_other_networks_are_refused(tmp_path: Path) -> None:
    train(Buffered("target"), config(steps=5), tmp_path)
    for other in (Toy(), Buffered("other"), Buffered("target", "other")):
        with pytest.raises(ConfigError, match="belongs to other networks: change the config back"):
            train(other, config(), tmp_path)
    with pytest.raises(ConfigError, match=r"target is \(2,\) there and \(3,\) in the config: change the config back"):
        train(Buffered("target", size=3), config(), tmp_path)
    assert train(Buffered("target"), config(), tmp_path).finished


def test_a_longer_run_does_not_send_its_teacher_back(tmp_path: Path) -> None:
    options = {"method": "progressive", "teacher_steps": 16, "halvings": 3}
    assert train(distill(**options, loop=loop(steps=6)), loop(steps=6), tmp_path).finished
    longer = distill(**options, loop=loop(steps=12))
    assert train(longer, loop(steps=12), tmp_path, minutes=0).step == 7
    assert int(longer.phase) == 2  # as it was; of twelve steps the seventh would be of the second third


class Blind(Toy):
    def sheet(self) -> Image.Image | None:
        raise OutOfMemoryError("64x64 does not fit into memory")


def test_a_sheet_that_cannot_be_drawn_ends_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(Blind(), config(), tmp_path).finished
    told = capsys.readouterr().err
    assert f"no sheet of step {STEPS}: 64x64 does not fit into memory" in told


class Crops(Toy):
    """A quarter of the rows from the middle on, as of crops that are larger."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def batch(self, step: int, rows: slice) -> Batch:
        return super().batch(step, slice(rows.start, rows.start + 2) if step >= 1 else rows)

    def forward(self, batch: Batch, progress: float) -> dict[str, torch.Tensor]:
        self.sizes.append(len(batch["x"]))
        return super().forward(batch, progress)


def test_fewer_rows_that_are_larger_come_in_smaller_rounds(tmp_path: Path) -> None:
    stage = Crops()
    train(stage, config(steps=2, micro_batch=4), tmp_path)
    assert stage.sizes == [4, 4, 1, 1]


@pytest.mark.parametrize(("capability", "computes"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_bfloat16_is_chosen_on_a_gpu_that_computes_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], computes: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    assert uses_bfloat16(config(precision="auto"), torch.device("cuda")) is computes
    assert uses_bfloat16(config(precision="bfloat16"), torch.device("cuda"))
