import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skelcore import checkpoint, encoders, layouts
from skelcore.encoders.graph import spatial_subsets
from skelcore.errors import InputError
from tests.paths import PARITY, need


@pytest.fixture(scope="module")
def fixture():
    return np.load(need(PARITY / "stgcnpp_coco.npz"))


@pytest.fixture(scope="module")
def weights():
    return torch.load(need(PARITY / "stgcnpp_coco.pth"), weights_only=True)["state_dict"]


@pytest.fixture
def encoder(weights):
    encoder = encoders.build("stgcn++", "coco17")
    checkpoint.load_pyskl(encoder, weights)
    return encoder.eval()


def head(weights, pooled):
    return F.linear(pooled, weights["cls_head.fc_cls.weight"], weights["cls_head.fc_cls.bias"])


def close(ours, theirs, rtol=1e-5):
    theirs = torch.as_tensor(theirs)
    torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=rtol, atol=rtol * theirs.abs().max().item())


def small(layout="penn13", in_channels=3, width=8, seed=0):
    torch.manual_seed(seed)
    encoder = encoders.build("stgcn++", layout, in_channels, width)
    encoders.calibrate(encoder, [torch.randn(4, 1, 20, len(layouts.get(layout)), in_channels)])
    return encoder.eval()


def test_outputs_equal_the_reference(fixture, weights, encoder):
    x = torch.from_numpy(fixture["input"])
    with torch.no_grad():
        close(encoder.features(x[:, 0]), fixture["feat"])
        pooled = encoder(x[:, 0])
        close(pooled, fixture["pooled"])
        close(head(weights, pooled), fixture["logits"])
        close(encoder.double()(x[:, 0].double()), fixture["pooled_f64"], rtol=1e-10)


def test_probabilities_over_clips_equal_the_reference(fixture, weights, encoder):
    with torch.no_grad():
        clips = torch.from_numpy(fixture["input"])
        probabilities = torch.stack([head(weights, encoder(clips[:, i])).softmax(-1) for i in range(clips.shape[1])])
    close(probabilities.mean(0), fixture["test_prob"])


def test_training_step_equals_the_reference(fixture, weights, encoder):
    fc = {key: weights[f"cls_head.fc_cls.{key}"].clone().requires_grad_() for key in ("weight", "bias")}
    pooled = encoder.train()(torch.from_numpy(fixture["train_input"])[:, 0])
    loss = F.cross_entropy(F.linear(pooled, **fc), torch.from_numpy(fixture["train_label"])[:, 0])
    loss.backward()
    assert loss.item() == pytest.approx(float(fixture["train_loss"]), rel=1e-6)
    close(encoder.data_bn.running_mean, fixture["bn_probe_after_step"])
    norms = {f"cls_head.fc_cls.{key}": value.grad.norm().item() for key, value in fc.items()}
    gradients = {key: parameter.grad for key, parameter in encoder.named_parameters()}
    for key, parts in encoder.pyskl_keys().items():
        if key in gradients:
            pieces = gradients[key].split([len(weights[f"backbone.{part}"]) for part in parts])
            norms |= {f"backbone.{part}": piece.norm().item() for part, piece in zip(parts, pieces, strict=True)}
    theirs = dict(zip(fixture["grad_names"].tolist(), fixture["grad_norms"], strict=True))
    assert norms.keys() == theirs.keys()
    ours, theirs = np.array([norms[key] for key in theirs]), np.array(list(theirs.values()))
    # The fixture's all-zero person puts whole tracks of activations near the kink of a ReLU: noise of 1e-6 in the
    # input changes some of these norms by 1.7 % in float64, so the exact comparison is the naive one below.
    error = np.abs(ours - theirs)
    assert np.median(error[theirs > 1e-4] / theirs[theirs > 1e-4]) < 1e-3
    assert np.linalg.norm(error) < 3e-3 * np.linalg.norm(theirs)
    # A bias before a batch norm has a true gradient of zero: what is recorded there is rounding noise.
    assert ((error < 1e-5) | (error < 3e-2 * theirs)).all()


@pytest.mark.parametrize(("layout", "total"), [
    ("coco17", 1_393_016), ("ntu25", 1_403_144), ("openpose18", 1_394_072), ("hand21", 1_397_600),
])
def test_parameter_counts(layout, total):
    encoder = encoders.build("stgcn++", layout)
    assert sum(parameter.numel() for parameter in encoder.parameters()) + 60 * 256 + 60 == total


def test_graph_equals_a_naive_construction():
    for layout in layouts.LAYOUTS.values():
        joints = len(layout)
        inward, outward = np.zeros((joints, joints)), np.zeros((joints, joints))
        for outer, inner in layout.edges:
            inward[inner, outer] += 1
            outward[outer, inner] += 1
        for adjacency in (inward, outward):
            for column in range(joints):
                if adjacency[:, column].sum() > 0:
                    adjacency[:, column] = adjacency[:, column] / adjacency[:, column].sum()
        np.testing.assert_allclose(spatial_subsets(layout), np.stack([np.eye(joints), inward, outward]), rtol=1e-6)


class Naive(nn.Module):
    """The layers of one block as the paper lists them, on (P, C, T, V)."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        graph, time = self.block.graph, self.block.time
        mixed = F.conv2d(x, graph.conv.weight, graph.conv.bias).view(len(x), 3, -1, *x.shape[2:])
        y = F.relu(graph.bn(torch.einsum("nkctv,kvw->nctw", mixed, graph.adjacency)) + self.project(graph.down, x))
        branches, start = [], 0
        for i, width in enumerate(time.widths):
            rows = slice(start, start + width)
            start += width
            branch = F.conv2d(y, time.reduce.weight[rows], time.reduce.bias[rows], (time.stride if i == 5 else 1, 1))
            if i < 5:
                branch = F.relu(F.batch_norm(branch, None, None, time.reduce_bn.weight[rows], time.reduce_bn.bias[rows],
                                             training=True))
                branch = time.dilated[i](branch) if i < 4 else F.max_pool2d(branch, (3, 1), (time.stride, 1), (1, 0))
            branches.append(branch)
        y = F.relu(time.fuse_bn(torch.cat(branches, 1)))
        y = time.bn(F.conv2d(y, time.fuse.weight, time.fuse.bias))
        return F.relu(y + self.project(self.block.residual, x))

    @staticmethod
    def project(layers, x):
        if isinstance(layers, nn.Identity):
            return x
        return layers[1](F.conv2d(x, layers[0].weight, layers[0].bias, layers[0].stride))


@pytest.mark.parametrize("index", [2, 4])
def test_outputs_and_gradients_equal_a_naive_block(index):
    block = small(width=24).blocks[index].double().train()
    x = torch.randn(5, 24, 9, 13, dtype=torch.double)  # persons, channels, frames, joints
    naive = Naive(block)(x)
    wide = block(x.permute(1, 2, 0, 3).reshape(1, 24, 9, 65))
    ours = wide.view(wide.shape[1], -1, 5, 13).permute(2, 0, 1, 3)
    torch.testing.assert_close(ours, naive, rtol=1e-9, atol=1e-9)
    weight = torch.randn_like(naive)
    parameters = list(block.parameters())
    for one, other in zip(torch.autograd.grad((ours * weight).sum(), parameters),
                          torch.autograd.grad((naive * weight).sum(), parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
def test_every_layout_and_length(layout):
    encoder = small(layout)
    for frames, persons in ((1, 1), (2, 3), (7, 10)):
        x = torch.randn(2, persons, frames, len(layouts.get(layout)), 3)
        with torch.no_grad():
            features = encoder.features(x)
            pooled = encoder(x)
        assert features.shape == (2, persons, encoder.dim, (frames + 3) // 4, len(layouts.get(layout)))
        torch.testing.assert_close(pooled, features.mean((1, 3, 4)))
        assert pooled.std() > 0


def test_a_user_defined_layout():
    layout = layouts.Layout("stick", ("head", "pelvis", "left_foot"), ((0, 1), (2, 1)), 1)
    with torch.no_grad():
        assert encoders.build("stgcn++", layout, 2, 8).eval()(torch.randn(1, 1, 5, 3, 2)).shape == (1, 32)


def test_masked_persons_change_nothing():
    encoder = small()
    x, valid = torch.randn(3, 4, 12, 13, 3), torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1], [1, 1, 1, 1]]).bool()
    other = torch.where(valid[..., None, None, None], x, torch.randn_like(x) * 100)
    with torch.no_grad():
        pooled = encoder(x, valid)
        torch.testing.assert_close(pooled, encoder(other, valid), rtol=0, atol=0)
        torch.testing.assert_close(pooled[0], encoder(x[:1, [0, 2]])[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(pooled[2:], encoder(x[2:]), rtol=1e-4, atol=1e-5)
    # In training too, where batch statistics could leak them.
    first, second = small().train(), small().train()
    torch.testing.assert_close(first(x, valid), second(other, valid), rtol=0, atol=0)
    torch.testing.assert_close(first.data_bn.running_var, second.data_bn.running_var, rtol=0, atol=0)


def test_a_clip_without_persons_has_zeros_and_a_batch_without_is_refused():
    encoder, x = small(), torch.randn(2, 2, 5, 13, 3)
    pooled = encoder(x, torch.tensor([[False, False], [True, False]]))
    assert not pooled[0].any() and pooled[1].any()
    with pytest.raises(InputError, match="no clip"):
        encoder(x, torch.zeros(2, 2, dtype=torch.bool))
    with pytest.raises(InputError, match="valid"):
        encoder(x, torch.ones(2, 3, dtype=torch.bool))


def test_gradient_reaches_every_parameter():
    encoder = small(width=24)  # in eval mode: before a batch norm in training, a bias has none
    encoder(torch.randn(4, 2, 9, 13, 3)).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.parametrize("x", [
    torch.zeros(1, 1, 5, 12, 3), torch.zeros(1, 1, 5, 13, 2), torch.zeros(1, 5, 13, 3), torch.zeros(1, 0, 5, 13, 3),
    torch.zeros(1, 1, 0, 13, 3), torch.full((1, 1, 5, 13, 3), torch.nan), torch.full((1, 1, 5, 13, 3), torch.inf),
])
def test_bad_input(x):
    with pytest.raises(InputError, match=r"stgcn\+\+"):
        small()(x)


def test_one_frame_cannot_be_trained_on():
    with pytest.raises(InputError, match="one frame"):
        small().train()(torch.zeros(1, 1, 1, 13, 3))


def test_build_refuses_what_it_cannot_build():
    with pytest.raises(InputError, match=r"did you mean stgcn\+\+"):
        encoders.build("stgcnpp", "coco17")
    with pytest.raises(InputError, match="width"):
        encoders.build("stgcn++", "coco17", width=4)
    with pytest.raises(InputError, match="layout"):
        encoders.build("stgcn++", "coco")


def test_export_gives_the_same_numbers():
    encoder, x = small(), torch.randn(2, 1, 16, 13, 3)
    program = torch.export.export(encoder, (x,))
    torch.testing.assert_close(program.module()(x), encoder(x), rtol=1e-4, atol=1e-5)


class TestCalibrate:
    def test_first_statistics_are_those_of_the_data(self):
        encoder, batches = small(), [torch.randn(6, 1, 10, 13, 3) * 3 + 1 for _ in range(3)]
        encoders.calibrate(encoder, batches)
        means = torch.stack([batch.mean((0, 1, 2)).flatten() for batch in batches]).mean(0)
        torch.testing.assert_close(encoder.data_bn.running_mean, means, rtol=1e-4, atol=1e-5)
        assert encoder.data_bn.num_batches_tracked == 3

    def test_leaves_weights_modes_and_momenta(self):
        encoder = small()
        encoder.blocks[2].train()
        before = {key: value.clone() for key, value in encoder.named_parameters()}
        modes = [module.training for module in encoder.modules()]
        encoders.calibrate(encoder, [(torch.randn(4, 2, 9, 13, 3), torch.ones(4, 2, dtype=torch.bool))])
        assert modes == [module.training for module in encoder.modules()]
        assert encoder.data_bn.momentum == 0.1
        for key, value in encoder.named_parameters():
            assert torch.equal(value, before[key]) and value.grad is None

    def test_restores_after_a_failure(self):
        encoder = small()
        with pytest.raises(InputError):
            encoders.calibrate(encoder, [torch.zeros(1, 1, 5, 2, 3)])
        assert not encoder.data_bn.training and encoder.data_bn.momentum == 0.1
        with pytest.raises(InputError, match="no batch"):
            encoders.calibrate(encoder, [])


def test_spec_rebuilds_the_encoder():
    encoder = small("ntu25", 2, 12)
    again = encoders.build(**encoder.spec)
    again.load_state_dict(encoder.state_dict())
    x = torch.randn(1, 1, 6, 25, 2)
    torch.testing.assert_close(again.eval()(x), encoder(x))
    assert dataclasses.is_dataclass(encoder.layout)
