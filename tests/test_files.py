"""Files that are there whole or not at all: who may read them, and what is left alone."""

import contextlib
import errno
import os
from pathlib import Path

import pytest

from stablediff.files import check_place, draft_of, write_whole


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_is_as_private_as_the_system_says(mask: int, mode: int, tmp_path: Path):
    before = os.umask(mask)
    try:
        write_whole(tmp_path / "new", b"one")
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o640])
def test_a_file_in_anothers_place_can_be_read_by_the_same_people(mode: int, tmp_path: Path):
    file = tmp_path / "file"
    file.write_bytes(b"one")
    file.chmod(mode)
    with draft_of(file, lasting=True) as draft:
        draft.write_bytes(b"two")
        draft.chmod(0o777)  # as what fills it likes it
    assert file.read_bytes() == b"two"
    assert file.stat().st_mode & 0o777 == mode
    assert list(tmp_path.iterdir()) == [file]


def test_a_protected_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "file"
    file.write_bytes(b"one")
    monkeypatch.setattr(os, "access", lambda path, how: (path, how) != (file, os.W_OK))  # root may write everywhere
    with pytest.raises(PermissionError, match="protected against writing") as caught:
        write_whole(file, b"two")
    assert caught.value.errno == errno.EACCES
    assert file.read_bytes() == b"one"
    check_place(tmp_path / "new")


def test_a_link_stays_one_and_what_breaks_off_leaves_nothing(tmp_path: Path):
    file, link = tmp_path / "file", tmp_path / "link"
    link.symlink_to(file)
    with contextlib.suppress(KeyboardInterrupt), draft_of(link) as draft:
        draft.write_bytes(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [link]
    write_whole(link, b"whole")
    assert link.is_symlink()
    assert file.read_bytes() == b"whole"
