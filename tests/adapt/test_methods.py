import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from adapt.methods import METHODS, logistic, rbf, ridge


def episode(seed=0, draws=3, classes=4, k=3, width=6, queries=11):
    generator = torch.Generator().manual_seed(seed)
    support = torch.randn(draws, classes * k, width, generator=generator, dtype=torch.float64)
    targets = torch.nn.functional.one_hot(torch.arange(classes).repeat_interleave(k), classes).double()
    return support, targets, torch.randn(queries, width, generator=generator, dtype=torch.float64)


def naive_prototype(support, targets, queries):
    unit = [row / np.linalg.norm(row) for row in support]
    means = [np.mean([row for row, target in zip(unit, targets, strict=True) if target[c]], axis=0)
             for c in range(targets.shape[1])]
    return [[query @ mean / np.linalg.norm(query) / np.linalg.norm(mean) for mean in means] for query in queries]


def naive_ridge(support, targets, queries):
    """Least squares by augmented rows sqrt(penalty) I, without the dual form."""
    mean, offset = support.mean(0), targets.mean(0)
    x = support - mean
    penalty = ridge.PENALTY * np.mean([row @ row for row in x])
    rows = np.vstack([x, np.sqrt(penalty) * np.eye(x.shape[1])])
    wanted = np.vstack([targets - offset, np.zeros((x.shape[1], targets.shape[1]))])
    return (queries - mean) @ np.linalg.lstsq(rows, wanted, rcond=None)[0] + offset


def naive_rbf(support, targets, queries):
    count = len(support)
    far = sorted(np.sum((support[i] - support[j]) ** 2) for i in range(count) for j in range(i + 1, count))
    bandwidth = far[(len(far) - 1) // 2]
    gram = np.array([[np.exp(-np.sum((a - b) ** 2) / bandwidth) for b in support] for a in support])
    weights = np.linalg.inv(gram + rbf.PENALTY * np.eye(count)) @ (targets - targets.mean(0))
    return [[np.exp(-np.sum((query - row) ** 2) / bandwidth) for row in support] @ weights + targets.mean(0)
            for query in queries]


def naive_logistic(support, targets, queries):
    """The objective in the full feature space, by another optimiser implementation."""
    mean = support.mean(0)
    scale = np.sqrt(np.mean([row @ row for row in support - mean]))
    x, classes = (support - mean) / scale, targets.shape[1]

    def loss(flat):
        weights, bias = flat[:-classes].reshape(-1, classes), flat[-classes:]
        logits = x @ weights + bias
        top = logits.max(1, keepdims=True)
        fitted = logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True))
        return -(targets * fitted).sum() / len(x) + logistic.PENALTY / 2 * (weights ** 2).sum()

    found = minimize(loss, np.zeros((x.shape[1] + 1) * classes), method="L-BFGS-B",
                     options={"maxiter": 3000, "maxfun": 10**6, "ftol": 1e-14, "gtol": 1e-8}).x
    logits = (queries - mean) / scale @ found[:-classes].reshape(-1, classes) + found[-classes:]
    return logits - logits.mean(1, keepdims=True)


NAIVE = {"prototype": (naive_prototype, 1e-9), "ridge": (naive_ridge, 1e-9), "rbf": (naive_rbf, 1e-9),
         "logistic": (naive_logistic, 0.02)}


@pytest.mark.parametrize("width", [6, 20])  # fewer and more features than support clips
@pytest.mark.parametrize("name", METHODS)
def test_head_equals_its_naive_implementation(name, width):
    support, targets, queries = episode(width=width)
    scores = METHODS[name](support, targets)(queries)
    naive, tolerance = NAIVE[name]
    wanted = np.array([naive(draw.numpy(), targets.numpy(), queries.numpy()) for draw in support])
    if name == "logistic":
        scores = scores - scores.mean(-1, keepdim=True)
    np.testing.assert_allclose(scores.numpy(), wanted, atol=tolerance * max(1, np.abs(wanted).max()))


@pytest.mark.parametrize("name", METHODS)
def test_separable_classes_are_told_apart_and_permuted_labels_are_chance(name):
    generator = torch.Generator().manual_seed(0)
    classes, k, draws = 5, 8, 40
    centres = 5 * torch.eye(classes, 12)
    truth = torch.arange(classes).repeat(60)
    queries = centres[truth] + torch.randn(len(truth), 12, generator=generator)
    labels = torch.arange(classes).repeat_interleave(k)
    support = centres[labels] + torch.randn(draws, len(labels), 12, generator=generator)
    targets = torch.nn.functional.one_hot(labels, classes).float()
    mean = centres.mean(0)
    accuracy = (METHODS[name](support - mean, targets)(queries - mean).argmax(-1) == truth).float().mean()
    assert accuracy > 0.99
    # Every draw in another random order under the same labels: the labels say nothing any more.
    shuffled = torch.stack([draw[torch.randperm(len(labels), generator=generator)] for draw in support])
    accuracy = (METHODS[name](shuffled - mean, targets)(queries - mean).argmax(-1) == truth).float().mean()
    assert abs(accuracy - 1 / classes) < 0.08


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(sorted(METHODS)))
def test_a_score_depends_on_no_other_query_nor_draw(seed, name):
    support, targets, queries = episode(seed)
    scores = METHODS[name](support, targets)(queries)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(queries)))
    torch.testing.assert_close(METHODS[name](support, targets)(queries[order]), scores[:, order])
    torch.testing.assert_close(METHODS[name](support, targets)(queries[3:4]), scores[:, 3:4])
    # L-BFGS stops when the sum over draws is flat enough, so a draw alone agrees within its tolerance.
    tolerance = {"rtol": 0.02, "atol": 0.05} if name == "logistic" else {"rtol": 1e-7, "atol": 1e-9}
    torch.testing.assert_close(METHODS[name](support[1:2], targets)(queries)[0], scores[1], **tolerance)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(sorted(METHODS)), scale=st.sampled_from([1e-3, 1e4]))
def test_neither_the_unit_nor_the_order_of_the_support_matters(seed, name, scale):
    support, targets, queries = episode(seed)
    scores = METHODS[name](support, targets)(queries)
    tolerance = {"rtol": 0.02, "atol": 0.05} if name == "logistic" else {"rtol": 1e-6, "atol": 1e-8}
    torch.testing.assert_close(METHODS[name](support * scale, targets)(queries * scale), scores, **tolerance)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(targets)))
    torch.testing.assert_close(METHODS[name](support[:, order], targets[order])(queries), scores, **tolerance)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("support", [torch.zeros(2, 4, 3), torch.ones(2, 4, 3)])
def test_a_support_without_variance_gives_finite_scores(name, support):
    scores = METHODS[name](support, torch.eye(4))(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)))
    assert scores.shape == (2, 5, 4)
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize("name", METHODS)
def test_one_clip_of_one_class_is_enough(name):
    assert torch.isfinite(METHODS[name](torch.ones(1, 1, 3), torch.ones(1, 1))(torch.ones(2, 3))).all()
