import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skelcore import checkpoint, encoders, layouts
from tests.paths import PARITY, need
from tests.skelcore.encoders.plain import compare


def convolution(inputs, outputs, stride=1):
    return nn.ModuleDict({"conv": nn.Conv2d(inputs, outputs, 1, (stride, 1)), "bn": nn.BatchNorm2d(outputs)})


class Graph(nn.Module):
    """The dynamic graph convolution on (N, C, T, V), its parameters named like the reference's."""

    def __init__(self, inputs, outputs, joints):
        super().__init__()
        hidden = outputs // 8 * 8
        self.A = nn.Parameter(torch.zeros(8, joints, joints))
        self.alpha, self.beta = nn.Parameter(torch.zeros(8)), nn.Parameter(torch.zeros(8))
        self.pre = nn.Sequential(nn.Conv2d(inputs, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU())
        self.post = nn.Conv2d(hidden, outputs, 1)
        self.conv1, self.conv2 = nn.Conv2d(inputs, hidden, 1), nn.Conv2d(inputs, hidden, 1)
        self.down = None
        if inputs != outputs:
            self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs))
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        mean, parts = x.mean(2, keepdim=True), []
        subsets = [part.chunk(8, 1) for part in (self.pre(x), self.conv1(mean)[:, :, 0], self.conv2(mean)[:, :, 0])]
        for own, value, source, target in zip(self.A, *subsets, strict=True):
            channelwise = torch.tanh(source[:, :, :, None] - target[:, :, None, :])
            shared = (source.transpose(1, 2) @ target).softmax(1)[:, None]
            parts.append(value @ (own + self.alpha[0] * channelwise + self.beta[0] * shared))
        y = self.bn(self.post(torch.cat(parts, 1)))
        return F.relu(y + (x if self.down is None else self.down(x)))


class Temporal(nn.Module):
    def __init__(self, channels, stride, joints):
        super().__init__()
        narrow = channels // 6
        widths = [channels - 5 * narrow] + 5 * [narrow]
        reduced = [[nn.Conv2d(channels, width, 1), nn.BatchNorm2d(width), nn.ReLU()] for width in widths[:5]]
        self.add_coeff = nn.Parameter(torch.zeros(max(25, joints)))
        dilated = [nn.ModuleDict({"conv": nn.Conv2d(width, width, (3, 1), (stride, 1), (i, 0), (i, 1))})
                   for i, width in enumerate(widths[:4], 1)]
        self.branches = nn.ModuleList(
            [nn.Sequential(*reduced[i], dilated[i]) for i in range(4)] +
            [nn.Sequential(*reduced[4], nn.MaxPool2d((3, 1), (stride, 1), (1, 0))),
             nn.Conv2d(channels, narrow, 1, (stride, 1))])
        self.transform = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 1))
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x):
        joints = x.shape[-1]
        x = torch.cat([x, x.mean(-1, keepdim=True)], -1)
        ends = [branch[3]["conv"](branch[:3](x)) for branch in self.branches[:4]]
        y = torch.cat([*ends, *(branch(x) for branch in self.branches[4:])], 1)
        return self.bn(self.transform(y[..., :-1] + y[..., -1:] * self.add_coeff[:joints]))


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride, joints, first):
        super().__init__()
        self.gcn, self.tcn = Graph(inputs, outputs, joints), Temporal(outputs, stride, joints)
        self.first = first
        self.residual = None if first or (inputs == outputs and stride == 1) else convolution(inputs, outputs, stride)

    def forward(self, x):
        y = self.tcn(self.gcn(x))
        if self.residual is not None:
            x = self.residual["bn"](self.residual["conv"](x))
        return F.relu(y if self.first else y + x)


class Plain(nn.Module):
    """The paper's layers one by one on (N, C, T, V); keys are the reference's."""

    def __init__(self, joints, channels, width):
        super().__init__()
        self.data_bn = nn.BatchNorm1d(joints * channels)
        outputs = 4 * [width] + 3 * [2 * width] + 3 * [4 * width]
        self.gcn = nn.Sequential(*(
            Block(before, after, 2 if i in (4, 7) else 1, joints, i == 0)
            for i, (before, after) in enumerate(zip([channels, *outputs], outputs, strict=False))))

    def forward(self, x):
        clips, persons, frames, joints, channels = x.shape
        x = self.data_bn(x.permute(0, 1, 3, 4, 2).reshape(-1, joints * channels, frames))
        x = self.gcn(x.view(-1, joints, channels, frames).permute(0, 2, 3, 1))
        return x.mean((2, 3)).view(clips, persons, -1).mean(1)


def pair(layout="jhmdb15", width=12, channels=3):
    """Our encoder and the plain one with the same random weights, gates open, in float64 and training mode."""
    torch.manual_seed(0)
    encoder = encoders.build("dgstgcn", layout, channels, width).double().train()
    with torch.no_grad():
        for key, parameter in encoder.named_parameters():
            if key.rpartition(".")[2] in ("alpha", "beta", "gamma"):
                parameter.normal_()
    plain = Plain(len(layouts.get(layout)), channels, width).double().train()
    weights = checkpoint.to_pyskl(encoder)
    plain.load_state_dict({key.removeprefix("backbone."): value for key, value in weights.items()})
    return encoder, plain


@pytest.mark.parametrize(("layout", "frames", "channels"), [
    ("jhmdb15", 9, 3), ("mediapipe33", 1, 2), ("hand21", 4, 12),
])
def test_outputs_gradients_and_statistics_equal_the_plain_layers(layout, frames, channels):
    encoder, plain = pair(layout, channels=channels)
    x = torch.randn(3, 2, frames, len(layouts.get(layout)), channels, dtype=torch.double)
    compare(encoder, plain, x)


@pytest.fixture(scope="module")
def fixture():
    return np.load(need(PARITY / "dgstgcn_coco.npz"))


@pytest.fixture(scope="module")
def weights():
    return torch.load(need(PARITY / "dgstgcn_coco.pth"), weights_only=True)["state_dict"]


def test_the_plain_layers_are_the_reference(fixture, weights):
    plain = Plain(17, 3, 64).double().eval()
    plain.load_state_dict({key.removeprefix("backbone."): value for key, value in weights.items()
                           if key.startswith("backbone.")})
    with torch.no_grad():
        pooled = plain(torch.from_numpy(fixture["input"])[:, 0].double())
    torch.testing.assert_close(pooled, torch.from_numpy(fixture["pooled_f64"]), rtol=1e-10, atol=1e-9)


def test_feature_maps_equal_the_reference_in_float64(fixture, weights):
    # The reference's float32 maps are off by 5.5e-5 where a whole person is missing; two float32 runs by up to 1e-4.
    encoder = encoders.build("dgstgcn", "coco17")
    checkpoint.load_pyskl(encoder, weights)
    with torch.no_grad():
        maps = encoder.eval().double().features(torch.from_numpy(fixture["input"])[:, 0].double())
    theirs = torch.from_numpy(fixture["feat"]).double()
    assert (maps - theirs).abs().max() < 6e-5 * theirs.abs().max()
    assert (maps - theirs).abs().mean() < 1e-6 * theirs.abs().max()


def test_a_fresh_graph_is_small_noise_around_a_mean_that_the_seed_decides():
    torch.manual_seed(0)
    encoder = encoders.build("dgstgcn", "coco17")
    torch.manual_seed(0)
    again = encoders.build("dgstgcn", "coco17")
    drawn = torch.stack([block.graph.adjacency for block in encoder.blocks])
    torch.testing.assert_close(drawn, torch.stack([block.graph.adjacency for block in again.blocks]), rtol=0, atol=0)
    assert drawn.shape == (10, 8, 17, 17)
    assert drawn.mean().item() == pytest.approx(0.04, abs=1e-3)
    assert drawn.std().item() == pytest.approx(0.02, abs=1e-3)


@pytest.mark.parametrize(("layout", "total"), [("coco17", 1_658_824), ("ntu25", 1_686_000)])
def test_parameter_counts(layout, total):
    count = sum(parameter.numel() for parameter in encoders.build("dgstgcn", layout).parameters())
    assert count == total if layout == "coco17" else count == pytest.approx(total, abs=500)


def test_a_layout_of_more_joints_than_the_reference_knows_has_a_coefficient_for_each():
    encoder = encoders.build("dgstgcn", "mediapipe33", width=8)
    assert all(block.time.fuse_bn.gamma.shape == (33,) for block in encoder.blocks)
