"""How far a decoded picture is from the original: pixels, edges and colours, at several scales.

All losses are means over everything; pictures are (B,C,H,W) in [-1, 1], with C = 3 (RGB) or 4 (RGB over white, alpha).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_SCALES = ((1, 1.0), (2, 0.4), (4, 0.4))  # side of the pooling, weight


def saturate(decoded: Tensor, original: Tensor) -> Tensor:
    """Where the original is black, white, clear or opaque, going beyond is no error: it is clipped when drawn.

    So flat areas and clear backgrounds may be decoded with a margin, and stay flat when the latents are a little off.
    """
    return torch.where((original >= 1) & (decoded > 1) | (original <= -1) & (decoded < -1), original, decoded)


def pyramid_l1(decoded: Tensor, original: Tensor, edges: float, laplacian: float) -> Tensor:
    """|x - y| on pixels and on averages of 2x2 and 4x4, with the same of first and second differences."""
    total = decoded.new_zeros(())
    for side, weight in _SCALES:
        error = decoded - original
        if side > 1:
            error = F.avg_pool2d(error, side)
        total = total + weight * error.abs().mean()
        if edges:
            total = total + edges * (_difference(error, -1).abs().mean() + _difference(error, -2).abs().mean())
        if laplacian:
            total = total + laplacian * _laplacian(error).abs().mean()
    return total


def _difference(x: Tensor, dim: int) -> Tensor:
    """The gradient's discrete form: linear, so that the difference of edges is the edge of the difference."""
    return x.diff(dim=dim)


def _laplacian(x: Tensor) -> Tensor:
    """∂²x/∂h² + ∂²x/∂w², inside of the border."""
    return x[..., 2:, 1:-1] + x[..., :-2, 1:-1] + x[..., 1:-1, 2:] + x[..., 1:-1, :-2] - 4 * x[..., 1:-1, 1:-1]


def colour_loss(decoded: Tensor, original: Tensor) -> Tensor:
    """Lightness and colour opponents of 8x8 areas, |d| + 3 d².

    Group norms forget the mean of a picture, so shapes are learnt long before colours, unless colours count by
    themselves.
    """
    error = F.avg_pool2d(decoded - original, 8)
    red, green, blue = error[:, 0], error[:, 1], error[:, 2]
    parts = [(red + green + blue) / 3, 2 * (red - green), 1.5 * (blue - (red + green) / 2)]
    opponents = torch.stack([*parts, *error[:, 3:].unbind(1)], dim=1)
    return opponents.abs().mean() + 3 * opponents.square().mean()


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(μ, σ²) || N(0, 1)) per number (Kingma and Welling 2013, arXiv:1312.6114, appendix B)."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()


def psnr(decoded: Tensor, original: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture: (B,C,H,W) twice -> (B,)."""
    error = (decoded.clamp(-1, 1) - original).square().flatten(1).mean(dim=1)
    return -10 * (error / 4).clamp(min=1e-10).log10()  # the peak is 2
