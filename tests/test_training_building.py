"""What the diffusion stage starts with: a model of before, with its own words or with new ones."""

import shutil
from pathlib import Path

import pytest
import torch
from toy import toy_pipeline

from stablediff.checkpoints.parts import load_text_encoder, load_vae, save_text_encoder
from stablediff.config import CLIPConfig, ScheduleConfig
from stablediff.errors import CheckpointError, ConfigError
from stablediff.training.building import build_model, learn_lexicon
from stablediff.training.config import LoopConfig
from stablediff.training.diffusion import DiffusionConfig
from stablediff.training.initialise import new_text_encoder
from stablediff.training.vocabulary import learn_vocabulary

LOOP = LoopConfig(steps=1, batch_size=1, learning_rate=1e-3)


@pytest.fixture
def new_words(tmp_path: Path) -> Path:
    return _text_encoder(tmp_path / "words", toy_pipeline().config.unet.context_dim)


def _text_encoder(folder: Path, width: int) -> Path:
    tokenizer = learn_vocabulary(["красное яблоко", "a red apple"], 600, 16)
    config = CLIPConfig(
        vocab_size=tokenizer.backend.get_vocab_size(),
        eos_token_id=tokenizer.eos_id,
        hidden_size=width,
        intermediate_size=2 * width,
        num_layers=1,
        num_heads=2,
        max_length=16,
    )
    save_text_encoder(folder, new_text_encoder(config), tokenizer)
    return folder


class _Dogs:
    """Pictures that are all captioned alike."""

    def __len__(self) -> int:
        return 1

    def caption(self, _index: int, _stream: object) -> str:
        return "a dog"


@pytest.mark.parametrize("keeps", [True, False])
def test_a_model_goes_on_with_its_own_words_or_with_new_ones(
    toy_folder: Path, new_words: Path, tmp_path: Path, keeps: bool
) -> None:
    folder = Path(shutil.copytree(toy_folder, tmp_path / "toy"))
    (folder / "words.txt").write_text("cat\nfox\n", encoding="utf-8")
    (new_words / "words.txt").write_text("hen\n", encoding="utf-8")
    config = DiffusionConfig(LOOP, folder / "vae", new_words, init=folder, init_text_encoder=keeps)
    built = build_model(config, torch.device("cpu"))
    source = folder if keeps else new_words
    encoder, _ = load_text_encoder(source)
    assert all(
        torch.equal(a, b) for a, b in zip(built.text_encoders[0].parameters(), encoder.parameters(), strict=True)
    )
    assert all(p.requires_grad for p in built.unet.parameters())
    assert built.config.text_encoders[0] == encoder.config
    learnt = learn_lexicon(_Dogs(), built.lexicon)  # type: ignore[arg-type]
    assert learnt.words == {"a", "dog"} | ({"cat", "fox"} if keeps else {"hen"})


def test_another_prediction_than_that_of_the_model_is_refused(toy_folder: Path) -> None:
    text, schedule = toy_folder / "text_encoder", ScheduleConfig(prediction_type="v_prediction")
    config = DiffusionConfig(LOOP, toy_folder / "vae", text, init=toy_folder, schedule=schedule)
    with pytest.raises(ConfigError, match=r"predicts epsilon, and \[schedule\] says v_prediction: write"):
        build_model(config, torch.device("cpu"))


def test_parts_that_are_no_such_parts_are_named(toy_folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"the settings in .*text_encoder do not fit together"):
        load_vae(toy_folder / "text_encoder")
    with pytest.raises(CheckpointError, match=r"the settings in .*vae do not fit together \(.*hidden_size"):
        load_text_encoder(toy_folder / "vae")


def test_new_words_of_another_width_are_refused(toy_folder: Path, tmp_path: Path) -> None:
    other = _text_encoder(tmp_path / "other", 2 * toy_pipeline().config.unet.context_dim)
    config = DiffusionConfig(LOOP, toy_folder / "vae", other, init=toy_folder, init_text_encoder=False)
    with pytest.raises(ConfigError, match="choose a text encoder of that width"):
        build_model(config, torch.device("cpu"))
