"""Comparison of an encoder with a plain module of the same layers, named as the reference names them."""

import torch

from skelcore import checkpoint


def compare(encoder, plain, x):
    """Feature maps or pooled features, gradients of input and parameters, and statistics after one step, in float64."""
    x = x.double().requires_grad_()
    theirs = plain(x)
    ours = encoder.features(x) if theirs.ndim == 5 else encoder(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)
    weight = torch.randn_like(ours)
    inputs = [torch.autograd.grad((output * weight).sum(), x, retain_graph=True)[0] for output in (ours, theirs)]
    torch.testing.assert_close(*inputs, rtol=1e-7, atol=1e-8)
    for output in (ours, theirs):
        (output * weight).sum().backward()
    gradients = checkpoint.to_pyskl(encoder, {key: value.grad for key, value in encoder.named_parameters()})
    wanted = {f"backbone.{key}": value.grad for key, value in plain.named_parameters()}
    assert gradients.keys() == wanted.keys()
    largest = max(value.abs().max().item() for value in wanted.values())
    for key, value in wanted.items():
        torch.testing.assert_close(gradients[key], value, rtol=1e-7, atol=1e-10 * max(largest, 100), msg=key)
    after = checkpoint.to_pyskl(encoder)
    for key, value in plain.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(after[f"backbone.{key}"], value, rtol=1e-8, atol=1e-9, msg=key)
