"""How the page's functions are called."""

from typing import Any

# Gradio tells every component of an event how far it is, and after that of every later event as well; each time it asks
# the editor for its pixels, which costs a phone more than anything else on the page. Nobody needs to be told here.
_UNTOLD: dict[str, Any] = {"show_progress": "hidden", "show_progress_on": [], "api_visibility": "private"}
QUIET: dict[str, Any] = {"queue": False, **_UNTOLD}
WATCHING: dict[str, Any] = {"concurrency_limit": 256, **_UNTOLD}
