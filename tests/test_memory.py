"""How much memory models of the real sizes take, from loading to the picture. Their weights are random."""

import subprocess
import sys
from pathlib import Path

import pytest

from stablediff.bench.material import make_material
from stablediff.bench.workloads import choose_workloads

# In a process of its own, whose peak is of nothing else. "VmHWM" is that peak.
_DRAW = """
import sys
from pathlib import Path
from stablediff import Request, generate, load

folder, side = sys.argv[1], int(sys.argv[2])
wish = Request("a lighthouse", num_steps=2, guidance_scale=5.0, width=side, height=side, seed=1)
*_, result = generate(load(folder, device="cpu", dtype="bfloat16"), wish)
assert result.images[0].size == (side, side)
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read where Linux tells it")
@pytest.mark.parametrize(("name", "side", "gigabytes"), [("sd15", 512, 3.5), ("sdxl", 1024, 9.0)])
def test_a_picture_fits_into_the_memory_that_is_promised(name: str, side: int, gigabytes: float, tmp_path: Path):
    (workload,) = choose_workloads(name, quick=False)
    make_material(workload, tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", _DRAW, str(tmp_path / "model"), str(side)], check=True, capture_output=True, text=True
    )
    assert int(done.stdout) * 1024 <= gigabytes * 1e9
