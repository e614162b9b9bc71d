"""SlowOnly: its layers computed by hand against plain ones, in training, evaluation and calibration."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.plain.posec3d import SlowOnly
from skelcore import encoders
from skelcore.encoders.posec3d import ConvNorm, FoldedNorm, ReluConv, every
from skelcore.errors import InputError

BLOCKS = {"posec3d": (4, 6, 3), "posec3d-346": (3, 4, 6)}


def pair(name="posec3d", seed=0):
    """The encoder and the plain module with the same weights, batch norms made to matter, in float64."""
    torch.manual_seed(seed)
    ours = encoders.build(name, "penn13", width=8).double()
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    plain = SlowOnly(13, 8, BLOCKS[name]).double()
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def outcome(module, features, x):
    """Features, gradients of the input and of all parameters, and buffers after a step."""
    x = x.clone().requires_grad_()
    y = features(x)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    return {"features": y, "input": x.grad, **{f"gradient {key}": p.grad for key, p in module.named_parameters()},
            **{f"buffer {key}": b for key, b in module.named_buffers()}}


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        scale = value.abs().max().item()
        torch.testing.assert_close(ours[key], value, rtol=1e-8, atol=1e-8 * scale, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize(("name", "layout", "count"), [
    ("posec3d", "coco17", 2_024_860 - 513 * 60), ("posec3d", "ntu25", 2_024_860 - 513 * 60 + 8 * 32 * 49),
    ("posec3d-346", "coco17", 3_003_360)])
def test_parameter_count(name, layout, count):
    assert sum(p.numel() for p in encoders.build(name, layout).parameters()) == count


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(("name", "shape"), [
    ("posec3d", (2, 13, 5, 17, 22)), ("posec3d", (3, 13, 1, 16, 16)), ("posec3d", (1, 13, 4, 16, 24)),
    ("posec3d-346", (2, 13, 4, 20, 16))])
def test_equals_the_plain_module(name, shape, mode):
    ours, plain = pair(name)
    x = torch.rand(shape, dtype=torch.float64)
    getattr(ours, mode)(), getattr(plain, mode)()
    same(outcome(ours, ours.features, x), outcome(plain, plain, x))


def test_calibration_equals_that_of_the_plain_module():
    ours, plain = pair()
    batches = [torch.rand(2, 13, 3, 16, 16, dtype=torch.float64) for _ in range(3)]
    encoders.calibrate(ours, batches)
    encoders.calibrate(plain, batches)
    same(dict(ours.named_buffers()), dict(plain.named_buffers()))


def test_a_frozen_batch_norm_keeps_its_statistics_while_the_rest_trains():
    ours, plain = pair()
    for module in (ours, plain):
        module.train()
        for part in module.modules():
            if isinstance(part, (nn.BatchNorm2d, nn.BatchNorm3d)):
                part.eval()
    before = copy.deepcopy(dict(ours.named_buffers()))
    x = torch.rand(2, 13, 3, 16, 16, dtype=torch.float64)
    same(outcome(ours, ours.features, x), outcome(plain, plain, x))
    same(dict(ours.named_buffers()), before)


def test_low_precision_loses_no_more_than_the_plain_module():
    ours, plain = pair()
    ours, plain = ours.float(), plain.float()
    x = torch.rand(2, 13, 4, 16, 16)
    for mode in ("train", "eval"):
        getattr(ours, mode)(), getattr(plain, mode)()
        with torch.no_grad():
            wanted = copy.deepcopy(plain)(x)
            with torch.autocast("cpu", torch.bfloat16):
                error, floor = ((half.float() - wanted).norm() for half in (ours.features(x), plain(x)))
        assert error < 1.3 * floor
    with torch.autocast("cpu", torch.bfloat16):
        ours.train()(x).float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in ours.parameters())


def test_folded_norm_is_exact_also_for_inputs_far_from_zero():
    torch.manual_seed(0)
    x = (torch.randn(6, 8, 9, 9) + 20 * torch.rand(8)[:, None, None]).contiguous(memory_format=torch.channels_last)
    layer = ConvNorm(8, 12).train()
    wanted = copy.deepcopy(layer).double()
    y = wanted.bn(F.conv2d(x.double(), wanted.conv.weight[:, :, 0]))
    torch.testing.assert_close(layer(x, 3), y.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.bn.running_var, wanted.bn.running_var.float(), rtol=1e-5, atol=0)


def test_gradients_are_those_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    x, weight, gamma, beta = (torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
                              for shape in ((4, 2, 2, 3), (3, 2), (3,), (3,)))
    bn = nn.BatchNorm2d(3).double()
    assert torch.autograd.gradcheck(lambda *inputs: FoldedNorm.apply(inputs[0], inputs[1], bn, *inputs[2:], 2),
                                    (x, weight, gamma, beta))
    for size in (1, 3):
        kernel = torch.randn(3, 2, size, generator=generator, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(lambda x, w: ReluConv.apply(x.clone(), w, 2), (x, kernel))
        y, rectified = ReluConv.apply(x.clone(), kernel, 2)
        clips = x.relu().unflatten(0, (2, 2)).transpose(1, 2)
        naive = F.conv3d(clips, kernel[..., None, None], padding=(size // 2, 0, 0))
        torch.testing.assert_close(y, naive.transpose(1, 2).flatten(0, 1))
        torch.testing.assert_close(rectified, x.relu(), rtol=0, atol=0)


def test_every_takes_frames_of_each_clip():
    x = torch.arange(2 * 3 * 4 * 4).view(6, 1, 4, 4)  # two clips of three frames
    torch.testing.assert_close(every(x, 3, 2, 1), x[[0, 2, 3, 5]])
    torch.testing.assert_close(every(x, 3, 1, 2), x[:, :, ::2, ::2])


def test_too_small_heatmaps_are_refused():
    with pytest.raises(InputError, match=r"15 x 40 .* at least 16 x 16"):
        encoders.build("posec3d", "coco17")(torch.zeros(1, 17, 2, 15, 40))
