"""What must outlive the process: users, jobs, pictures, packs, and updates that are not answered yet. In SQLite.

A job is "queued" until it is drawn, then "drawn" (its files wait to be delivered) and "done", or "telling" (its note
waits to be told) and "closed". What is neither done nor closed goes on where it was after a restart.
"""

import asyncio
import itertools
import json
import logging
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from stablediff.errors import StableDiffError
from stablediff.telegram.disk import identity, is_full

_SCHEMA = """
CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY, settings TEXT NOT NULL DEFAULT '{}');
CREATE TABLE IF NOT EXISTS bans (id INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS inbox (update_id INTEGER PRIMARY KEY, body TEXT);
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, update_id INTEGER UNIQUE, user_id INTEGER NOT NULL, chat_id INTEGER NOT NULL,
    thread_id INTEGER, reply_to INTEGER, status_id INTEGER, kind TEXT NOT NULL, language TEXT NOT NULL,
    request TEXT NOT NULL, state TEXT NOT NULL, note TEXT, attempts INTEGER NOT NULL DEFAULT 0, created REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS jobs_by_user ON jobs (user_id, state);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state);
CREATE TABLE IF NOT EXISTS pictures (
    job_id INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, number INTEGER NOT NULL, seed INTEGER NOT NULL,
    message_id INTEGER, file_id TEXT, state TEXT NOT NULL DEFAULT 'waiting', PRIMARY KEY (job_id, number)
);
CREATE TABLE IF NOT EXISTS packs (
    name TEXT PRIMARY KEY, user_id INTEGER NOT NULL, title TEXT NOT NULL, made INTEGER NOT NULL DEFAULT 0,
    full INTEGER NOT NULL DEFAULT 0, created REAL NOT NULL
);
"""

log = logging.getLogger("stablediff.telegram")
# Files that the bot makes: pictures, inputs and drafts.
_OURS = re.compile(r"\d+-\d+\.png|[0-9a-f]{32}\.png|\.stablediff\.\w+")


@dataclass(frozen=True)
class Job:
    """`kind`: picture and sticker are drawn; file, photo and pack deliver a picture that another job has drawn."""

    id: int
    update_id: int | None
    user_id: int
    chat_id: int
    thread_id: int | None
    reply_to: int | None
    status_id: int | None
    kind: str
    language: str
    request: dict[str, Any]
    state: str
    note: str | None
    attempts: int
    created: float


@dataclass(frozen=True)
class Picture:
    """One picture of a job: "waiting" and then "sent".

    Stickers and albums are "sending" between the two, and "unsure" if nobody can say whether they arrived.
    """

    job_id: int
    number: int
    seed: int
    message_id: int | None
    file_id: str | None
    state: str


@dataclass(frozen=True)
class Pack:
    name: str
    user_id: int
    title: str
    made: int  # 0 not yet, 1 yes, 2 nobody knows
    full: int
    created: float


class ErasedError(Exception):
    """What was being worked on is no longer there: its owner has erased everything."""


class Store:
    """One connection, one process: a second bot on the same folder is refused.

    What is written survives the process at once, and the machine after `settle`: waiting for the disk at every row
    would hold up whoever waits for an answer.
    """

    def __init__(self, folder: Path) -> None:
        try:
            for part in (folder, folder / "pictures", folder / "inputs"):
                part.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StableDiffError(f"cannot keep anything in {folder} ({error}): choose another --data") from error
        self.folder = folder
        try:
            self._db = sqlite3.connect(folder / "bot.sqlite3", isolation_level=None, timeout=1)
            self._db.row_factory = sqlite3.Row
            for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "secure_delete=ON", "foreign_keys=ON"):
                self._db.execute(f"PRAGMA {pragma}")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
            self._check()
            self._remove_strays()
        except sqlite3.DatabaseError as error:  # locked by another bot, damaged, or no database at all
            if is_full(error):
                raise StableDiffError(f"the disk of {folder} is full: make room, or choose another --data") from error
            raise StableDiffError(
                f"cannot use {folder}/bot.sqlite3 ({error}): stop the other bot, or choose another --data"
            ) from error
        except OSError as error:
            raise StableDiffError(f"cannot tidy {folder} ({error}): choose another --data") from error

        self._settling = ThreadPoolExecutor(1, thread_name_prefix="settle")
        self._asked, self._settled = itertools.count(1), 0
        self._latest = 0
        self._file, self._trouble = identity(folder / "bot.sqlite3"), ""

    def _check(self) -> None:
        """Raises sqlite3.DatabaseError for a damaged database, or one of another program."""
        damage = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if damage != "ok":
            raise sqlite3.DatabaseError(f"it is damaged: {damage}")
        expected = {
            table: {column.name for column in fields(kind)}
            for table, kind in {"jobs": Job, "pictures": Picture, "packs": Pack}.items()
        }
        for table, names in {**expected, "inbox": {"update_id", "body"}, "users": {"id", "settings"}}.items():
            columns = {row["name"] for row in self._db.execute(f"PRAGMA table_info({table})")}
            if columns != names:
                raise sqlite3.DatabaseError(f"its table {table} is of another program or version")

    def close(self) -> None:
        self._settling.shutdown()
        self._db.close()

    async def settle(self) -> None:
        """Until all that was written survives a power cut. On a full disk the work goes on without."""
        self._latest = next(self._asked)
        try:
            await asyncio.get_running_loop().run_in_executor(self._settling, self._sync, self._latest)
        except OSError as error:
            if str(error) != self._trouble:
                log.error("what is written is not kept: %s", error)
            self._trouble = str(error)
        else:
            self._trouble = ""

    def _sync(self, asked: int) -> None:
        """In a thread. Whoever asked while another's turn was waiting is served with it."""
        if self._settled >= asked:
            return
        latest = self._latest
        if identity(self.folder / "bot.sqlite3") != self._file:
            raise OSError(f"somebody has taken {self.folder}/bot.sqlite3 away: start the bot again")
        journal = os.open(self.folder / "bot.sqlite3-wal", os.O_RDONLY)
        try:
            os.fsync(journal)
        finally:
            os.close(journal)
        self._settled = latest

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")  # where a full disk shows
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    # Updates: kept until they are answered, because Telegram forgets what was fetched.

    def keep_update(self, update_id: int, body: str) -> bool:
        """-> False if it came before."""
        found = self._db.execute("INSERT OR IGNORE INTO inbox VALUES (?, ?)", (update_id, body))
        return found.rowcount == 1

    def update_done(self, update_id: int) -> None:
        self._db.execute("UPDATE inbox SET body = NULL WHERE update_id = ?", (update_id,))

    def unanswered(self) -> list[tuple[int, Any]]:
        """Updates by number; None for one that is no JSON."""
        rows = self._db.execute("SELECT * FROM inbox WHERE body IS NOT NULL ORDER BY update_id").fetchall()
        return [(row["update_id"], _read(row["body"])) for row in rows]

    # Users

    def settings(self, user: int) -> dict[str, Any] | None:
        """None for somebody who was never here."""
        row = self._db.execute("SELECT settings FROM users WHERE id = ?", (user,)).fetchone()
        found = _read(row["settings"]) if row else None
        return found if row is None or isinstance(found, dict) else {}

    def set_settings(self, user: int, settings: dict[str, Any]) -> None:
        self._db.execute(
            "INSERT INTO users VALUES (?, ?) ON CONFLICT DO UPDATE SET settings = excluded.settings",
            (user, json.dumps(settings)),
        )

    def count_users(self) -> int:
        return int(self._db.execute("SELECT count(*) AS users FROM users").fetchone()["users"])

    def is_banned(self, user: int) -> bool:
        return self._db.execute("SELECT 1 FROM bans WHERE id = ?", (user,)).fetchone() is not None

    def set_ban(self, user: int, *, banned: bool) -> None:
        command = "INSERT OR IGNORE INTO bans VALUES (?)" if banned else "DELETE FROM bans WHERE id = ?"
        self._db.execute(command, (user,))

    # Jobs

    def add_job(self, *, request: dict[str, Any], seeds: Sequence[int] = (), **columns: Any) -> Job | None:
        """A new job and its pictures, or None if the update that asks for it has been heard before."""
        columns |= {"request": json.dumps(request), "created": time.time()}
        marks = ", ".join("?" * len(columns))
        with self._transaction():
            cursor = self._db.execute(
                f"INSERT OR IGNORE INTO jobs ({', '.join(columns)}) VALUES ({marks})", tuple(columns.values())
            )
            if cursor.rowcount != 1 or cursor.lastrowid is None:
                return None
            job_id = cursor.lastrowid
            self._db.executemany(
                "INSERT INTO pictures (job_id, number, seed) VALUES (?, ?, ?)",
                [(job_id, number, seed) for number, seed in enumerate(seeds)],
            )
        return self.job(job_id)

    def job(self, job_id: int) -> Job | None:
        return next(iter(self._jobs("id = ?", job_id)), None)

    def has_heard(self, update_id: int) -> bool:
        """Whether an update has made a job already."""
        return self._db.execute("SELECT 1 FROM jobs WHERE update_id = ?", (update_id,)).fetchone() is not None

    def jobs_in(self, *states: str, user: int | None = None) -> list[Job]:
        marks = ", ".join("?" * len(states))
        return self._jobs(f"state IN ({marks}) AND (? IS NULL OR user_id = ?) ORDER BY id", *states, user, user)

    def finished_jobs(self, user: int, limit: int) -> list[Job]:
        """The newest first; pictures and stickers only."""
        kinds = "kind IN ('picture', 'sticker')"
        return self._jobs(
            f"user_id = ? AND state IN ('drawn', 'done') AND {kinds} ORDER BY id DESC LIMIT ?", user, limit
        )

    def jobs_since(self, moment: float) -> list[Job]:
        return self._jobs("created >= ? AND kind IN ('picture', 'sticker')", moment)

    def count_jobs(self, moment: float = 0.0) -> int:
        wanted = "SELECT count(*) AS jobs FROM jobs WHERE created >= ? AND kind IN ('picture', 'sticker')"
        return int(self._db.execute(wanted, (moment,)).fetchone()["jobs"])

    def _jobs(self, condition: str, *values: Any) -> list[Job]:
        rows = self._db.execute(f"SELECT * FROM jobs WHERE {condition}", values)
        return [Job(**{**row, "request": json.loads(row["request"])}) for row in map(dict, rows)]

    def set_job(self, job_id: int, **columns: Any) -> None:
        names = ", ".join(f"{name} = ?" for name in columns)
        self._db.execute(f"UPDATE jobs SET {names} WHERE id = ?", (*columns.values(), job_id))

    def close_job(self, job_id: int, note: str) -> None:
        """It will not be drawn, and its note is still to be told."""
        self.set_job(job_id, state="telling", note=note)

    def move_chat(self, old: int, new: int) -> None:
        """A group that became a supergroup: its messages have new numbers, too."""
        with self._transaction():
            self._db.execute("UPDATE pictures SET message_id = NULL WHERE job_id IN "
                             "(SELECT id FROM jobs WHERE chat_id = ?)", (old,))  # fmt: skip
            self._db.execute("UPDATE jobs SET chat_id = ?, status_id = NULL, thread_id = NULL, reply_to = NULL "
                             "WHERE chat_id = ?", (new, old))  # fmt: skip

    def pictures(self, job_id: int) -> list[Picture]:
        rows = self._db.execute("SELECT * FROM pictures WHERE job_id = ? ORDER BY number", (job_id,))
        return [Picture(**row) for row in map(dict, rows)]

    def set_picture(self, job_id: int, number: int, **columns: Any) -> None:
        names = ", ".join(f"{name} = ?" for name in columns)
        self._db.execute(
            f"UPDATE pictures SET {names} WHERE job_id = ? AND number = ?", (*columns.values(), job_id, number)
        )

    def drop_pictures_from(self, job_id: int, number: int) -> None:
        """Those that were not finished."""
        self._db.execute("DELETE FROM pictures WHERE job_id = ? AND number >= ?", (job_id, number))

    def picture_in(self, chat: int, message: int) -> Path | None:
        """The file of the picture that this message shows, if it is one of ours and still kept."""
        row = self._db.execute(
            "SELECT job_id, number FROM pictures JOIN jobs ON jobs.id = job_id WHERE chat_id = ? AND kind = 'picture' "
            "AND pictures.state = 'sent' AND (message_id = ? OR (number = 0 AND status_id = ?))",
            (chat, message, message),
        ).fetchone()
        file = self.picture_file(row["job_id"], row["number"]) if row else None
        return file if file is not None and file.is_file() else None

    def picture_file(self, job_id: int, number: int) -> Path:
        return self.folder / "pictures" / f"{job_id}-{number}.png"

    def input_file(self, name: str) -> Path:
        return self.folder / "inputs" / name

    # Packs

    def packs(self, user: int) -> list[Pack]:
        rows = self._db.execute("SELECT * FROM packs WHERE user_id = ? ORDER BY rowid", (user,))
        return [Pack(**row) for row in map(dict, rows)]

    def add_pack(self, name: str, user: int, title: str) -> None:
        self._db.execute(
            "INSERT INTO packs (name, user_id, title, created) VALUES (?, ?, ?, ?)", (name, user, title, time.time())
        )

    def set_pack(self, name: str, **columns: Any) -> None:
        names = ", ".join(f"{column} = ?" for column in columns)
        self._db.execute(f"UPDATE packs SET {names} WHERE name = ?", (*columns.values(), name))

    def drop_pack(self, name: str) -> None:
        self._db.execute("DELETE FROM packs WHERE name = ?", (name,))

    # Forgetting

    def forget(self, user: int) -> None:
        """Rows and files of a user: nothing of them is left in the folder, not even in free pages."""
        self._remove(self._jobs("user_id = ?", user))
        with self._transaction():
            self._db.execute("DELETE FROM packs WHERE user_id = ?", (user,))
            self._db.execute("DELETE FROM users WHERE id = ?", (user,))
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def forget_older_than(self, moment: float) -> None:
        """What nobody waits for any more."""
        self._remove(self._jobs("created < ? AND state IN ('done', 'closed')", moment))
        newest = self._db.execute("SELECT max(update_id) AS id FROM inbox").fetchone()["id"] or 0
        self._db.execute("DELETE FROM inbox WHERE body IS NULL AND update_id < ?", (newest - 10_000,))
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        inputs = self._inputs()
        for file in (self.folder / "inputs").iterdir():
            if file.name not in inputs and file.stat().st_mtime < time.time() - 3600:
                file.unlink(missing_ok=True)

    def _remove_strays(self) -> None:
        """Files that nobody knows, and drafts: a process that was killed has left them."""
        kept = {self.picture_file(row["job_id"], row["number"]) for row in self._db.execute("SELECT * FROM pictures")}
        kept |= {self.input_file(name) for name in self._inputs()}
        for folder in ("pictures", "inputs"):
            for file in (self.folder / folder).iterdir():
                if file not in kept and _OURS.fullmatch(file.name) and file.is_file():
                    file.unlink(missing_ok=True)

    def _inputs(self) -> set[str]:
        found = self._db.execute("SELECT json_extract(request, '$.init') AS init FROM jobs")
        return {row["init"] for row in found if row["init"]}

    def _remove(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            for number in range(job.request.get("num_images", 1)):  # to look for them would list all pictures there are
                self.picture_file(job.id, number).unlink(missing_ok=True)
            if job.request.get("init"):
                self.input_file(job.request["init"]).unlink(missing_ok=True)
        with self._transaction():
            self._db.executemany("DELETE FROM jobs WHERE id = ?", [(job.id,) for job in jobs])


def _read(body: str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
