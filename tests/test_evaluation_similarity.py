"""CLIP scores and retrieval, against torchmetrics, drawing by lot, and what is known in closed form."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torchmetrics.functional.multimodal import clip_score as torchmetrics_clip_score

from stablediff.errors import EvaluationError
from stablediff.evaluation import similarity
from stablediff.evaluation.similarity import (
    caption_margin,
    clip_score,
    cosine_percent,
    mismatch_margin,
    r_precision,
    retrieval,
)


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class AsTheyAre(torch.nn.Module):
    """A CLIP model for torchmetrics whose pictures and captions are features already: (3,1,D/3), and a row's number."""

    def __init__(self, texts: torch.Tensor) -> None:
        super().__init__()
        self.texts, self.config = texts, SimpleNamespace()

    def get_image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.flatten(1)

    def get_text_features(self, ids: torch.Tensor, _mask: torch.Tensor) -> torch.Tensor:
        return self.texts[ids[:, 0]]


def process(images: list[torch.Tensor] | None = None, text: list[str] | None = None, **_: Any) -> dict[str, Any]:
    if images is not None:
        return {"pixel_values": torch.stack(images)}
    ids = torch.tensor([[int(t)] for t in text or []])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def reference(images: torch.Tensor, texts: torch.Tensor) -> float:
    pictures = list(images.view(len(images), 3, 1, -1))
    numbers = [str(i) for i in range(len(texts))]
    return torchmetrics_clip_score(pictures, numbers, lambda: (AsTheyAre(texts), process)).item()  # type: ignore[arg-type]


def test_the_mean_cosine_is_that_of_torchmetrics() -> None:
    texts = normals(40, 12)
    images = texts + 2 * normals(40, 12, seed=1)
    assert cosine_percent(images, texts).mean().item() == pytest.approx(reference(images, texts), rel=1e-9)
    assert reference(-images, texts) == 0 == max(0.0, cosine_percent(-images, texts).mean().item())


def test_hessels_score_is_its_equation() -> None:
    images = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.0]])
    texts = torch.tensor([[1.0, 0.0], [5.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
    expected = torch.tensor([2.5, 0.0, 2.5 / 2**0.5, 0.0], dtype=torch.float64)
    torch.testing.assert_close(clip_score(images, texts), expected)
    torch.testing.assert_close(clip_score(images, texts, weight=1.0), expected / 2.5)
    torch.testing.assert_close(cosine_percent(images, texts)[-1].item(), -100.0)


def test_margins_are_differences_of_cosines() -> None:
    images, texts, swapped = torch.eye(3), torch.eye(3), torch.eye(3).roll(1, dims=0)
    assert caption_margin(images, texts, swapped).tolist() == [1, 1, 1]
    assert caption_margin(images, swapped, texts).tolist() == [-1, -1, -1]
    assert caption_margin(images, texts, texts).tolist() == [0, 0, 0]
    assert mismatch_margin(images, texts).tolist() == [1, 1, 1]
    x, y = normals(7, 5), normals(7, 5, seed=1)
    cosines = torch.nn.functional.cosine_similarity(x[:, None], y[None], dim=-1)
    others = (cosines.sum(dim=1) - cosines.diagonal()) / 6
    torch.testing.assert_close(mismatch_margin(x, y), cosines.diagonal() - others)


def test_retrieval_counts_ranks() -> None:
    images, texts = normals(30, 6), normals(30, 6, seed=1)
    cosines = torch.nn.functional.cosine_similarity(images[:, None], texts[None], dim=-1)
    ranks = (cosines > cosines.diagonal()[:, None]).sum(dim=1)
    for k in (1, 5, 30):
        assert retrieval(images, texts, k=k).tolist() == pytest.approx((ranks < k).double().tolist())
    assert retrieval(texts, texts).mean() == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "_BLOCK", 1)
        assert retrieval(images, texts, k=5).tolist() == pytest.approx((ranks < 5).double().tolist())


def test_pictures_may_share_a_caption() -> None:
    texts = normals(10, 6)
    owner = torch.arange(10).repeat_interleave(4)
    images = texts[owner] + 0.1 * normals(40, 6, seed=1)
    assert retrieval(images, texts, owner).mean() == 1
    assert retrieval(images, texts, owner.roll(4)).mean() < 0.2
    assert mismatch_margin(images, texts, owner).mean() > 0.8


def test_a_collapsed_encoder_scores_what_guessing_does() -> None:
    images, same = normals(20, 6), torch.ones(20, 6)
    for a, b in ((images, same), (same, images), (same, same)):
        for k in (1, 5):
            assert retrieval(a, b, k=k).mean().item() == pytest.approx(k / 20)
        assert r_precision(a, b, candidates=8).mean().item() == pytest.approx(1 / 8)


def test_r_precision_is_what_drawing_by_lot_gives() -> None:
    texts = normals(40, 8)
    images = texts + 1.5 * normals(40, 8, seed=1)
    texts[3] = texts[4]  # a tie
    cosines = torch.nn.functional.cosine_similarity(images[:, None], texts[None], dim=-1)
    generator, hits, rounds = torch.Generator().manual_seed(0), torch.zeros(40), 3000
    own = cosines.diagonal()
    keys = torch.rand(rounds, 40, 40, generator=generator)
    keys += 2 * torch.eye(40)  # its own caption is no distractor
    drawn = keys.topk(9, dim=2, largest=False).indices
    others = cosines.expand(rounds, 40, 40).gather(2, drawn)
    nearer, equal = (others > own[:, None] + 1e-9).any(dim=2), ((others - own[:, None]).abs() < 1e-9).sum(dim=2)
    hits = ((~nearer).double() / (1 + equal)).mean(dim=0)
    torch.testing.assert_close(r_precision(images, texts, candidates=10), hits, atol=0.04, rtol=0)
    assert r_precision(images, texts, candidates=10).mean() == pytest.approx(hits.mean().item(), abs=0.005)
    torch.testing.assert_close(r_precision(images, texts, candidates=40), retrieval(images, texts))


def test_shuffled_prompts_are_seen_by_every_score() -> None:
    texts = normals(200, 16)
    images, shuffled = (
        texts + normals(200, 16, seed=1),
        texts[torch.randperm(200, generator=torch.Generator().manual_seed(0))],
    )
    for score in (clip_score, cosine_percent, mismatch_margin, retrieval, r_precision):
        assert score(images, texts).mean() > 3 * score(images, shuffled).mean().abs()


def test_bad_input_is_named() -> None:
    good, nan = normals(20, 4), normals(20, 4)
    nan[2] = torch.nan
    zero = good.clone()
    zero[6] = 0
    for images, texts, message in [
        (good, nan, "the features of captions hold NaN or infinity in 1 of 20 rows, first in row 2"),
        (good[:5], good, "there are 5 pictures and 20 captions: give pairs"),
        (good[:0], good[:0], "the number of pictures is 0"),
        (
            good,
            good[:, :2],
            "the features of pictures are 4 numbers and those of captions 2: take both from the same network",
        ),
        (zero, good, "features of pictures are all zero in row 6"),
        (good, good[0], "shape"),
    ]:
        for score in (clip_score, cosine_percent, mismatch_margin, retrieval):
            with pytest.raises(EvaluationError, match=message):
                score(images, texts)
    with pytest.raises(EvaluationError, match="there are 20 pictures and 19 swapped captions"):
        caption_margin(good, good, good[1:])
    with pytest.raises(EvaluationError, match="the number of captions is 1, and must be at least 2"):
        retrieval(good[:1], good[:1])
    with pytest.raises(
        EvaluationError,
        match="the number of captions is 20, and must be at least 100: give more, or fewer candidates",
    ):
        r_precision(good, good)
    with pytest.raises(EvaluationError, match="the number of candidates is 1: give a whole number of at least 2"):
        r_precision(good, good, candidates=1)
    with pytest.raises(EvaluationError, match="k, the number of captions looked at, is 0"):
        retrieval(good, good, k=0)
    for owner, message in [
        (torch.arange(20) + 1, "owner has numbers from 1 to 20, and there are 20 captions: number them from 0 to 19"),
        (torch.arange(20) - 1, "owner has numbers from -1 to 18"),
        (torch.arange(19), "there are 20 pictures and 19 owners"),
        (torch.zeros(20), "owner is torch.float32 of shape"),
        (torch.zeros(20, 1, dtype=torch.int64), r"of shape \(20, 1\): give the number of a caption"),
    ]:
        with pytest.raises(EvaluationError, match=message):
            retrieval(good, good, owner)
