"""MS-G3D: Liu, Zhang, Chen, Wang, Ouyang, "Disentangling and Unifying Graph Convolutions for Skeleton-Based Action
Recognition", CVPR 2020, in PYSKL's form.

Three stages, each ``relu(spatial(x) + sum_w window_w(x))`` and then a multi-branch temporal convolution:

* ``spatial``: ``relu(BN(sum_k W_k x (A_k + B_k)))`` over 13 scales k, A_k joining joints exactly k edges apart and
  B_k learned (section 3.2), then two temporal convolutions;
* ``window_w``: the same with 6 scales on the graph of the w V joints of w = 3 or 5 successive frames, after which one
  convolution collapses the window (G3D, section 3.3).

Outputs equal the reference's; the arithmetic is arranged for speed. No window is ever unfolded: mixing joints and
frames of a window is a convolution over time whose channels are joints. From the second stage on W_k comes before it,
so that it works on frames, not on the w times more numerous frames of windows.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skelcore.encoders.graph import hops, neighbours, windowed
from skelcore.encoders.joints import JointEncoder
from skelcore.encoders.layers import DataNorm, Pointwise, Projection, to_maps, to_wide
from skelcore.encoders.norm import Norm, largest
from skelcore.layouts import Layout

SCALES, WINDOW_SCALES, WINDOWS, DILATIONS = 13, 6, (3, 5), (1, 2, 3, 4)
BRANCHES = len(DILATIONS) + 2  # and max pool, pointwise


class Subsets(nn.Module):
    """Fixed adjacency subsets (K, V, V) and what is learned on top of them."""

    fixed: Tensor

    def __init__(self, fixed: Tensor) -> None:
        super().__init__()
        self.register_buffer("fixed", fixed)
        self.learned = nn.Parameter(torch.empty_like(fixed).uniform_(-1e-6, 1e-6))

    def forward(self) -> Tensor:
        return self.fixed + self.learned


class ScaleConv(nn.Module):
    """relu(BN(sum_k W_k x A_k)) on (1, C, T, P V)."""

    def __init__(self, inputs: int, outputs: int, subsets: Tensor) -> None:
        super().__init__()
        self.subsets = Subsets(subsets)
        self.conv = Pointwise(inputs * len(subsets), outputs)
        self.bn = Norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        adjacency = self.subsets()
        spread = x.reshape(1, -1, adjacency.shape[1]).expand(len(adjacency), -1, -1) @ adjacency
        return F.relu_(self.bn(self.conv(spread.view(1, -1, *x.shape[2:]))))


class WindowConv(nn.Module):
    """BN of the collapsed relu(BN(sum_k W_k x A_k)) over windows of frames, (1, C, T, P V) -> (1, D, T / stride, P V).

    ``subsets`` is (K, w V, w V); inside there are ``hidden`` channels.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, subsets: Tensor, window: int, stride: int) -> None:
        super().__init__()
        self.window, self.stride = window, stride
        self.subsets = Subsets(subsets)
        self.conv = Pointwise(inputs * len(subsets), hidden)
        self.bn = Norm(hidden)
        self.collapse = nn.Conv3d(hidden, outputs, (1, window, 1))
        self.collapse_bn = Norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        adjacency = self.subsets()
        adjacency = adjacency.view(len(adjacency), self.window, -1, adjacency.shape[2])  # scale, frame, joint -> column
        joints = adjacency.shape[2]
        x = x[0].unflatten(-1, (-1, joints))  # C, T, P, V
        persons, channels = x.shape[2], len(self.bn.weight)
        mixed = self.spread_first(x, adjacency) if len(x) < channels else self.mix_first(x, adjacency)
        y = F.relu_(self.bn(mixed.add_(self.conv.bias[:, None, None])[None]))  # 1, O, P w V, T'
        y = self.collapse(y.view(1, channels, persons, self.window, -1))  # 1, D, P, 1, V T'
        return self.collapse_bn(y.view(1, y.shape[1], persons * joints, -1)).transpose(2, 3)

    def mix_first(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """sum_k (W_k x) A_k, (C, T, P, V) -> (O, P w V, T')."""
        scales, _, joints, _ = adjacency.shape
        channels, frames, persons, _ = x.shape
        weight = self.conv.weight.view(-1, scales, channels).transpose(0, 1).reshape(-1, channels)
        mixed = (weight @ x.reshape(channels, -1)).view(scales, -1, frames, persons, joints)
        rows = mixed.permute(1, 3, 0, 4, 2).reshape(-1, scales * joints, frames)
        kernel = adjacency.permute(3, 0, 2, 1).flatten(1, 2)
        return self.convolve(rows, kernel).view(-1, persons * len(kernel), -(-frames // self.stride))

    def spread_first(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """sum_k W_k (x A_k), (C, T, P, V) -> (O, P w V, T')."""
        scales, _, joints, columns = adjacency.shape
        channels, frames, persons, _ = x.shape
        kernel = adjacency.permute(0, 3, 2, 1).flatten(0, 1)
        spread = self.convolve(x.permute(0, 2, 3, 1).reshape(-1, joints, frames), kernel)
        spread = spread.view(channels, persons, scales, columns, -1).transpose(1, 2).transpose(0, 1)
        mixed = self.conv.weight.flatten(1) @ spread.reshape(scales * channels, -1)
        return mixed.view(len(mixed), persons * columns, -1)

    def convolve(self, rows: Tensor, kernel: Tensor) -> Tensor:
        return F.conv1d(rows, kernel, stride=self.stride, padding=self.window // 2)


class TemporalConv(nn.Module):
    """Six branches over time, concatenated, plus a residual connection, on (1, C, T, P V); no ReLU at the end."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        narrow = outputs // BRANCHES
        self.widths = [narrow] * (BRANCHES - 1) + [outputs - narrow * (BRANCHES - 1)]
        self.stride = stride
        self.reduce = Pointwise(inputs, outputs)
        self.reduce_bn = Norm(narrow * (BRANCHES - 1))
        self.dilated = nn.ModuleList(nn.Conv2d(narrow, narrow, (3, 1), (stride, 1), (dilation, 0), (dilation, 1))
                                     for dilation in DILATIONS)
        self.bn = Norm(outputs)
        self.residual = nn.Identity() if inputs == outputs and stride == 1 else Projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        rows = sum(self.widths[:-1])
        *dilated, pooled = F.relu_(self.reduce(x, self.reduce_bn, slice(rows))).split(self.widths[:-1], 1)
        branches = (conv(part) for conv, part in zip(self.dilated, dilated, strict=True))
        # One batch norm over the branches' own, side by side. The pointwise branch's sees every stride-th frame only.
        y = self.bn(*branches, largest(pooled, self.stride, 2),
                    self.reduce(x[:, :, :: self.stride], rows=slice(rows, None)))
        return y.add_(self.residual(x))


class Stage(nn.Module):
    """(1, C, T, P V) -> (1, C', T / stride, P V)."""

    def __init__(self, inputs: int, outputs: int, stride: int, layout: Layout) -> None:
        super().__init__()
        graph = neighbours(layout)
        hidden = outputs if stride == 1 else inputs  # the first stage widens at once
        self.scales = ScaleConv(inputs, hidden, torch.from_numpy(hops(graph, SCALES)))
        self.scales_time = nn.ModuleList([TemporalConv(hidden, outputs, stride), TemporalConv(outputs, outputs)])
        self.windows = nn.ModuleList(
            WindowConv(inputs, hidden, outputs, torch.from_numpy(hops(windowed(graph, window), WINDOW_SCALES)),
                       window, stride) for window in WINDOWS)
        self.time = TemporalConv(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.scales_time[1](F.relu_(self.scales_time[0](self.scales(x))))
        for window in self.windows:
            y = y.add_(window(x))
        return F.relu_(self.time(F.relu_(y)))


class MSG3D(JointEncoder):
    """``in_channels`` -> three stages; ``width`` is the first one's, and the later ones have 2 and 4 times it."""

    name = "msg3d"
    WIDTH = 96
    adjacency: Tensor

    def __init__(self, layout: Layout, in_channels: int, width: int) -> None:
        super().__init__(layout, in_channels, width)
        self.dim = 4 * width
        self.register_buffer("adjacency", torch.from_numpy(neighbours(layout)))
        self.data_bn = DataNorm(len(layout), in_channels, slots=2)
        outputs = [in_channels, width, 2 * width, 4 * width]
        self.stages = nn.Sequential(*(Stage(before, after, 1 if i == 0 else 2, layout)
                                      for i, (before, after) in enumerate(pairwise(outputs))))

    def maps(self, x: Tensor, slot: Tensor) -> Tensor:
        return to_maps(self.stages(to_wide(self.data_bn(x, slot))), len(self.layout))

    def pyskl_keys(self) -> dict[str, list[str]]:
        return {key: _pyskl_keys(key) for key in self.state_dict()}

    def pyskl_rows(self, key: str) -> list[int] | None:
        owner, *tail = key.rsplit(".", 2)
        fused = tail and tail[0] in ("reduce", "bn")
        return time.widths if fused and isinstance(time := self.get_submodule(owner), TemporalConv) else None


def _pyskl_keys(key: str) -> list[str]:
    if key == "adjacency":
        return ["A"]
    if key.startswith("data_bn."):
        return [key]
    _, index, part, *rest = key.split(".")
    stage = int(index) + 1
    if part == "scales":
        return [f"sgcn{stage}.0.{_scale_key(rest)}"]
    if part == "scales_time":
        return _time_keys(f"sgcn{stage}.{int(rest[0]) + 1}", rest[1:])
    if part == "time":
        return _time_keys(f"tcn{stage}", rest)
    start = f"gcn3d{stage}.gcn3d.{rest[0]}"
    if rest[1].startswith("collapse"):
        return [f"{start}.{'out_conv' if rest[1] == 'collapse' else 'out_bn'}.{rest[2]}"]
    return [f"{start}.gcn3d.1.{_scale_key(rest[1:])}"]


def _scale_key(rest: list[str]) -> str:
    return {"subsets.fixed": "A", "subsets.learned": "PA"}.get(
        ".".join(rest), f"mlp.layers.{0 if rest[0] == 'conv' else 1}.{rest[1]}")


def _time_keys(start: str, rest: list[str]) -> list[str]:
    branches = [f"{start}.branches.{i}" for i in range(BRANCHES)]
    if rest[0] == "residual":
        return [f"{start}.residual.{'conv' if rest[1] == '0' else 'bn'}.{rest[2]}"]
    if rest[0] == "dilated":
        return [f"{branches[int(rest[1])]}.3.conv.{rest[2]}"]
    if rest[0] == "bn":
        return [*(f"{branch}.3.bn.{rest[1]}" for branch in branches[:-2]), f"{branches[-2]}.4.{rest[1]}",
                f"{branches[-1]}.1.{rest[1]}"]
    return [f"{branch}.{0 if rest[0] == 'reduce' else 1}.{rest[1]}"
            for branch in (branches if rest[0] == "reduce" else branches[:-1])]
