"""What the bot is told at its start: by arguments, by the environment, and the token never by an argument."""

import argparse
import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from stablediff.checkpoints.locate import DEFAULT_MODEL
from stablediff.errors import RequestError
from stablediff.request import Limits

TELEGRAM = "https://api.telegram.org"
_TOKEN = re.compile(r"\d{1,20}:[\w-]{20,100}", re.ASCII)
_WHERE_TO_GET_ONE = (
    "the bot needs a token: write /newbot to https://t.me/BotFather, then start the bot with "
    "TELEGRAM_BOT_TOKEN=... in its environment, or with the token in a file: --token-file FILE"
)


@dataclass(frozen=True)
class Options:
    """`daily` is a user's work for a day, in pictures of the model's usual size and steps. `limits` are the page's."""

    token: str
    model: str = DEFAULT_MODEL
    device: str | None = None
    dtype: str | None = None
    data: Path = Path("telegram-data")
    admins: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()  # none: every group
    daily: float = 200.0
    pending: int = 8
    keep_days: float = 30.0
    progress_seconds: float = 3.0
    group_progress_seconds: float = 10.0
    api: str = TELEGRAM
    webhook_url: str | None = None
    port: int = 8443
    log_level: str = "INFO"
    limits: Limits = field(default_factory=Limits)
    webhook_secret: str = field(default_factory=lambda: secrets.token_urlsafe(32))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as for everything else that is wrong."""
        raise RequestError(without_tokens(f"{message.removeprefix('argument ')} (--help lists the options)"))


def without_tokens(message: str) -> str:
    """Without the token, where it was written in a place of something else."""
    return _TOKEN.sub("(a token)", message)


def read_options(argv: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> Options:
    """Raises RequestError for a wrong option or without a usable token, SystemExit after --help."""
    get = environment.get
    parser = _Parser(
        prog="telegram_bot.py",
        description="Draw in Telegram chats. The token comes from TELEGRAM_BOT_TOKEN or from a file.",
        allow_abbrev=False,  # --token TOKEN would be read as --token-file, and shown when there is no such file
    )
    add = parser.add_argument
    add("--token-file", type=Path, default=get("TELEGRAM_BOT_TOKEN_FILE"), metavar="FILE", help="holds the token")
    add("--model", default=get("STABLEDIFF_MODEL", DEFAULT_MODEL), help="as in generate (%(default)s)")
    add("--device", default=get("STABLEDIFF_DEVICE"), help="auto, cpu, cuda or mps")
    add("--dtype", default=get("STABLEDIFF_DTYPE"), help="auto, float32, bfloat16, float16 or int8")
    add("--data", type=Path, default=Path("telegram-data"), metavar="FOLDER", help="of jobs and pictures (%(default)s)")
    add("--admins", type=_ids, default=get("TELEGRAM_ADMINS", ""), metavar="ID,…", help="users who may /stats and /ban")
    add(
        "--groups",
        type=_groups,
        default=get("TELEGRAM_GROUPS", ""),
        metavar="ID,…",
        help="serve only these groups, as in --groups=-1001,-1002",
    )
    add(
        "--daily",
        type=_number(0.01, 1e9),
        default=Options.daily,
        help="a user's pictures a day, in the model's usual size (%(default)g)",
    )
    add("--pending", type=_whole(1, 1000), default=Options.pending, help="a user's wishes at once (%(default)s)")
    add(
        "--keep-days",
        type=_number(0.01, 36_500),
        default=Options.keep_days,
        help="pictures and prompts are deleted after so long (%(default)g)",
    )
    seconds = _number(0.01, 3600)
    for name, where in (
        ("progress_seconds", "between two reports of progress"),
        ("group_progress_seconds", "in groups"),
    ):
        flag = f"--{name.replace('_', '-')}"
        add(flag, type=seconds, default=getattr(Options, name), metavar="SECONDS", help=f"{where} (%(default)g)")
    add("--api", type=_url, default=get("TELEGRAM_API") or TELEGRAM, metavar="URL", help="another Bot API server")
    add(
        "--webhook-url",
        type=_url,
        default=get("TELEGRAM_WEBHOOK_URL") or None,
        metavar="URL",
        help="take updates there; else poll",
    )
    add(
        "--port",
        type=_whole(1, 65_535),
        default=Options.port,
        help="of the webhook, on this machine's loopback (%(default)s)",
    )
    add("--log-level", type=str.upper, default=Options.log_level, choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    arguments = vars(parser.parse_args(argv))
    token_file = arguments.pop("token_file")
    hook, api = arguments["webhook_url"], arguments["api"]
    if hook and hook.startswith("http:") and api == TELEGRAM:
        raise RequestError(f"--webhook-url {hook[:60]}: Telegram sends updates to https addresses only")
    limits = Limits.from_environment(environment)
    return Options(token=_read_token(token_file, environment), limits=limits, **arguments)


def _read_token(file: Path | str | None, environment: Mapping[str, str]) -> str:
    token = environment.get("TELEGRAM_BOT_TOKEN", "").strip()
    if not token and file:
        try:
            token = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise RequestError(without_tokens(f"cannot read the token from {file}: {error}")) from error
    if not token:
        raise RequestError(_WHERE_TO_GET_ONE)
    if not _TOKEN.fullmatch(token):  # which is not shown: it may be a secret with a typing error
        raise RequestError(f"this is no bot token (they look like 123456:ABC-DEF…); {_WHERE_TO_GET_ONE}")
    return token


def _number(low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number") from error
        if not low <= number <= high:  # nor is NaN
            raise argparse.ArgumentTypeError(f"{text[:40]} is out of bounds: choose {low:.10g} to {high:.10g}")
        return number

    return read


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"-?\d{1,12}", text, re.ASCII):
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number")
        if not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text[:40]} is out of bounds: choose {low} to {high}")
        return int(text)

    return read


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        good = False
    if not good or not text.isascii() or re.search(r"\s", text):
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is not an address, as in https://example.org")
    return text.rstrip("/")


def _ids(text: str, *, negative: bool = False) -> frozenset[int]:
    words = text.replace(",", " ").split()
    if not all(re.fullmatch(r"-?\d{1,18}", word, re.ASCII) for word in words):
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is not a list of ids, as in 12,34 (numbers: names can change hands)"
        )
    ids = frozenset(map(int, words))
    if any((number < 0) != negative for number in ids):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: ids of groups are negative, and ids of users are not")
    return ids


def _groups(text: str) -> frozenset[int]:
    return _ids(text, negative=True)
