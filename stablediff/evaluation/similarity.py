"""How well pictures and captions belong together, from the features that a CLIP model gives of both.

All values are of one picture; their mean is the figure, and `bootstrap` draws an interval around it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from stablediff.errors import EvaluationError
from stablediff.evaluation.checks import as_features, as_units, check_same_length, check_same_width, check_whole

_TIE = 1e-7  # cosines that float32 features cannot tell apart
_BLOCK = 2**22  # cosines at once: 32 MiB


def clip_score(images: Tensor, texts: Tensor, weight: float = 2.5) -> Tensor:
    """w · max(cos, 0) of pairs, (N,D) twice -> (N,) (Hessel et al. 2021, arXiv:2104.08718, section 3)."""
    return weight * _pair_cosines(images, texts).clamp(min=0)


def cosine_percent(images: Tensor, texts: Tensor) -> Tensor:
    """100 · cos of pairs, (N,D) twice -> (N,): what torchmetrics calls CLIP score, there max(mean, 0)."""
    return 100 * _pair_cosines(images, texts)


def caption_margin(images: Tensor, texts: Tensor, swapped: Tensor) -> Tensor:
    """How much nearer a picture is to its caption than to that caption with words swapped.

    The difference of cosines, (N,D) x 3 -> (N,). Above 0 where "red apple, green leaf" is what was drawn, and
    not "green apple, red leaf".
    """
    own, other = _pair_cosines(images, texts), _pair_cosines(images, swapped, "swapped captions")
    return own - other


def mismatch_margin(images: Tensor, texts: Tensor, owner: Tensor | None = None) -> Tensor:
    """How much nearer a picture is to its caption than to the others on average; about 0 for shuffled captions.

    The difference of cosines, (N,D), (T,D) -> (N,). For `owner` see `retrieval`.
    """
    images, texts, owner = _candidates(images, texts, owner)
    own = (images * texts[owner]).sum(dim=1)
    return own - (images @ texts.sum(dim=0) - own) / (len(texts) - 1)


def retrieval(images: Tensor, texts: Tensor, owner: Tensor | None = None, k: int = 1) -> Tensor:
    """R@k: the chance that a picture's own caption is among the k nearest of all T, (N,D), (T,D) -> (N,) in [0, 1].

    owner (N,) says which of the texts is a picture's own, when several pictures share one; without it the n-th is the
    n-th's. Captions that are equally near take each other's places by chance, so that a text encoder that has
    collapsed scores k / T and not 1.
    """
    images, texts, owner = _candidates(images, texts, owner)
    check_whole(k, "k, the number of captions looked at,")
    return _by_rank(images, texts, owner, (torch.arange(len(texts)) < k).double())


def r_precision(images: Tensor, texts: Tensor, owner: Tensor | None = None, candidates: int = 100) -> Tensor:
    """The chance that a picture's own caption is nearest among `candidates`, the others being drawn from those of other
    pictures (Xu et al. 2018, arXiv:1711.10485, section 4: 100): (N,D), (T,D), T >= candidates -> (N,) in [0, 1].

    No drawing is needed: if p of T - 1 captions are nearer, none of them is drawn with the chance
    C(T - 1 - p, candidates - 1) / C(T - 1, candidates - 1).
    """
    check_whole(candidates, "the number of candidates", at_least=2)
    images, texts, owner = _candidates(images, texts, owner, at_least=candidates)
    others, nearer = len(texts) - 1, torch.arange(len(texts) - 1, dtype=torch.float64)
    chance_not_drawn = (1 - (candidates - 1) / (others - nearer)).clamp(min=0).cumprod(dim=0)
    return _by_rank(images, texts, owner, torch.cat([torch.ones(1, dtype=torch.float64), chance_not_drawn]))


def _by_rank(images: Tensor, texts: Tensor, owner: Tensor, worth: Tensor) -> Tensor:
    """worth (T,) of a rank, for each picture's own caption; with ties the mean over the ranks that it may have."""
    sums = F.pad(worth.cumsum(dim=0), (1, 0)).to(images.device)
    values, step = [], max(1, _BLOCK // len(texts))
    for rows, own in zip(images.split(step), owner.split(step), strict=True):
        ahead = rows @ texts.T - (rows * texts[own]).sum(dim=1, keepdim=True)
        nearer = (ahead > _TIE).sum(dim=1)
        equal = ((ahead.abs() <= _TIE).sum(dim=1)).clamp(min=1)
        values.append((sums[nearer + equal] - sums[nearer]) / equal)
    return torch.cat(values)


def _candidates(
    images: Tensor, texts: Tensor, owner: Tensor | None, at_least: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    """Unit images (N,D), unit texts (T,D), owner (N,)."""
    images = as_units(as_features(images, "pictures"), "pictures")
    texts = as_units(as_features(texts, "captions", at_least, "give more, or fewer candidates"), "captions")
    check_same_width(images, "pictures", texts, "captions")
    texts = texts.to(images.device)
    if owner is None:
        check_same_length(images, "pictures", texts, "captions")
        return images, texts, torch.arange(len(texts), device=images.device)
    if owner.ndim != 1 or owner.is_floating_point() or owner.is_complex() or owner.dtype == torch.bool:
        raise EvaluationError(
            f"owner is {owner.dtype} of shape {tuple(owner.shape)}: give the number of a caption for each picture"
        )
    check_same_length(images, "pictures", owner, "owners")
    if owner.min() < 0 or owner.max() >= len(texts):
        raise EvaluationError(
            f"owner has numbers from {int(owner.min())} to {int(owner.max())}, and there are {len(texts)} captions: "
            f"number them from 0 to {len(texts) - 1}"
        )
    return images, texts, owner.to(images.device)


def _pair_cosines(images: Tensor, texts: Tensor, name: str = "captions") -> Tensor:
    images, texts = as_units(as_features(images, "pictures"), "pictures"), as_units(as_features(texts, name), name)
    check_same_length(images, "pictures", texts, name)
    check_same_width(images, "pictures", texts, name)
    return (images * texts.to(images.device)).sum(dim=1)
