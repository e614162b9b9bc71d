"""ST-GCN++ written straight from its description (Duan et al. 2022), on (P, C, T, V), in PYSKL's naming.

What an engineer writes without a thought for speed: the baseline of benchmarks/encoders.py, and the module with which
the test compares outputs and gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skelcore import layouts
from skelcore.encoders.graph import spatial_subsets


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    padding = dilation * (kernel - 1) // 2
    return nn.Conv2d(inputs, outputs, (kernel, 1), (stride, 1), (padding, 0), (dilation, 1))


class Graph(nn.Module):
    def __init__(self, inputs: int, outputs: int, adjacency: Tensor) -> None:
        super().__init__()
        self.A = nn.Parameter(adjacency.clone())
        self.conv = conv(inputs, outputs * 3)
        self.bn = nn.BatchNorm2d(outputs)
        same = inputs == outputs
        self.down = nn.Identity() if same else nn.Sequential(conv(inputs, outputs), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        persons, _, frames, joints = x.shape
        each = self.conv(x).view(persons, 3, -1, frames, joints)
        y = torch.einsum("nkctv,kvw->nctw", each, self.A)
        return torch.relu(self.bn(y) + self.down(x))


class Dilated(nn.Module):
    def __init__(self, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv = conv(width, width, 3, stride, dilation)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Time(nn.Module):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        narrow = channels // 6
        widths = [channels - 5 * narrow] + [narrow] * 5
        self.branches = nn.ModuleList(
            nn.Sequential(conv(channels, width), nn.BatchNorm2d(width), nn.ReLU(), Dilated(width, stride, dilation))
            for dilation, width in enumerate(widths[:4], 1))
        self.branches.append(nn.Sequential(conv(channels, narrow), nn.BatchNorm2d(narrow), nn.ReLU(),
                                           nn.MaxPool2d((3, 1), (stride, 1), (1, 0))))
        self.branches.append(conv(channels, narrow, stride=stride))
        self.transform = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), conv(channels, channels))
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.transform(torch.cat([branch(x) for branch in self.branches], 1)))


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = conv(inputs, outputs, stride=stride)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, adjacency: Tensor, first: bool) -> None:
        super().__init__()
        stride = 1 if first or inputs == outputs else 2
        self.gcn, self.tcn = Graph(inputs, outputs, adjacency), Time(outputs, stride)
        self.first = first
        self.residual = None if first else nn.Identity() if stride == 1 else Residual(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.tcn(self.gcn(x))
        return torch.relu(y if self.residual is None else y + self.residual(x))


class Plain(nn.Module):
    """(N, M, T, V, C) -> (N, M, 4 width, T', V)."""

    def __init__(self, layout: str | layouts.Layout, in_channels: int = 3, width: int = 64) -> None:
        super().__init__()
        layout = layouts.get(layout)
        adjacency = torch.from_numpy(spatial_subsets(layout))
        self.data_bn = nn.BatchNorm1d(in_channels * len(layout))
        outputs = [width] * 4 + [2 * width] * 3 + [4 * width] * 3
        self.gcn = nn.ModuleList(Block(before, after, adjacency, i == 0) for i, (before, after) in
                                 enumerate(zip([in_channels, *outputs], outputs, strict=False)))

    def forward(self, x: Tensor) -> Tensor:
        clips, persons, frames, joints, channels = x.shape
        y = self.data_bn(x.permute(0, 1, 3, 4, 2).reshape(clips * persons, joints * channels, frames))
        y = y.view(-1, joints, channels, frames).permute(0, 2, 3, 1).contiguous()
        for block in self.gcn:
            y = block(y)
        return y.unflatten(0, (clips, persons))
