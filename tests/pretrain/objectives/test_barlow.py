"""The cross-correlation and the two sums of Barlow Twins against naive loops, and that it learns."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.objectives.barlow import Barlow, BarlowConfig, cross_correlation, invariance_loss, redundancy_loss
from skelcore.config import build
from skelcore.errors import InputError
from skelcore.store import Store
from tests.pretrain.objectives import learning


def naive(first: torch.Tensor, second: torch.Tensor, weights: list[float]) -> list[list[float]]:
    share = [w / sum(weights) for w in weights]
    columns = []
    for view in (first.T.tolist(), second.T.tolist()):
        means = [sum(s * x for s, x in zip(share, column, strict=True)) for column in view]
        columns.append([[x - mean for x in column] for column, mean in zip(view, means, strict=True)])
    spread = [[(sum(s * x * x for s, x in zip(share, column, strict=True)) + 1e-5) ** 0.5 for column in view]
              for view in columns]
    return [[sum(s * a * b for s, a, b in zip(share, columns[0][i], columns[1][j], strict=True))
             / spread[0][i] / spread[1][j] for j in range(first.shape[1])] for i in range(first.shape[1])]


@settings(max_examples=30, deadline=None)
@given(count=st.integers(2, 6), dims=st.integers(1, 5), weighted=st.booleans(), seed=st.integers(0, 99))
def test_correlation_and_sums_equal_naive_loops(count: int, dims: int, weighted: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, count, dims, generator=generator, dtype=torch.float64)
    weights = torch.rand(count, generator=generator, dtype=torch.float64) if weighted else None
    expected = naive(first, second, [1.0] * count if weights is None else weights.tolist())
    found = cross_correlation(first, second, weights)
    assert found.numpy() == pytest.approx(torch.tensor(expected).numpy(), abs=1e-6)
    diagonal = sum((1 - expected[i][i]) ** 2 for i in range(dims)) / dims
    others = sum(expected[i][j] ** 2 for i in range(dims) for j in range(dims) if i != j) / dims
    assert float(invariance_loss(found)) == pytest.approx(diagonal, abs=1e-6)
    assert float(redundancy_loss(found)) == pytest.approx(others, abs=1e-6)


def test_total_is_the_weighted_sum_of_the_terms() -> None:
    first, second, masked = torch.randn(3, 12, 8, generator=torch.Generator().manual_seed(0))
    weights = torch.linspace(0.1, 1, 12)
    for asked in (None, weights):
        config = BarlowConfig(expander=8, redundancy=0.3, partial=0.5, confidence=asked is not None)
        loss, _ = learning.objective(Barlow, config).loss(first, second, masked, weights)
        expected = 0.0
        for weight, other in ((1, second), (0.5, masked)):
            correlation = cross_correlation(first, other, asked)
            expected += weight * float(invariance_loss(correlation) + 0.3 * redundancy_loss(correlation))
        assert loss.item() == pytest.approx(expected)


def test_collapse_costs_the_whole_diagonal_and_has_finite_gradients() -> None:
    same = torch.ones(8, 4, requires_grad=True)
    loss = invariance_loss(cross_correlation(same, torch.ones(8, 4)))
    loss.backward()
    assert loss.item() == pytest.approx(1)
    assert same.grad is not None and torch.isfinite(same.grad).all()


def test_gradient_descent_decorrelates_and_agrees() -> None:
    generator = torch.Generator().manual_seed(0)
    views = torch.nn.Parameter(torch.randn(2, 64, 1, generator=generator).expand(2, 64, 6)
                               + 0.1 * torch.randn(2, 64, 6, generator=generator))
    optimizer = torch.optim.Adam([views], 0.05)
    for _ in range(200):
        correlation = cross_correlation(views[0], views[1])
        loss = invariance_loss(correlation) + 0.1 * redundancy_loss(correlation)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (cross_correlation(*views.detach()) - torch.eye(6)).abs().max() < 0.05


def test_one_clip_and_bad_settings_are_refused(store: Store) -> None:
    objective = learning.objective(Barlow, BarlowConfig(expander=8))
    batch = next(learning.batches(learning.clips(store), 1, 1))
    with pytest.raises(InputError, match="at least 2 clips"):
        objective(*objective.see(batch, torch.Generator()))
    for values in ({"redundancy": -1}, {"partial": -1}, {"lambd": 1}):
        with pytest.raises(InputError, match=next(iter(values))):
            build(BarlowConfig, values, "test")


@pytest.mark.slow
def test_neighbours_of_another_person_beat_random_weights(store: Store) -> None:
    assert learning.gain(Barlow, BarlowConfig(expander=128, redundancy=0.02, partial=1), store) > 0.1
