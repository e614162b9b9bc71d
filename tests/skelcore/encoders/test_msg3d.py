from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skelcore import checkpoint, encoders, layouts
from skelcore.encoders.graph import hops, neighbours, windowed
from tests.paths import PARITY, need
from tests.skelcore.encoders.plain import compare


class Scales(nn.Module):
    """One convolution over multi-scale adjacency, on (N, C, T, V), its parameters named like the reference's."""

    def __init__(self, inputs, outputs, scales, joints):
        super().__init__()
        self.register_buffer("A", torch.zeros(scales, joints, joints))
        self.PA = nn.Parameter(torch.zeros(scales, joints, joints))
        layers = nn.Sequential(nn.Conv2d(scales * inputs, outputs, 1), nn.BatchNorm2d(outputs), nn.ReLU())
        self.mlp = nn.ModuleDict({"layers": layers})

    def forward(self, x):
        return self.mlp["layers"](torch.cat([x @ adjacency for adjacency in self.A + self.PA], 1))


class Window(nn.Module):
    """Every window of frames as one frame of window x V joints, then a convolution that makes it one of V again."""

    def __init__(self, inputs, hidden, outputs, joints, window, stride):
        super().__init__()
        self.window, self.stride, self.joints = window, stride, joints
        self.gcn3d = nn.ModuleDict({"1": Scales(inputs, hidden, 6, window * joints)})
        self.out_conv = nn.Conv3d(hidden, outputs, (1, window, 1))
        self.out_bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        x = F.pad(x, (0, 0, self.window // 2, self.window // 2))
        x = torch.stack([x[:, :, i : i + self.window].flatten(2)
                         for i in range(0, x.shape[2] - self.window + 1, self.stride)], 2)
        x = self.gcn3d["1"](x).unflatten(-1, (self.window, self.joints))
        return self.out_bn(self.out_conv(x)[:, :, :, 0])


class Pathways(nn.Module):
    def __init__(self, *args, stride):
        super().__init__()
        self.gcn3d = nn.ModuleList(Window(*args, window, stride) for window in (3, 5))

    def forward(self, x):
        return sum(pathway(x) for pathway in self.gcn3d)


def convolution(inputs, outputs, kernel=1, stride=1, dilation=1):
    conv = nn.Conv2d(inputs, outputs, (kernel, 1), (stride, 1), (kernel // 2 * dilation, 0), (dilation, 1))
    return nn.ModuleDict({"conv": conv, "bn": nn.BatchNorm2d(outputs)})


class Temporal(nn.Module):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        narrow = outputs // 6
        last = outputs - 5 * narrow
        reduced = [[nn.Conv2d(inputs, narrow, 1), nn.BatchNorm2d(narrow), nn.ReLU()] for _ in range(5)]
        self.branches = nn.ModuleList(
            [nn.Sequential(*reduced[i], convolution(narrow, narrow, 3, stride, i + 1)) for i in range(4)] +
            [nn.Sequential(*reduced[4], nn.MaxPool2d((3, 1), (stride, 1), (1, 0)), nn.BatchNorm2d(narrow)),
             nn.Sequential(nn.Conv2d(inputs, last, 1, (stride, 1)), nn.BatchNorm2d(last))])
        self.residual = None if inputs == outputs and stride == 1 else convolution(inputs, outputs, stride=stride)

    def forward(self, x):
        ends = [branch[3]["bn"](branch[3]["conv"](branch[:3](x))) for branch in self.branches[:4]]
        y = torch.cat([*ends, *(branch(x) for branch in self.branches[4:])], 1)
        return y + (x if self.residual is None else self.residual["bn"](self.residual["conv"](x)))


class Plain(nn.Module):
    """The paper's layers one by one on (N, C, T, V), two persons a clip; keys are the reference's."""

    def __init__(self, joints, channels, width):
        super().__init__()
        self.register_buffer("A", torch.zeros(joints, joints))
        self.data_bn = nn.BatchNorm1d(2 * joints * channels)
        for stage, (before, after) in enumerate(pairwise([channels, width, 2 * width, 4 * width]), 1):
            stride, hidden = (1, after) if stage == 1 else (2, before)
            self.add_module(f"gcn3d{stage}", Pathways(before, hidden, after, joints, stride=stride))
            self.add_module(f"sgcn{stage}", nn.Sequential(
                Scales(before, hidden, 13, joints), Temporal(hidden, after, stride), Temporal(after, after)))
            self.add_module(f"tcn{stage}", Temporal(after, after))

    def forward(self, x):
        clips, persons, frames, joints, channels = x.shape
        x = self.data_bn(x.permute(0, 1, 3, 4, 2).flatten(1, 3))
        x = x.view(clips * persons, joints, channels, frames).permute(0, 2, 3, 1)
        for stage in (1, 2, 3):
            spatial, first, second = getattr(self, f"sgcn{stage}")
            x = F.relu(second(F.relu(first(spatial(x)))) + getattr(self, f"gcn3d{stage}")(x))
            x = F.relu(getattr(self, f"tcn{stage}")(x))
        return x.mean((2, 3)).view(clips, persons, -1).mean(1)


def pair(layout="jhmdb15", width=12, channels=3):
    """Our encoder and the plain one with the same random weights, in float64 and training mode."""
    torch.manual_seed(0)
    encoder = encoders.build("msg3d", layout, channels, width).double().train()
    with torch.no_grad():
        for key, parameter in encoder.named_parameters():
            if key.endswith("learned"):
                parameter.normal_(0, 0.1)
    plain = Plain(len(layouts.get(layout)), channels, width).double().train()
    weights = checkpoint.to_pyskl(encoder)
    plain.load_state_dict({key.removeprefix("backbone."): value for key, value in weights.items()})
    return encoder, plain


@pytest.mark.parametrize(("frames", "channels"), [(7, 3), (1, 2), (4, 16)])
def test_outputs_gradients_and_statistics_equal_the_plain_layers(frames, channels):
    encoder, plain = pair(channels=channels)
    compare(encoder, plain, torch.randn(3, 2, frames, 15, channels, dtype=torch.double))


def test_the_plain_layers_are_the_reference():
    weights = torch.load(need(PARITY / "msg3d_coco.pth"), weights_only=True)["state_dict"]
    fixture = np.load(need(PARITY / "msg3d_coco.npz"))
    plain = Plain(17, 3, 96).double().eval()
    plain.load_state_dict({key.removeprefix("backbone."): value for key, value in weights.items()
                           if key.startswith("backbone.")})
    with torch.no_grad():
        pooled = plain(torch.from_numpy(fixture["input"])[:, 0].double())
    torch.testing.assert_close(pooled, torch.from_numpy(fixture["pooled_f64"]), rtol=1e-10, atol=1e-12)


def test_a_fresh_encoder_has_the_references_graphs():
    weights = torch.load(need(PARITY / "msg3d_coco.pth"), weights_only=True)["state_dict"]
    ours = checkpoint.to_pyskl(encoders.build("msg3d", "coco17"))
    fixed = [key for key in weights if key.endswith(".A")]
    assert len(fixed) == 10
    for key in fixed:
        torch.testing.assert_close(ours[key], weights[key], rtol=1e-7, atol=0)


@pytest.mark.parametrize("layout", layouts.LAYOUTS.values(), ids=lambda layout: layout.name)
def test_scales_are_distances_in_the_graph(layout):
    for adjacency in (neighbours(layout), windowed(neighbours(layout), 3)):
        distance = np.where(np.eye(len(adjacency)), 0, np.where(adjacency, 1, np.inf))
        for middle in range(len(adjacency)):  # Floyd and Warshall
            distance = np.minimum(distance, distance[:, middle, None] + distance[None, middle])
        for hop, subset in enumerate(hops(adjacency, 13)):
            wanted = ((distance == hop) | (distance == 0)).astype(float)
            np.testing.assert_allclose(subset, wanted / wanted.sum(0), rtol=1e-6)


def test_a_window_links_a_joint_to_itself_and_its_neighbours_in_every_frame():
    layout = layouts.get("coco17")
    graph, near = windowed(neighbours(layout), 3), neighbours(layout)
    for i, j in np.ndindex(51, 51):
        assert graph[i, j] == (i % 17 == j % 17 or near[i % 17, j % 17] == 1)


@pytest.mark.parametrize(("layout", "total"), [("coco17", 2_952_663), ("ntu25", 3_171_000)])
def test_parameter_counts(layout, total):
    count = sum(parameter.numel() for parameter in encoders.build("msg3d", layout).parameters())
    assert count == total if layout == "coco17" else count == pytest.approx(total, abs=500)
