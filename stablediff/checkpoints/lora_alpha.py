"""The settings in a LoRA file's header, as diffusers writes them: how strongly each layer's delta counts."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import nn

from stablediff.errors import CheckpointError
from stablediff.models.lora import attached

ADAPTER_SETTINGS = "lora_adapter_metadata"


class AdapterSettings:
    """`metadata` of a file -> alpha of its layers. Raises CheckpointError."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        try:
            self.settings: Any = json.loads(metadata.get(ADAPTER_SETTINGS, "{}"))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"this LoRA's {ADAPTER_SETTINGS} cannot be read ({error}): get it again") from error
        if not isinstance(self.settings, dict):
            raise CheckpointError(f"this LoRA's {ADAPTER_SETTINGS} is not a table of settings: get it again")

    def alpha(self, network: str, layer: str, rank: int) -> float:
        """The layer's own alpha, or the network's, or the rank: without any word the factor is 1."""
        alpha = self.settings.get(f"{network}.lora_alpha", rank)
        patterns = self.settings.get(f"{network}.alpha_pattern") or {}
        for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
            if _matches(pattern, layer):
                alpha = value
                break
        alpha = to_alpha(alpha, layer)
        # "Rank-stabilised" (arXiv:2312.03732): alpha is over the root of the rank.
        return to_alpha(alpha * math.sqrt(rank), layer) if self.settings.get(f"{network}.use_rslora") else alpha


def to_alpha(value: object, layer: str) -> float:
    """A number that can be reckoned with. Raises CheckpointError."""
    try:
        alpha = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        alpha = math.inf
    if not math.isfinite(alpha):
        raise CheckpointError(f"this LoRA has alpha = {str(value)[:40]} for {layer}: get it again")
    return alpha


def _matches(pattern: str, layer: str) -> bool:
    """Patterns are the ends of names, or whole names after a ^; peft also allows any expression, which nobody uses."""
    name = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
    if not re.fullmatch(r"[\w.]+", name):
        raise CheckpointError(
            f"this LoRA has the alpha_pattern {pattern[:80]!r}, and only names are known: get another"
        )
    name = name.removeprefix("text_model.")
    return layer == name if pattern.startswith("^") else f".{layer}".endswith(f".{name}")


def to_settings(networks: Mapping[str, nn.Module]) -> str:
    """What is attached to the networks, in the words of peft's LoraConfig."""
    settings: dict[str, Any] = {}
    for network, module in networks.items():
        loras = {name: lora for name, _, lora in attached(module)}
        if not loras:
            continue
        rank = Counter(lora.rank for lora in loras.values()).most_common(1)[0][0]
        alpha = Counter(lora.alpha for lora in loras.values()).most_common(1)[0][0]
        settings |= {
            f"{network}.r": rank,
            f"{network}.lora_alpha": alpha,
            f"{network}.rank_pattern": {name: lora.rank for name, lora in loras.items() if lora.rank != rank},
            f"{network}.alpha_pattern": {name: lora.alpha for name, lora in loras.items() if lora.alpha != alpha},
            f"{network}.target_modules": list(loras),
        }
    return json.dumps(settings, indent=2, sort_keys=True)
