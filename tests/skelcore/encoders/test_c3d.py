"""C3D-light against its layers written out."""

import torch
from torch import nn

from skelcore import checkpoint, encoders
from tests.paths import PARITY, need


def test_keys_shapes_and_parameter_count_are_the_references():
    encoder = encoders.build("c3d-light", "coco17")
    listed = [line.split("\t") for line in need(PARITY / "c3d_light.keys.txt").read_text().splitlines()]
    wanted = {key: shape for key, shape, *_ in listed if key.startswith("backbone.")}
    assert {key: str(list(value.shape)) for key, value in checkpoint.to_pyskl(encoder).items()} == wanted
    assert sum(p.numel() for p in encoder.parameters()) == 3_404_892 - 257 * 60


def test_equals_the_plain_layers():
    torch.manual_seed(0)
    encoder = encoders.build("c3d-light", "penn13", width=8).double()
    plain = nn.Sequential()
    for inputs, outputs, pool in ((13, 8, 1), (8, 16, 1), (16, 32, 0), (32, 32, 1), (32, 64, 0), (64, 64, 0)):
        plain.extend([nn.Conv3d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm3d(outputs), nn.ReLU()])
        plain.extend([nn.MaxPool3d((1, 2, 2))] * pool)
    plain.double().load_state_dict(dict(zip(plain.state_dict(), encoder.state_dict().values(), strict=True)))
    x = torch.rand(2, 13, 3, 17, 20, dtype=torch.float64)
    for mode in ("train", "eval"):
        getattr(encoder, mode)(), getattr(plain, mode)()
        encoder.zero_grad(), plain.zero_grad()
        y, wanted = encoder.features(x), plain(x)
        assert y.shape == (2, 64, 3, 2, 2)
        torch.testing.assert_close(y, wanted, rtol=1e-9, atol=1e-9)
        y.square().sum().backward(), wanted.square().sum().backward()
        for ours, theirs in zip(encoder.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-8 * theirs.grad.abs().max().item())
    for ours, theirs in zip(encoder.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
