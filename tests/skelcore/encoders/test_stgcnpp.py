import dataclasses

import numpy as np
import pytest
import torch

from benchmarks.plain.stgcnpp import Plain
from skelcore import checkpoint, encoders, layouts
from skelcore.encoders.graph import spatial_subsets
from skelcore.errors import InputError
from tests.skelcore.encoders.plain import compare


def small(layout="penn13", in_channels=3, width=8, seed=0):
    torch.manual_seed(seed)
    encoder = encoders.build("stgcn++", layout, in_channels, width)
    encoders.calibrate(encoder, [torch.randn(4, 1, 20, len(layouts.get(layout)), in_channels)])
    return encoder.eval()


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


@pytest.mark.parametrize(("layout", "frames"), [("penn13", 9), ("coco17", 2)])
def test_training_equals_the_plain_module(layout, frames):
    torch.manual_seed(1)
    encoder = encoders.build("stgcn++", layout, 3, 12).double().train()
    plain = Plain(layout, 3, 12).double().train()
    plain.load_state_dict({key.removeprefix("backbone."): value.double()
                           for key, value in checkpoint.to_pyskl(encoder).items()})
    compare(encoder, plain, torch.randn(3, 2, frames, len(layouts.get(layout)), 3))


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


def test_build_refuses_what_it_cannot_build():
    with pytest.raises(InputError, match=r"did you mean .*stgcn\+\+"):
        encoders.build("stgcnpp", "coco17")
    with pytest.raises(InputError, match="width"):
        encoders.build("stgcn++", "coco17", width=4)
    with pytest.raises(InputError, match="layout"):
        encoders.build("stgcn++", "coco")


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
