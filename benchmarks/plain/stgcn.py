"""ST-GCN without tricks, on (P, C, T, V) and with the reference's names: what skelcore's is compared with."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class UnitGCN(nn.Module):
    """relu(BN(sum_k (W_k x + b_k) (A_k * PA_k)))."""

    A: Tensor

    def __init__(self, inputs: int, outputs: int, adjacency: Tensor) -> None:
        super().__init__()
        self.PA = nn.Parameter(torch.ones_like(adjacency))
        self.register_buffer("A", adjacency.clone())
        self.bn = nn.BatchNorm2d(outputs)
        self.conv = nn.Conv2d(inputs, outputs * len(adjacency), 1)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.conv(x).unflatten(1, (len(self.PA), -1))
        return torch.relu(self.bn(torch.einsum("nkctv,kvw->nctw", mixed, self.A * self.PA)))


class UnitTCN(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, (kernel, 1), (stride, 1), ((kernel - 1) // 2, 0))
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class Block(nn.Module):
    def __init__(self, gcn: nn.Module, inputs: int, outputs: int, stride: int, residual: bool) -> None:
        super().__init__()
        self.gcn, self.tcn, self.skip = gcn, UnitTCN(outputs, outputs, 9, stride), residual
        if residual and (inputs != outputs or stride != 1):
            self.residual = UnitTCN(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.tcn(self.gcn(x))
        if self.skip:
            y = y + (self.residual(x) if hasattr(self, "residual") else x)
        return torch.relu(y)


class PlainSTGCN(nn.Module):
    """(P, T, V, C) -> (P, 4 width, T', V)."""

    def __init__(self, adjacency: Tensor, in_channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.data_bn = nn.BatchNorm1d(adjacency.shape[-1] * in_channels)
        self.gcn = nn.Sequential(*(
            Block(UnitGCN(inputs, outputs, adjacency), inputs, outputs, stride, i > 0)
            for i, (inputs, outputs, stride) in enumerate(plan(in_channels, width))))

    def forward(self, x: Tensor) -> Tensor:
        persons, frames, joints, channels = x.shape
        x = x.reshape(persons, frames, joints * channels).transpose(1, 2)
        x = self.data_bn(x).view(persons, joints, channels, frames)
        return self.gcn(x.permute(0, 2, 3, 1))


def plan(in_channels: int, width: int) -> list[tuple[int, int, int]]:
    """(inputs, outputs, stride) of the ten blocks."""
    outputs = [width] * 4 + [2 * width] * 3 + [4 * width] * 3
    return [(before, after, 2 if i in (4, 7) else 1)
            for i, (before, after) in enumerate(zip([in_channels, *outputs], outputs, strict=False))]
