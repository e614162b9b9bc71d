"""X3D-shallow against its layers written out."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skelcore import encoders


def conv(inputs, outputs, kernel=1, stride=1, padding=0, groups=1):
    return nn.Conv3d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)


class PlainBlock(nn.Module):
    def __init__(self, inputs, outputs, space):
        super().__init__()
        inner = outputs * 9 // 4
        if space == 2:
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, (1, 2, 2)), nn.BatchNorm3d(outputs))
        self.path = nn.Sequential(
            conv(inputs, inner), nn.BatchNorm3d(inner), nn.ReLU(),
            conv(inner, inner, 3, (1, space, space), 1, inner), nn.BatchNorm3d(inner),
            conv(inner, outputs), nn.BatchNorm3d(outputs))

    def forward(self, x):
        return F.relu(self.path(x) + (self.downsample(x) if hasattr(self, "downsample") else x))


def plain_x3d(joints, width):
    layers = [conv(joints, width, (1, 3, 3), (1, 2, 2), (0, 1, 1)),
              conv(width, width, (5, 1, 1), 1, (2, 0, 0), width), nn.BatchNorm3d(width), nn.ReLU()]
    for inputs, outputs, blocks in ((width, width, 2), (width, 2 * width, 5), (2 * width, 4 * width, 3)):
        layers += [PlainBlock(inputs if i == 0 else outputs, outputs, 2 if i == 0 else 1) for i in range(blocks)]
    return nn.Sequential(*layers, conv(4 * width, 9 * width), nn.BatchNorm3d(9 * width), nn.ReLU())


@pytest.mark.parametrize(("layout", "count"), [("coco17", 254_508 - 217 * 60), ("ntu25", 254_508 - 217 * 60 + 8 * 216)])
def test_parameter_count(layout, count):
    assert sum(p.numel() for p in encoders.build("x3d-shallow", layout).parameters()) == count


@pytest.mark.parametrize("frames", [1, 6])
def test_equals_the_plain_layers(frames):
    torch.manual_seed(0)
    encoder, plain = encoders.build("x3d-shallow", "penn13", width=8).double(), plain_x3d(13, 8).double()
    # Only the place of the residual's convolution among its block's layers may differ: ours has it last.
    names = sorted(encoder.state_dict(), key=lambda key: (_place(key), "downsample" not in key))
    plain.load_state_dict(dict(zip(plain.state_dict(), (encoder.state_dict()[key] for key in names), strict=True)))
    x = torch.rand(2, 13, frames, 17, 20, dtype=torch.float64)
    for mode in ("train", "eval"):
        getattr(encoder, mode)(), getattr(plain, mode)()
        encoder.zero_grad(), plain.zero_grad()
        y, wanted = encoder.features(x), plain(x)
        assert y.shape == (2, 72, frames, 2, 2)
        torch.testing.assert_close(y, wanted, rtol=1e-9, atol=1e-9)
        y.square().sum().backward(), wanted.square().sum().backward()
        ours = dict(encoder.named_parameters())
        names = [key for key in names if key in ours]
        largest = max(p.grad.abs().max().item() for p in plain.parameters())
        for key, theirs in zip(names, plain.parameters(), strict=True):
            torch.testing.assert_close(ours[key].grad, theirs.grad, rtol=1e-8, atol=1e-10 * largest, msg=key)


def _place(key):
    """The block of a state-dict key, in order; keys of one block are equal."""
    parts = key.split(".")
    return (["conv1_s", "conv1_t", "layer1", "layer2", "layer3", "conv5"].index(parts[0]),
            int(parts[1]) if parts[0].startswith("layer") else 0)
