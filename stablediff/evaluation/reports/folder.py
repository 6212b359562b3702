"""Report 7: any model against a folder of real pictures with captions. It needs no judge and no icons."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from stablediff.checkpoints.clip_model import ClipModel
from stablediff.errors import EvaluationError, RequestError
from stablediff.evaluation.artists import ModelArtist
from stablediff.evaluation.clip import image_features, text_features
from stablediff.evaluation.features import Embed, random_features
from stablediff.evaluation.frechet import frechet_distance
from stablediff.evaluation.kernel import cmmd
from stablediff.evaluation.reports.distribution import FIGURES, distances, through_autoencoder
from stablediff.evaluation.reports.text import score_table, text_scores
from stablediff.evaluation.setting import as_figures, draw_each, progress, table, write_section
from stablediff.evaluation.sheets import labelled_sheet, save_sheet
from stablediff.pipeline import Pipeline
from stablediff.request import Request
from stablediff.training.data.folder import FolderPictures

_LEAST, _SHOWN = 20, 8


def report_folder(
    pipeline: Pipeline,
    pictures: Path,
    out: Path,
    clip: ClipModel | None = None,
    name: str = "",
    limit: int = 1000,
    inception: Embed | None = None,
) -> Path:
    """Draws one picture for each caption. Writes folder.json and its section. -> the report. Raises EvaluationError."""
    folder = FolderPictures(pictures, pipeline.config.defaults.width, 4)
    count = min(len(folder), limit)
    if limit < _LEAST:
        raise EvaluationError(f"a limit of {limit} pictures: {_LEAST} or more are needed to compare")
    if count < _LEAST:
        raise EvaluationError(
            f"{pictures} has {count} pictures with captions to compare with, and {_LEAST} are needed: add some"
        )
    chosen = np.random.default_rng(0).permutation(len(folder))[:count].tolist()  # names often go by what is shown
    captions = _captions(folder, chosen)
    drawn = draw_each(ModelArtist(pipeline, out / "pictures"), captions)
    seconds = sum(one.seconds for one in drawn)

    def real(numbers: Iterable[int] = range(count)) -> Iterator[Image.Image]:
        return (Image.fromarray(folder.picture(chosen[i])) for i in numbers)

    def fake() -> Iterator[Image.Image]:
        return (one.open() for one in drawn)

    lines = [
        f"{pipeline.name} against {count} pictures of `{pictures.name}`, one picture drawn for each caption in "
        f"{seconds / 60:.1f} minutes."
    ]
    figures: dict[str, Any] = {"model": pipeline.name, "pictures": count, "seconds": round(seconds, 1)}
    if clip is not None:
        texts, owner = text_features(clip, captions), torch.arange(count)
        own, theirs = image_features(clip, fake()), image_features(clip, real())
        found, ceiling = text_scores(own, texts, owner), text_scores(theirs, texts, owner)
        figures["text"] = {what: as_figures(value) for what, value in found.items()}
        figures["text of real pictures"] = {what: as_figures(value) for what, value in ceiling.items()}
        figures["CMMD"] = cmmd(theirs, own)
        lines += ["", f"**By the CLIP in `{name}`**", "", *score_table(found)]
        lines += ["", "Real pictures and the same captions:", "", *score_table(ceiling)]
        lines += ["", f"CMMD to the real pictures: {figures['CMMD']:.3f}."]
    else:
        own, theirs = random_features(fake()), random_features(real())
    half = count // 2
    if half >= _LEAST:  # the floors are of other pictures than the reference, as those that are drawn are
        others = progress(range(half, 2 * half), "through the autoencoder")
        decoded = (through_autoencoder(pipeline, picture) for picture in real(others))
        floor = image_features(clip, decoded) if clip is not None else random_features(decoded)
        sides = f"{half} pictures a side"
        sets = {"real pictures": theirs[half : 2 * half], "the same through the autoencoder": floor}
        sets, reference = {**sets, pipeline.name: own[half : 2 * half]}, theirs[:half]
    else:
        sides = f"{count} pictures a side, which are too few to say how far real ones are from each other"
        sets, reference = {pipeline.name: own}, theirs
    figures["distances"] = {what: distances(reference, features) for what, features in sets.items()}
    way = "that CLIP's features" if clip is not None else "random convolutions (name a CLIP with --clip for more)"
    rows = [[what, *(f"{value:.3g}" for value in values.values())] for what, values in figures["distances"].items()]
    lines += ["", f"**Distances to real pictures by {way}**, {sides}", "", *table(["", *FIGURES], rows), ""]
    if inception is not None:
        figures["FID"] = frechet_distance(inception(real()), inception(fake()))
        lines += [f"FID of {count} pictures: {figures['FID']:.2f}. It compares with FIDs of as many pictures only.", ""]
    shown = [(captions[i], [*real([i]), drawn[i].open()]) for i in range(_SHOWN)]
    lines += ["Real, and drawn:", "", save_sheet(labelled_sheet(shown), out, "folder")]
    return write_section(out, "folder", "Against a folder of real pictures", lines, figures)


def _captions(folder: FolderPictures, chosen: Sequence[int]) -> list[str]:
    """One of each picture's. Raises EvaluationError for one that cannot be drawn, before any is."""
    captions = [folder.caption(i, np.random.default_rng(i)) for i in chosen]
    for i, caption in zip(chosen, captions, strict=True):
        try:
            Request(prompt=caption)
        except RequestError as error:
            raise EvaluationError(f"the caption of {folder.path(i).name} cannot be drawn: {error}") from error
    return captions
