"""X3D-shallow: the X3D of Feichtenhofer (CVPR 2020) with three stages and no squeeze-excitation, from PoseConv3D.

Duan, Zhao, Chen, Lin, Dai, "Revisiting Skeleton-based Action Recognition", CVPR 2022: inverted bottlenecks around
channel-wise 3 x 3 x 3 convolutions, no reduction in time; the lightest of its 3D-CNNs.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from skelcore.encoders.encoder import NEAR_ZERO
from skelcore.encoders.heatmaps import ConvNorm, HeatmapEncoder
from skelcore.layouts import Layout

BLOCKS = (2, 5, 3)
EXPANSION = 2.25


class Block(nn.Module):
    """Pointwise, channel-wise 3 x 3 x 3, pointwise and the residual: (N, C, T, H, W) -> (N, C', T, H', W')."""

    def __init__(self, inputs: int, outputs: int, space: int) -> None:
        super().__init__()
        inner, stride = int(outputs * EXPANSION), (1, space, space)
        self.conv1 = ConvNorm(inputs, inner)
        self.conv2 = ConvNorm(inner, inner, (3, 3, 3), stride, groups=inner)
        self.conv3 = ConvNorm(inner, outputs)
        nn.init.constant_(self.conv3.bn.weight, NEAR_ZERO)
        self.downsample = None if inputs == outputs and space == 1 else ConvNorm(inputs, outputs, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(self.conv2(F.relu_(self.conv1(x))))
        return F.relu_(y.add_(x if self.downsample is None else self.downsample(x)))


class X3DShallow(HeatmapEncoder):
    """The encoder: (N, K, T, H, W) -> (N, 9 width, T, H / 16, W / 16), sides rounded up."""

    name = "x3d-shallow"
    WIDTH = 24

    def __init__(self, layout: Layout, in_channels: int = 17, width: int = 24) -> None:
        super().__init__(layout, in_channels, width)
        self.dim = int(4 * width * EXPANSION)
        self.conv1_s = nn.Conv3d(in_channels, width, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False)
        nn.init.kaiming_normal_(self.conv1_s.weight, mode="fan_out", nonlinearity="relu")
        self.conv1_t = ConvNorm(width, width, (5, 1, 1), groups=width)
        outputs = [width, 2 * width, 4 * width]
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(Block(before, after, 2), *(Block(after, after, 1) for _ in range(count - 1)))
            for before, after, count in zip([width, *outputs], outputs, BLOCKS, strict=False))
        self.conv5 = ConvNorm(4 * width, self.dim)

    def features(self, x: Tensor) -> Tensor:
        self.check(x)
        # Frame by frame: PyTorch's ONNX export of a 3D convolution without a bias is broken.
        frames = x.transpose(1, 2).flatten(0, 1)
        y = F.conv2d(frames, self.conv1_s.weight[:, :, 0], None, 2, 1).unflatten(0, (-1, x.shape[2])).transpose(1, 2)
        y = F.relu_(self.conv1_t(y))
        return F.relu_(self.conv5(self.layer3(self.layer2(self.layer1(y)))))

    def pyskl_keys(self) -> dict[str, list[str]]:
        return {key: [key.replace("conv1_s.", "conv1_s.conv.")] for key in self.state_dict()}
