"""SlowOnly for heatmaps (PoseConv3D) straight from its description: the yardstick of ``skelcore.encoders.posec3d``."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

Size = tuple[int, int, int]


class ConvNorm(nn.Module):
    """A convolution without bias and its batch norm, on (N, C, T, H, W)."""

    def __init__(self, inputs: int, outputs: int, kernel: Size, stride: Size = (1, 1, 1)) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm3d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class Bottleneck(nn.Module):
    """1 x 1 (or 3 frames), 3 x 3 strided, 1 x 1, and the residual."""

    def __init__(self, inputs: int, width: int, frames: int, stride: Size, change: bool) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, width, (frames, 1, 1))
        self.conv2 = ConvNorm(width, width, (1, 3, 3), stride)
        self.conv3 = ConvNorm(width, 4 * width, (1, 1, 1))
        self.downsample = ConvNorm(inputs, 4 * width, (1, 1, 1), stride) if change else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv2(F.relu(self.conv1(x))))
        return F.relu(self.conv3(y) + (x if self.downsample is None else self.downsample(x)))


class SlowOnly(nn.Module):
    """(N, K, T, H, W) -> (N, 16 width, ceil(T / 2), H / 8, W / 8), its keys those of PYSKL's backbone."""

    def __init__(self, in_channels: int = 17, width: int = 32, blocks: Size = (4, 6, 3)) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, width, (1, 7, 7))
        self.layer1 = stage(width, width, blocks[0], 1, (1, 2, 2))
        self.layer2 = stage(4 * width, 2 * width, blocks[1], 3, (1, 2, 2))
        self.layer3 = stage(8 * width, 4 * width, blocks[2], 3, (2, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool3d(F.relu(self.conv1(x)), (1, 3, 3), 1, (0, 1, 1))
        return self.layer3(self.layer2(self.layer1(x)))


def stage(inputs: int, width: int, blocks: int, frames: int, stride: Size) -> nn.Sequential:
    """``blocks`` bottlenecks, the first of them strided."""
    return nn.Sequential(Bottleneck(inputs, width, frames, stride, True), *(
        Bottleneck(4 * width, width, frames, (1, 1, 1), False) for _ in range(blocks - 1)))
