"""CTR-GCN: Chen et al., "Channel-wise Topology Refinement Graph Convolution for Skeleton-Based Action Recognition",
ICCV 2021.

Ten blocks, each a graph convolution with a graph for every channel, ``G_k = A_k + alpha W_k4 tanh(p_k - q_k)`` where
p_k and q_k are projections of the mean over time (equations 4 to 6), then a multi-branch temporal convolution
(kernel 5 with dilations 1 and 2, max pool, pointwise). Outputs equal the reference's; for speed:

* Activations are (1, C, P V, T) for P persons in all: pointwise convolutions are single large matrix products, the
  joints of one channel and person are a contiguous matrix for the graph product, and channel slices are contiguous.
* p_k and q_k are projected after the mean over time, which is T times less work; one product serves all three subsets.
* The pointwise convolutions that open the temporal branches are one; so are batch norms side by side.
* A bias before a batch norm changes only its running mean, so it is added there and not to the activations.
* Batch norm, max pool and the graph product have their own gradients: fewer passes over memory than torch's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from skelcore.encoders.encoder import NEAR_ZERO
from skelcore.encoders.graph import spatial_subsets
from skelcore.encoders.joints import JointEncoder
from skelcore.encoders.layers import DataNorm, Pointwise, Projection, kaiming, schedule
from skelcore.encoders.norm import Norm, largest
from skelcore.errors import InputError
from skelcore.layouts import Layout

REDUCTION = 8
KERNEL = 5
DILATIONS = (1, 2)
BRANCHES = len(DILATIONS) + 2  # and max pool, pointwise


class _Refined(torch.autograd.Function):
    """sum_k G_k (W_k x + b_k), where ``G_k = A_k + B_k relation_k`` is a graph for every channel and person.

    Of x (C, P V T), W (K C', C), b (K C'), relations (K, R, P V V), B (K, C', R) and A (K, C', V, V): (C', P V T).
    Written out because autograd copies every gradient of a slice into one of the whole, subset by subset.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, relations: Tensor, refine: Tensor,
                constant: Tensor) -> Tensor:
        subsets, channels, joints, _ = constant.shape
        graph = torch.bmm(refine, relations).view(subsets, channels, -1, joints, joints)
        graph.add_(constant[:, :, None])
        graph = graph.flatten(1, 2)
        value = (weight @ x).add_(bias[:, None]).view(*graph.shape[:3], -1)
        y = torch.bmm(graph[0].mT, value[0])
        for k in range(1, subsets):
            y.baddbmm_(graph[k].mT, value[k])
        ctx.save_for_backward(x, weight, relations, refine, value, graph)
        return y.view(channels, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        x, weight, relations, refine, value, graph = ctx.saved_tensors
        dgraph, dvalue, dy = torch.empty_like(graph), torch.empty_like(value), dy.reshape(value[0].shape)
        for k in range(len(graph)):
            torch.bmm(value[k], dy.mT, out=dgraph[k])
            torch.bmm(graph[k], dy, out=dvalue[k])
        dconstant = dgraph.unflatten(1, (refine.shape[1], -1)).sum(2)
        rows, dgraph = dvalue.view(len(weight), -1), dgraph.view(*refine.shape[:2], -1)
        return (weight.T @ rows, rows @ x.T, rows.sum(1), torch.bmm(refine.mT, dgraph),
                torch.bmm(dgraph, relations.mT), dconstant)


class GraphConv(nn.Module):
    """relu(BN(sum_k G_k W_k x) + down(x)) on (1, C, P V, T), with a graph G_k for every channel and person."""

    def __init__(self, inputs: int, outputs: int, adjacency: Tensor) -> None:
        super().__init__()
        subsets, narrow = len(adjacency), 8 if inputs <= 16 else inputs // REDUCTION
        self.adjacency = nn.Parameter(adjacency.clone())
        self.alpha = nn.Parameter(torch.full((1,), NEAR_ZERO))
        self.relate = Pointwise(inputs, 2 * subsets * narrow)
        self.refine = Pointwise(narrow, subsets * outputs)
        self.value = Pointwise(inputs, subsets * outputs)
        self.bn = Norm(outputs)
        nn.init.constant_(self.bn.weight, NEAR_ZERO)
        self.down = Projection(inputs, outputs) if inputs != outputs else nn.Identity()
        for conv, channels in ((self.relate, narrow), (self.refine, outputs), (self.value, outputs)):
            kaiming(conv, channels)
        if isinstance(self.down, Projection):
            kaiming(self.down[0], outputs)

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        low = torch.is_autocast_enabled(kind) and x.dtype != torch.float64  # which autocast leaves alone
        dtype = torch.get_autocast_dtype(kind) if low else x.dtype
        parts = (x.flatten(2)[0], self.value.weight.flatten(1), self.value.bias, *self.relations(x.mean(-1)))
        y = _Refined.apply(*(part.to(dtype) for part in parts))
        y = self.bn(y.view(1, -1, *x.shape[2:]))
        return F.relu_(y.add_(self.down(x)))

    def relations(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What makes up the graphs for mean activations (1, C, P V): relations, and the weights and constants."""
        subsets, joints, _ = self.adjacency.shape
        pairs = torch.addmm(self.relate.bias[:, None], self.relate.weight.flatten(1), x[0])
        first, second = pairs.view(2, subsets, -1, x.shape[2] // joints, joints)
        relations = torch.tanh(first[..., None] - second[..., None, :])
        refine = self.refine.weight.view(subsets, -1, relations.shape[1]) * self.alpha
        constant = (self.refine.bias * self.alpha).view(subsets, -1, 1, 1) + self.adjacency[:, None]
        return relations.flatten(2), refine, constant


class Dilated(nn.Conv2d):
    """A dilated convolution over the frames of (1, C, W, T) that leaves its bias to the batch norm after it."""

    bias: nn.Parameter

    def __init__(self, channels: int, stride: int, dilation: int) -> None:
        super().__init__(channels, channels, (KERNEL, 1), (stride, 1), (KERNEL // 2 * dilation, 0), (dilation, 1))

    def forward(self, x: Tensor) -> Tensor:
        # Frames are the last axis here, and the one before it in the reference's weights.
        dilation, weight = self.dilation[0], self.weight.transpose(2, 3).contiguous()
        return F.conv2d(x, weight, None, (1, self.stride[0]), (0, KERNEL // 2 * dilation), (1, dilation))


class TemporalConv(nn.Module):
    """Four branches over time, each ending in a batch norm, concatenated, on (1, C, P V, T)."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.narrow, self.stride = channels // BRANCHES, stride
        self.reduce = Pointwise(channels, channels)
        self.reduce_bn = Norm(channels - self.narrow)
        self.dilated = nn.ModuleList(Dilated(self.narrow, stride, dilation) for dilation in DILATIONS)
        self.bn = Norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[1] - self.narrow
        activated = F.relu_(self.reduce(x, self.reduce_bn, slice(rows)))
        *dilated, pooled = activated.split(self.narrow, 1)
        biases = [conv.get_parameter("bias") for conv in self.dilated]
        offset = torch.cat([*biases, biases[0].new_zeros(2 * self.narrow)])
        return self.bn(*(conv(part) for conv, part in zip(self.dilated, dilated, strict=True)),
                       largest(pooled, self.stride, 3), self.reduce(x[..., :: self.stride], rows=slice(rows, None)),
                       offset=offset)


class Block(nn.Module):
    """Graph, then time, with a residual connection: (1, C, P V, T) -> (1, C', P V, T / stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int, adjacency: Tensor, residual: bool, relu: bool) -> None:
        super().__init__()
        self.graph, self.time = GraphConv(inputs, outputs, adjacency), TemporalConv(outputs, stride)
        same = inputs == outputs and stride == 1
        self.residual = None if not residual else nn.Identity() if same else Projection(inputs, outputs)
        self.stride, self.relu = stride, relu

    def forward(self, x: Tensor) -> Tensor:
        y = self.time(self.graph(x))
        if self.residual is None:
            return F.relu_(y)
        if self.relu:
            y = F.relu_(y)
        return F.relu_(y + self.residual(x[..., :: self.stride]))


class CTRGCN(JointEncoder):
    """The encoder: (N, M, T, V, C) -> (N, M, 4 width, ceil(ceil(T / 2) / 2), V), in PYSKL's form.

    Raises InputError for a width that the temporal branches cannot share equally.
    """

    name = "ctrgcn"
    RELU = True  # after the temporal unit

    def __init__(self, layout: Layout, in_channels: int = 3, width: int = 64) -> None:
        super().__init__(layout, in_channels, width)
        if width % BRANCHES:
            raise InputError(f"encoder {self.name}: width must be a multiple of {BRANCHES}, got {width}")
        self.dim = 4 * width
        self.data_bn = DataNorm(len(layout), in_channels, slots=2)
        adjacency = torch.from_numpy(spatial_subsets(layout))
        self.register_buffer("adjacency", adjacency)
        self.blocks = nn.Sequential(*(
            Block(*sizes, adjacency, residual=i > 0, relu=self.RELU)
            for i, sizes in enumerate(schedule(in_channels, width))))

    def maps(self, x: Tensor, slot: Tensor) -> Tensor:
        persons, _, joints, _ = x.shape
        x = self.data_bn(x, slot).permute(3, 0, 2, 1).flatten(1, 2)[None]
        return self.blocks(x)[0].unflatten(1, (persons, joints)).permute(1, 0, 3, 2)

    def pyskl_keys(self) -> dict[str, list[str]]:
        return {key: _pyskl_keys(key) for key in self.state_dict()}


class CTRGCNOriginal(CTRGCN):
    """The network of the paper's authors, which has no ReLU after the temporal unit."""

    name = "ctrgcn-orig"
    RELU = False


def _pyskl_keys(key: str) -> list[str]:
    if key.startswith("data_bn."):
        return [key]
    if key == "adjacency":
        return ["A"]
    _, block, part, *rest = key.split(".")
    tail, start = ".".join(rest[1:]), f"net.{block}"
    if part == "residual":
        return [f"{start}.residual.{('conv', 'bn')[int(rest[0])]}.{tail}"]
    if part == "time":
        branches = [f"{start}.tcn1.branches.{i}" for i in range(BRANCHES)]
        return {
            "reduce": [f"{branch}.0.{tail}" for branch in branches],
            "reduce_bn": [f"{branch}.1.{tail}" for branch in branches[:-1]],
            "dilated": [f"{start}.tcn1.branches.{'.3.conv.'.join(rest[1:])}"],
            "bn": [f"{branch}.{end}.{tail}" for branch, end in zip(branches, ("3.bn", "3.bn", "4", "1"), strict=True)],
        }[rest[0]]
    start += ".gcn1"
    convs = [f"{start}.convs.{k}" for k in range(3)]
    return {
        "adjacency": [f"{start}.A"],
        "alpha": [f"{start}.alpha"],
        "relate": [f"{conv}.conv{i}.{tail}" for i in (1, 2) for conv in convs],
        "refine": [f"{conv}.conv4.{tail}" for conv in convs],
        "value": [f"{conv}.conv3.{tail}" for conv in convs],
        "bn": [f"{start}.bn.{tail}"],
        "down": [f"{start}.down.{tail}"],
    }[rest[0]]
