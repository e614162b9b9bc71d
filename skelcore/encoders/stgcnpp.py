"""ST-GCN++: Duan, Wang, Chen, Lin, "PYSKL: Towards Good Practices for Skeleton Action Recognition", 2022.

Ten blocks, each a graph convolution over three learned adjacency matrices A_k,
``y = relu(BN(sum_k W_k x A_k) + down(x))``, then a multi-branch temporal convolution (dilations 1 to 4, max pool,
pointwise), each with a residual connection. Outputs equal the reference's; the arithmetic is arranged for speed:

* Activations are (1, C, V P, T) for P persons in all: with the batch inside, channel slices are contiguous, and each
  pointwise convolution is one large matrix product.
* The graph product comes before the pointwise convolution, whose sum over k then happens inside the product. With
  joints outside persons and frames, it multiplies (K V, V) by (V, P T) for each channel, in half the time that
  (C T P, V) by (V, V) takes, and needs no transposition before or after.
* The six pointwise convolutions that open the temporal branches are one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from skelcore.encoders.graph import spatial_subsets
from skelcore.encoders.joints import JointEncoder
from skelcore.encoders.layers import Block, DataNorm, Pointwise, Projection, every, schedule
from skelcore.encoders.norm import Norm, largest
from skelcore.layouts import Layout

DILATIONS = (1, 2, 3, 4)
BRANCHES = len(DILATIONS) + 2  # and max pool, pointwise


class GraphConv(nn.Module):
    """relu(BN(sum_k W_k x A_k) + down(x)) on (1, C, V P, T)."""

    def __init__(self, inputs: int, outputs: int, adjacency: Tensor) -> None:
        super().__init__()
        self.adjacency = nn.Parameter(adjacency.clone())
        self.conv = Pointwise(inputs, outputs * len(adjacency))
        self.bn = Norm(outputs)
        self.down = Projection(inputs, outputs) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        subsets, joints, _ = self.adjacency.shape
        channels = x.shape[1]
        weight = self.conv.weight.view(subsets, -1, channels).permute(1, 2, 0).flatten(1)
        # W_k (x A_k) lacks the bias that (W_k x + b_k) A_k has: b_k times the column sums of A_k.
        bias = torch.einsum("kc,kuw->cw", self.conv.bias.view(subsets, -1), self.adjacency)
        if not self.bn.training:
            weight, bias = self.bn.fold(weight, bias)
        spread = self.adjacency.transpose(1, 2).flatten(0, 1)
        plain = torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type)
        if x.is_cpu and torch.is_grad_enabled() and not plain:
            y: Tensor = _Product.apply(x.contiguous(), spread, weight, bias)
        else:
            y = (weight @ _spread(x, spread).view(weight.shape[1], -1)).view(len(weight), joints, -1)
            y = (y + bias[..., None].to(y.dtype)).view(1, len(weight), *x.shape[2:])
        y = self.bn(y) if self.bn.training else y
        return F.relu_(y.add_(self.down(x)))


class _Product(torch.autograd.Function):
    """sum_k W_k x A_k of x (1, C, V P, T) plus a bias (C', V), with A (K V, V) and W (C', C K).

    x A_k is K times as large as x. Making it again in backward takes less time than fresh memory for it, kept by every
    block, and its gradient then overwrites it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, spread: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, spread, weight)
        y = x.new_empty(1, len(weight), *x.shape[2:])
        torch.mm(weight, _spread(x, spread).view(weight.shape[1], -1), out=y.view(len(weight), -1))
        y.view(len(weight), spread.shape[1], -1).add_(bias[..., None])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        x, spread, weight = ctx.saved_tensors
        maps, dy = x.view(x.shape[1], spread.shape[1], -1), dy.reshape(len(weight), -1)
        each = _spread(x, spread)
        flat = each.view(weight.shape[1], -1)
        dweight = dy @ flat.t()
        torch.mm(weight.t(), dy, out=flat)
        dspread = torch.bmm(each, maps.transpose(1, 2)).sum(0)
        dx = torch.bmm(spread.t().expand(len(maps), -1, -1), each).view_as(x)
        return dx, dspread, dweight, dy.view(len(weight), spread.shape[1], -1).sum(2)


def _spread(x: Tensor, spread: Tensor) -> Tensor:
    """x A_k (C, K V, P T) of x (1, C, V P, T)."""
    maps = x.reshape(x.shape[1], spread.shape[1], -1)
    return torch.bmm(spread.expand(len(maps), -1, -1), maps)


class Dilated(nn.Conv2d):
    """A convolution over three frames, which lie along ``dim`` (2 or 3); the kernel is 3 x 1 in either case."""

    def __init__(self, width: int, stride: int, dilation: int, dim: int) -> None:
        super().__init__(width, width, (3, 1), (stride, 1), (dilation, 0), (dilation, 1))
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        if self.dim == 2:
            return super().forward(x)
        return F.conv2d(x, self.weight.transpose(2, 3), self.bias, (1, self.stride[0]), (0, self.dilation[0]),
                        (1, self.dilation[0]))


class TemporalConv(nn.Module):
    """Six branches over time, concatenated, and one pointwise convolution over them, of (1, C, A, B).

    Frames lie along ``dim``: 2, or 3.
    """

    def __init__(self, channels: int, stride: int, dim: int = 2) -> None:
        super().__init__()
        narrow = channels // BRANCHES
        self.widths = [channels - narrow * (BRANCHES - 1)] + [narrow] * (BRANCHES - 1)
        self.stride, self.dim = stride, dim
        self.reduce = Pointwise(channels, channels)
        self.reduce_bn = Norm(channels - narrow)
        self.dilated = nn.ModuleList(Dilated(width, stride, dilation, dim)
                                     for width, dilation in zip(self.widths, DILATIONS, strict=False))
        self.fuse_bn = Norm(channels)
        self.fuse = Pointwise(channels, channels)
        self.bn = Norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        rows = sum(self.widths[:-1])
        *dilated, pooled = F.relu_(self.reduce(x, self.reduce_bn, slice(rows))).split(self.widths[:-1], 1)
        branches = (conv(part) for conv, part in zip(self.dilated, dilated, strict=True))
        y = self.fuse_bn(*branches, largest(pooled, self.stride, self.dim),
                         self.reduce(every(x, self.stride, self.dim), rows=slice(rows, None)))
        return self.fuse(F.relu_(y), self.bn)


class STGCNpp(JointEncoder):
    """The encoder: (N, M, T, V, C) -> (N, M, 4 width, ceil(ceil(T / 2) / 2), V)."""

    name = "stgcn++"

    def __init__(self, layout: Layout, in_channels: int = 3, width: int = 64) -> None:
        super().__init__(layout, in_channels, width)
        self.dim = 4 * width
        self.data_bn = DataNorm(len(layout), in_channels)
        adjacency = torch.from_numpy(spatial_subsets(layout))
        self.blocks = nn.Sequential(*(
            Block(GraphConv(inputs, outputs, adjacency), TemporalConv(outputs, stride, dim=3), inputs, outputs, stride,
                  residual=i > 0, dim=3)
            for i, (inputs, outputs, stride) in enumerate(schedule(in_channels, width))))

    def maps(self, x: Tensor, slot: Tensor) -> Tensor:
        y = self.blocks(self.data_bn(x, slot).permute(3, 2, 0, 1).flatten(1, 2)[None])
        return y[0].unflatten(1, (len(self.layout), -1)).permute(2, 0, 3, 1)

    def pyskl_keys(self) -> dict[str, list[str]]:
        return {key: pyskl_parts(key) for key in self.state_dict()}

    def pyskl_rows(self, key: str) -> list[int] | None:
        _, block, *rest = key.split(".")
        if rest[:1] != ["time"] or rest[1] not in ("reduce", "reduce_bn"):
            return None
        time = self.blocks[int(block)].time
        assert isinstance(time, TemporalConv)
        return time.widths if rest[1] == "reduce" else time.widths[:-1]


def pyskl_parts(key: str) -> list[str]:
    """The reference's keys that make up one of ours."""
    if key.startswith("data_bn."):
        return [key]
    _, block, part, *rest = key.split(".")
    tail, start = ".".join(rest[1:]), f"gcn.{block}"
    if part == "graph":
        return [f"{start}.gcn.{'A' if rest == ['adjacency'] else '.'.join(rest)}"]
    if part == "residual":
        return [f"{start}.residual.{'conv' if rest[0] == '0' else 'bn'}.{tail}"]
    branches = [f"{start}.tcn.branches.{i}" for i in range(BRANCHES)]
    return {
        "reduce": [*(f"{branch}.0.{tail}" for branch in branches[:-1]), f"{branches[-1]}.{tail}"],
        "reduce_bn": [f"{branch}.1.{tail}" for branch in branches[:-1]],
        "dilated": [f"{start}.tcn.branches.{'.3.conv.'.join(rest[1:])}"],
        "fuse_bn": [f"{start}.tcn.transform.0.{tail}"],
        "fuse": [f"{start}.tcn.transform.2.{tail}"],
        "bn": [f"{start}.tcn.bn.{tail}"],
    }[rest[0]]
