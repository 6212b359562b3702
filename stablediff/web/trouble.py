"""What is wrong with a wish: beside which control it is said, and in which language."""

import html
import re
from collections.abc import Mapping

from stablediff.refusals import translate

# How messages begin, and the control that they are about.
_ABOUT = {
    "prompt": "prompt",
    "negative_prompt": "negative",
    "seed": "seed",
    "width": "size",
    "height": "size",
    "num_steps": "steps",
    "guidance_scale": "guidance",
    "guidance_interval": "interval",
    "num_images": "count",
    "time_budget_s": "seconds",
    "strength": "strength",
    "init_image": "picture",
    "spacing": "spacing",
    "the lcm spacing": "spacing",
    "align_your_steps": "spacing",
    "the picture": "picture",
    "cannot read the picture": "picture",
    "the recipe": "picture",
}

# What the controls are called, for messages that name a request's fields.
_LABELS = {
    "num_steps": "steps",
    "guidance_scale": "guidance",
    "num_images": "pictures",
    "negative_prompt": "negative prompt",
    "time_budget_s": "seconds",
    "init_image": "picture",
}
_FIELDS = rf"(?<![\w'\"])({'|'.join(_LABELS)})(?![\w'\"])"  # and not what is quoted


def control_of(message: str) -> str | None:
    """ "seed is -1: …" -> "seed"; None where no single control is to blame."""
    if re.match(r".{0,60} is not a size", message):
        return "size"
    if re.match(r".{0,60} is no interval", message):
        return "interval"
    return next((control for start, control in _ABOUT.items() if re.match(rf"{start}\b", message)), None)


def beside(message: str, slots: Mapping[str, object], language: str) -> dict[object, str]:
    """What to write into each slot: the message into its own (or into "status"), nothing into the others."""
    control = control_of(message)
    target = control if control is not None and control in slots else "status"
    return dict.fromkeys(slots.values(), "") | {slots[target]: wrong(message, language)}


def wrong(message: str, language: str) -> str:
    """A refusal, with nothing in it that could be markup."""
    said = re.sub(_FIELDS, lambda found: _LABELS[found[0]], translate(message, language))
    return f'<div class="wrong" role="alert">{html.escape(said)}</div>'


def remark(words: str) -> str:
    """What is worth knowing beside a control, and refuses nothing."""
    return f'<div class="hint">{html.escape(words)}</div>'
