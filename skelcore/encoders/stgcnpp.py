"""ST-GCN++: Duan, Wang, Chen, Lin, "PYSKL: Towards Good Practices for Skeleton Action Recognition", 2022.

Ten blocks, each a graph convolution over three learned adjacency matrices A_k,
``y = relu(BN(sum_k W_k x A_k) + down(x))``, then a multi-branch temporal convolution (dilations 1 to 4, max pool,
pointwise), each with a residual connection. Outputs equal the reference's; the arithmetic is arranged for speed:

* Activations are (1, C, T, P V) for P persons in all: with the batch inside the width, channel slices and temporal
  shifts are contiguous, and each pointwise convolution is one large matrix product.
* The graph product comes before the pointwise convolution, whose sum over k then happens inside the product.
* The six pointwise convolutions that open the temporal branches are one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skelcore.encoders.graph import spatial_subsets
from skelcore.encoders.joints import JointEncoder
from skelcore.encoders.layers import DataNorm, Pointwise, Projection, schedule, to_maps, to_wide
from skelcore.encoders.norm import Norm, largest
from skelcore.layouts import Layout

DILATIONS = (1, 2, 3, 4)
BRANCHES = len(DILATIONS) + 2  # and max pool, pointwise


class GraphConv(nn.Module):
    """relu(BN(sum_k W_k x A_k) + down(x)) on (1, C, T, P V)."""

    def __init__(self, inputs: int, outputs: int, adjacency: Tensor) -> None:
        super().__init__()
        self.adjacency = nn.Parameter(adjacency.clone())
        self.conv = Pointwise(inputs, outputs * len(adjacency))
        self.bn = Norm(outputs)
        self.down = Projection(inputs, outputs) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        subsets, joints, _ = self.adjacency.shape
        channels, frames = x.shape[1:3]
        spread = x.reshape(1, -1, joints).expand(subsets, -1, -1) @ self.adjacency
        weight = self.conv.weight.view(subsets, -1, channels).transpose(0, 1).reshape(-1, subsets * channels)
        # W_k (x A_k) lacks the bias that (W_k x + b_k) A_k has: b_k times the column sums of A_k.
        bias = torch.einsum("kc,kuw->cw", self.conv.bias.view(subsets, -1), self.adjacency)
        if not self.bn.training:
            weight, bias = self.bn.fold(weight, bias)
        y = (weight @ spread.view(subsets * channels, -1)).view(len(weight), frames, -1, joints)
        y = (y + bias[:, None, None].to(y.dtype)).view(1, len(weight), frames, -1)
        y = self.bn(y) if self.bn.training else y
        return F.relu_(y.add_(self.down(x)))


class TemporalConv(nn.Module):
    """Six branches over time, concatenated, and one pointwise convolution over them, on (1, C, T, P V)."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        narrow = channels // BRANCHES
        self.widths = [channels - narrow * (BRANCHES - 1)] + [narrow] * (BRANCHES - 1)
        self.stride = stride
        self.reduce = Pointwise(channels, channels)
        self.reduce_bn = Norm(channels - narrow)
        self.dilated = nn.ModuleList(nn.Conv2d(width, width, (3, 1), (stride, 1), (dilation, 0), (dilation, 1))
                                     for width, dilation in zip(self.widths, DILATIONS, strict=False))
        self.fuse_bn = Norm(channels)
        self.fuse = Pointwise(channels, channels)
        self.bn = Norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        rows = sum(self.widths[:-1])
        *dilated, pooled = F.relu_(self.reduce(x, self.reduce_bn, slice(rows))).split(self.widths[:-1], 1)
        branches = (conv(part) for conv, part in zip(self.dilated, dilated, strict=True))
        y = self.fuse_bn(*branches, largest(pooled, self.stride, 2),
                         self.reduce(x[:, :, :: self.stride], rows=slice(rows, None)))
        return self.fuse(F.relu_(y), self.bn)


class Block(nn.Module):
    """Graph, then time, with a residual connection: (1, C, T, P V) -> (1, C', T / stride, P V)."""

    def __init__(self, inputs: int, outputs: int, stride: int, adjacency: Tensor, residual: bool) -> None:
        super().__init__()
        self.graph, self.time = GraphConv(inputs, outputs, adjacency), TemporalConv(outputs, stride)
        same = inputs == outputs and stride == 1
        self.residual = None if not residual else nn.Identity() if same else Projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.time(self.graph(x))
        return F.relu_(y if self.residual is None else y.add_(self.residual(x)))


class STGCNpp(JointEncoder):
    """The encoder: (N, M, T, V, C) -> (N, M, 4 width, ceil(ceil(T / 2) / 2), V)."""

    name = "stgcn++"

    def __init__(self, layout: Layout, in_channels: int = 3, width: int = 64) -> None:
        super().__init__(layout, in_channels, width)
        self.dim = 4 * width
        self.data_bn = DataNorm(len(layout), in_channels)
        adjacency = torch.from_numpy(spatial_subsets(layout))
        self.blocks = nn.Sequential(*(Block(*sizes, adjacency, residual=i > 0)
                                      for i, sizes in enumerate(schedule(in_channels, width))))

    def maps(self, x: Tensor, slot: Tensor) -> Tensor:
        return to_maps(self.blocks(to_wide(self.data_bn(x, slot))), len(self.layout))

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
