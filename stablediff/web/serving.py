"""How the page is served: what the environment may say, and what is safe where it says nothing."""

import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from stablediff.errors import RequestError
from stablediff.web.page import look


def launch_options(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Arguments for Gradio's `launch`. Raises RequestError."""
    auth, mcp = read_auth(environment.get("STABLEDIFF_AUTH", "")), read_mcp(environment.get("STABLEDIFF_MCP", ""))
    if auth and mcp:  # Gradio's MCP server does not ask for passwords
        raise RequestError(
            "STABLEDIFF_MCP would let in who has no password of STABLEDIFF_AUTH: leave one of them away, and put a "
            "proxy that asks before the page"
        )
    return {
        **look(),
        "auth": auth,
        "strict_cors": True,
        "ssr_mode": False,
        "max_file_size": "10mb",
        "footer_links": ["api"],
        "run_history": False,
        "mcp_server": mcp,
    }


def read_mcp(text: str) -> bool:
    """Whether programs that speak the Model Context Protocol may draw. Raises RequestError."""
    said = text.strip().lower()
    if said in ("", "0", "false", "no", "off"):
        return False
    if said not in ("1", "true", "yes", "on"):
        raise RequestError(f"STABLEDIFF_MCP is {text[:50]!r}: write 1 for an MCP server, or 0 for none")
    if find_spec("mcp") is None:
        raise RequestError("STABLEDIFF_MCP asks for an MCP server: install it with pip install '.[mcp]'")
    return True


def read_repository(environment: Mapping[str, str] = os.environ) -> str:
    """The address below which our files can be read, or nothing; a Hugging Face Space has one. Raises RequestError."""
    address = environment.get("STABLEDIFF_REPOSITORY", "").strip().rstrip("/")
    if not address and environment.get("SPACE_ID"):
        address = f"https://huggingface.co/spaces/{environment['SPACE_ID']}/blob/main"
    if address and not re.fullmatch(r"https?://[^\s\"'<>]+", address):
        raise RequestError(
            f"STABLEDIFF_REPOSITORY is {address[:80]!r}: write where files are, as https://github.com/owner/name/blob/main"
        )
    return address


def read_auth(text: str) -> list[tuple[str, str]] | None:
    """ "name:password, other:password" -> who may come in; None for everybody. Raises RequestError."""
    pairs = [tuple(part.strip().split(":", 1)) for part in text.split(",") if part.strip()]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise RequestError("STABLEDIFF_AUTH must be name:password, with a comma between several")
    return [(pair[0], pair[1]) for pair in pairs] or None
