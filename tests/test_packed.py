"""Packed weights: the numbers of torch's own layers, whatever the size, and never by a kernel of last resort."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from reference import TOLERANCE, max_error, randn
from safetensors.torch import save_file
from torch import nn
from toy import draw

from stablediff import load
from stablediff.checkpoints.tensors import SafetensorsSource
from stablediff.models.frozen import count_bytes, count_weights
from stablediff.models.layers import GEGLU
from stablediff.models.packed import PackedConv2d, PackedGEGLU, PackedLinear, can_pack, pack

pytestmark = pytest.mark.skipif(not can_pack(), reason="torch has no such kernels here")
TYPES = [torch.float32, torch.bfloat16]


def layer(kind: type[nn.Module], dtype: torch.dtype = torch.float32, **how) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = kind(80, 96, **how)
    return made.requires_grad_(False).to(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("how", [{"padding": 1}, {"stride": 2, "padding": 1}, {"bias": False}], ids=str)
def test_a_convolution_stays_the_same_at_every_size(dtype: torch.dtype, how: dict):
    plain = layer(nn.Conv2d, dtype, kernel_size=3, **how)
    packed = PackedConv2d(plain)
    for size in ((1, 80, 9, 8), (2, 80, 9, 8), (2, 80, 16, 24), (1, 80, 9, 8)):
        x = randn(*size).to(dtype, memory_format=torch.channels_last)
        with torch.inference_mode():
            assert max_error(packed(x).float(), plain(x).float()) <= (TOLERANCE if dtype == torch.float32 else 0)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_stays_the_same_at_every_size(dtype: torch.dtype, bias: bool):
    plain = layer(nn.Linear, dtype, bias=bias)
    packed = PackedLinear(plain)
    for size in ((3, 80), (2, 7, 80), (2, 3, 4, 80), (1, 80)):
        x = randn(*size).to(dtype)
        with torch.inference_mode():
            assert max_error(packed(x).float(), plain(x).float()) <= (TOLERANCE if dtype == torch.float32 else 2**-7)


@pytest.mark.parametrize("dtype", TYPES)
def test_a_gated_layer_stays_the_same_at_every_size_and_keeps_its_weights(dtype: torch.dtype):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = nn.Sequential(GEGLU(80, 96)).requires_grad_(False).to(dtype)
    packed, before = copy.deepcopy(plain), plain.state_dict()
    pack(packed)
    assert isinstance(packed[0].proj, PackedGEGLU)
    for size in ((3, 80), (2, 7, 80), (1, 80)):
        x = randn(*size).to(dtype)
        with torch.inference_mode():
            exact = copy.deepcopy(plain).float()(x.float())
            for network in (packed, copy.deepcopy(packed)):
                allowed = TOLERANCE if dtype == torch.float32 else max_error(plain(x).float(), exact) + 2**-8
                assert max_error(network(x).float(), exact) <= allowed
        assert all(torch.equal(value, before[name]) for name, value in packed.state_dict().items())
    assert list(packed.state_dict()) == list(before)
    assert (count_weights(packed), count_bytes(packed)) == (count_weights(plain), count_bytes(plain))


@pytest.mark.parametrize(("matrix_unit", "times"), [(False, 3), (True, 5)])
def test_a_layout_serves_half_and_twice_the_rows(matrix_unit: bool, times: int, monkeypatch: pytest.MonkeyPatch):
    """Guidance begins and ends within a picture. Matrix units were not tried, and get a layout for each size."""
    monkeypatch.setattr("stablediff.models.packed.has_matrix_unit", lambda: matrix_unit)
    packed = PackedLinear(layer(nn.Linear))
    pack_, layouts = packed.pack, []
    monkeypatch.setattr(packed, "pack", lambda weight, size: layouts.append(size) or pack_(weight, size))
    for size in ((2, 9, 80), (1, 9, 80), (2, 9, 80), (2, 10, 80), (8, 10, 80)):
        packed(randn(*size))
    assert len(layouts) == times


@pytest.mark.parametrize("used", [False, True])
def test_weights_come_out_as_they_went_in(used: bool):
    network = nn.Sequential(layer(nn.Conv2d, kernel_size=3), nn.Flatten(2), nn.Linear(10, 10)).requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    weights, size = count_weights(network), count_bytes(network)
    pack(network)
    if used:
        network(randn(1, 80, 4, 7))
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert (count_weights(network), count_bytes(network)) == (weights, size)
    other = copy.deepcopy(network)
    assert max_error(other(randn(1, 80, 4, 7)), network(randn(1, 80, 4, 7))) <= TOLERANCE
    network.to(torch.bfloat16)
    assert count_bytes(network) == size // 2
    assert all(torch.equal(value, before[name].bfloat16()) for name, value in network.state_dict().items())
    assert network(randn(1, 80, 4, 7).bfloat16()).dtype == torch.bfloat16


def test_a_loaded_model_is_packed_unless_it_is_to_learn(tmp_path: Path):
    packed, plain = load(dtype="float32"), load(dtype="float32", trainable=True)
    assert any(isinstance(module, PackedConv2d) for module in packed.unet.modules())
    assert not any(isinstance(module, PackedConv2d | PackedLinear) for module in plain.unet.modules())
    wishes = {"prompt": "red apple, flat style", "seed": 3, "num_steps": 2}
    one, other = (draw(pipeline, **wishes).images[0] for pipeline in (packed, plain))
    gaps = [abs(a - b) for a, b in zip(one.tobytes(), other.tobytes(), strict=True)]
    assert max(gaps) <= 1
    packed.save(tmp_path / "copy")
    again = load(tmp_path / "copy", dtype="float32", trainable=True)
    state = plain.unet.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.unet.state_dict().items())


@pytest.mark.parametrize("dtype", [str(dtype).removeprefix("torch.") for dtype in TYPES if can_pack(dtype)])
def test_nothing_falls_back_to_a_kernel_of_last_resort(dtype: str):
    """Those are many times slower, and nothing says so. Sizes go up and down, for a layout may fit one of them only."""
    script = (
        "from stablediff import Request, generate, load\n"
        f"pipeline = load(dtype={dtype!r})\n"
        "for width, height, guidance in ((512, 512, 1), (512, 512, 2), (256, 384, 2), (512, 512, 1), (640, 512, 2)):\n"
        "    wish = Request('fox', num_steps=1, guidance_scale=guidance, width=width, height=height)\n"
        "    list(generate(pipeline, wish))\n"
    )
    environment = {**os.environ, "ONEDNN_VERBOSE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    lines = [
        line.split(",") for line in done.stdout.splitlines() if line.startswith("onednn_verbose,v1,primitive,exec")
    ]
    assert sum(line[5] in ("convolution", "deconvolution", "matmul", "inner_product") for line in lines) > 100
    slow = {",".join(line[5:9]) for line in lines if line[6].startswith(("ref", "simple"))}
    assert not slow


def in_files() -> int:
    """Bytes of mapped files that are in this program's memory."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssFile")) * 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no /proc")
def test_a_weight_in_a_mapped_file_leaves_the_memory_once_it_is_packed(tmp_path: Path):
    wide = 4096
    weight = randn(wide, wide)
    save_file({"weight": weight, "other": randn(8)}, tmp_path / "weights.safetensors")
    tensors = SafetensorsSource([tmp_path / "weights.safetensors"])
    dense = nn.Linear(wide, wide, bias=False, device="meta")
    mapped = tensors.read("weight", lambda tensor: tensor)
    dense.weight = nn.Parameter(mapped, requires_grad=False)
    packed, x = PackedLinear(dense), randn(2, wide)
    before = in_files()
    assert mapped.sum().isfinite()
    assert in_files() - before > 0.9 * weight.nbytes, "or this test says nothing"
    with torch.inference_mode():
        torch.testing.assert_close(packed(x), x @ weight.T, rtol=1e-4, atol=1e-3)
    assert in_files() - before < 0.1 * weight.nbytes
    assert torch.equal(mapped, weight), "it comes back from the file"
