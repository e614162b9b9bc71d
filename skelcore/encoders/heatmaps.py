"""HeatmapEncoder: CNNs that read stacks of joint or limb heatmaps, and the layer that they share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skelcore.encoders.encoder import Encoder
from skelcore.errors import InputError
from skelcore.layouts import Layout
from skelcore.views.heatmaps import channels, render

SIZE = 56  # pixels of a heatmap's side in pretraining and evaluation; the published test size is 64
SMALLEST = 16  # pixels of a side that every encoder's strides leave something of


class HeatmapEncoder(Encoder):
    """Encoder of ``x`` (N, K, T, H, W); persons are already merged in the heatmaps, so ``valid`` has no effect."""

    @classmethod
    def channels(cls, layout: Layout, coordinates: int = 2, stream: str = "joint") -> int:
        if coordinates != 2:
            raise InputError(f"encoder {cls.name}: heatmaps need 2D poses, not {coordinates}D ones")
        return channels(layout, stream)

    def inputs(self, keypoints: Tensor, scores: Tensor, stream: str = "joint") -> tuple[Tensor, Tensor | None]:
        """Heatmaps of a square around the clip's persons, rendered on the keypoints' device."""
        return render(keypoints, scores, self.layout, stream, SIZE), None

    def timeline(self, x: Tensor, valid: Tensor | None = None, compat: bool = False) -> Tensor:
        """Features (N, D, T') of ``x`` (N, K, T, H, W): the mean over height and width."""
        return self.features(x).mean((-2, -1))

    def check(self, x: Tensor) -> None:
        """Raise InputError unless ``x`` is (N, K, T, H, W) of this encoder's K, not empty, and finite."""
        if x.ndim != 5 or x.shape[1] != self.in_channels:
            raise InputError(f"{self.name} for layout {self.layout.name} takes (N, {self.in_channels}, T, H, W), "
                             f"got {tuple(x.shape)}")
        if x.numel() and min(x.shape[-2:]) < SMALLEST:
            raise InputError(f"{self.name}: heatmaps of {x.shape[-2]} x {x.shape[-1]} pixels are too small; "
                             f"render them with at least {SMALLEST} x {SMALLEST}")
        if x.numel() == 0:
            raise InputError(f"{self.name}: empty input {tuple(x.shape)}; every clip needs a frame and some pixels")
        # A graph capture cannot branch on values.
        if not torch.compiler.is_compiling() and not torch.isfinite(x).all():
            raise InputError(f"{self.name}: the input holds NaN or infinity")


class ConvNorm(nn.Module):
    """A 3D convolution without bias that keeps the size but for its stride, and its batch norm."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int, int] = (1, 1, 1),
                 stride: tuple[int, int, int] = (1, 1, 1), groups: int = 1) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm3d(outputs)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        if self.bn.training:
            y = self.conv(x)
            if y.numel() == y.shape[1]:
                raise InputError("heatmaps shrink to one value here, too little to train batch norm on: use more "
                                 "frames, pixels or clips")
            normed: Tensor = self.bn(y)
            return normed
        weight, bias = folded(self.conv, self.bn)
        return F.conv3d(x, weight, bias, self.conv.stride, self.conv.padding, 1, self.conv.groups)


def folded(conv: nn.Conv3d, bn: nn.BatchNorm2d | nn.BatchNorm3d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that equals ``conv`` and then ``bn`` in evaluation."""
    assert bn.running_mean is not None and bn.running_var is not None
    scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
    return conv.weight * scale[:, None, None, None, None], bn.bias - bn.running_mean * scale
