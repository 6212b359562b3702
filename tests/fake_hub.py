"""A hub on this machine: the part of the Hugging Face hub's HTTP interface with which models are downloaded."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class FakeHub:
    """Holds models, keeps a list of requests, and misbehaves when it is told to."""

    url: str = ""
    models: dict[str, dict[str, bytes]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)  # "GET file" or "GET file from byte"
    gated: set[str] = field(default_factory=set)
    corrupted: set[str] = field(default_factory=set)  # files that arrive with another last byte
    cut_at: dict[str, int] = field(default_factory=dict)  # files whose connection breaks at this byte, once
    status: int | None = None  # what all requests are answered with

    def downloads(self, ending: str = ".safetensors") -> list[str]:
        return [request for request in self.requests if request.startswith("GET ") and ending in request]

    def commit(self, model: str) -> str:
        digests = "".join(hashlib.sha1(data).hexdigest() for _, data in sorted(self.models[model].items()))
        return hashlib.sha1(digests.encode()).hexdigest()


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.hub.status:
            self.answer(path, self.hub.status)
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/[^/]+)?", path):
            self.answer_info(match[1])
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path):
            self.answer_tree(match[1])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.answer_file(match[1], match[3])
        else:
            self.answer(path, 404)

    def answer(self, name: str, status: int, body: bytes = b"", **headers: str) -> None:
        self.hub.requests.append(f"{self.command} {name}")
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def answer_info(self, model: str) -> None:
        files = self.hub.models.get(model)
        if files is None:
            self.answer(model, 404, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            return
        siblings = [{"rfilename": name, "size": len(data), "blobId": _git_id(data)} for name, data in files.items()]
        for sibling in siblings:
            data = files[str(sibling["rfilename"])]
            if _is_lfs(str(sibling["rfilename"])):
                sibling["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        info = {"_id": "1", "id": model, "modelId": model, "sha": self.hub.commit(model), "siblings": siblings}
        self.answer(model, 200, json.dumps(info).encode(), Content_Type="application/json")

    def answer_tree(self, model: str) -> None:
        tree: list[dict[str, Any]] = []
        for name, data in self.hub.models[model].items():
            tree.append({"type": "file", "path": name, "size": len(data), "oid": _git_id(data)})
            if _is_lfs(name):
                tree[-1]["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        self.answer(model, 200, json.dumps(tree).encode(), Content_Type="application/json")

    def answer_file(self, model: str, name: str) -> None:
        data = self.hub.models.get(model, {}).get(name)
        if data is None:
            self.answer(name, 404, X_Error_Code="EntryNotFound")
            return
        if model in self.hub.gated:
            self.answer(name, 403, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")
            return
        digest = hashlib.sha256(data).hexdigest() if _is_lfs(name) else _git_id(data)
        if name in self.hub.corrupted:
            data = data[:-1] + bytes([data[-1] ^ 1])
        first = 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            first = int(match[1])
        self.hub.requests.append(f"{self.command} {name}" + (f" from {first}" if first else ""))
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        for key, value in (
            ("X-Repo-Commit", self.hub.commit(model)),
            ("ETag", f'"{digest}"'),
            ("X-Linked-Etag", f'"{digest}"'),
            ("X-Linked-Size", str(len(data))),
            ("Accept-Ranges", "bytes"),
            ("Content-Length", str(len(data) - first)),
        ):
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.hub.cut_at.pop(name, None)
        self.wfile.write(data[first:cut])
        if cut is not None:
            self.close_connection = True


def _is_lfs(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


def _git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
