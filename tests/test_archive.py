"""Pictures on the server's disk: whose they are, how many, and that they are there after a restart."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from stablediff import RequestError
from stablediff.images import png_bytes
from stablediff.web import archive as module
from stablediff.web.archive import Archive
from stablediff.web.database import COOKIE
from stablediff.web.shelf import Drawn
from stablediff.web.studio import owner_of


def picture(words: str, seed: int = 1, side: int = 8) -> Drawn:
    recipe = f"{words}\nSteps: 2, Seed: {seed}"
    return Drawn(png_bytes(Image.new("RGB", (side, side)), recipe), recipe, seed)


def words(archive: Archive, owner: str, *but: str) -> list[str]:
    return [kept.recipe.partition("\n")[0] for kept in archive.all(owner, but)]


def test_pictures_outlive_a_restart_and_belong_to_one_owner(tmp_path: Path) -> None:
    Archive(tmp_path).add("ann", [picture("a cat"), picture("a dog")])
    Archive(tmp_path).add("ann", [picture("a fox")])
    archive = Archive(tmp_path)
    assert words(archive, "ann") == ["a fox", "a cat", "a dog"]  # the newest first, and those of a job in their order
    assert words(archive, "ann", picture("a cat").recipe) == ["a fox", "a dog"]
    assert words(archive, "bob") == []
    archive.add("", [picture("nobody's")])
    assert words(archive, "") == []
    archive.remove("bob", picture("a cat").recipe)
    archive.remove("ann", picture("a cat").recipe)
    assert words(archive, "ann") == ["a fox", "a dog"]
    archive.remove("ann")
    assert list(tmp_path.glob("*/*.png")) == []


def test_there_is_a_bound_for_one_and_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 3)
    size = len(picture("number 0").png)
    archive = Archive(tmp_path, limit=5.5 * size)
    for number in range(5):
        archive.add("ann", [picture(f"number {number}")])
    assert words(archive, "ann") == ["number 4", "number 3", "number 2"]
    for number in range(5, 8):
        archive.add("bob", [picture(f"number {number}")])
    kept = words(archive, "bob") + words(archive, "ann")
    assert kept[:3] == ["number 7", "number 6", "number 5"]
    assert len(kept) * size <= archive.limit


def test_a_disk_that_fails_costs_nobody_a_picture(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive = Archive(tmp_path)
    archive._home("ann").write_text("no folder")
    archive.add("ann", [picture("a cat")])
    assert "could not be kept" in caplog.text


def test_who_somebody_is() -> None:
    def who(login: str | None, cookie: str) -> str:
        return owner_of(SimpleNamespace(username=login, cookies={COOKIE: cookie}))  # type: ignore[arg-type]

    secret = "0123456789abcdef0123456789abcdef"
    assert who("ann", secret) == who("ann", "") == "login ann"
    assert who(None, secret) == f"browser {secret}"
    assert who(None, "short") == who(None, "../" * 10) == ""


def test_the_environment_says_where(tmp_path: Path) -> None:
    assert Archive.from_environment({}) is None
    archive = Archive.from_environment({"STABLEDIFF_HISTORY": str(tmp_path / "new"), "STABLEDIFF_HISTORY_GB": "0.5"})
    assert archive is not None
    assert (archive.folder, archive.limit) == (tmp_path / "new", 5e8)
    with pytest.raises(RequestError, match="STABLEDIFF_HISTORY_GB is 'much'"):
        Archive.from_environment({"STABLEDIFF_HISTORY": str(tmp_path), "STABLEDIFF_HISTORY_GB": "much"})
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="nothing can be kept there"):
        Archive.from_environment({"STABLEDIFF_HISTORY": str(tmp_path / "file" / "below")})
