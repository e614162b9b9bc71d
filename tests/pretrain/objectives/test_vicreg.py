"""The three terms of VICReg against naive loops, and what the loss must do."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.distributed import Group
from pretrain.objectives.barlow import Barlow, BarlowConfig
from pretrain.objectives.pair import Pair, PairConfig
from pretrain.objectives.vicreg import VICReg, VICRegConfig, covariance_loss, invariance_loss, variance_loss
from skelcore.config import build
from skelcore.errors import InputError
from skelcore.store import Store
from tests.pretrain.objectives import learning


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


def test_weights_of_clips_weigh_distances_alone() -> None:
    first, second = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.tensor([1.0, 0.0, 2.0, 0.5], dtype=torch.float64)
    naive = sum(float(w) * float(((a - b) ** 2).mean()) for w, a, b in zip(weights, first, second, strict=True)) / 3.5
    assert float(invariance_loss(first, second, weights)) == pytest.approx(naive)
    for asked in (False, True):
        config = VICRegConfig(expander=16, confidence=asked)
        terms = learning.objective(VICReg, config).loss(first, second, weights)[1]
        assert float(terms["invariance"]) == pytest.approx(float(invariance_loss(first, second, weights if asked
                                                                                 else None)))
        assert float(terms["variance"]) == pytest.approx(float(variance_loss(first) + variance_loss(second)) / 2)


def test_total_is_the_weighted_sum_of_the_terms() -> None:
    config = VICRegConfig(invariance=2, variance=3, covariance=5, partial=0.5, expander=16)
    first, second, masked = torch.randn(3, 10, 16, generator=torch.Generator().manual_seed(0))
    loss, terms = learning.objective(VICReg, config).loss(first, second, masked, torch.ones(10))
    assert terms["partial"].item() == pytest.approx(float(((first - masked) ** 2).mean()))
    expected = 2 * terms["invariance"] + 3 * terms["variance"] + 5 * terms["covariance"] + 0.5 * 2 * terms["partial"]
    assert loss.item() == pytest.approx(expected.item())


def test_the_loss_is_that_of_the_global_batch() -> None:
    first, second, weights = *torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0)), torch.ones(6)
    objective = learning.objective(VICReg, VICRegConfig(expander=16))
    whole = objective.loss(first, second, weights)[0]

    class Half(Group):
        def gather(self, x: torch.Tensor) -> torch.Tensor:
            return next(full for full in (first, second, weights) if torch.equal(full[:3], x))

    objective.setting = replace(objective.setting, group=Half(0, 2))
    assert torch.equal(objective.loss(first[:3], second[:3], weights[:3])[0], whole)


@pytest.mark.parametrize(("make", "config"), [(VICReg, VICRegConfig), (Barlow, BarlowConfig)])
def test_masking_adds_a_view_with_fewer_joints_and_nothing_where_it_is_off(
        make: type[Pair], config: type[PairConfig], store: Store) -> None:
    batch, passes = learning.clips(store), []
    for partial in (0.0, 1.0):
        objective, calls = learning.objective(make, config(expander=16, partial=partial)), []
        objective.encoder.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        seen = objective.see(batch, torch.Generator().manual_seed(0))
        loss, terms = objective(*seen)
        loss.backward()
        passes.append((len(seen), len(calls), sum("partial" in name for name in terms) > 0))
    assert passes == [(5, 2, False), (7, 3, True)]
    second, masked = seen[3] > 0, seen[5] > 0
    assert not (masked & ~second).any()
    hidden = second.any(2).sum() - masked.any(2).sum()
    assert hidden.item() / second.any(2).sum().item() == pytest.approx(0.35, abs=0.05)


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


def test_one_clip_is_refused(store: Store) -> None:
    batch = next(learning.batches(learning.clips(store), 1, 1))
    objective = learning.objective(VICReg, VICRegConfig(expander=16))
    with pytest.raises(InputError, match="at least 2 clips"):
        objective(*objective.see(batch, torch.Generator()))


@pytest.mark.parametrize("values", [{"partial": -1}, {"masked_joints": 1.0}, {"masked_frames": -0.1}, {"expander": 0},
                                    {"invariance": -1}, {"name": "barlow"}, {"maskd_joints": 0.1}])
def test_settings_out_of_bounds_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(values))):
        build(VICRegConfig, values, "test")


@pytest.mark.parametrize("name", ["ctrgcn", "transformer", "x3d-shallow"])
def test_every_family_trains(store: Store, name: str) -> None:
    objective = learning.objective(VICReg, VICRegConfig(expander=16, partial=1), name)
    before = {key: value.clone() for key, value in objective.encoder.named_parameters()}
    assert np.isfinite(learning.train(objective, list(learning.batches(learning.clips(store), 8, 1))[:1])).all()
    moved = [key for key, value in objective.encoder.named_parameters() if not torch.equal(value, before[key])]
    assert len(moved) > 0.8 * len(before)  # a bias before a batch norm stays


@pytest.mark.slow
def test_neighbours_of_another_person_beat_random_weights(store: Store) -> None:
    assert learning.gain(VICReg, VICRegConfig(expander=128, partial=1), store) > 0.1
