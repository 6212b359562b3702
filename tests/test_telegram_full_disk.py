"""A disk that is really full, as far as one process can have that: no file may grow any more."""

import resource
import sqlite3
from pathlib import Path

import pytest
from children import in_child

from stablediff.telegram.disk import is_full
from stablediff.telegram.store import Store

WISH = {"user_id": 1, "chat_id": 1, "kind": "picture", "language": "en", "state": "queued", "seeds": [5]}


def fill_up(folder: str) -> list[str]:
    """-> what went wrong while there was no room, and the prompts that the store has afterwards."""
    store, wrong = Store(Path(folder)), []
    store.add_job(request={"prompt": "before", "init": None}, **WISH)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, unlimited[1]))
    for work in (
        lambda: store.add_job(request={"prompt": "lost " * 1000, "init": None}, **WISH),
        lambda: store.set_job(1, note="lost " * 1000),
        lambda: store.move_chat(1, 2),
        lambda: (Path(folder) / "picture").write_bytes(b"lost"),
    ):
        try:
            work()
        except (sqlite3.Error, OSError) as error:
            wrong.append(f"{is_full(error)} {store._db.in_transaction}")
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    store.add_job(request={"prompt": "after", "init": None}, **WISH)
    store.close()
    reopened = Store(Path(folder))
    prompts = [job.request["prompt"] for job in reopened.jobs_in("queued") if job.chat_id == 1 and job.note is None]
    reopened.close()
    return wrong + prompts


def test_the_store_survives_a_full_disk(tmp_path: Path) -> None:
    assert in_child(fill_up, str(tmp_path)) == ["True False"] * 4 + ["before", "after"]


@pytest.mark.parametrize("error", [OSError(5, "io"), ValueError("full"), sqlite3.OperationalError("locked")])
def test_other_errors_are_no_full_disk(error: Exception) -> None:
    assert not is_full(error)
