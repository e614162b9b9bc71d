"""Layers that several graph encoders share; activations are (1, C, T, P V) for P persons of V joints."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skelcore.encoders.norm import Norm
from skelcore.errors import InputError


class DataNorm(nn.BatchNorm1d):
    """Batch norm of input coordinates (P, T, V, C), one set of statistics for each joint and coordinate.

    With ``slots`` = 2 the first and the second person of a clip have statistics of their own, as in 2s-AGCN and its
    successors; later persons share the second's. Statistics are indexed slot, joint, coordinate.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    seen: Tensor

    def __init__(self, joints: int, channels: int, slots: int = 1) -> None:
        super().__init__(slots * joints * channels)
        self.slots = slots
        # Batches in which each slot had anybody: what a cumulative average (momentum None) divides by.
        self.register_buffer("seen", torch.zeros(slots, dtype=torch.long), persistent=False)

    def reset_running_stats(self) -> None:
        super().reset_running_stats()
        if "seen" in self._buffers:
            self.seen.zero_()

    def forward(self, x: Tensor, slot: Tensor) -> Tensor:  # type: ignore[override]
        rows = x.flatten(2)
        if self.training and rows.shape[0] * rows.shape[1] == 1:
            raise InputError("one frame of one person is too little to train batch norm on")
        if self.slots == 1:
            return super().forward(rows.transpose(1, 2)).transpose(1, 2).view_as(x)
        slot = slot.clamp(max=self.slots - 1)
        if not self.training:
            scale = self.weight * torch.rsqrt(self.running_var + self.eps)
            shift = self.bias - self.running_mean * scale
            table = torch.stack([scale, shift]).view(2, self.slots, 1, -1)[:, slot]
            return torch.addcmul(table[1], rows, table[0]).view_as(x)
        self.num_batches_tracked.add_(1)
        y = torch.empty_like(rows)
        mean, var, weight, bias = (part.view(self.slots, -1) for part in (
            self.running_mean, self.running_var, self.weight, self.bias))
        for i in range(self.slots):
            chosen = (slot == i).nonzero()[:, 0]
            if len(chosen) * rows.shape[1] == 1:
                raise InputError(f"one frame of one person in place {i + 1} is too little to train batch norm on")
            if len(chosen):
                self.seen[i] += 1
                factor = 1 / float(self.seen[i]) if self.momentum is None else self.momentum
                normed = F.batch_norm(rows[chosen].transpose(1, 2), mean[i], var[i], weight[i], bias[i], True, factor,
                                      self.eps)
                y = y.index_copy(0, chosen, normed.transpose(1, 2))
        return y.view_as(x)


class Pointwise(nn.Conv2d):
    """A 1 x 1 convolution of (P, C, T, W), strided in time; of (1, C, T, P V) it is one large matrix product."""

    bias: nn.Parameter

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, 1, (stride, 1))

    def forward(self, x: Tensor, norm: Norm | None = None, rows: slice = slice(None)) -> Tensor:
        """The channels ``rows`` of the convolution, normalised by ``norm``, which evaluation folds into the weights."""
        x = x[:, :, :: self.stride[0]]
        weight, bias = self.weight[rows].flatten(1), self.bias[rows, None]
        if norm is not None and norm.training:
            y = torch.bmm(weight.expand(len(x), -1, -1), x.flatten(2))
            return norm(y.unflatten(2, x.shape[2:]), offset=bias[:, 0])
        if norm is not None:
            weight, bias = norm.fold(weight, bias)
        return torch.baddbmm(bias, weight.expand(len(x), -1, -1), x.flatten(2)).unflatten(2, x.shape[2:])


def kaiming(conv: nn.Module, outputs: int) -> None:
    """Initialise as He et al. 2015 for ``outputs`` channels, of which ``conv`` holds those of several side by side."""
    nn.init.normal_(conv.get_parameter("weight"), 0, math.sqrt(2 / outputs))
    nn.init.zeros_(conv.get_parameter("bias"))


class Projection(nn.Sequential):
    """A pointwise convolution and its batch norm: what a residual connection needs where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(Pointwise(inputs, outputs, stride), Norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        conv, norm = self
        y: Tensor = conv(x, norm)
        return y


def temporal(channels: int, stride: int) -> nn.Sequential:
    """A 9 x 1 convolution over time, and its batch norm: T -> ceil(T / stride).

    On a CPU, forward and backward of the convolution take 23 to 39 % less time than nine shifted matrix products, and
    31 to 61 % less than one product of the unfolded frames.
    """
    return nn.Sequential(nn.Conv2d(channels, channels, (9, 1), (stride, 1), (4, 0)), Norm(channels))


class Block(nn.Module):
    """A graph convolution, a temporal one and a residual connection: (P, C, A, B), frames along ``dim`` (2 or 3)."""

    def __init__(self, graph: nn.Module, time: nn.Module, inputs: int, outputs: int, stride: int, residual: bool,
                 dim: int = 2) -> None:
        super().__init__()
        self.graph, self.time, self.stride, self.dim = graph, time, stride, dim
        same = inputs == outputs and stride == 1
        self.residual = None if not residual else nn.Identity() if same else Projection(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.time(self.graph(x))
        return F.relu_(y if self.residual is None else y.add_(self.residual(every(x, self.stride, self.dim))))


def every(x: Tensor, stride: int, dim: int) -> Tensor:
    """Every ``stride``-th frame of (P, C, A, B), along ``dim`` (2 or 3)."""
    return x[:, :, ::stride] if dim == 2 else x[..., ::stride]


def schedule(in_channels: int, width: int) -> list[tuple[int, int, int]]:
    """(inputs, outputs, stride) of ST-GCN's ten blocks: ``width`` x 4, twice that x 3, four times that x 3."""
    outputs = [width] * 4 + [2 * width] * 3 + [4 * width] * 3
    return [(before, after, 2 if i in (4, 7) else 1)
            for i, (before, after) in enumerate(zip([in_channels, *outputs], outputs, strict=False))]


def to_wide(x: Tensor) -> Tensor:
    """Persons (P, T, V, C) -> (1, C, T, P V)."""
    return x.permute(3, 1, 0, 2).flatten(2)[None]


def to_maps(y: Tensor, joints: int) -> Tensor:
    """(1, D, T', P V) -> feature maps (P, D, T', V)."""
    return y[0].unflatten(-1, (-1, joints)).permute(2, 0, 1, 3)
