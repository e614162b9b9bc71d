import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skelcore.encoders.norm import Norm, largest


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("frames", [1, 2, 3, 8, 9])
@pytest.mark.parametrize("dim", [2, 3])
def test_largest_is_torchs_max_pool_also_where_values_tie(stride, frames, dim):
    x = torch.randint(3, (1, 2, 5, frames), dtype=torch.double).transpose(3, dim).requires_grad_()
    ours = largest(x, stride, dim)
    theirs = F.max_pool2d(x.transpose(3, dim), (1, 3), (1, stride), (0, 1)).transpose(3, dim)
    assert torch.equal(ours, theirs)
    weight = torch.randn_like(ours)
    gradients = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.double])
def test_norm_is_torchs_batch_norm(momentum, dtype):
    torch.manual_seed(0)
    ours = Norm(6, momentum=momentum).to(dtype)
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    theirs = nn.BatchNorm2d(6, momentum=momentum).to(dtype)
    theirs.load_state_dict(ours.state_dict())
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-12}
    for training in (True, True, False):  # twice, because a momentum of None counts
        x = (torch.randn(1, 6, 10, 7) * 3 + 5).to(dtype).requires_grad_()
        offset = torch.randn(6).to(dtype).requires_grad_()
        one = ours.train(training)(x[:, :2], x[:, 2:], offset=offset)
        other = theirs.train(training)(x + offset[:, None, None])
        torch.testing.assert_close(one, other, **tolerance)
        weight = torch.randn_like(one)
        for a, b in zip(torch.autograd.grad((one * weight).sum(), (x, offset, ours.weight, ours.bias)),
                        torch.autograd.grad((other * weight).sum(), (x, offset, theirs.weight, theirs.bias)),
                        strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance["rtol"], atol=tolerance["atol"] * 10)
        for key, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[key], value, **tolerance, msg=key)


def test_folding_equals_the_product_and_the_norm_in_evaluation():
    norm = Norm(5).double()
    for value in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(value)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    weight, bias, x = torch.randn(5, 3).double(), torch.randn(5, 1).double(), torch.randn(3, 8).double()
    folded, shift = norm.fold(weight, bias)
    torch.testing.assert_close(folded @ x + shift, norm.eval()((weight @ x + bias).view(1, 5, 2, 4)).view(5, 8))


def test_one_number_a_channel_is_refused_as_torch_does():
    with pytest.raises(ValueError, match="more than 1 value"):
        Norm(3)(torch.randn(1, 3, 1, 1))
