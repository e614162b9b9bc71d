"""AAGCN: what is its own beside the parity fixtures and the promises of every encoder."""

import pytest
import torch

from benchmarks.plain.aagcn import PlainAAGCN
from skelcore import checkpoint, encoders, layouts
from skelcore.encoders.aagcn import Attention
from skelcore.encoders.graph import spatial_subsets
from tests.paths import PARITY, need
from tests.skelcore.encoders.test_stgcn import assert_equals_plain, perturbed


def plain_like(encoder):
    return PlainAAGCN(torch.from_numpy(spatial_subsets(encoder.layout)).double(), width=8).double()


@pytest.mark.parametrize("layout", ["penn13", "openpose18"])  # odd and even V
def test_outputs_and_gradients_equal_the_plain_module(layout):
    encoder = perturbed("aagcn", layout)
    assert_equals_plain(encoder, plain_like(encoder))


@torch.no_grad()
def test_starts_where_the_paper_does():
    torch.manual_seed(0)
    encoder = encoders.build("aagcn", "penn13", width=8).double()
    plain = plain_like(encoder)
    start = {key.removeprefix("backbone."): value for key, value in checkpoint.to_pyskl(encoder).items()}
    for key, value in start.items():
        if key.endswith(("alpha", "fc2c.weight", "conv_ta.weight")):
            assert value.abs().max() < 1e-5
            value.zero_()
    plain.load_state_dict(start)
    x = torch.randn(2, 2, 9, 13, 3, dtype=torch.double)
    theirs = plain.eval()(x.flatten(0, 1))
    difference = encoder.eval().features(x).flatten(0, 1) - theirs
    assert difference.abs().max() < 1e-4 * theirs.abs().max()


@torch.no_grad()
def test_attention_equals_its_three_steps():
    torch.manual_seed(0)
    attention = Attention(6, 8).double()
    for parameter in attention.parameters():
        parameter.normal_()
    y = torch.randn(3, 6, 10, 8, dtype=torch.double)
    expected = y + y * torch.sigmoid(attention.joints(y.mean(2)))[:, :, None]
    expected = expected + expected * torch.sigmoid(attention.frames(expected.mean(3)))[..., None]
    gate = torch.sigmoid(attention.excite(torch.relu(attention.squeeze(expected.mean((2, 3))))))
    expected = expected + expected * gate[..., None, None]
    torch.testing.assert_close(attention(y), expected)
    torch.testing.assert_close(attention(y)[1:2], attention(y[1:2]))  # person by person


@pytest.mark.parametrize(("layout", "total"), [
    # coco17 is the fixture's; the others differ by data_bn (4 x 3 V), ten times 3 V^2 and 1408 x the odd kernel.
    ("coco17", 3_760_228), ("ntu25", 3_781_668), ("openpose18", 3_761_290), ("hand21", 3_770_468),
])
def test_parameter_counts(layout, total):
    encoder = encoders.build("aagcn", layout)
    assert sum(parameter.numel() for parameter in encoder.parameters()) + 60 * 256 + 60 == total


def test_graph_is_that_of_the_reference():
    weights = torch.load(need(PARITY / "aagcn_coco.pth"), weights_only=True)["state_dict"]
    ours = torch.from_numpy(spatial_subsets(layouts.get("coco17")))
    torch.testing.assert_close(weights["backbone.A"], ours)
