"""Multinomial logistic regression with an L2 penalty, fitted by L-BFGS (Liu & Nocedal 1989)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PENALTY = 1e-3  # on the squared weights, for a centred support of mean squared norm 1
STEPS = 100


def fit(support: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
    """Minimises mean cross-entropy + PENALTY / 2 * |W|^2; scores are logits.

    The optimum lies in the span of the support, so the search runs there: S instead of F coefficients a class.
    """
    mean = support.mean(1, keepdim=True)
    scale = (support - mean).square().sum(-1).mean(-1).sqrt()[:, None, None]
    scale = torch.where(scale > 0, scale, 1)
    inputs, basis = (support - mean) / scale, None
    if inputs.shape[1] < inputs.shape[2]:
        basis, upper = torch.linalg.qr(inputs.mT)
        inputs = upper.mT
    # One search a draw: together they would all take the steps of the slowest.
    weights, bias = map(torch.stack, zip(*(_minimise(each, targets) for each in inputs), strict=True))
    if basis is not None:
        weights = basis @ weights
    weights = weights / scale
    bias = bias - mean @ weights
    return lambda queries: queries @ weights + bias


def _minimise(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (R, W) and biases (1, W) of one draw."""
    weights = inputs.new_zeros(inputs.shape[1], targets.shape[1], requires_grad=True)
    bias = inputs.new_zeros(1, targets.shape[1], requires_grad=True)
    search = torch.optim.LBFGS([weights, bias], max_iter=STEPS, tolerance_grad=1e-6, tolerance_change=1e-9,
                               line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        fitted = torch.log_softmax(inputs @ weights + bias, -1)
        value = -(targets * fitted).sum() / len(inputs) + PENALTY / 2 * weights.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        search.step(loss)
    return weights.detach(), bias.detach()
