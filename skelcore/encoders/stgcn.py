"""ST-GCN: Yan, Xiong, Lin, "Spatial Temporal Graph Convolutional Networks for Skeleton-Based Action Recognition", 2018.

Ten blocks, each a graph convolution over three fixed adjacency matrices A_k with learned edge importances M_k,
``y = relu(BN(sum_k W_k x (A_k * M_k)))``, then a convolution over 9 frames, with a residual connection.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skelcore.encoders.graph import distance_subsets
from skelcore.encoders.joints import JointEncoder
from skelcore.encoders.layers import Block, DataNorm, Pointwise, schedule, temporal, to_maps, to_wide
from skelcore.encoders.norm import Norm
from skelcore.layouts import Layout


class GraphConv(nn.Module):
    """relu(BN(sum_k W_k x (A_k * M_k))) on (1, C, T, P V)."""

    adjacency: Tensor

    def __init__(self, inputs: int, outputs: int, adjacency: Tensor) -> None:
        super().__init__()
        self.register_buffer("adjacency", adjacency.clone())
        self.importance = nn.Parameter(torch.ones_like(adjacency))
        self.conv = Pointwise(inputs, outputs * len(adjacency))
        self.bn = Norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        subsets, joints, _ = self.adjacency.shape
        edges = (self.adjacency * self.importance).unbind(0)
        first, *others = self.conv(x).view(subsets, -1, joints).unbind(0)
        y = first @ edges[0]
        for part, edge in zip(others, edges[1:], strict=True):
            y = torch.addmm(y, part, edge)
        return F.relu_(self.bn(y.view(1, -1, *x.shape[2:])))


class STGCN(JointEncoder):
    """The encoder: (N, M, T, V, C) -> (N, M, 4 width, ceil(ceil(T / 2) / 2), V)."""

    name = "stgcn"

    def __init__(self, layout: Layout, in_channels: int = 3, width: int = 64) -> None:
        super().__init__(layout, in_channels, width)
        self.dim = 4 * width
        self.data_bn = DataNorm(len(layout), in_channels)
        adjacency = torch.from_numpy(distance_subsets(layout))
        self.blocks = nn.Sequential(*(
            Block(GraphConv(inputs, outputs, adjacency), temporal(outputs, stride), inputs, outputs, stride,
                  residual=i > 0)
            for i, (inputs, outputs, stride) in enumerate(schedule(in_channels, width))))

    def maps(self, x: Tensor, slot: Tensor) -> Tensor:
        return to_maps(self.blocks(to_wide(self.data_bn(x, slot))), len(self.layout))

    def pyskl_keys(self) -> dict[str, list[str]]:
        return {key: [pyskl_key(key)] for key in self.state_dict()}


def pyskl_key(key: str) -> str:
    """The reference's name of one of our tensors; the names inside a graph convolution are ours but for two."""
    if not key.startswith("blocks."):
        return key
    _, block, part, *rest = key.split(".")
    if part == "graph":
        names = {"adjacency": "A", "importance": "PA"}
        return f"gcn.{block}.gcn.{names.get(rest[0]) or '.'.join(rest)}"
    return f"gcn.{block}.{'tcn' if part == 'time' else part}.{'bn' if rest[0] == '1' else 'conv'}.{rest[1]}"
