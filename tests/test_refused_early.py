"""Bad values that once ended in a traceback, or in markup that ran."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from toy import toy_pipeline

from stablediff.errors import ConfigError, StableDiffError
from stablediff.request import Limits
from stablediff.telegram.store import Store
from stablediff.training.config import LoopConfig, from_table, override
from stablediff.web.models import Models
from stablediff.web.restore import make_restorer


def restored(words: str) -> str:
    pipeline, message = toy_pipeline(), object()
    controls = (
        "prompt",
        "negative",
        "style",
        "steps",
        "guidance",
        "interval",
        "sampler",
        "spacing",
        "size",
        "seed",
        "count",
    )
    named: dict[str, Any] = {name: name for name in controls}
    models = Models(pipeline, [], lambda _name, **_options: pipeline)
    restore = make_restorer(named, "quality", message, models, Limits())  # type: ignore[arg-type]
    return str(restore("en", words)[message])


def test_a_recipe_has_no_markup() -> None:
    line = restored('x\nSteps: 20, Size: 64x64, Lora: "<img src=x onerror=alert(1)>:1"')
    assert "&lt;img" in line
    assert "<img" not in line


def test_a_recipe_without_end_is_refused() -> None:
    assert "at most" in restored("(" * 50_000 + "\nSteps: 20, Size: 64x64")


@pytest.mark.parametrize("place", ["/dev/null/bot", "/proc/none"])
def test_a_bot_says_where_it_cannot_keep_anything(place: str) -> None:
    with pytest.raises(StableDiffError, match="choose another --data"):
        Store(Path(place))


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bot.sqlite3").write_bytes(b"no database" * 1000)
    with pytest.raises(StableDiffError, match="choose another --data"):
        Store(tmp_path)
    with pytest.raises(sqlite3.DatabaseError):  # it was left as it is
        sqlite3.connect(tmp_path / "bot.sqlite3").execute("SELECT * FROM jobs")


@pytest.mark.parametrize(
    "setting",
    ["learning_rate=" + 400 * "9", "seed=" + 5000 * "9", "steps=" + 5000 * "[", "batch_size=99999999999999"],
)
def test_numbers_beyond_all_bounds_are_refused_in_one_line(setting: str) -> None:
    table = {"steps": 10, "batch_size": 2, "learning_rate": 0.1}
    with pytest.raises(ConfigError):
        from_table(LoopConfig, override(table, [setting]))
