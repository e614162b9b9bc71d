"""The networks of the st-gcn, 2s-AGCN and CTR-GCN repositories, layer by layer from their papers and named as there.

All read clips (N, 2, T, V, C) and give logits (N, classes).
"""

import torch
from torch import nn
from torch.nn import functional as F

CLASSES = 7


def plan(channels, width):
    outputs = 4 * [width] + 3 * [2 * width] + 3 * [4 * width]
    return [(before, after, 2 if i in (4, 7) else 1)
            for i, (before, after) in enumerate(zip([channels, *outputs], outputs, strict=False))]


class Unit(nn.Module):
    """A convolution over ``kernel`` frames and its batch norm."""

    def __init__(self, inputs, outputs, kernel=9, stride=1, dilation=1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, (kernel, 1), (stride, 1), (kernel // 2 * dilation, 0), (dilation, 1))
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return self.bn(self.conv(x))


def projection(inputs, outputs, stride=1):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, (stride, 1)), nn.BatchNorm2d(outputs))


class STGCNBlock(nn.Module):
    def __init__(self, inputs, outputs, stride, first):
        super().__init__()
        self.gcn = nn.ModuleDict({"conv": nn.Conv2d(inputs, 3 * outputs, 1)})
        self.tcn = nn.Sequential(nn.BatchNorm2d(outputs), nn.ReLU(),
                                 nn.Conv2d(outputs, outputs, (9, 1), (stride, 1), (4, 0)), nn.BatchNorm2d(outputs))
        self.first = first
        if not first and (inputs != outputs or stride > 1):
            self.residual = projection(inputs, outputs, stride)

    def forward(self, x, graph):
        y = self.tcn(sum(part @ edges for part, edges in zip(self.gcn["conv"](x).chunk(3, 1), graph, strict=True)))
        if not self.first:
            y = y + (self.residual(x) if hasattr(self, "residual") else x)
        return F.relu(y)


class STGCN(nn.Module):
    def __init__(self, joints=18, channels=3, width=8):
        super().__init__()
        self.register_buffer("A", torch.rand(3, joints, joints) / joints)
        self.data_bn = nn.BatchNorm1d(joints * channels)
        self.st_gcn_networks = nn.ModuleList(STGCNBlock(*sizes, i == 0)
                                             for i, sizes in enumerate(plan(channels, width)))
        self.edge_importance = nn.ParameterList(torch.ones(3, joints, joints) for _ in range(10))
        self.fcn = nn.Conv2d(4 * width, CLASSES, 1)

    def forward(self, x):
        clips, persons, frames, joints, channels = x.shape
        y = self.data_bn(x.permute(0, 1, 3, 4, 2).reshape(clips * persons, joints * channels, frames))
        y = y.view(-1, joints, channels, frames).permute(0, 2, 3, 1)
        for block, importance in zip(self.st_gcn_networks, self.edge_importance, strict=True):
            y = block(y, self.A * importance)
        return self.fcn(y.mean((2, 3)).view(clips, persons, -1).mean(1)[..., None, None])[..., 0, 0]


class AdaptiveGraph(nn.Module):
    """AAGCN: a graph of its own and one of the clip, then attention over joints, frames and channels."""

    def __init__(self, inputs, outputs, joints):
        super().__init__()
        self.PA, self.alpha = nn.Parameter(torch.rand(3, joints, joints) / joints), nn.Parameter(torch.zeros(1))
        self.conv_d = nn.ModuleList(nn.Conv2d(inputs, outputs, 1) for _ in range(3))
        self.conv_a = nn.ModuleList(nn.Conv2d(inputs, outputs // 4, 1) for _ in range(3))
        self.conv_b = nn.ModuleList(nn.Conv2d(inputs, outputs // 4, 1) for _ in range(3))
        odd = joints - 1 + joints % 2
        self.conv_ta, self.conv_sa = nn.Conv1d(outputs, 1, 9, padding=4), nn.Conv1d(outputs, 1, odd, padding=odd // 2)
        self.fc1c, self.fc2c = nn.Linear(outputs, outputs // 2), nn.Linear(outputs // 2, outputs)
        if inputs != outputs:
            self.down = projection(inputs, outputs)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        y = 0
        for mix, one, other, edges in zip(self.conv_d, self.conv_a, self.conv_b, self.PA, strict=True):
            a, b = one(x).flatten(1, 2), other(x).flatten(1, 2)
            y = y + mix(x @ (edges + self.alpha * torch.tanh(a.mT @ b / a.shape[1]))[:, None])
        y = F.relu(self.bn(y) + (self.down(x) if hasattr(self, "down") else x))
        y = y * (1 + torch.sigmoid(self.conv_sa(y.mean(2)))[:, :, None])
        y = y * (1 + torch.sigmoid(self.conv_ta(y.mean(3)))[..., None])
        return y * (1 + torch.sigmoid(self.fc2c(F.relu(self.fc1c(y.mean((2, 3)))))))[..., None, None]


class Refinement(nn.Module):
    """CTR-GCN, equation 4: joint v gives joint u what the graph A + alpha W4 tanh(p_u - q_v) has at (u, v)."""

    def __init__(self, inputs, outputs):
        super().__init__()
        narrow = 8 if inputs <= 16 else inputs // 8
        self.conv1, self.conv2 = nn.Conv2d(inputs, narrow, 1), nn.Conv2d(inputs, narrow, 1)
        self.conv3, self.conv4 = nn.Conv2d(inputs, outputs, 1), nn.Conv2d(narrow, outputs, 1)

    def forward(self, x, edges, alpha):
        p, q = self.conv1(x).mean(2), self.conv2(x).mean(2)
        graph = edges + alpha * self.conv4(torch.tanh(p[..., :, None] - q[..., None, :]))
        return torch.einsum("ncuv,nctv->nctu", graph, self.conv3(x))


class RefinedGraph(nn.Module):
    def __init__(self, inputs, outputs, joints):
        super().__init__()
        self.PA, self.alpha = nn.Parameter(torch.rand(3, joints, joints) / joints), nn.Parameter(torch.zeros(1))
        self.convs = nn.ModuleList(Refinement(inputs, outputs) for _ in range(3))
        if inputs != outputs:
            self.down = projection(inputs, outputs)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        y = self.bn(sum(conv(x, edges, self.alpha) for conv, edges in zip(self.convs, self.PA, strict=True)))
        return F.relu(y + (self.down(x) if hasattr(self, "down") else x))


class Branches(nn.Module):
    """CTR-GCN's temporal unit, without any activation after it."""

    def __init__(self, channels, stride):
        super().__init__()
        narrow = channels // 4

        def reduced(*rest):
            return nn.Sequential(nn.Conv2d(channels, narrow, 1), nn.BatchNorm2d(narrow), nn.ReLU(), *rest)

        self.branches = nn.ModuleList([
            reduced(Unit(narrow, narrow, 5, stride, 1)), reduced(Unit(narrow, narrow, 5, stride, 2)),
            reduced(nn.MaxPool2d((3, 1), (stride, 1), (1, 0)), nn.BatchNorm2d(narrow)),
            projection(channels, narrow, stride)])

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], 1)


class Block(nn.Module):
    def __init__(self, graph, time, inputs, outputs, stride, first):
        super().__init__()
        self.gcn1, self.tcn1, self.first = graph, time, first
        if not first and (inputs != outputs or stride > 1):
            self.residual = Unit(inputs, outputs, 1, stride)

    def forward(self, x):
        y = self.tcn1(self.gcn1(x))
        if not self.first:
            y = y + (self.residual(x) if hasattr(self, "residual") else x)
        return F.relu(y)


class TenBlocks(nn.Module):
    """What the 2s-AGCN and CTR-GCN repositories have in common."""

    def __init__(self, joints, channels, width):
        super().__init__()
        self.data_bn = nn.BatchNorm1d(2 * joints * channels)
        for i, (inputs, outputs, stride) in enumerate(plan(channels, width)):
            graph, time = self.parts(inputs, outputs, stride, joints)
            self.add_module(f"l{i + 1}", Block(graph, time, inputs, outputs, stride, i == 0))
        self.fc = nn.Linear(4 * width, CLASSES)

    def forward(self, x):
        clips, persons, frames, joints, channels = x.shape
        y = self.data_bn(x.permute(0, 1, 3, 4, 2).reshape(clips, -1, frames))
        y = y.view(clips * persons, joints, channels, frames).permute(0, 2, 3, 1)
        for i in range(10):
            y = self.get_submodule(f"l{i + 1}")(y)
        return self.fc(y.mean((2, 3)).view(clips, persons, -1).mean(1))


class AAGCN(TenBlocks):
    def __init__(self, joints=25, channels=3, width=8):
        super().__init__(joints, channels, width)

    def parts(self, inputs, outputs, stride, joints):
        return AdaptiveGraph(inputs, outputs, joints), Unit(outputs, outputs, 9, stride)


class CTRGCN(TenBlocks):
    def __init__(self, joints=25, channels=3, width=8):
        super().__init__(joints, channels, width)

    def parts(self, inputs, outputs, stride, joints):
        return RefinedGraph(inputs, outputs, joints), Branches(outputs, stride)


@torch.no_grad()
def trained(kind, *sizes):
    """A network in eval mode, whose float32 values are in float64, nothing in it at a special value.

    Its batch norms hold the statistics of noise, so that activations keep to a scale where float32 is exact enough.
    """
    torch.manual_seed(0)
    network = kind(*sizes)
    for key, value in network.state_dict().items():
        if value.is_floating_point() and "running" not in key and not key.endswith("PA") and key != "A":
            value.add_(torch.randn_like(value) * 0.1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 1.0
    joints = next(value.shape[-1] for key, value in network.state_dict().items() if key.split(".")[-1] in ("A", "PA"))
    network.train()(torch.randn(4, 2, 16, joints, 3))
    return network.eval().double()
