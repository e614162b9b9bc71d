"""AAGCN: Shi, Zhang, Cheng, Lu, "Skeleton-Based Action Recognition With Multi-Stream Adaptive Graph Convolutional
Networks", 2020.

ST-GCN's blocks with a graph that depends on the clip, ``A_k + alpha tanh(a_k(x)^T b_k(x) / (C' T))`` (the
paper writes a softmax, its code and the reference have this tanh), and attention over joints, frames and channels in
turn, each ``y (1 + sigmoid(...))``, all of it person by person. Arranged for speed:

* The three W_k of a graph convolution are one matrix product, and so are the six a_k and b_k.
* The two later attentions need only means of the attended maps, which are weighted means of the maps themselves; so
  the maps are multiplied once, at the end.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skelcore.encoders.encoder import NEAR_ZERO
from skelcore.encoders.graph import spatial_subsets
from skelcore.encoders.joints import JointEncoder
from skelcore.encoders.layers import Block, DataNorm, Pointwise, Projection, kaiming, schedule, temporal
from skelcore.encoders.stgcn import pyskl_key
from skelcore.layouts import Layout

SUBSETS = 3
REDUCTION = 4  # of the channels in which joints are compared


class GraphConv(nn.Module):
    """relu(BN(sum_k W_k x (A_k + alpha B_k(x))) + down(x)), then attention, on (P, C, T, V)."""

    def __init__(self, inputs: int, outputs: int, adjacency: Tensor) -> None:
        super().__init__()
        self.adjacency = nn.Parameter(adjacency.clone())
        self.alpha = nn.Parameter(torch.full((1,), NEAR_ZERO))
        self.conv = Pointwise(inputs, outputs * SUBSETS)
        self.compare = Pointwise(inputs, 2 * (outputs // REDUCTION) * SUBSETS)
        self.bn = nn.BatchNorm2d(outputs)
        self.down = Projection(inputs, outputs) if inputs != outputs else nn.Identity()
        self.attention = Attention(outputs, adjacency.shape[-1])
        nn.init.normal_(self.conv.weight, 0, math.sqrt(2 / (outputs * inputs * SUBSETS)))
        nn.init.normal_(self.compare.weight, 0, math.sqrt(2 / (outputs // REDUCTION)))
        if isinstance(self.down, Projection):
            kaiming(self.down[0], outputs)
        nn.init.zeros_(self.conv.bias)
        nn.init.zeros_(self.compare.bias)
        nn.init.constant_(self.bn.weight, NEAR_ZERO)

    def forward(self, x: Tensor) -> Tensor:
        persons, _, frames, joints = x.shape
        maps = (self.conv.weight.flatten(1).expand(persons, -1, -1) @ x.flatten(2)).view(persons, SUBSETS, -1, joints)
        compared = self.compare(x).view(persons, 2 * SUBSETS, -1, joints).unbind(1)
        # The bias of W_k comes after the graph product, where the sum over k is all there is to add.
        y = self.conv.bias.view(SUBSETS, -1).sum(0).repeat_interleave(frames)[:, None]
        for k, part in enumerate(maps.unbind(1)):
            alike = torch.tanh(compared[k].transpose(1, 2) @ compared[SUBSETS + k] / compared[k].shape[1])
            y = torch.baddbmm(y, part, self.adjacency[k] + alike * self.alpha)
        y = y.view(persons, -1, frames, joints)
        return self.attention(F.relu_(self.bn(y).add_(self.down(x))))


class Attention(nn.Module):
    """Over joints, then frames, then channels of (P, C, T, V), each person's from its own maps."""

    def __init__(self, channels: int, joints: int) -> None:
        super().__init__()
        odd = joints - 1 + joints % 2
        self.joints = nn.Conv1d(channels, 1, odd, padding=odd // 2)
        self.frames = nn.Conv1d(channels, 1, 9, padding=4)
        self.squeeze, self.excite = nn.Linear(channels, channels // 2), nn.Linear(channels // 2, channels)
        nn.init.xavier_normal_(self.joints.weight)
        nn.init.kaiming_normal_(self.squeeze.weight)
        # In pairs of opposite sign, so that no input leaves all of a narrow encoder's units at zero.
        with torch.no_grad():
            self.squeeze.weight[1::2] = -self.squeeze.weight[: channels // 2 - 1 : 2]
        nn.init.zeros_(self.frames.weight)
        nn.init.normal_(self.excite.weight, 0, NEAR_ZERO)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, y: Tensor) -> Tensor:
        joints = 1 + torch.sigmoid(self.joints(y.mean(2)))  # (P, 1, V)
        over_joints = (y.flatten(1, 2) @ joints.transpose(1, 2)).view(y.shape[:3]) / y.shape[3]
        frames = 1 + torch.sigmoid(self.frames(over_joints))  # (P, 1, T)
        pooled = (over_joints * frames).mean(2)
        channels = 1 + torch.sigmoid(self.excite(F.relu(self.squeeze(pooled))))  # (P, C)
        return y * (frames[..., None] * joints[:, :, None]) * channels[..., None, None]


class AAGCN(JointEncoder):
    """The encoder: (N, M, T, V, C) -> (N, M, 4 width, ceil(ceil(T / 2) / 2), V)."""

    name = "aagcn"

    def __init__(self, layout: Layout, in_channels: int = 3, width: int = 64) -> None:
        super().__init__(layout, in_channels, width)
        self.dim = 4 * width
        self.data_bn = DataNorm(len(layout), in_channels, slots=2)
        adjacency = torch.from_numpy(spatial_subsets(layout))
        self.register_buffer("adjacency", adjacency)  # unused, but the reference's checkpoints hold it
        self.blocks = nn.Sequential(*(
            Block(GraphConv(inputs, outputs, adjacency), temporal(outputs, stride), inputs, outputs, stride,
                  residual=i > 0)
            for i, (inputs, outputs, stride) in enumerate(schedule(in_channels, width))))

    def maps(self, x: Tensor, slot: Tensor) -> Tensor:
        return self.blocks(self.data_bn(x, slot).permute(0, 3, 1, 2).contiguous())

    def pyskl_keys(self) -> dict[str, list[str]]:
        return {key: _pyskl_keys(key) for key in self.state_dict()}


def _pyskl_keys(key: str) -> list[str]:
    for layer, letters in (("conv", "d"), ("compare", "ab")):
        start, found, tail = pyskl_key(key).partition(f".gcn.{layer}.")
        if found:
            return [f"{start}.gcn.conv_{letter}.{k}.{tail}" for letter in letters for k in range(SUBSETS)]
    if ".graph.attention." in key:
        start, layer, tail = pyskl_key(key).replace(".attention.", ".").rsplit(".", 2)
        names = {"joints": "conv_sa", "frames": "conv_ta", "squeeze": "fc1c", "excite": "fc2c"}
        return [f"{start}.{names[layer]}.{tail}"]
    return ["A" if key == "adjacency" else pyskl_key(key)]
