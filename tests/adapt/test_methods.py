import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from adapt.methods import METHODS, TRANSDUCTIVE, knn, logistic, power, rbf, ridge

INDUCTIVE = sorted(set(METHODS) - TRANSDUCTIVE)


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


def naive_knn(support, targets, queries):
    """Clips sorted by cosine, and every clip that is as near as the last neighbour."""
    count, scores = min([knn.NEIGHBOURS, *targets.sum(0).astype(int)]), []
    for query in queries:
        cosines = np.array([query @ row / np.linalg.norm(query) / np.linalg.norm(row) for row in support])
        voters = [i for i in range(len(support)) if cosines[i] >= sorted(cosines)[-count]]
        votes = sum(np.exp(cosines[i] / knn.TEMPERATURE) * targets[i] for i in voters)
        scores.append(votes / votes.sum())
    return scores


def naive_power(support, targets, queries):
    """Gaussian log densities with an explicit inverse of the (F, F) covariance, less what all classes share."""
    def transform(row):
        row = np.array([np.copysign(abs(value) ** power.POWER, value) for value in row])
        return row / np.linalg.norm(row)

    support, queries = (np.array([transform(row) for row in rows]) for rows in (support, queries))
    labels, classes, width = targets.argmax(1), targets.shape[1], support.shape[1]
    means = np.array([support[labels == c].mean(0) for c in range(classes)])
    scatter = sum(np.outer(row - means[c], row - means[c]) for row, c in zip(support, labels, strict=True))
    round_one = np.mean([np.var(support[:, i]) for i in range(width)]) * np.eye(width)
    inverse = np.linalg.inv((scatter + power.PRIOR * round_one) / (len(support) - classes + power.PRIOR))
    return [[query @ inverse @ mean - mean @ inverse @ mean / 2 for mean in means] for query in queries]


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


NAIVE = {"prototype": (naive_prototype, 1e-9), "knn": (naive_knn, 1e-9), "power": (naive_power, 1e-9),
         "ridge": (naive_ridge, 1e-9), "rbf": (naive_rbf, 1e-9), "logistic": (naive_logistic, 0.02)}


@pytest.mark.parametrize("unequal", [False, True])  # clips of a class
@pytest.mark.parametrize("width", [6, 20])  # fewer and more features than support clips
@pytest.mark.parametrize("name", INDUCTIVE)
def test_head_equals_its_naive_implementation(name, width, unequal):
    support, targets, queries = episode(width=width)
    if unequal:
        keep = [0, 1, 2, 3, 6, 7, 9, 10, 11]
        support, targets = support[:, keep], targets[keep]
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
@given(seed=st.integers(0, 10**6), name=st.sampled_from(INDUCTIVE))
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


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(sorted(METHODS)))
def test_each_draw_may_have_its_own_queries(seed, name):
    support, targets, queries = episode(seed)
    head = METHODS[name](support, targets)
    torch.testing.assert_close(head(queries.expand(3, -1, -1)), head(queries))
    own = torch.stack([queries, queries.flip(0), queries.roll(3, 0) * 1.5])
    scores = head(own)
    for draw in range(3):
        torch.testing.assert_close(scores[draw], head(own[draw])[draw])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(sorted(METHODS)))
def test_other_names_for_the_classes_change_nothing(seed, name):
    support, targets, queries = episode(seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(targets.shape[1]))
    tolerance = {"rtol": 0.02, "atol": 0.05} if name == "logistic" else {"rtol": 1e-7, "atol": 1e-9}
    torch.testing.assert_close(METHODS[name](support, targets[:, order])(queries),
                               METHODS[name](support, targets)(queries)[..., order], **tolerance)


@pytest.mark.parametrize("name", METHODS)
def test_the_same_clip_again_and_again_gives_finite_scores(name):
    clip = torch.randn(5, generator=torch.Generator().manual_seed(0))
    targets = torch.eye(3).repeat_interleave(2, 0)
    scores = METHODS[name](clip.expand(2, 6, 5), targets)(clip.expand(4, 5))
    assert torch.isfinite(scores).all()
    torch.testing.assert_close(scores, scores[..., :1].expand_as(scores), atol=1e-4, rtol=1e-4)  # no class is preferred


def test_all_clips_as_near_as_the_last_neighbour_vote():
    support = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    scores = METHODS["knn"](support, torch.eye(3))(torch.tensor([[2.0, 0.0]]))
    torch.testing.assert_close(scores, torch.tensor([[[0.5, 0.5, 0.0]]]))


def test_with_a_clip_a_class_power_is_the_rule_of_the_nearest_clip():
    support, targets, queries = episode(k=1, queries=200)
    distances = torch.cdist(power.transform(queries).expand(3, -1, -1), power.transform(support))
    assert torch.equal(METHODS["power"](support, targets)(queries).argmax(-1), distances.argmin(-1))


def test_power_uses_that_a_direction_varies_within_all_classes():
    """The mean of class 0 is nearer, but along the axis on which clips of a class scatter."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.eye(2).repeat_interleave(200, 0)
    support = torch.cat([targets * torch.tensor([4.0, -4.0]), torch.randn(400, 2, generator=generator) * 0.3], 1)
    support[:, 2] += 8 * torch.rand(400, generator=generator) - 4
    queries = torch.tensor([[0.0, -1.5, 6.0, 0.0]])
    assert METHODS["power"](support[None], targets)(queries).argmax() == 1
