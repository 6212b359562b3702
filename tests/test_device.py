"""Where to compute and in which precision, on machines that this one is not."""

import pytest
import torch

from stablediff import DeviceError
from stablediff.device import Compute, _bfloat16_is_faster, choose_compute, cpu_computes_bfloat16


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Pretends: `machine(cuda=2, mps=False, cpu={"avx512_bf16"})`."""

    def pretend(
        cuda: int = 0,
        mps: bool = False,
        cpu: frozenset[str] | set[str] = frozenset(),
        bfloat16_is_faster: bool = True,
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Pretended GPU")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (8, 6))
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(cpu, True))
        monkeypatch.setattr("stablediff.device._bfloat16_is_faster", lambda: bfloat16_is_faster)

    return pretend


@pytest.mark.parametrize(
    ("has", "device", "dtype", "reason"),
    [
        ({}, "cpu", torch.float32, "only emulates it"),
        ({"cpu": {"avx512"}}, "cpu", torch.float32, "only emulates it"),
        ({"cpu": {"avx512_bf16"}, "bfloat16_is_faster": False}, "cpu", torch.float32, "no faster than float32"),
        ({"cpu": {"avx512_bf16"}}, "cpu", torch.bfloat16, "this CPU computes it"),
        ({"cpu": {"amx_bf16"}}, "cpu", torch.bfloat16, "this CPU computes it"),
        ({"cpu": {"bf16"}}, "cpu", torch.bfloat16, "this CPU computes it"),
        ({"cuda": 1}, "cuda", torch.float16, "Pretended GPU, float16"),
        ({"mps": True}, "mps", torch.float16, "Apple GPU, float16"),
        ({"cuda": 1, "mps": True}, "cuda", torch.float16, "Pretended GPU"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", [None, "auto"])
def test_the_best_device_and_its_fastest_safe_precision_are_chosen(machine, name, has, device, dtype, reason):
    machine(**has)
    compute = choose_compute(name, name)
    assert (compute.device.type, compute.dtype) == (device, dtype)
    assert reason in compute.reason


def test_what_is_asked_for_is_taken_if_it_is_there(machine):
    machine(cuda=2, cpu={"avx512_bf16"})
    assert choose_compute("cpu").device == torch.device("cpu")
    assert choose_compute("cuda:1").device == torch.device("cuda:1")
    assert choose_compute("cpu", "float32").dtype == torch.float32
    assert choose_compute("cuda", "float32").dtype == torch.float32
    assert "as asked for" in choose_compute("cuda", "float32").reason


@pytest.mark.parametrize(("alias", "dtype"), [("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16")])
def test_short_names_of_precisions_are_understood(machine, alias: str, dtype: str):
    machine(cuda=1)
    assert choose_compute("cuda", alias).dtype == getattr(torch, dtype)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:2", "mps"])
def test_devices_that_are_not_there_are_refused(machine, name: str):
    machine(cuda=2 if name == "cuda:2" else 0)
    with pytest.raises(DeviceError, match=f"no device '{name}' on this machine: choose auto or cpu"):
        choose_compute(name)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-1", "cpu:0:0", "cuda:99999999999", "CPU"])
def test_names_that_are_no_device_are_refused(machine, name: str):
    machine(cuda=1)
    with pytest.raises(DeviceError, match="choose auto"):
        choose_compute(name)


@pytest.mark.parametrize("name", ["meta", "xpu", "vulkan"])
def test_devices_that_we_do_not_know_are_refused(machine, name: str):
    machine(cuda=1)
    with pytest.raises(DeviceError, match=f"'{name}' is not supported: choose auto, cpu, cuda or mps"):
        choose_compute(name)


def test_float16_on_a_cpu_is_refused_with_the_reason(machine):
    machine(cpu={"avx512_bf16"})
    for dtype in ("float16", "fp16"):
        with pytest.raises(DeviceError, match=r"hundreds of times slower .* choose float32 or bfloat16"):
            choose_compute("cpu", dtype)


@pytest.mark.parametrize("dtype", ["float64", "int4", "Float32", ""])
def test_unknown_precisions_are_refused_with_the_choices(machine, dtype: str):
    machine()
    with pytest.raises(DeviceError, match=r"is not known: choose one of float32, bfloat16, float16, int8, or auto"):
        choose_compute("cpu", dtype)


def test_bfloat16_that_is_no_faster_can_be_asked_for(machine):
    """It still takes half of the memory."""
    machine(cpu={"avx512_bf16"}, bfloat16_is_faster=False)
    compute = choose_compute("cpu", "bfloat16")
    assert compute.dtype == torch.bfloat16
    assert "as asked for, though this CPU multiplies it no faster than float32" in compute.reason


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_the_faster_precision_is_found_by_trying(monkeypatch, factor: float):
    """On a clock that every product moves on."""
    now = 0.0

    def multiply(a: torch.Tensor, _b: torch.Tensor) -> None:
        nonlocal now
        now += 0.01 * (factor if a.dtype == torch.bfloat16 else 1)

    monkeypatch.setattr(torch, "mm", multiply)
    monkeypatch.setattr("stablediff.device.time.perf_counter", lambda: now)
    assert _bfloat16_is_faster.__wrapped__() is (factor < 1)


@pytest.mark.parametrize(("cpu", "emulated"), [(set(), True), ({"amx_bf16"}, False)])
def test_bfloat16_that_the_cpu_only_emulates_comes_with_a_warning(machine, cpu: set[str], emulated: bool):
    machine(cpu=cpu)
    assert cpu_computes_bfloat16() is not emulated
    assert ("emulates it, slowly" in choose_compute("cpu", "bfloat16").reason) is emulated


@pytest.mark.parametrize(
    ("device", "dtype", "bf16", "expected"),
    [
        ("cuda", torch.float16, True, torch.bfloat16),
        ("cuda", torch.float16, False, torch.float32),
        ("mps", torch.float16, True, torch.float32),
        ("cpu", torch.bfloat16, True, torch.bfloat16),
        ("cpu", torch.float32, True, torch.float32),
    ],
)
def test_autoencoders_that_overflow_in_float16_get_a_wider_type(machine, monkeypatch, device, dtype, bf16, expected):
    machine(cuda=1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (8, 0) if bf16 else (7, 5))
    compute = Compute(torch.device(device), dtype, "")
    assert compute.vae_dtype(force_upcast=True) == expected
    assert compute.vae_dtype(force_upcast=False) == dtype


@pytest.mark.parametrize(
    ("cpu", "best"), [({"avx512_vnni"}, "float32"), ({"avx_vnni"}, "float32"), ({"amx_int8", "amx_bf16"}, "bfloat16")]
)
def test_int8_is_for_the_networks_products_only(machine, cpu: set[str], best: str):
    machine(cpu=cpu)
    compute = choose_compute("cpu", "int8")
    assert compute.int8
    assert compute.dtype == getattr(torch, best)
    assert compute.reason.endswith(f"the U-Net in int8, the rest in {best}")
    assert not choose_compute("cpu").int8


@pytest.mark.parametrize(("has", "device"), [({}, "cpu"), ({"cuda": 1}, "cuda"), ({"cpu": {"avx512_bf16"}}, "cpu")])
def test_int8_elsewhere_is_refused(machine, has, device: str):
    machine(**has)
    with pytest.raises(DeviceError, match="int8 is for CPUs with"):
        choose_compute(device, "int8")
