"""LoRA files that do not fit, are damaged or of another kind: refused in a line that names the tensor."""

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loras import random_lora
from safetensors.torch import save_file
from tiny import TinyModel
from torch import Tensor
from toy import toy_pipeline

from stablediff import CheckpointError, RequestError, load
from stablediff.checkpoints.locate import locate, locate_lora
from stablediff.checkpoints.lora import load_lora
from stablediff.checkpoints.lora_alpha import AdapterSettings
from stablediff.models.lora import attached, detach_lora

GetModel = Callable[[str], TinyModel]
NAME = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def lora(tiny_model: GetModel, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """kind -> a folder with a LoRA of all attention layers of that tiny model, saved by diffusers."""
    return cache(lambda kind: random_lora(tiny_model(kind), tmp_path_factory.mktemp("loras") / kind))


Q = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
K2 = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
SMALL = {f"{Q}.lora_A.weight": torch.ones(2, 8), f"{Q}.lora_B.weight": torch.ones(8, 2)}


def refusal(tensors: dict[str, Tensor], folder: Path, metadata: dict[str, str] | None = None) -> str:
    """What is said of a file with these tensors; the toy's networks stay as they were."""
    pipeline = toy_pipeline()
    keys = [list(network.state_dict()) for network in pipeline.networks.values()]
    save_file(tensors, folder / "x.safetensors", metadata=metadata)
    with pytest.raises(CheckpointError) as caught:
        load_lora(folder / "x.safetensors", pipeline.networks)
    assert [list(network.state_dict()) for network in pipeline.networks.values()] == keys
    return str(caught.value)


def test_the_small_one_is_right(tmp_path: Path) -> None:
    pipeline = toy_pipeline()
    save_file(SMALL, tmp_path / "x.safetensors")
    load_lora(tmp_path / "x.safetensors", pipeline.networks)
    assert [name for name, _, _ in attached(pipeline.unet)] == [Q.removeprefix("unet.")]


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"lora_unet_mid_block_attentions_0_proj_in.hada_w1_a": (2, 8)}, ["LoHa", "hada_w1_a", "plain LoRA"]),
        ({"lora_unet_mid_block_attentions_0_proj_in.lokr_w1": (2, 8)}, ["LoKr", "lokr_w1"]),
        ({f"{Q}.lokr_w1": (2, 8)}, ["LoKr", "lokr_w1"]),
        ({f"{Q}.lora_magnitude_vector": (8,)}, ["DoRA", "lora_magnitude_vector"]),
        ({"lora_unet_down_blocks_0_x.dora_scale": (8, 1)}, ["DoRA", "dora_scale"]),
        ({"lora_unet_down_blocks_0_x.lora_mid.weight": (2, 2, 3, 3)}, ["Tucker", "lora_mid"]),
        ({f"{Q}.lora_B.bias": (8,)}, ["LoRA with biases", "lora_B.bias"]),
        ({"lora_unet_x.oft_blocks": (2, 4, 4)}, ["OFT"]),
        ({"lora_unet_x.diff": (8, 8)}, ["full differences"]),
        (
            {"unet.nowhere.to_q.lora_A.weight": (2, 8)},
            ["unet.nowhere.to_q.lora_A.weight,", "no layer", "another model"],
        ),
        ({f"{Q}.lora_C.weight": (2, 8)}, [f"{Q}.lora_C.weight,", "no layer"]),
        (
            {f"text_encoder_2.text_model.encoder.layers.0.self_attn.{n}.lora_A.weight": (2, 8) for n in ("q", "v")},
            ["self_attn.q.", "and 1 more", "for Stable Diffusion XL", "the model is Stable Diffusion 1.x", "choose"],
        ),
        (
            {"lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k.lora_down.weight": (4, 2048)},
            ["for Stable Diffusion XL", "the model is Stable Diffusion 1.x"],
        ),
        (
            {f"{K2}.lora_A.weight": (2, 1024), f"{K2}.lora_B.weight": (8, 2)},
            [f"{K2}.lora_A.weight is [2, 1024]", "takes [2, 8]", "for Stable Diffusion 2.x"],
        ),
        (
            {f"{K2.replace('to_k', 'processor.to_k')}_lora.down.weight": (2, 2048), f"{K2}.lora.up.weight": (8, 2)},
            ["to_k_lora.down.weight is [2, 2048]", "for Stable Diffusion XL"],
        ),
        ({"transformer.single_transformer_blocks.0.lora_A.weight": (4, 64)}, ["Flux or Stable Diffusion 3"]),
        ({f"{Q}.lora_A.weight": (2, 9)}, ["is [2, 9]", "takes [2, 8]", "get it again"]),
        ({f"{Q}.lora_B.weight": (9, 2)}, ["lora_B.weight is [9, 2]", "takes [8, 2]"]),
        ({f"{Q}.lora_A.weight": (3, 8)}, ["lora_A.weight [3, 8]", "lora_B.weight [8, 2]", "differ in rank"]),
        ({f"{Q}.lora_A.weight": (0, 8), f"{Q}.lora_B.weight": (8, 0)}, ["is [0, 8], which is empty"]),
        ({f"{Q}.lora_A.weight": (2, 8, 3, 3)}, ["is [2, 8, 3, 3]", "takes [2, 8]"]),
        ({f"{Q}.lora_A.weight": ()}, ["is []"]),
        ({f"{Q}.lora_B.weight": (8,)}, ["is [8]"]),
        ({f"{Q}.lora_A.weight": None}, ["lora_B.weight has no partner", "goes down"]),
        ({f"{Q}.lora_B.weight": None}, ["lora_A.weight has no partner", "goes up"]),
        ({f"{K2}.alpha": ()}, ["alpha has no partner"]),
        ({f"{Q}.alpha": (2, 2)}, ["alpha is [2, 2]", "a single number"]),
        ({f"{Q}.lora.down.weight": (2, 8)}, ["twice", "lora_A.weight", "lora.down.weight"]),
    ],
    ids=lambda value: str(value)[-40:] if isinstance(value, dict) else "",
)
def test_refused_with_the_tensor_s_name(
    tensors: dict[str, tuple[int, ...] | None], words: list[str], tmp_path: Path
) -> None:
    """Over the small one: None takes one of its tensors away."""
    changed: dict[str, Tensor] = dict(SMALL)
    for name, shape in tensors.items():
        changed.pop(name, None)
        if shape is not None:
            changed[name] = torch.ones(shape)
    message = refusal(changed, tmp_path)
    assert "x.safetensors" in message
    for word in words:
        assert word in message


def test_no_lora_at_all(tmp_path: Path) -> None:
    message = refusal({"model.diffusion_model.out.2.weight": torch.ones(2, 2)}, tmp_path)
    assert "is no LoRA (its first tensors: model.diffusion_model.out.2.weight)" in message
    assert "give it with --model" in message
    assert "its first tensors: none" in refusal({}, tmp_path)


def test_a_run_is_a_loras_name_too_and_no_models(tmp_path: Path) -> None:
    (tmp_path / "zorb" / "model").mkdir(parents=True)
    state, file = tmp_path / "zorb" / "state.safetensors", tmp_path / "zorb" / "model" / NAME
    save_file({"average.unet.lora": torch.ones(1)}, state)
    with pytest.raises(CheckpointError, match=r"holds no .safetensors file: name the file of the LoRA"):
        locate_lora(str(tmp_path / "zorb"))
    with pytest.raises(CheckpointError, match=r"zorb has no model_index.json, so it is not a whole model"):
        locate(str(tmp_path / "zorb"))
    save_file(SMALL, file)
    found = locate_lora(str(tmp_path / "zorb"))
    assert (found.name, found.path) == ("zorb", file)
    assert locate_lora(str(file.parent)) == found
    for place in (tmp_path / "zorb", file.parent):
        with pytest.raises(CheckpointError, match=r"zorb/model holds a LoRA and no whole model: give it with --lora"):
            locate(str(place))


@pytest.mark.parametrize("name", ["lora_A", "lora_B"])
def test_numbers_that_are_not_finite(name: str, tmp_path: Path) -> None:
    key = f"{Q}.{name}.weight"
    broken = SMALL[key].clone()
    broken[0, 0] = math.nan
    message = refusal(SMALL | {key: broken}, tmp_path)
    assert key in message
    assert "is not finite" in message


def test_whole_numbers_and_wild_alphas(tmp_path: Path) -> None:
    message = refusal(SMALL | {f"{Q}.lora_A.weight": torch.ones(2, 8, dtype=torch.int32)}, tmp_path)
    assert "holds I32 numbers, which are not weights" in message
    four_bits = torch.zeros(2, 4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)  # two to a byte
    message = refusal(SMALL | {f"{Q}.lora_A.weight": four_bits}, tmp_path)
    assert "holds F4 numbers, which are not weights" in message
    whole = SMALL | {f"{Q}.alpha": torch.tensor(3)}
    save_file(whole, tmp_path / "whole.safetensors")
    pipeline = toy_pipeline()
    load_lora(tmp_path / "whole.safetensors", pipeline.networks)
    assert [lora.alpha for _, _, lora in attached(pipeline.unet)] == [3.0]
    for alpha in (math.nan, math.inf):
        assert f"alpha = {alpha}" in refusal(SMALL | {f"{Q}.alpha": torch.tensor(alpha)}, tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", ["cannot be read", "get it again"]),
        ("[" * 100_000, ["cannot be read"]),
        ("[1]", ["not a table of settings"]),
        ('{"unet.lora_alpha": "much"}', ["alpha = much", "get it again"]),
        ('{"unet.lora_alpha": NaN}', ["alpha = nan"]),
        ('{"unet.lora_alpha": true}', ["alpha = True"]),
        ('{"unet.alpha_pattern": {"(a|aa)+$": 2}}', ["alpha_pattern '(a|aa)+$'", "only names are known"]),
        ('{"unet.alpha_pattern": {"to_q": null}}', ["alpha = None"]),
    ],
)
def test_wrong_settings_in_the_header(text: str, words: list[str], tmp_path: Path) -> None:
    message = refusal(SMALL, tmp_path, {"lora_adapter_metadata": text})
    assert all(word in message for word in words)
    assert len(message) < 600


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["unet.lora_alpha", "unet.alpha_pattern", "unet.use_rslora", "x"]), JSON))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_settings_give_a_number_or_a_refusal(wild: dict[str, Any]) -> None:
    try:
        alpha = AdapterSettings({"lora_adapter_metadata": json.dumps(wild)}).alpha("unet", "mid_block.to_q", 4)
    except CheckpointError:
        return
    assert math.isfinite(alpha)


def test_truncated_files(lora: Callable[[str], Path], tmp_path: Path) -> None:
    whole = (lora("sd1") / NAME).read_bytes()
    pipeline = toy_pipeline()
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "x.safetensors").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"not a whole safetensors file.*get it again"):
            load_lora(tmp_path / "x.safetensors", pipeline.networks)


def test_another_model_s(tiny_model: GetModel, lora: Callable[[str], Path]) -> None:
    with pytest.raises(CheckpointError, match=r"for Stable Diffusion XL, and the model is Stable Diffusion 1\.x"):
        load(tiny_model("sd1").folder, device="cpu", loras=[(lora("sdxl"), 1.0)])
    with pytest.raises(CheckpointError, match=r"is \[4, \d+\], and the model's layer takes \[4, \d+\]"):
        load(tiny_model("sd2").folder, device="cpu", loras=[(lora("sd1"), 1.0)])


def test_wrong_places(tmp_path: Path) -> None:
    toy = toy_pipeline()
    networks = toy.networks
    for name in ("", "nowhere.safetensors", "a\0b", "x" * 5000, "~nobody-here/x"):
        with pytest.raises(CheckpointError, match=r"choose a \.safetensors file, a folder with pytorch_lora_weights"):
            load_lora(name, networks)
    with pytest.raises(CheckpointError, match=r"holds no \.safetensors file: name the file"):
        load_lora(tmp_path, networks)
    (tmp_path / "a.ckpt").touch()
    with pytest.raises(CheckpointError, match=r"does not end in \.safetensors"):
        load_lora(tmp_path / "a.ckpt", networks)
    for name in ("a", "b"):
        save_file(SMALL, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=r"several files \(a.safetensors, b.safetensors\): name the file"):
        load_lora(tmp_path, networks)
    (tmp_path / "b.safetensors").unlink()
    assert load_lora(tmp_path, networks) == tmp_path.name
    with pytest.raises(RequestError, match="attached already"):
        load_lora(tmp_path, networks)
    detach_lora(toy.unet)
    (tmp_path / "a.safetensors").unlink()
    (tmp_path / "model_index.json").touch()
    with pytest.raises(CheckpointError, match="is a whole model and no LoRA: give it with --model"):
        load_lora(tmp_path, networks)


@pytest.mark.parametrize(
    "loras", [5, None, ["x.safetensors"], [("x.safetensors",)], [("x.safetensors", "much")], ["ab"]]
)
def test_wrong_arguments(loras: Any) -> None:
    with pytest.raises(RequestError, match="loras is a list of files and scales"):
        load(loras=loras)


def test_wrong_scale(tmp_path: Path) -> None:
    save_file(SMALL, tmp_path / "x.safetensors")
    with pytest.raises(RequestError, match="scale is nan"):
        load_lora(tmp_path, toy_pipeline().networks, math.nan)
