"""CTR-GCN against a plain module, and its kernels against torch's own."""

import copy

import numpy as np
import pytest
import torch

from benchmarks.plain.ctrgcn import Plain
from skelcore import checkpoint, encoders, layouts
from skelcore.errors import InputError
from tests.paths import PARITY, need


def randomised(name="ctrgcn", layout="penn13", channels=3, width=16):
    """An encoder in float64 whose every weight and statistic is far from its initial value."""
    torch.manual_seed(0)
    encoder = encoders.build(name, layout, channels, width).double()
    for key, value in encoder.state_dict().items():
        if value.is_floating_point():
            value.add_(torch.rand_like(value) if "running_var" in key else torch.randn_like(value) * 0.1)
    return encoder


def pair(name="ctrgcn", **kwargs):
    encoder = randomised(name, **kwargs)
    plain = Plain(encoder.layout, encoder.in_channels, encoder.width, relu=name == "ctrgcn")
    return encoder, plain.double().load(encoder)


def close(ours, theirs, rtol=1e-8):
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol * max(theirs.abs().max().item(), 1e-3))


@pytest.mark.parametrize("layout", ["coco17", "ntu25", "openpose18", "hand21"])
def test_parameter_counts(layout):
    count = sum(parameter.numel() for parameter in encoders.build("ctrgcn", layout).parameters())
    # Ten blocks' three adjacency matrices and an input norm of two persons are all that depends on the joints.
    joints = len(layouts.get(layout))
    assert count + 60 * 256 + 60 == 1_436_496 + 30 * (joints**2 - 17**2) + 12 * (joints - 17)


@torch.no_grad()
def test_the_plain_module_is_the_reference():
    fixture = np.load(need(PARITY / "ctrgcn_coco.npz"))
    weights = torch.load(need(PARITY / "ctrgcn_coco.pth"), weights_only=True)["state_dict"]
    plain = Plain(layouts.get("coco17"))
    plain.load_state_dict({key.removeprefix("backbone."): value for key, value in weights.items() if "cls" not in key})
    close(plain.eval()(torch.from_numpy(fixture["input"][:, 0])), torch.from_numpy(fixture["feat"]), rtol=1e-5)


@pytest.mark.parametrize(("name", "persons", "frames"), [("ctrgcn", 2, 21), ("ctrgcn", 1, 8), ("ctrgcn-orig", 2, 9)])
def test_outputs_gradients_and_statistics_equal_the_plain_module(name, persons, frames):
    encoder, plain = pair(name)
    x = torch.randn(3, persons, frames, 13, 3, dtype=torch.double)
    maps, wanted = encoder.eval().features(x), plain.eval()(x)
    close(maps, wanted)
    maps, wanted = encoder.train().features(x), plain.train()(x)
    close(maps, wanted)
    weight = torch.randn_like(wanted)
    (maps * weight).sum().backward()
    (wanted * weight).sum().backward()
    ours = checkpoint.to_pyskl(encoder, {key: value.grad for key, value in encoder.named_parameters()})
    theirs = dict(plain.named_parameters())
    assert {f"backbone.{key}" for key in theirs} == set(ours)
    largest_gradient = max(value.grad.abs().max() for value in theirs.values())
    for key, value in theirs.items():
        torch.testing.assert_close(ours[f"backbone.{key}"], value.grad, rtol=1e-8, atol=1e-10 * largest_gradient.item(),
                                   msg=key)
    after = checkpoint.to_pyskl(encoder)
    for key, value in plain.named_buffers():
        if not key.startswith("data_bn.num"):  # the plain module's first batch norm does not count
            close(after[f"backbone.{key}"], value)


def test_the_two_forms_differ_by_a_relu_only():
    ours, original = randomised(), randomised("ctrgcn-orig")
    original.load_state_dict(ours.state_dict())
    x = torch.randn(2, 1, 12, 13, 3, dtype=torch.double)
    assert ours.pyskl_keys() == original.pyskl_keys()
    assert not torch.allclose(ours.eval()(x), original.eval()(x))


def test_training_under_bf16_autocast_is_close_and_reaches_every_parameter():
    encoder = randomised().float().train()
    x, weight = torch.randn(16, 1, 32, 13, 3), torch.randn(16, 64)
    outputs, norms = [], []
    for enabled in (False, True):
        twin = copy.deepcopy(encoder)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            features = twin(x)
        (features.float() * weight).sum().backward()
        assert all(parameter.grad is not None for parameter in twin.parameters())
        outputs.append(features.float())
        norms.append(torch.stack([parameter.grad.norm() for parameter in twin.parameters()]))
    assert (outputs[0] - outputs[1]).norm() < 0.02 * outputs[0].norm()
    assert (norms[0] - norms[1]).norm() < 0.2 * norms[0].norm()


def test_a_copy_trains_alike_on_single_frames():
    encoder = randomised().train()
    twin, x = copy.deepcopy(encoder), torch.randn(2, 1, 1, 13, 3, dtype=torch.double)
    torch.testing.assert_close(encoder(x), twin(x), rtol=0, atol=0)


def test_a_width_that_branches_cannot_share_is_refused():
    with pytest.raises(InputError, match="multiple of 4"):
        encoders.build("ctrgcn", layouts.get("coco17"), width=10)
