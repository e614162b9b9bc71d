"""ST-GCN: what is its own beside the parity fixtures and the promises of every encoder."""

import numpy as np
import pytest
import torch

from benchmarks.plain.stgcn import PlainSTGCN
from skelcore import checkpoint, encoders, layouts
from skelcore.encoders.graph import distance_subsets
from skelcore.encoders.layers import Pointwise
from tests.paths import PARITY, need


def perturbed(name, layout, width=8):
    """A narrow float64 encoder, none of whose parameters is at a special value."""
    torch.manual_seed(0)
    encoder = encoders.build(name, layout, width=width).double()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return encoder


def assert_equals_plain(encoder, plain):
    """Outputs, all gradients and batch-norm statistics of one training step, on clips of two persons."""
    plain.load_state_dict({key.removeprefix("backbone."): value for key, value in checkpoint.to_pyskl(encoder).items()})
    x = torch.randn(3, 2, 11, len(encoder.layout), 3, dtype=torch.double)
    ours, theirs = x.clone().requires_grad_(), x.flatten(0, 1).requires_grad_()
    one, other = encoder.train().features(ours).flatten(0, 1), plain.train()(theirs)
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    weight = torch.randn_like(one)
    (one * weight).sum().backward()
    (other * weight).sum().backward()
    torch.testing.assert_close(ours.grad.flatten(0, 1), theirs.grad, rtol=1e-8, atol=1e-8)
    gradients = checkpoint.to_pyskl(encoder, {key: value.grad for key, value in encoder.named_parameters()})
    expected = {f"backbone.{key}": value.grad for key, value in plain.named_parameters()}
    assert gradients.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(gradients[key], value, rtol=1e-8, atol=1e-8, msg=key)
    state = plain.state_dict()
    for key, value in checkpoint.to_pyskl(encoder).items():
        torch.testing.assert_close(value, state[key.removeprefix("backbone.")], rtol=1e-9, atol=1e-9, msg=key)


@pytest.mark.parametrize("layout", ["penn13", "openpose18"])
def test_outputs_and_gradients_equal_the_plain_module(layout):
    encoder = perturbed("stgcn", layout)
    plain = PlainSTGCN(torch.from_numpy(distance_subsets(encoder.layout)).double(), width=8).double()
    assert_equals_plain(encoder, plain)


@pytest.mark.parametrize(("layout", "total"), [
    # coco17 is the fixture's; the others differ by data_bn (2 x 3 V) and ten times 3 V^2 edge importances.
    ("coco17", 3_088_704), ("ntu25", 3_098_832), ("openpose18", 3_089_760), ("hand21", 3_093_288),
])
def test_parameter_counts(layout, total):
    encoder = encoders.build("stgcn", layout)
    assert sum(parameter.numel() for parameter in encoder.parameters()) + 60 * 256 + 60 == total


@pytest.mark.parametrize("layout", layouts.LAYOUTS.values(), ids=str)
def test_distance_subsets_equal_a_naive_construction(layout):
    joints = len(layout)
    edges = {*layout.edges, *((inner, outer) for outer, inner in layout.edges), *((u, u) for u in range(joints))}
    linked = [[(u, w) in edges for w in range(joints)] for u in range(joints)]
    hops = [0 if u == layout.centre else 1 if linked[u][layout.centre] else np.inf for u in range(joints)]
    subsets = np.zeros((3, joints, joints))
    for w in range(joints):
        degree = sum(linked[u][w] for u in range(joints))
        for u in range(joints):
            if linked[u][w]:
                subset = 0 if u == w else 1 if hops[u] >= hops[w] else 2
                subsets[subset, u, w] = 1 / degree
    ours = distance_subsets(layout)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, subsets, rtol=1e-6)


def test_distance_subsets_are_those_of_the_reference():
    weights = torch.load(need(PARITY / "stgcn_coco.pth"), weights_only=True)["state_dict"]
    theirs = weights["backbone.gcn.0.gcn.A"].numpy()
    np.testing.assert_allclose(distance_subsets(layouts.get("coco17")), theirs, rtol=1e-6)


@pytest.mark.parametrize("persons", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_pointwise_equals_the_convolution_it_stands_for(persons, stride):
    layer = Pointwise(4, 6, stride).double()
    x = torch.randn(persons, 4, 7, 5, dtype=torch.double)
    torch.testing.assert_close(layer(x), layer._conv_forward(x, layer.weight, layer.bias))
