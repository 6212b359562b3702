"""A vocabulary of one's own: the same captions give the same, and a run keeps the one that it began with."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from children import in_group
from stages import ShapePictures, shown

from stablediff.config import CLIPConfig
from stablediff.errors import ConfigError
from stablediff.locks import alone_in
from stablediff.training import building
from stablediff.training.initialise import new_text_encoder
from stablediff.training.vocabulary import learn_vocabulary, to_ids

TEXT = CLIPConfig(vocab_size=560, hidden_size=32, intermediate_size=64, num_layers=1, num_heads=2, max_length=16)


def _words(seed: int = 0) -> list[str]:
    """Words whose pairs of letters are often equally frequent."""
    chance = random.Random(seed)
    return ["".join(chance.choices("abcdefghijklmnopqrstuvwxyzабвгдежз", k=chance.randint(2, 6))) for _ in range(60)]


class _Words(ShapePictures):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self.words = _words(seed)

    def caption(self, index: int, rng: np.random.Generator) -> str:  # noqa: ARG002
        return self.words[int(rng.integers(len(self.words)))]


def test_the_same_captions_give_the_same_vocabulary() -> None:
    first, *others = (learn_vocabulary(_words(), 600, 16).backend.to_str() for _ in range(4))
    assert all(other == first for other in others)


def test_a_text_has_room_for_a_word() -> None:
    for length in (0, 2):
        with pytest.raises(ConfigError, match=f"max_length is {length}: choose 3 or more"):
            learn_vocabulary(_words(), 600, length)
    tokenizer = learn_vocabulary(_words(), 600, 3)
    chunks = tokenizer.tokenize("abc abc").chunks
    assert len(chunks) >= 2
    assert {len(chunk) for chunk in chunks} == {1}
    assert to_ids(tokenizer, ["abc abc"]).shape == (1, 3)


def test_a_vocabulary_has_room_for_all_letters() -> None:
    with pytest.raises(ConfigError, match="vocab_size is 513: choose 514 or more"):
        learn_vocabulary(_words(), 513, 16)
    assert learn_vocabulary(_words(), 514, 16).backend.get_vocab_size() == 514


def _ids(folder: Path, seed: int = 0, text: CLIPConfig = TEXT) -> list[list[int]]:
    tokenizer, sized = building.words_of(folder, text, replace(shown(), pictures=_Words(seed)))
    assert sized.vocab_size == tokenizer.backend.get_vocab_size()
    assert sized.eos_token_id == tokenizer.eos_id
    return to_ids(tokenizer, _words()).tolist()


@pytest.fixture(autouse=True)
def _few_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_CAPTIONS", 500)


def test_a_run_keeps_the_vocabulary_that_it_began_with(tmp_path: Path) -> None:
    began = _ids(tmp_path)
    assert _ids(tmp_path, seed=1) != began  # nothing has been learnt with it yet
    began = _ids(tmp_path)
    (tmp_path / building.STATE).touch()
    assert _ids(tmp_path, seed=1) == began
    with pytest.raises(ConfigError, match="change the config back"):
        _ids(tmp_path, text=replace(TEXT, vocab_size=520))


def test_a_run_that_is_at_work_keeps_its_vocabulary(tmp_path: Path) -> None:
    began = _ids(tmp_path)
    with alone_in(tmp_path), pytest.raises(ConfigError, match="another run is at work"):
        _ids(tmp_path, seed=1)
    (tmp_path / building.STATE).touch()
    assert _ids(tmp_path) == began


def test_weights_begin_as_clips_did() -> None:
    sizes = {"vocab_size": 100, "eos_token_id": 99, "hidden_size": 128, "intermediate_size": 512}
    layer = new_text_encoder(CLIPConfig(**sizes, num_layers=2, num_heads=2)).encoder.layers[0]
    assert layer.self_attn.q_proj.weight.std().item() == pytest.approx(128**-0.5, rel=0.03)
    assert layer.self_attn.out_proj.weight.std().item() == pytest.approx(128**-0.5 * 4**-0.5, rel=0.03)
    assert layer.mlp.fc1.weight.std().item() == pytest.approx(256**-0.5, rel=0.03)
    assert layer.mlp.fc2.weight.std().item() == pytest.approx(128**-0.5 * 4**-0.5, rel=0.03)


def _ids_in_group(folder: Path) -> list[list[int]]:
    import torch

    from stablediff.training.distributed import processes, rank

    with processes(torch.device("cpu")):
        return _ids(folder, seed=rank())


def test_all_processes_have_the_vocabulary_of_the_first(tmp_path: Path) -> None:
    first, second = in_group(_ids_in_group, tmp_path)
    assert first == second
