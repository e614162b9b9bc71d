"""The three terms of VICReg against naive loops, and what the loss must do."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.objectives.vicreg import VICReg, VICRegConfig, covariance_loss, invariance_loss, variance_loss
from skelcore.errors import InputError


def naive_terms(first: torch.Tensor, second: torch.Tensor) -> tuple[float, float, float]:
    count, dims = first.shape
    squares = [float((first[n, d] - second[n, d]) ** 2) for n in range(count) for d in range(dims)]
    invariance = sum(squares) / len(squares)
    variance = 0.0
    for d in range(dims):
        mean = sum(float(first[n, d]) for n in range(count)) / count
        spread = sum((float(first[n, d]) - mean) ** 2 for n in range(count)) / (count - 1)
        variance += max(0.0, 1 - (spread + 1e-4) ** 0.5) / dims
    covariance = 0.0
    means = [sum(float(first[n, d]) for n in range(count)) / count for d in range(dims)]
    for i in range(dims):
        for j in range(dims):
            if i != j:
                products = [(float(first[n, i]) - means[i]) * (float(first[n, j]) - means[j]) for n in range(count)]
                covariance += (sum(products) / (count - 1)) ** 2 / dims
    return invariance, variance, covariance


@settings(max_examples=20, deadline=None)
@given(count=st.integers(2, 6), dims=st.integers(1, 5), seed=st.integers(0, 99))
def test_terms_equal_naive_loops(count: int, dims: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, count, dims, generator=generator, dtype=torch.float64)
    found = [float(invariance_loss(first, second)), float(variance_loss(first)), float(covariance_loss(first))]
    assert found == pytest.approx(naive_terms(first, second), rel=1e-9, abs=1e-12)


def test_total_is_the_weighted_sum_of_the_terms() -> None:
    torch.manual_seed(0)
    objective = VICReg(8, VICRegConfig(invariance=2, variance=3, covariance=5, expander=16))
    loss, terms = objective(torch.randn(10, 8), torch.randn(10, 8))
    expected = 2 * terms["invariance"] + 3 * terms["variance"] + 5 * terms["covariance"]
    assert loss.item() == pytest.approx(expected.item())


def test_collapse_costs_the_whole_hinge() -> None:
    same = torch.ones(16, 4)
    assert float(variance_loss(same)) == pytest.approx(0.99, abs=1e-6)  # 1 - sqrt(epsilon)
    assert float(variance_loss(torch.randn(4096, 4, generator=torch.Generator().manual_seed(0)) * 3)) == 0


def test_gradient_descent_spreads_and_decorrelates() -> None:
    torch.manual_seed(0)
    embeddings = torch.nn.Parameter(torch.randn(64, 1) @ torch.ones(1, 6) * 0.1 + torch.randn(64, 6) * 0.01)
    optimizer = torch.optim.Adam([embeddings], 0.05)
    for _ in range(300):
        loss = variance_loss(embeddings) + covariance_loss(embeddings)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    correlation = torch.corrcoef(embeddings.detach().T) - torch.eye(6)
    assert embeddings.detach().std(0).min() > 0.9
    assert correlation.abs().max() < 0.1


def test_one_clip_is_refused() -> None:
    with pytest.raises(InputError, match="at least 2 clips"):
        VICReg(4, VICRegConfig())(torch.ones(1, 4), torch.ones(1, 4))
