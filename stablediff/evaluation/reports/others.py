"""Report 5: the same prompts and seeds by others: another model, and the training pictures looked up."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from stablediff.evaluation.artists import Artist
from stablediff.evaluation.bootstrap import Interval, difference_interval, grouped_interval
from stablediff.evaluation.elsewhere import FolderArtist, write_wishes
from stablediff.evaluation.reports.prompts import Answers, admitted_tasks, answer, interval_of, numbers_of
from stablediff.evaluation.retrieval import Paste, Retrieval
from stablediff.evaluation.scoring import ADMITTED
from stablediff.evaluation.setting import Setting, as_figures, percent, table, write_section, writing
from stablediff.evaluation.sheets import labelled_sheet, save_sheet


def report_others(setting: Setting, models: Sequence[Artist] = ()) -> Path:
    """Writes others.json and its section. -> the report."""
    prompts, each = setting.prompts, len(setting.seeds)
    pictures = setting.out / "pictures"
    with writing(setting.out):
        write_wishes(setting.out, dict.fromkeys(prompt.text for prompt in prompts), setting.seeds)
    check_drawn(setting, models)
    artists: list[Artist] = [
        setting.artist, *models, Retrieval(setting.world, pictures), Paste(setting.world, pictures)
    ]  # fmt: skip
    ceilings = admitted_tasks(setting)
    answers = {artist.name: answer(artist, setting.judge, prompts, setting.seeds) for artist in artists}
    ours = answers[setting.artist.name]
    good = [task for task, share in ceilings.items() if share >= ADMITTED]
    groups = {task: numbers_of(prompts, [task]) for task in ceilings}
    if good:
        groups = {"all admitted": numbers_of(prompts, good), **groups}
    rows: list[list[str]] = []
    figures: dict[str, Any] = {}
    for name, chosen in groups.items():
        row = [name if name in good or name == "all admitted" else f"({name})"]
        figures[name] = {}
        for who, theirs in answers.items():
            score = interval_of(theirs, chosen, each)
            figures[name][who] = {"score": as_figures(score)}
            row.append(percent(score))
            if theirs is not ours and len(chosen) > 1:
                gap = _gap(ours, theirs, chosen, each)
                figures[name][who]["ours_minus_theirs"] = as_figures(gap)
                row[-1] += f", we {_signed(gap.low)} to {_signed(gap.high)}"
        rows.append(row)
    lines = [
        f"{len(prompts)} prompts, {each} seeds each, the same for all. Scores with their 95 % intervals over prompts; "
        "behind those of others, in points, how far ours is above them (pairs of pictures of one prompt and seed). "
        "Tasks in brackets are not admitted. `nearest icon` shows the single icon whose caption is nearest, "
        "`retrieve and paste` puts the named things together from such icons, as they are.",
        "",
        *table(["task", *answers], rows),
        "",
        f"One picture of each task, from the left: {', '.join(answers)}.",
        "",
        save_sheet(labelled_sheet(_rows(setting, answers)), setting.out, "others"),
    ]
    whole = {"prompts": len(prompts), "seeds": each, "groups": figures}
    whole["seconds"] = {who: round(theirs.seconds, 1) for who, theirs in answers.items()}
    return write_section(setting.out, "others", "Is it better than others?", lines, whole)


def check_drawn(setting: Setting, models: Sequence[Artist]) -> None:
    """Raises EvaluationError if another engine's picture is missing."""
    for artist in models:
        if isinstance(artist, FolderArtist):
            artist.check((prompt.text for prompt in setting.prompts), setting.seeds)


def _gap(ours: Answers, theirs: Answers, chosen: Sequence[int], each: int) -> Interval:
    """Where all pairs differ alike, as wide as both scores are."""
    right, groups = ours.of(chosen, each)
    other, _ = theirs.of(chosen, each)
    if groups.unique().numel() > 1 and (right - other).unique().numel() > 1:
        return difference_interval(right, other, groups)
    one, two = grouped_interval(right, groups), grouped_interval(other, groups)
    return Interval(one.value - two.value, one.low - two.high, one.high - two.low)


def _signed(value: float) -> str:
    return f"{100 * value:+.0f}"


def _rows(setting: Setting, answers: dict[str, Answers]) -> list[tuple[str, list[Image.Image]]]:
    """The first prompt of each task: a picture by each artist, in their order."""
    rows = []
    for task in dict.fromkeys(prompt.task for prompt in setting.prompts):
        i = numbers_of(setting.prompts, [task])[0]
        pictures = [theirs.drawn[i * len(setting.seeds)].open() for theirs in answers.values()]
        rows.append((setting.prompts[i].text, pictures))
    return rows
