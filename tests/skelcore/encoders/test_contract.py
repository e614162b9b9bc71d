"""What every encoder promises, whatever its paper."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from skelcore import checkpoint, encoders, layouts
from skelcore.encoders.heatmaps import HeatmapEncoder
from skelcore.encoders.joints import JointEncoder
from skelcore.errors import InputError

NAMES = list(encoders.ENCODERS)
JOINTS = [name for name, encoder in encoders.ENCODERS.items() if issubclass(encoder, JointEncoder)]
HEATMAPS = [name for name, encoder in encoders.ENCODERS.items() if issubclass(encoder, HeatmapEncoder)]
STICK = layouts.Layout("stick", ("head", "pelvis", "left_foot", "right_foot"), ((0, 1), (2, 1), (3, 1)), 1)


def small(name, layout="penn13", seed=0, **kwargs):
    """A narrow encoder with batch-norm statistics of its input, so that its features vary."""
    torch.manual_seed(seed)
    encoder = encoders.build(name, layout, width=kwargs.pop("width", 8), **kwargs)
    encoders.calibrate(encoder, [clips(encoder, count=4, persons=2)])
    return encoder.eval()


def clips(encoder, count=2, persons=2, frames=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if isinstance(encoder, HeatmapEncoder):
        return torch.rand(count, encoder.in_channels, frames, 16, 16, generator=generator)
    return torch.randn(count, persons, frames, len(encoder.layout), encoder.in_channels, generator=generator)


@pytest.fixture(params=NAMES)
def encoder(request):
    return small(request.param)


@torch.no_grad()
def test_forward_is_the_mean_of_the_feature_maps(encoder):
    x = clips(encoder)
    maps = encoder.features(x)
    joints = isinstance(encoder, JointEncoder)
    assert maps.shape[2 if joints else 1] == encoder.dim
    pooled = maps.mean((1, 3, 4) if joints else (2, 3, 4))
    torch.testing.assert_close(encoder(x), pooled, rtol=1e-4, atol=1e-5 * pooled.abs().max().item())
    assert encoder(x).std() > 0 and not torch.allclose(encoder(x)[0], encoder(x)[1])


@torch.no_grad()
def test_a_checkpoint_gives_the_same_features(encoder, tmp_path):
    checkpoint.save_encoder(tmp_path / "encoder.pt", encoder, 12, "joint")
    again, _ = checkpoint.load_encoder(tmp_path / "encoder.pt", encoder.name, "penn13")
    x = clips(encoder)
    torch.testing.assert_close(again(x), encoder(x), rtol=0, atol=0)


@torch.no_grad()
def test_export(encoder, tmp_path):
    """An exported program, and the ONNX model made of it in ONNX Runtime, give the same numbers."""
    x = clips(encoder)
    wanted = encoder(x)
    close = {"rtol": 1e-4, "atol": 1e-4 * wanted.abs().max().item()}
    program = torch.export.export(encoder, (x,))
    torch.testing.assert_close(program.module()(x), wanted, **close)
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.onnx.export(program, (), tmp_path / "encoder.onnx", verbose=False, optimize=False)
    session = runtime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    (ours,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(ours, wanted.numpy(), **close)


@torch.no_grad()
def test_bf16_is_close(encoder):
    x = clips(encoder)
    with torch.autocast("cpu", torch.bfloat16):
        half = encoder(x).float()
    # A plain module of the same layers loses as much: eight bits hold little beside a large common part.
    bound = {"dgstgcn": 0.25, "posec3d": 0.1, "posec3d-346": 0.1}.get(encoder.name, 0.06)
    assert (half - encoder(x)).norm() < bound * encoder(x).norm()


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides(name):
    one, other, third = small(name), small(name), small(name, seed=1)
    x = clips(one)
    torch.testing.assert_close(one(x), other(x), rtol=0, atol=0)
    torch.testing.assert_close(one(x), one(x), rtol=0, atol=0)
    assert not torch.allclose(one(x), third(x))


def test_gradient_reaches_every_parameter(encoder):
    # In eval mode: before a batch norm in training, a bias has none.
    encoder(clips(encoder)).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", ["ntu25", "openpose18", "hand21", STICK], ids=str)
def test_every_layout(name, layout):
    encoder = small(name, layout)
    assert encoder(clips(encoder)).isfinite().all()


@torch.no_grad()
def test_any_number_of_frames(encoder):
    for frames in (1, 2, 7, 33):
        assert encoder(clips(encoder, frames=frames)).isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("name", JOINTS)
def test_up_to_ten_persons(name):
    encoder = small(name)
    for persons in (1, 10):
        assert encoder(clips(encoder, persons=persons)).isfinite().all()


@pytest.mark.parametrize("name", JOINTS)
def test_masked_persons_change_nothing(name):
    encoder = small(name)
    x, valid = clips(encoder, count=3, persons=2), torch.tensor([[1, 0], [1, 1], [1, 0]]).bool()
    other = torch.where(valid[..., None, None, None], x, torch.randn_like(x) * 100)
    with torch.no_grad():
        pooled = encoder(x, valid)
        torch.testing.assert_close(pooled, encoder(other, valid), rtol=0, atol=0)
        torch.testing.assert_close(pooled[:1], encoder(x[:1, :1]), rtol=1e-4, atol=1e-5 * pooled.abs().max().item())
        torch.testing.assert_close(pooled[1:2], encoder(x[1:2]), rtol=1e-4, atol=1e-5 * pooled.abs().max().item())
        torch.testing.assert_close(encoder(x, valid, compat=True), encoder(x), rtol=0, atol=0)
        assert not torch.allclose(encoder(x, valid)[0], encoder(x)[0])
    # In training too, where batch statistics could leak them.
    first, second = small(name).train(), small(name).train()
    torch.testing.assert_close(first(x, valid), second(other, valid), rtol=0, atol=0)
    for (key, one), two in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0, msg=key)


@pytest.mark.parametrize("name", JOINTS)
def test_a_clip_without_persons_has_zeros_and_a_batch_without_is_refused(name):
    encoder = small(name)
    x = clips(encoder)
    pooled = encoder(x, torch.tensor([[False, False], [True, False]]))
    assert not pooled[0].any() and pooled[1].any()
    with pytest.raises(InputError, match="no clip"):
        encoder(x, torch.zeros(2, 2, dtype=torch.bool))
    with pytest.raises(InputError, match="valid"):
        encoder(x, torch.ones(2, 3, dtype=torch.bool))


@pytest.mark.parametrize("name", JOINTS)
@pytest.mark.parametrize("x", [
    torch.zeros(1, 1, 5, 12, 3), torch.zeros(1, 1, 5, 13, 2), torch.zeros(1, 5, 13, 3), torch.zeros(1, 0, 5, 13, 3),
    torch.zeros(1, 1, 0, 13, 3), torch.full((1, 1, 5, 13, 3), torch.nan), torch.full((1, 1, 5, 13, 3), torch.inf),
], ids=lambda x: f"{tuple(x.shape)}-{x.flatten()[:1].tolist()}")
def test_bad_joints(name, x):
    with pytest.raises(InputError, match=name.replace("+", r"\+")):
        small(name)(x)


@pytest.mark.parametrize("name", HEATMAPS)
@pytest.mark.parametrize("x", [
    torch.zeros(1, 12, 4, 16, 16), torch.zeros(1, 13, 4, 16), torch.zeros(1, 13, 0, 16, 16),
    torch.full((1, 13, 4, 16, 16), torch.nan),
], ids=lambda x: f"{tuple(x.shape)}-{x.flatten()[:1].tolist()}")
def test_bad_heatmaps(name, x):
    with pytest.raises(InputError, match=name):
        small(name)(x)


@pytest.mark.parametrize("name", [name for name in JOINTS if name != "transformer"])  # which has no batch norm
def test_one_frame_cannot_be_trained_on(name):
    encoder = small(name).train()
    with pytest.raises(InputError, match="one frame"):
        encoder(torch.zeros(1, 1, 1, 13, 3))
    with pytest.raises(InputError, match="one frame"):
        encoder(torch.zeros(2, 1, 1, 13, 3), torch.tensor([[True], [False]]))


def test_one_value_a_channel_cannot_be_trained_on():
    with pytest.raises(InputError, match="too little"):
        small("x3d-shallow").train()(torch.zeros(1, 13, 1, 16, 16))


@pytest.mark.parametrize("name", JOINTS)
def test_what_is_masked_may_be_anything(name):
    encoder, x = small(name), torch.randn(2, 2, 6, 13, 3)
    valid = torch.tensor([[True, False], [True, True]])
    x[0, 1] = torch.nan
    with torch.no_grad():
        assert encoder(x, valid).isfinite().all()
    with pytest.raises(InputError, match="bool"):
        encoder(x, valid.long())


def test_calibration_is_that_of_training(encoder):
    """Every batch norm ends with the cumulative statistics that training mode would have left it."""
    twin = copy.deepcopy(encoder)
    batches = [clips(encoder, count=4, seed=seed) for seed in (1, 2)]
    encoders.calibrate(encoder, batches)
    for module in twin.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        for batch in batches:
            twin.train()(batch)
    for (key, one), two in zip(encoder.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", ["aagcn", "ctrgcn"])
def test_a_slot_that_a_batch_lacks_does_not_dilute_its_statistics(name):
    encoder = small(name)
    first, second = torch.randn(4, 1, 6, 13, 3), torch.randn(4, 2, 6, 13, 3) + 5
    encoders.calibrate(encoder, [first, second])
    assert encoder.data_bn.running_mean.view(2, -1)[1].mean() == pytest.approx(5, abs=0.2)


def test_calibration_that_fails_changes_nothing():
    encoder = small("stgcn++")
    before = copy.deepcopy(encoder.state_dict())
    with pytest.raises(InputError):
        encoders.calibrate(encoder, [torch.randn(4, 1, 6, 13, 3), torch.randn(4, 1, 6, 12, 3)])
    for key, value in encoder.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0, msg=key)


@pytest.mark.parametrize("name", ["stgcn++", "ctrgcn", "dgstgcn"])
def test_autocast_keeps_low_precision_maps_low(name):
    """Maps that a bias lifts back to float32 would take twice the memory."""
    encoder, kinds = small(name).train(), set()
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda _, inputs, output: kinds.add(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        encoder(clips(encoder))
    assert kinds == {torch.bfloat16}


@pytest.mark.parametrize("channels", [3, 4])
def test_3d_clips_are_read_with_and_without_scores(channels):
    encoder = small("stgcn++", in_channels=channels)
    assert encoder.accepts(3, "bone") == (channels == 4) and encoder.accepts(2, "bone") == (channels == 3)
    x, _ = encoder.inputs(torch.rand(2, 1, 5, 13, 3), torch.rand(2, 1, 5, 13))
    assert x.shape[-1] == channels
    with pytest.raises(InputError, match="stream=smell"):
        encoder.accepts(3, "smell")


def test_raw_clips_become_inputs(encoder):
    keypoints, scores = torch.rand(2, 2, 12, 13, 2) * 300, torch.rand(2, 2, 12, 13)
    scores[0, 1] = 0
    x, valid = encoder.inputs(keypoints, scores)
    with torch.no_grad():
        pooled = encoder(x, valid)
        moved, valid = encoder.inputs(keypoints * 2 + 50, scores)
        torch.testing.assert_close(encoder(moved, valid), pooled, rtol=1e-2, atol=1e-3 * pooled.abs().max().item())
