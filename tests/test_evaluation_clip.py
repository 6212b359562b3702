"""CLIP's two towers against the reference, and the scores that are read from them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sticker_world import THINGS, make_data, world_of
from test_evaluation_reports import setting_of
from toy import toy_pipeline
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from stablediff.checkpoints.clip_model import ClipModel, load_clip
from stablediff.checkpoints.locate import CLIP_MERGES, locate_clip
from stablediff.errors import CheckpointError, EvaluationError
from stablediff.evaluation.clip import clip_pixels, image_features, text_features
from stablediff.evaluation.reports.folder import report_folder
from stablediff.evaluation.reports.text import report_text, text_scores
from stablediff.models.tokenizer import byte_letters, read_merges

TEXTS = ["a red apple, flat style", "two cats", "apple " * 90]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[CLIPModel, CLIPTokenizer, Path]:
    folder = tmp_path_factory.mktemp("clip")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**sizes, "image_size": 32, "patch_size": 8, "hidden_act": "quick_gelu"}
    config = CLIPConfig(text_config=sizes, vision_config=vision, projection_dim=16)
    torch.manual_seed(0)
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    merges = read_merges(CLIP_MERGES)
    letters = byte_letters()
    symbols = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges)]
    vocabulary = {symbol: i for i, symbol in enumerate([*symbols, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(f"{a} {b}" for a, b in merges))
    return model, CLIPTokenizer.from_pretrained(folder), folder


@pytest.fixture(scope="module")
def clip(reference: tuple[CLIPModel, CLIPTokenizer, Path]) -> ClipModel:
    return load_clip(reference[2])


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@torch.no_grad()
def test_towers_agree_with_the_reference(reference: tuple[CLIPModel, CLIPTokenizer, Path], clip: ClipModel) -> None:
    model, tokenizer, _ = reference
    pictures = [picture(48, 32), picture(32, 32, 1), picture(64, 96, 2)]
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
    for own, theirs in zip(pictures, pixels, strict=True):
        torch.testing.assert_close(clip_pixels(own, 32), theirs, atol=2e-2, rtol=0)
    exact = torch.stack([clip_pixels(one, 32) for one in pictures])
    vision = model.visual_projection(model.vision_model(exact).pooler_output)
    torch.testing.assert_close(image_features(clip, pictures), vision, atol=1e-5, rtol=1e-5)
    inputs = tokenizer(TEXTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    text = model.text_projection(model.text_model(**inputs).pooler_output)
    torch.testing.assert_close(text_features(clip, TEXTS), text, atol=1e-5, rtol=1e-5)


def test_what_is_no_clip_is_named(reference: tuple[CLIPModel, CLIPTokenizer, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no CLIP in .*clip-vit-large-patch14"):
        locate_clip(str(tmp_path))
    with pytest.raises(CheckpointError, match=r"no CLIP in nowhere.*or a hub id"):
        locate_clip("nowhere")
    (tmp_path / "config.json").write_text('{"hidden_size": 3}')
    assert locate_clip(str(tmp_path)).path == tmp_path
    with pytest.raises(CheckpointError, match="no whole CLIP with both towers"):
        load_clip(tmp_path)
    (tmp_path / "config.json").write_text((reference[2] / "config.json").read_text())
    with pytest.raises(CheckpointError, match=r"no \.safetensors weights"):
        load_clip(tmp_path)


def test_scores_see_shuffled_captions() -> None:
    generator = torch.Generator().manual_seed(0)
    texts = torch.randn(30, 16, generator=generator)
    images = texts.repeat_interleave(2, dim=0) + 0.3 * torch.randn(60, 16, generator=generator)
    owner = torch.arange(60) // 2
    good, bad = text_scores(images, texts, owner), text_scores(images.roll(6, dims=0), texts, owner)
    for name in good:
        assert bad[name].high < good[name].low
    assert good["R-precision of 30"].value > 0.9
    with pytest.raises(EvaluationError, match="1 caption"):
        text_scores(images[:2], texts[:1], owner[:2])
    with pytest.raises(EvaluationError, match="NaN"):
        text_scores(images * torch.nan, texts, owner)


def test_text_report(clip: ClipModel, tmp_path: Path) -> None:
    setting = setting_of(world_of(make_data(tmp_path / "data")), tmp_path / "out")
    text = report_text(setting, clip, "tiny").read_text()
    found = json.loads((tmp_path / "out" / "text.json").read_text())["figures"]
    assert found["pictures"] == 2 * len({prompt.text for prompt in setting.prompts}) < 2 * len(setting.prompts)
    assert found["swapped-caption margin"]["low"] <= found["swapped-caption margin"]["value"]
    assert "CLIP score" in text


def test_folder_report(clip: ClipModel, tmp_path: Path) -> None:
    folder, pipeline = tmp_path / "mine", toy_pipeline()
    folder.mkdir()
    for i in range(44):
        picture(64, 64, i).save(folder / f"{i}.png")
        if i < 8:
            (folder / f"{i}.txt").write_text(f"{THINGS[i % 7]} number {i}")
    with pytest.raises(EvaluationError, match="8 pictures with captions to compare with, and 20 are needed"):
        report_folder(pipeline, folder, tmp_path / "out")
    for i in range(8, 44):
        (folder / f"{i}.txt").write_text(f"{THINGS[i % 7]} number {i}")
    text = report_folder(pipeline, folder, tmp_path / "out", clip, "tiny", limit=20).read_text()
    found = json.loads((tmp_path / "out" / "folder.json").read_text())["figures"]
    assert found["pictures"] == 20
    assert found["CMMD"] > 0
    assert set(found["distances"]) == {"toy"}  # too few for floors, which are of other pictures than the reference
    assert "too few to say how far real ones are from each other" in text
    assert "Real pictures and the same captions" in text
    report_folder(pipeline, folder, tmp_path / "out", clip, "tiny")
    found = json.loads((tmp_path / "out" / "folder.json").read_text())["figures"]
    assert found["pictures"] == 44
    assert list(found["distances"]) == ["real pictures", "the same through the autoencoder", "toy"]
