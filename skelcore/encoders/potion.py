"""PoTion: Choutas, Weinzaepfel, Revaud, Schmid, "PoTion: Pose MoTion Representation for Action Recognition", CVPR 2018.

The heatmaps of a clip become one image that time colours: with colours o_c(t), piecewise linear and summing to one,
S_c = sum_t o_c(t) H(t), then U_c = S_c / max S_c, the intensity I = sum_c U_c, and N_c = U_c / (1 + I). A small 2D-CNN
reads all 2 C + 1 images of each joint: the cheap member among the heatmap encoders.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skelcore.encoders.heatmaps import HeatmapEncoder
from skelcore.layouts import Layout

COLOURS = 4  # C, the paper's best


def colours(frames: int, like: Tensor) -> Tensor:
    """The weights o (C, T): each of C evenly spaced peaks falls to zero at the next ones."""
    peaks = torch.arange(COLOURS, dtype=like.dtype, device=like.device)
    place = torch.linspace(0, COLOURS - 1, frames, dtype=like.dtype, device=like.device)
    return (1 - (place - peaks[:, None]).abs()).clamp(min=0)


def motion_images(x: Tensor) -> Tensor:
    """Heatmaps (N, K, T, H, W) -> images (N, K (2 C + 1), H, W): for each joint all U_c, then I, then all N_c.

    A joint that has no heat in a colour's frames has a U_c of zero.
    """
    # Full precision even under autocast: rounding would tint the image.
    with torch.autocast(x.device.type, enabled=False):
        summed = torch.einsum("ct,nkthw->nkchw", colours(x.shape[2], x), x)
        peak = summed.amax((-2, -1), keepdim=True)
        coloured = summed / peak.clamp(min=torch.finfo(x.dtype).tiny)
        intensity = coloured.sum(2, keepdim=True)
        return torch.cat([coloured, intensity, coloured / (1 + intensity)], 2).flatten(1, 2)


class ConvNormRelu(nn.Module):
    """relu(BN(conv)) with a 3 x 3 convolution of (N, C, H, W)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.bn(self.conv(x)))


class PoTion(HeatmapEncoder):
    """The encoder: (N, K, T, H, W) -> (N, 4 width, 1, H / 8, W / 8), sides rounded up."""

    name = "potion"
    WIDTH = 128

    def __init__(self, layout: Layout, in_channels: int = 17, width: int = 128) -> None:
        super().__init__(layout, in_channels, width)
        self.dim = 4 * width
        outputs = [width, 2 * width, 4 * width]
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(ConvNormRelu(before, after, 2), ConvNormRelu(after, after, 1))
            for before, after in zip([in_channels * (2 * COLOURS + 1), *outputs], outputs, strict=False))

    def features(self, x: Tensor) -> Tensor:
        self.check(x)
        y: Tensor = self.layer3(self.layer2(self.layer1(motion_images(x))))
        return y[:, :, None]

    def pyskl_keys(self) -> dict[str, list[str]]:
        return {key: [key] for key in self.state_dict()}
