"""C3D-light: the C3D of Tran et al. (ICCV 2015) made narrow and three stages short for heatmaps, from PoseConv3D.

Duan, Zhao, Chen, Lin, Dai, "Revisiting Skeleton-based Action Recognition", CVPR 2022: six 3 x 3 x 3 convolutions with
batch norm, pooled in space only.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from skelcore.encoders.heatmaps import ConvNorm, HeatmapEncoder
from skelcore.layouts import Layout


class C3DLight(HeatmapEncoder):
    """The encoder: (N, K, T, H, W) -> (N, 8 width, T, H / 8, W / 8), sides rounded down at each of three halvings."""

    name = "c3d-light"
    WIDTH = 32

    def __init__(self, layout: Layout, in_channels: int = 17, width: int = 32) -> None:
        super().__init__(layout, in_channels, width)
        self.dim = 8 * width
        self.conv1a = ConvNorm(in_channels, width, (3, 3, 3))
        self.conv2a = ConvNorm(width, 2 * width, (3, 3, 3))
        self.conv3a = ConvNorm(2 * width, 4 * width, (3, 3, 3))
        self.conv3b = ConvNorm(4 * width, 4 * width, (3, 3, 3))
        self.conv4a = ConvNorm(4 * width, 8 * width, (3, 3, 3))
        self.conv4b = ConvNorm(8 * width, 8 * width, (3, 3, 3))

    def features(self, x: Tensor) -> Tensor:
        self.check(x)
        x = halve(F.relu_(self.conv1a(x)))
        x = halve(F.relu_(self.conv2a(x)))
        x = halve(F.relu_(self.conv3b(F.relu_(self.conv3a(x)))))
        return F.relu_(self.conv4b(F.relu_(self.conv4a(x))))

    def pyskl_keys(self) -> dict[str, list[str]]:
        return {key: [key] for key in self.state_dict()}


def halve(x: Tensor) -> Tensor:
    return F.max_pool3d(x, (1, 2, 2))
