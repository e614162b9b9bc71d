"""HeatmapEncoder: 3D-CNNs that read stacks of joint or limb heatmaps."""

from __future__ import annotations

import torch
from torch import Tensor

from skelcore.encoders.encoder import Encoder
from skelcore.errors import InputError
from skelcore.layouts import Layout
from skelcore.views.heatmaps import channels, render

SIZE = 56  # pixels of a heatmap's side in pretraining and evaluation; the published test size is 64


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
        if x.numel() == 0:
            raise InputError(f"{self.name}: empty input {tuple(x.shape)}; every clip needs a frame and some pixels")
        # A graph capture cannot branch on values.
        if not torch.compiler.is_compiling() and not torch.isfinite(x).all():
            raise InputError(f"{self.name}: the input holds NaN or infinity")
