"""The tool that averages a model with what it became by training on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

TOOL = Path(__file__).parent.parent / "tools" / "average_models.py"


def average(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(TOOL), *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    for number, name in enumerate(("before", "after")):
        (tmp_path / name / "unet").mkdir(parents=True)
        (tmp_path / name / "model_index.json").write_text(json.dumps({"name": name}))
        weights = {"w": torch.full((2, 3), 4.0 * number).half(), "ids": torch.tensor([number])}
        save_file(weights, tmp_path / name / "unet" / "model.safetensors")
    return tmp_path / "before", tmp_path / "after"


def test_the_average_lies_between_and_has_the_rest_of_the_second(models, tmp_path):
    run = average(*models, "--out", tmp_path / "out", "--share", 0.25)
    assert run.returncode == 0, run.stderr
    made = load_file(tmp_path / "out" / "unet" / "model.safetensors")
    assert made["w"].dtype == torch.float16
    assert made["w"].tolist() == [[1.0] * 3] * 2
    assert made["ids"].tolist() == [1]
    assert json.loads((tmp_path / "out" / "model_index.json").read_text()) == {"name": "after"}
    assert (load_file(models[1] / "unet" / "model.safetensors")["w"] == 4).all()  # untouched


def test_what_has_no_average_is_refused_and_nothing_is_written(models, tmp_path):
    before, after = models
    out = tmp_path / "out"
    assert "--share is 2.0" in average(before, after, "--out", out, "--share", 2).stderr
    assert "is there already" in average(before, after, "--out", after).stderr
    assert "there are no weights" in average(before, tmp_path / "none", "--out", out).stderr
    assert "only models of one layout" in average(tmp_path / "none", after, "--out", out).stderr
    save_file({"w": torch.zeros(5)}, before / "unet" / "model.safetensors")
    assert "other weights" in average(before, after, "--out", out).stderr
    assert not out.exists()
