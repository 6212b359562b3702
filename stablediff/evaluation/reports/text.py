"""Report 3: how well pictures and captions belong together, by any CLIP."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stablediff.checkpoints.clip_model import ClipModel
from stablediff.errors import EvaluationError
from stablediff.evaluation.bootstrap import Interval, mean_interval
from stablediff.evaluation.clip import image_features, text_features
from stablediff.evaluation.setting import Setting, as_figures, draw_all, table, write_section
from stablediff.evaluation.similarity import caption_margin, clip_score, mismatch_margin, r_precision


def report_text(setting: Setting, clip: ClipModel, name: str) -> Path:
    """Writes text.json and its section. -> the report."""
    each = len(setting.seeds)
    prompts = list({prompt.text: prompt for prompt in setting.prompts}.values())  # those of two tasks are one caption
    drawn, seconds = draw_all(setting.artist, [prompt.text for prompt in prompts], setting.seeds)
    images = image_features(clip, (one.open() for one in drawn))
    owner = torch.arange(len(drawn)) // each
    texts = text_features(clip, [prompt.text for prompt in prompts])
    swapped = text_features(clip, [prompt.swapped for prompt in prompts])
    found = text_scores(images, texts, owner)
    found["swapped-caption margin"] = interval(caption_margin(images, texts[owner], swapped[owner]), owner)
    lines = [
        f"By the CLIP in `{name}`, over {len(drawn)} pictures of {len(prompts)} prompts, with 95 % intervals.",
        "",
        *score_table(found),
        "",
        "The margins are differences of cosines: to the captions of other pictures, and to the same caption with what "
        "matters exchanged (colours, places, numbers, things). Above 0 is right.",
    ]
    figures: dict[str, Any] = {"clip": name, "pictures": len(drawn), "seconds": round(seconds, 1)}
    figures |= {what: as_figures(value) for what, value in found.items()}
    return write_section(setting.out, "text", "Do pictures and captions belong together?", lines, figures)


def text_scores(images: Tensor, texts: Tensor, owner: Tensor) -> dict[str, Interval]:
    """CLIP score, the margin to other captions, and R-precision among at most 100. Raises EvaluationError."""
    if len(texts) < 2:
        raise EvaluationError("there is 1 caption, and its picture can be compared with no other: give 2 or more")
    candidates = min(100, len(texts))
    return {
        "CLIP score": interval(clip_score(images, texts[owner]), owner),
        "margin to other captions": interval(mismatch_margin(images, texts, owner), owner),
        f"R-precision of {candidates}": interval(r_precision(images, texts, owner, candidates), owner),
    }


def interval(values: Tensor, owner: Tensor) -> Interval:
    """Pictures of one prompt are drawn together."""
    return mean_interval(values, owner)


def score_table(found: dict[str, Interval]) -> Sequence[str]:
    rows = [[what, f"{one.value:.4f} ({one.low:.4f} to {one.high:.4f})"] for what, one in found.items()]
    return table(["", "value"], rows)
