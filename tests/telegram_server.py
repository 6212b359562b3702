"""A Bot API server on loopback: real HTTP, polling and webhooks, and all that can go wrong on the way."""

import inspect
import json
import os
import re
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote

from telegram_rules import Json, Refused, Rules

TOKEN = "123456789:AAcanary-Token_0123456789abcdefghij"
_WHOLE = {"chat_id", "message_id", "message_thread_id", "user_id", "cache_time", "offset", "limit", "timeout"}
PATIENCE = float(os.environ.get("TELEGRAM_PATIENCE", 120))  # seconds: for broken bots, not for slow machines
_FLAGS = {"show_alert", "is_personal", "disable_content_type_detection"}
_STRUCTURES = {
    "reply_markup", "reply_parameters", "media", "stickers", "commands", "results", "button", "allowed_updates"
}  # fmt: skip


@dataclass
class Fault:
    """`kind`: 429, 500, "slow" (answers after `seconds`), "drop" (does it and hangs up), "hang up" (does nothing), or
    the (status, body) to answer with, having done nothing.
    """

    method: str
    kind: str | int | tuple[int, bytes]
    times: int = 1
    seconds: float = 1.0


class TelegramServer(Rules):
    def __init__(self) -> None:
        super().__init__()
        self.changed = threading.Condition(threading.RLock())
        self.updates: list[Json] = []
        self.allowed: list[str] | None = None
        self.webhook: Json | None = None
        self.faults: list[Fault] = []
        self.calls: list[tuple[str, Json]] = []
        self.refusals: list[str] = []
        self.polling = 0  # calls of getUpdates: a new one ends the one before
        self.gone = False
        self._last_update = 1000
        self._listen(0)
        threading.Thread(target=self._push, daemon=True).start()

    def _listen(self, port: int) -> None:
        handler = type("Handler", (_Handler,), {"server_state": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        with self.changed:
            self.gone = True
            self.changed.notify_all()
        self._http.shutdown()
        self._http.server_close()

    def come_back(self) -> None:
        self.gone = False
        self._listen(self.port)

    def fail(self, method: str, kind: str | int | tuple[int, bytes], times: int = 1, seconds: float = 1.0) -> None:
        with self.changed:
            self.faults.append(Fault(method, kind, times, seconds))

    def wait(self, condition: Callable[[], Any], why: Callable[[], str] = lambda: "", seconds: float = PATIENCE) -> Any:
        """-> what the condition returned when it was true."""
        end = time.monotonic() + seconds
        with self.changed:
            while not (found := condition()):
                if time.monotonic() > end:
                    last = [call[0] for call in self.calls[-15:]]
                    raise AssertionError(f"waited for {seconds} s in vain: {why()}\nlast calls {last}")
                self.changed.wait(0.1)
            return found

    # Updates

    def put(self, kind: str, content: Json) -> int:
        with self.changed:
            self._last_update += 1
            if self.allowed is None or kind in self.allowed:
                self.updates.append({"update_id": self._last_update, kind: content})
            self.changed.notify_all()
            return self._last_update

    def do_getUpdates(  # noqa: N802
        self, offset: int = 0, timeout: int = 0, limit: int = 100, allowed_updates: list[str] | None = None
    ) -> list[Json]:
        if self.webhook is not None:
            raise Refused("Conflict: can't use getUpdates method while webhook is active", 409)
        self.allowed = allowed_updates or self.allowed
        self.polling += 1
        mine, end = self.polling, time.monotonic() + timeout
        self.updates = [update for update in self.updates if update["update_id"] >= offset]
        while not self.updates and time.monotonic() < end and not self.gone:
            self.changed.wait(0.2)
            if self.polling != mine:
                raise Refused("Conflict: terminated by other getUpdates request", 409)
        return self.updates[:limit]

    def do_setWebhook(  # noqa: N802
        self,
        url: str,
        secret_token: str = "",
        max_connections: int = 40,
        allowed_updates: list[str] | None = None,
    ) -> bool:
        if url and not url.startswith(("https://", "http://127.0.0.1:")):
            raise Refused("Bad Request: bad webhook: HTTPS url must be provided for webhook")
        assert int(max_connections) <= 100
        self.allowed = allowed_updates or self.allowed
        self.webhook = {"url": url, "secret": secret_token} if url else None
        return True

    def do_deleteWebhook(self) -> bool:  # noqa: N802
        self.webhook = None
        return True

    def _push(self) -> None:
        """Brings updates to the webhook, one after another, until each is taken."""
        while True:
            with self.changed:
                if self.webhook is None or not self.updates or self.gone:
                    self.changed.wait(0.2)
                    continue
                update, hook = self.updates[0], self.webhook
            headers = {"Content-Type": "application/json", "X-Telegram-Bot-Api-Secret-Token": hook["secret"]}
            request = urllib.request.Request(hook["url"], json.dumps(update).encode(), headers)
            try:
                with urllib.request.urlopen(request, timeout=30):
                    pass
            except OSError:
                time.sleep(0.2)
                continue
            with self.changed:
                self.updates = [left for left in self.updates if left is not update]

    # Calls

    def call(self, method: str, parameters: Json) -> Any:
        with self.changed:
            work = getattr(self, f"do_{method}", None)
            if work is None:
                raise Refused("Not Found: method not found", 404)
            try:
                inspect.signature(work).bind(**parameters)
            except TypeError as error:
                raise Refused(f"Bad Request: {method}: {error}") from error
            if method != "getUpdates":
                self.calls.append((method, parameters))
            try:
                return work(**parameters)
            finally:
                self.changed.notify_all()

    def fault(self, method: str) -> Fault | None:
        with self.changed:
            for fault in self.faults:
                if fault.method in (method, "*") and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: ClassVar[TelegramServer]

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        """A file that somebody sent."""
        file_id = unquote(self.path).removeprefix(f"/file/bot{TOKEN}/files/")
        if fault := self.server_state.fault("file"):
            time.sleep(fault.seconds)
        data = self.server_state.files.get(file_id)
        self._reply(200 if data is not None else 404, data or b"")

    def do_POST(self) -> None:
        state = self.server_state
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        found = re.fullmatch(r"/bot([^/]+)/(\w+)", self.path)
        fault = state.fault(found[2]) if found else None
        if state.gone or len(body) < length or (fault and fault.kind == "hang up"):
            self.close_connection = True
            return
        if fault and isinstance(fault.kind, tuple):
            self._reply(*fault.kind)
        elif fault and fault.kind == 429:
            self._answer(429, "Too Many Requests: retry later", {"retry_after": int(fault.seconds)})
        elif fault and fault.kind == 500:
            self._answer(500, "Internal Server Error")
        elif found is None or found[1] != TOKEN:
            self._answer(401, "Unauthorized")
        else:
            try:
                result = state.call(found[2], _parameters(self.headers.get("Content-Type", ""), body))
            except Refused as refusal:
                if found[2] != "getUpdates":  # which the next one ends
                    state.refusals.append(f"{found[2]}: {refusal}")
                self._answer(refusal.code, str(refusal), refusal.parameters)
                return
            if fault and fault.kind == "drop":
                self.close_connection = True
                return
            if fault and fault.kind == "slow":
                time.sleep(fault.seconds)
            with state.changed:
                answer = json.dumps({"ok": True, "result": _public(result)}).encode()
            self._reply(200, answer)

    def _answer(self, code: int, description: str, parameters: Json | None = None) -> None:
        answer: Json = {"ok": False, "error_code": code, "description": description}
        self._reply(code, json.dumps(answer | ({"parameters": parameters} if parameters else {})).encode())

    def _reply(self, code: int, data: bytes) -> None:
        try:
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:  # the bot was killed
            self.close_connection = True


def _public(result: Any) -> Any:
    """Without what only the tests may see."""
    if isinstance(result, list):  # an album, or updates, of which nothing is hidden
        return [_public(item) if "message_id" in item else item for item in result]
    if isinstance(result, dict):
        return {name: _public(value) for name, value in result.items() if name not in ("image", "data", "edits")}
    return result


def _parameters(kind: str, body: bytes) -> Json:
    """Form fields with their types; a file is (name, data), wherever it is attached."""
    files: dict[str, tuple[str, bytes]] = {}
    if kind.startswith("multipart/form-data"):
        fields = {}
        boundary = b"--" + kind.partition("boundary=")[2].strip('"').encode()
        for part in body.split(boundary)[1:-1]:
            head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
            content = content.removesuffix(b"\r\n")
            names = dict(re.findall(r'(\w+)="([^"]*)"', head.decode()))
            if "filename" in names:
                files[names["name"]] = (names["filename"], content)
            else:
                fields[names["name"]] = content.decode()
    else:
        fields = {name: values[0] for name, values in parse_qs(body.decode(), keep_blank_values=True).items()}
    parameters: Json = {}
    for name, value in fields.items():
        if name in _WHOLE:
            parameters[name] = int(float(value))
        elif name in _FLAGS:
            parameters[name] = value.lower() == "true"
        elif name in _STRUCTURES or (name == "sticker" and value.startswith("{")):
            parameters[name] = json.loads(value, object_hook=lambda found: _attach(found, files))
        else:
            parameters[name] = value
    return parameters | {name: file for name, file in files.items() if name in ("document", "sticker", "photo")}


def _attach(found: Json, files: dict[str, tuple[str, bytes]]) -> Json:
    return {
        name: files[value.removeprefix("attach://")]
        if isinstance(value, str) and value.startswith("attach://")
        else value
        for name, value in found.items()
    }
