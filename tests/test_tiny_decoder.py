"""Tiny decoders: the same numbers as the reference, from both layouts, and no other file is taken for one."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny
from reference import TOLERANCE, draw_weights, max_error, randn
from safetensors.torch import load_file, save_file
from torch import Tensor
from toy import draw, toy_pipeline

from stablediff.checkpoints.tiny_decoder import load_tiny_decoder, locate_decoder
from stablediff.config import SD1, ModelConfig
from stablediff.device import choose_compute
from stablediff.errors import CheckpointError
from stablediff.models.tiny_decoder import TinyDecoder

CPU = choose_compute("cpu", "float32")


def save_taesd(folder: Path, **settings) -> AutoencoderTiny:
    model = AutoencoderTiny(**settings).eval().requires_grad_(False)
    model.load_state_dict(draw_weights(model.state_dict(), seed=0))
    model.save_pretrained(folder)
    return model


def in_own_layout(model: AutoencoderTiny, prefix: str = "") -> dict[str, Tensor]:
    """TAESD's own numbering counts the clamp before the first layer."""
    tensors = {}
    for key, value in model.state_dict().items():
        part, _, number, *rest = key.split(".")
        if part == "decoder":
            tensors[".".join([f"{prefix}{int(number) + 1}", *rest])] = value.contiguous()
    return tensors


@pytest.mark.parametrize(
    "settings",
    [{}, {"num_decoder_blocks": (1, 2, 1, 1)}, {"decoder_block_out_channels": (8, 8, 8, 8)}],
    ids=["taesd", "fewer blocks", "narrow"],
)
def test_both_layouts_decode_as_the_reference_does(tmp_path: Path, settings: dict):
    reference = save_taesd(tmp_path / "taesd", **settings)
    save_file(in_own_layout(reference), tmp_path / "own.safetensors")
    save_file(in_own_layout(reference, "decoder."), tmp_path / "both.safetensors")
    latents = 3 * randn(2, 4, 5, 6)
    expected = reference.decode(latents).sample
    for place in ("taesd", "own.safetensors", "both.safetensors"):
        decoder = load_tiny_decoder(locate_decoder(tmp_path / place), SD1, CPU)
        assert max_error(decoder.decode(latents), expected) <= 2 * TOLERANCE  # through all of its layers


def test_a_picture_is_drawn_with_it(tmp_path: Path):
    reference = save_taesd(tmp_path / "taesd", decoder_block_out_channels=(8, 8, 8, 8))
    toy = toy_pipeline()
    plain = draw(toy, seed=1)
    toy.tiny_decoder = load_tiny_decoder(locate_decoder(tmp_path / "taesd"), toy.config, CPU)
    tiny = draw(toy, seed=1)
    assert tiny.images[0].size == plain.images[0].size
    assert tiny.images[0].tobytes() != plain.images[0].tobytes()
    again = draw(toy, seed=1, init_image=tiny.images[0], width=1040, height=1032, num_steps=1)  # never in strips
    assert again.images[0].size == (1040, 1032)
    assert "tiny decoder" in toy.describe()
    assert isinstance(toy.decoder, TinyDecoder)
    assert reference.config.latent_channels == 4


def refused(place: Path | str, model: ModelConfig = SD1) -> str:
    with pytest.raises(CheckpointError) as info:
        load_tiny_decoder(locate_decoder(place), model, CPU)
    return str(info.value)


def test_other_files_are_refused_with_the_reason(tmp_path: Path):
    save_taesd(tmp_path / "taesd3", latent_channels=16)
    assert "makes 3 channels of 16, 8 times the size, where this model needs 3 of 4" in refused(tmp_path / "taesd3")
    save_file({"encoder.x": torch.ones(2)}, tmp_path / "other.safetensors")
    assert "holds no tiny decoder" in refused(tmp_path / "other.safetensors")
    save_file({"1.weight": torch.ones(2), "1.bias": torch.ones(2)}, tmp_path / "flat.safetensors")
    assert "no convolution" in refused(tmp_path / "flat.safetensors")
    (tmp_path / "empty").mkdir()
    assert "no .safetensors weights" in refused(tmp_path / "empty")
    (tmp_path / "decoder.pth").write_bytes(b"")
    assert "only such files are read as decoder" in refused(tmp_path / "decoder.pth")
    assert "there is no decoder 'nowhere'" in refused("nowhere")
    assert "there is no decoder ''" in refused("")
    assert "cannot look at '~nobody-here/taesd'" in refused("~nobody-here/taesd")


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_taesd(tmp_path / "taesd")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert isinstance(load_tiny_decoder(locate_decoder("~/taesd"), SD1, CPU), TinyDecoder)


def test_a_file_that_lacks_a_tensor_or_has_one_too_many_is_refused(tmp_path: Path):
    save_taesd(tmp_path / "taesd")
    path = next((tmp_path / "taesd").glob("*.safetensors"))
    tensors = load_file(path)
    save_file({k: v for k, v in tensors.items() if k != "decoder.layers.3.conv.2.bias"}, tmp_path / "less.safetensors")
    assert "lacks layers.3.conv.2.bias" in refused(tmp_path / "less.safetensors")
    save_file({**tensors, "decoder.layers.3.conv.2.extra": torch.ones(2)}, tmp_path / "more.safetensors")
    assert "unknown: decoder.layers.3.conv.2.extra" in refused(tmp_path / "more.safetensors")
