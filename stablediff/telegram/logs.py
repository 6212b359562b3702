"""A log that cannot give the token away."""

import logging
import re
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from urllib.parse import quote

_log = logging.getLogger("stablediff.telegram")


class Hidden:
    """A token (and other secrets), and all the forms in which it may stand in a text."""

    def __init__(self, token: str, *others: str) -> None:
        secret = token.partition(":")[2]
        found = {token, quote(token, safe=""), quote(secret, safe=""), secret, *others} - {""}
        longest_first = sorted(found, key=len)[::-1]
        # In any case: the library writes what a server says with small letters.
        self._secrets = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)", re.IGNORECASE)

    def hide(self, words: str) -> str:
        return self._secrets.sub("<token>", words)


class Redacted(logging.Formatter):
    """Takes the secrets out of the finished text: whoever logged it, and be it in a traceback."""

    def __init__(self, *secrets: str) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._hidden = Hidden(*secrets)

    def format(self, record: logging.LogRecord) -> str:
        return self._hidden.hide(super().format(record))


class Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """A line that cannot be formatted is dropped with a note; the standard handler would print what is in it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        kind = sys.exc_info()[0]
        with suppress(OSError, ValueError):  # the log itself may be on a full disk
            self.stream.write(f"a line of {record.name} was not logged: {kind.__name__ if kind else '?'}\n")


def is_ours_to_tell(record: logging.LogRecord) -> bool:
    """A filter: that Telegram does not know the token, or cannot be reached, the program says itself, in one line."""
    kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
    return kind != "InvalidToken" and not (
        record.name == "telegram.ext.Updater" and kind in ("NetworkError", "TimedOut")
    )


def start_log(secrets: Sequence[str], level: str) -> None:
    """All that is logged or warned of, and what nobody catches, goes to stderr and through the filter."""
    handler = Handler()
    handler.setFormatter(Redacted(*secrets))
    handler.addFilter(is_ours_to_tell)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in ("httpx", "httpcore"):  # a line a request, with the token in its address
        logging.getLogger(name).setLevel(logging.WARNING)
    sys.excepthook = _stopped
    threading.excepthook = lambda args: _stopped(args.exc_type, args.exc_value, args.exc_traceback)
    sys.unraisablehook = lambda args: _stopped(args.exc_type, args.exc_value, args.exc_traceback)


def _stopped(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    lines = "".join(traceback.format_exception(kind, error, trace))
    _log.critical("nobody caught this:\n%s", lines)
