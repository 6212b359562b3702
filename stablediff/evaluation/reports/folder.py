"""Report 7: any model against a folder of real pictures with captions. It needs no judge and no icons."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from stablediff.checkpoints.clip_model import ClipModel
from stablediff.errors import EvaluationError, RequestError
from stablediff.evaluation.artists import Drawn, ModelArtist
from stablediff.evaluation.clip import image_features, text_features
from stablediff.evaluation.features import Embed, random_features
from stablediff.evaluation.frechet import frechet_distance
from stablediff.evaluation.kernel import cmmd
from stablediff.evaluation.reports.distribution import FIGURES, distances, through_autoencoder
from stablediff.evaluation.reports.text import score_table, text_scores
from stablediff.evaluation.setting import as_figures, progress, table, write_section
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
    captions = _captions(folder, count)
    drawn: list[Drawn] = []
    seconds = 0.0
    artist = ModelArtist(pipeline, out / "pictures")
    for i, caption in enumerate(progress(captions, f"{pipeline.name}: drawing")):
        (one,) = artist.draw(caption, [i])  # a seed of its own each: equal captions get different pictures
        drawn.append(one)
        seconds += one.seconds

    def real() -> Iterator[Image.Image]:
        return (Image.fromarray(folder.picture(i)) for i in range(count))

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
    decoded = (through_autoencoder(pipeline, picture) for picture in progress(list(real()), "through the autoencoder"))
    floor = image_features(clip, decoded) if clip is not None else random_features(decoded)
    sets = {"the same through the autoencoder": distances(theirs, floor), pipeline.name: distances(theirs, own)}
    half = count // 2
    if half >= _LEAST:
        sets = {"half of them against the other half": distances(theirs[:half], theirs[half : 2 * half]), **sets}
    figures["distances"] = sets
    features = "that CLIP's features" if clip is not None else "random convolutions (name a CLIP with --clip for more)"
    rows = [[what, *(f"{value:.3g}" for value in values.values())] for what, values in sets.items()]
    lines += ["", f"**Distances by {features}**", "", *table(["", *FIGURES], rows), ""]
    if inception is not None:
        figures["FID"] = frechet_distance(inception(real()), inception(fake()))
        lines += [f"FID of {count} pictures: {figures['FID']:.2f}. It compares with FIDs of as many pictures only.", ""]
    shown = [(captions[i], [Image.fromarray(folder.picture(i)), drawn[i].open()]) for i in range(_SHOWN)]
    lines += ["Real, and drawn:", "", save_sheet(labelled_sheet(shown), out, "folder")]
    return write_section(out, "folder", "Against a folder of real pictures", lines, figures)


def _captions(folder: FolderPictures, count: int) -> list[str]:
    """One of each picture's. Raises EvaluationError for one that cannot be drawn, before any is."""
    captions = [folder.caption(i, np.random.default_rng(i)) for i in range(count)]
    for i, caption in enumerate(captions):
        try:
            Request(prompt=caption)
        except RequestError as error:
            raise EvaluationError(f"the caption of {folder.path(i).name} cannot be drawn: {error}") from error
    return captions
