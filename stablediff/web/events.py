"""How the page's functions are called."""

from typing import Any

# Gradio tells every output of an event how far it is, and how far every later event is as well: much work for a
# phone, and nobody needs to be told here.
_UNTOLD: dict[str, Any] = {"show_progress": "hidden", "show_progress_on": [], "api_visibility": "private"}
QUIET: dict[str, Any] = {"queue": False, **_UNTOLD}
WATCHING: dict[str, Any] = {"concurrency_limit": 256, **_UNTOLD}
