"""CTR-GCN written out layer by layer on (P, C, T, V): the baseline whose speed and numbers the encoder is held to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from skelcore import checkpoint, layouts
from skelcore.encoders.graph import spatial_subsets
from skelcore.layouts import Layout

KERNEL, DILATIONS = 5, (1, 2)


class Relation(nn.Module):
    """One subset: a graph for every channel, refined from pairs of joints, applied to the transformed input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        narrow = 8 if inputs <= 16 else inputs // 8
        self.conv1, self.conv2 = nn.Conv2d(inputs, narrow, 1), nn.Conv2d(inputs, narrow, 1)
        self.conv3, self.conv4 = nn.Conv2d(inputs, outputs, 1), nn.Conv2d(narrow, outputs, 1)

    def forward(self, x: Tensor, adjacency: Tensor, alpha: Tensor) -> Tensor:
        first, second = self.conv1(x).mean(2), self.conv2(x).mean(2)
        graph = self.conv4(torch.tanh(first[..., None] - second[..., None, :])) * alpha + adjacency
        return torch.einsum("ncuv,nctu->nctv", graph, self.conv3(x))


class Graph(nn.Module):
    def __init__(self, inputs: int, outputs: int, adjacency: Tensor) -> None:
        super().__init__()
        self.A, self.alpha = nn.Parameter(adjacency.clone()), nn.Parameter(torch.zeros(1))
        self.convs = nn.ModuleList(Relation(inputs, outputs) for _ in adjacency)
        self.bn = nn.BatchNorm2d(outputs)
        self.down = nn.Identity() if inputs == outputs else nn.Sequential(nn.Conv2d(inputs, outputs, 1),
                                                                          nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = sum(conv(x, adjacency, self.alpha) for conv, adjacency in zip(self.convs, self.A, strict=True))
        return torch.relu(self.bn(y) + self.down(x))


class ConvNorm(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, (kernel, 1), (stride, 1), (kernel // 2 * dilation, 0), (dilation, 1))
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class Time(nn.Module):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        narrow = channels // 4

        def opening(stride: int = 1) -> list[nn.Module]:
            return [nn.Conv2d(channels, narrow, 1, (stride, 1)), nn.BatchNorm2d(narrow)]

        dilated = [nn.Sequential(*opening(), nn.ReLU(), ConvNorm(narrow, narrow, KERNEL, stride, dilation))
                   for dilation in DILATIONS]
        pooled = nn.Sequential(*opening(), nn.ReLU(), nn.MaxPool2d((3, 1), (stride, 1), (1, 0)), nn.BatchNorm2d(narrow))
        self.branches = nn.ModuleList([*dilated, pooled, nn.Sequential(*opening(stride))])

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, adjacency: Tensor, residual: bool, relu: bool) -> None:
        super().__init__()
        self.gcn1, self.tcn1, self.relu = Graph(inputs, outputs, adjacency), Time(outputs, stride), relu
        same = inputs == outputs and stride == 1
        self.residual = None if not residual else nn.Identity() if same else ConvNorm(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.tcn1(self.gcn1(x))
        if self.relu:
            y = torch.relu(y)
        return torch.relu(y if self.residual is None else y + self.residual(x))


class Plain(nn.Module):
    """(N, M, T, V, C) -> feature maps (N, M, 4 width, T', V), for M = 1 or 2; parameters are named as PYSKL's."""

    def __init__(self, layout: str | Layout, in_channels: int = 3, width: int = 64, relu: bool = True) -> None:
        super().__init__()
        layout = layouts.get(layout)
        adjacency = torch.from_numpy(spatial_subsets(layout))
        self.register_buffer("A", adjacency)
        self.data_bn = nn.BatchNorm1d(2 * len(layout) * in_channels)
        outputs = [width] * 4 + [2 * width] * 3 + [4 * width] * 3
        self.net = nn.Sequential(*(
            Block(before, after, 1 if i == 0 or before == after else 2, adjacency, i > 0, relu)
            for i, (before, after) in enumerate(zip([in_channels, *outputs], outputs, strict=False))))

    def load(self, encoder: Any) -> Plain:
        """Take the weights of a skelcore encoder of the same size."""
        weights = checkpoint.to_pyskl(encoder)
        self.load_state_dict({key.removeprefix("backbone."): value for key, value in weights.items()})
        return self

    def forward(self, x: Tensor) -> Tensor:
        clips, persons, frames, joints, channels = x.shape
        rows = x.permute(0, 1, 3, 4, 2).reshape(clips, -1, frames)
        used = rows.shape[1]
        bn = self.data_bn
        assert bn.running_mean is not None and bn.running_var is not None
        rows = nn.functional.batch_norm(rows, bn.running_mean[:used], bn.running_var[:used], bn.weight[:used],
                                        bn.bias[:used], self.training, eps=bn.eps)
        maps = self.net(rows.view(-1, joints, channels, frames).permute(0, 2, 3, 1).contiguous())
        return maps.unflatten(0, (clips, persons))
