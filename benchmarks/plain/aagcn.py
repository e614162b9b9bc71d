"""AAGCN without tricks, on (P, C, T, V) and with the reference's names: what skelcore's is compared with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.plain.stgcn import Block, plan


class UnitAAGCN(nn.Module):
    """An adaptive graph convolution, then attention over joints, frames and channels."""

    def __init__(self, inputs: int, outputs: int, adjacency: Tensor) -> None:
        super().__init__()
        subsets, joints, _ = adjacency.shape
        inner, odd = outputs // 4, joints - 1 + joints % 2
        self.A = nn.Parameter(adjacency.clone())
        self.alpha = nn.Parameter(torch.zeros(1))
        self.conv_d = nn.ModuleList(nn.Conv2d(inputs, outputs, 1) for _ in range(subsets))
        self.conv_a = nn.ModuleList(nn.Conv2d(inputs, inner, 1) for _ in range(subsets))
        self.conv_b = nn.ModuleList(nn.Conv2d(inputs, inner, 1) for _ in range(subsets))
        self.conv_ta = nn.Conv1d(outputs, 1, 9, padding=4)
        self.conv_sa = nn.Conv1d(outputs, 1, odd, padding=odd // 2)
        self.fc1c, self.fc2c = nn.Linear(outputs, outputs // 2), nn.Linear(outputs // 2, outputs)
        if inputs != outputs:
            self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs))
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        persons, _, _, joints = x.shape
        y: Tensor | None = None
        for i in range(len(self.A)):
            one = self.conv_a[i](x).permute(0, 3, 1, 2).reshape(persons, joints, -1)
            other = self.conv_b[i](x).reshape(persons, -1, joints)
            adjacency = self.A[i] + torch.tanh(one @ other / one.shape[-1]) * self.alpha
            mixed = self.conv_d[i]((x.reshape(persons, -1, joints) @ adjacency).view_as(x))
            y = mixed if y is None else mixed + y
        y = torch.relu(self.bn(y) + (self.down(x) if hasattr(self, "down") else x))
        y = y * torch.sigmoid(self.conv_sa(y.mean(-2))).unsqueeze(-2) + y
        y = y * torch.sigmoid(self.conv_ta(y.mean(-1))).unsqueeze(-1) + y
        gate = torch.sigmoid(self.fc2c(torch.relu(self.fc1c(y.mean((-1, -2))))))
        return y * gate[:, :, None, None] + y


class PlainAAGCN(nn.Module):
    """(P, T, V, C) with one or two persons a clip -> (P, 4 width, T', V)."""

    def __init__(self, adjacency: Tensor, in_channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.register_buffer("A", adjacency.clone())
        self.data_bn = nn.BatchNorm1d(2 * adjacency.shape[-1] * in_channels)
        self.gcn = nn.Sequential(*(
            Block(UnitAAGCN(inputs, outputs, adjacency), inputs, outputs, stride, i > 0)
            for i, (inputs, outputs, stride) in enumerate(plan(in_channels, width))))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` holds the first and second persons of the clips in turn."""
        persons, frames, joints, channels = x.shape
        rows = x.view(persons // 2, 2, frames, -1).transpose(2, 3).reshape(persons // 2, -1, frames)
        y = self.data_bn(rows).view(persons, joints, channels, frames)
        return self.gcn(y.permute(0, 2, 3, 1))
