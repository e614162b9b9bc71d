"""Cross-entropy against a naive loop, clips without label, refusals, and that labels are learned."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.objectives.supervised import Supervised, SupervisedConfig, cross_entropy
from skelcore.errors import InputError
from skelcore.store import Store
from tests.pretrain.objectives import learning


def naive(logits: torch.Tensor, labels: list[int], smoothing: float, weights: list[float]) -> float:
    total = 0.0
    for row, label, weight in zip(logits.tolist(), labels, weights, strict=True):
        if label >= 0:
            logs = [x - math.log(sum(map(math.exp, row))) for x in row]
            total -= weight * ((1 - smoothing) * logs[label] + smoothing * sum(logs) / len(row))
    return total / max(1e-6, sum(w for w, label in zip(weights, labels, strict=True) if label >= 0))


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 6), classes=st.integers(2, 5), smoothing=st.sampled_from([0, 0.1]), seed=st.integers(0, 99))
def test_loss_equals_a_naive_loop(count: int, classes: int, smoothing: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(-1, classes, (count,), generator=generator)
    weights = torch.rand(count, generator=generator, dtype=torch.float64)
    found = [float(cross_entropy(logits, labels, smoothing, w)) for w in (weights, None)]
    assert found == pytest.approx([naive(logits, labels.tolist(), smoothing, w)
                                   for w in (weights.tolist(), [1.0] * count)])


def test_clips_without_label_teach_nothing() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    cross_entropy(logits, torch.tensor([-1, 2, -1, 0])).backward()
    assert logits.grad is not None and logits.grad.abs().sum(1).gt(0).tolist() == [False, True, False, True]
    logits.grad = None
    loss = cross_entropy(logits, torch.full((4,), -1))
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and not logits.grad.any()


def maker(classes: int) -> learning.Make:
    """What builds the objective for data of so many classes."""
    return lambda encoder, config, setting: Supervised(encoder, config, replace(setting, classes=classes))


def classifier(known: int, name: str = "stgcn++", **changes: object) -> Supervised:
    return learning.objective(maker(known), SupervisedConfig(**changes), name)


@pytest.mark.parametrize("asked", [True, False])
def test_confidence_weighs_clips_only_where_asked(asked: bool) -> None:
    logits, labels = torch.tensor([[2.0, 0, 0], [0, 0, 1]]), torch.tensor([0, 0])
    loss, terms = classifier(3, confidence=asked).loss(logits, labels, torch.tensor([1.0, 0.0]))
    kept = slice(0, 1 if asked else 2)
    assert loss.item() == pytest.approx(cross_entropy(logits[kept], labels[kept]).item())
    assert terms["accuracy"].item() == 0.5


def test_data_that_do_not_fit_the_head_are_refused(store: Store) -> None:
    with pytest.raises(InputError, match="the data have none"):
        classifier(0)
    with pytest.raises(InputError, match="the data have 1"):
        classifier(1)
    with pytest.raises(InputError, match=r"objective\.classes=3: the data have 5"):
        classifier(5, classes=3)
    with pytest.raises(InputError, match=r"label 4 .* set objective\.classes"):
        classifier(4).see(learning.clips(store), torch.Generator())
    assert classifier(5, classes=7).head.out_features == 7


@pytest.mark.parametrize("name", ["ctrgcn", "transformer", "x3d-shallow"])
def test_every_family_trains(store: Store, name: str) -> None:
    objective = classifier(5, name, smoothing=0.1)
    before = [p.clone() for p in objective.parameters()]
    losses = learning.train(objective, list(learning.batches(learning.clips(store), 4, 2))[:2])
    assert all(map(math.isfinite, losses))
    assert sum(not torch.equal(p, q) for p, q in zip(objective.parameters(), before, strict=True)) > 0.8 * len(before)


@pytest.mark.slow
def test_labels_make_neighbours_agree(store: Store) -> None:
    assert learning.gain(maker(5), SupervisedConfig(), store, steps=30) > 0.1
