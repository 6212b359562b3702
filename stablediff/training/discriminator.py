"""A patch discriminator, for the last touch of sharpness (Isola et al. 2016, arXiv:1611.07004; Rombach et al. 2022)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches of 46 pixels: (B,C,H,W) -> (B,1,h,w), high for real ones."""

    def __init__(self, channels: int, width: int = 48) -> None:
        super().__init__()
        widths = [channels, width, 2 * width, 4 * width]
        layers: list[nn.Module] = []
        for i in range(3):
            layers += [nn.Conv2d(widths[i], widths[i + 1], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
            if i:
                layers.insert(-1, nn.GroupNorm(8, widths[i + 1]))
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def adversarial_losses(judge: PatchDiscriminator, decoded: Tensor, original: Tensor) -> tuple[Tensor, Tensor]:
    """-> the decoder's loss, which leaves the judge alone, and the judge's hinge loss, which leaves the decoder alone.

    Kept apart like this, one optimiser can follow their sum.
    """
    frozen = {name: p.detach() for name, p in judge.named_parameters()}
    fooling = -functional_call(judge, frozen, (decoded,)).mean()
    real, fake = judge(original), judge(decoded.detach())
    hinge = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return fooling, torch.as_tensor(hinge / 2)
